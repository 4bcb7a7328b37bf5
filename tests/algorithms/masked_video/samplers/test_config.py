"""Which sampler comes of a configuration, and which configurations are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.samplers.config import SamplerConfig, build_sampler
from squall.algorithms.masked_video.subsets import gumbel_noise
from squall.platform.config import validate
from squall.platform.errors import ConfigError

GRID = TokenGrid(4, 16, 16, 2, 8)
MASKED = {"chooses": "masked", "per": "clip", "reward": "loss"}
TOKEN = {"chooses": "visible", "per": "token", "reward": "loss"}


@pytest.mark.parametrize("kind", ["random", "tube", "flow", "adamae", "tats", "reinforce"])
def test_every_kind_plans_as_many_visible_tokens(kind: str) -> None:
    sampler = build_sampler(SamplerConfig(kind=kind, network={"width": 12, "heads": 2}), GRID, 6)
    noise = gumbel_noise(2, 8, torch.Generator().manual_seed(0))
    plan = sampler.plan(torch.rand(2, 3, 4, 16, 16), torch.randn(2, 8, 6), 3, noise)
    assert plan.visible.shape == (2, 3) and plan.chooses == "visible"
    assert sampler.learns == (kind in ("adamae", "tats", "reinforce"))


def test_kinds_have_their_attention_their_critic_and_their_credit() -> None:
    adamae, tats = SamplerConfig(kind="adamae"), SamplerConfig(credit=MASKED)
    assert adamae.credits.model_dump() == TOKEN and SamplerConfig().credits.reward == "minus_loss"
    first, second = (build_sampler(each, GRID, 6) for each in (adamae, tats))
    assert (first.kind, first.critic, second.kind, second.chooses) == ("attention", None, "trajectory", "masked")
    assert build_sampler(SamplerConfig(kind="adamae", attention="trajectory"), GRID, 6).kind == "trajectory"


@pytest.mark.parametrize(("values", "message"), [
    ({"credit": TOKEN}, "kind tats learns from clip credit, not from token credit: the masked tokens are not the action"),
    ({"kind": "reinforce", "credit": TOKEN}, "kind reinforce learns from clip credit"),
    ({"kind": "adamae", "credit": MASKED}, "kind adamae learns from token credit, not from clip credit"),
    ({"kind": "tube", "credit": MASKED}, "credit means nothing to kind tube, which does not learn"),
    ({"kind": "flow", "attention": "trajectory"}, "attention means nothing to kind flow"),
    ({"log_probability": "categorical"}, "a PPO ratio exists only where the log-probability is that of the action taken"),
    ({"credit": MASKED | {"reward": "minus_loss"}}, "does not reward choosing informative tokens"),
])
def test_what_does_not_learn_or_has_no_ratio_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(SamplerConfig, values, "tats")
