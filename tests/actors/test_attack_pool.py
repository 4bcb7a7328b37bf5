"""Workers that attack: every task comes back once, whatever dies, and what cannot be done says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacked_digits import digits, save_model

from squall.actors.attack_pool import AttackPool, AttackWorkersConfig, Failed
from squall.actors.attack_tasks import Look, Show, Strike
from squall.actors.attack_worker import Finished
from squall.algorithms.attacks.base import Attack, Oracle, Outcome, Threat
from squall.algorithms.attacks.pgd import PGD
from squall.platform.errors import DataError
from squall.platform.image_classifiers import ImageClassifier, ImageModelConfig, open_image_classifier

pytestmark = pytest.mark.cluster
THREAT = Threat(norm="linf", epsilon=0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageModelConfig:
    return ImageModelConfig(path=str(save_model(tmp_path_factory.mktemp("model"), 0)))


@pytest.fixture(scope="module")
def pool(ray_cluster: object, model: ImageModelConfig) -> Iterator[AttackPool]:
    made = AttackPool(AttackWorkersConfig(count=2, max_attempts=2), [model], digits(), "pool-test")
    made.start()
    yield made
    made.stop()


def test_tasks_come_back_with_what_the_model_says_here(pool: AttackPool, model: ImageModelConfig) -> None:
    rows = np.arange(40)
    here = Look(0, rows).run(open_image_classifier(model), digits(), "cpu")
    found = dict(pool.run((number, Look(0, rows[number * 10:number * 10 + 10])) for number in range(4)))
    assert np.concatenate([found[number].result.prediction for number in range(4)]).tolist() == here.prediction.tolist()
    right = rows[here.prediction == digits().labels[rows]]
    assert len(right) > 30
    seeds = tuple(range(len(right)))
    (_, struck), = pool.run([("strike", Strike(0, right, PGD(steps=10), THREAT, seeds))])
    answers = struck.result
    fell = answers.prediction != digits().labels[right]
    assert 0 < fell.sum() and [by for by in answers.by] == ["pgd" if one else None for one in fell]
    assert answers.linf.max() <= 0.1 + 1e-6 and answers.adversarial.shape == (len(right), 1, 8, 8)
    assert answers.queries.max() == 12 and answers.gradients.max() == 10  # the last two: where PGD ended, and what it came to
    (_, shown), = pool.run([("show", Show(0, right, answers.adversarial))])
    assert shown.result.prediction.tolist() == answers.prediction.tolist() and set(shown.result.queries.tolist()) == {1}


def test_a_task_whose_worker_dies_is_tried_again_and_one_that_kills_them_all_is_given_up(
        pool: AttackPool, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Deadly:
        """Kills the workers that run it, so many times."""

        model: int
        times: int
        marks: Path

        def run(self, *_: Any) -> int:
            tries = len(list(self.marks.iterdir()))
            (self.marks / str(tries)).touch()
            if tries < self.times:
                os._exit(1)
            return tries

    marks = {name: tmp_path / name for name in ("once", "always")}
    for folder in marks.values():
        folder.mkdir()
    rows = np.arange(8)
    tasks = [("once", Deadly(0, 1, marks["once"])), ("always", Deadly(0, 99, marks["always"])),
             *((number, Look(0, rows)) for number in range(4))]
    found = dict(pool.run(tasks))
    assert set(found) == {"once", "always", 0, 1, 2, 3} and found["once"].result == 1
    assert isinstance(found["always"], Failed) and found["always"].reason == "infrastructure"
    assert "2 attempts failed" in found["always"].message and len(list(marks["always"].iterdir())) == 2
    assert all(isinstance(found[number], Finished) for number in range(4))
    assert pool.retries == {"attack_died": 2}
    assert {change.after for change in pool.take_changes()} >= {"dead", "restarting", "stale"}
    pool.retries.clear()


def test_what_cannot_be_done_has_no_result_and_says_why(pool: AttackPool) -> None:
    @dataclass(frozen=True)
    class Broken:
        model: int
        error: Exception

        def run(self, *_: Any) -> None:
            raise self.error

    found = dict(pool.run([("data", Broken(0, DataError("the model's logits are not finite", reason="bad_output"))),
                           ("code", Broken(0, ZeroDivisionError("by zero")))]))
    assert found["data"] == Failed("bad_output", "the model's logits are not finite")
    assert found["code"].reason == "task_error" and "by zero" in found["code"].message


class Excessive(Attack):
    """Changes every pixel by a given amount."""

    kind = "excessive"
    by: float

    def run(self, oracle: Oracle, images: torch.Tensor, labels: torch.Tensor, threat: Threat, seeds: Any) -> Outcome:
        return Outcome(images + self.by, torch.ones(len(images), dtype=torch.bool), ("excessive",) * len(images))


def test_an_attack_that_leaves_its_budget_or_the_box_is_no_attack(model: ImageModelConfig) -> None:
    opened: ImageClassifier = open_image_classifier(model)
    rows = np.arange(3)
    with pytest.raises(DataError, match=r"excessive changed an image by 0.3 \(linf\), more than epsilon = 0.1"):
        Strike(0, rows, Excessive(by=0.3), THREAT, (0, 0, 0)).run(opened, digits(), "cpu")
    with pytest.raises(DataError, match=r"excessive left \[0, 1\]") as refused:
        Strike(0, rows, Excessive(by=0.05), THREAT, (0, 0, 0)).run(opened, digits(), "cpu")
    assert refused.value.reason == "broken_attack"
