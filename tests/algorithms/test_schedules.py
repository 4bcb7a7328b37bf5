"""Learning rates and exploration rates over training."""

from __future__ import annotations

import pytest

from squall.actors.deepspeed_backend import OptimiserConfig
from squall.algorithms.classifier_config import AdamWConfig
from squall.algorithms.schedules import anneal, learning_rate_at


@pytest.mark.parametrize("config", [OptimiserConfig, AdamWConfig])
def test_learning_rate_warms_up_and_decays(config: type) -> None:
    settings = config(learning_rate=1.0, warmup_steps=4, schedule="linear", final_fraction=0.1)
    rates = [learning_rate_at(settings, update, 14) for update in (0, 3, 4, 9, 14)]
    assert rates == pytest.approx([0.25, 1.0, 1.0, 0.55, 0.1])


def test_a_schedule_goes_from_its_first_to_its_last_number() -> None:
    assert [anneal(0.4, 0.0, "constant", progress) for progress in (0.0, 1.0)] == [0.4, 0.4]
    assert [anneal(0.4, 0.0, "linear", progress) for progress in (0.0, 0.25, 1.0)] == pytest.approx([0.4, 0.3, 0.0])
    assert [anneal(0.4, 0.2, "cosine", progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.3, 0.2])
