"""What bounds a step and what is advised, on recorded timings whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from squall.platform.report.balance import balance, bound, lines

SETTINGS: dict[str, Any] = {"max_staleness": 1, "groups_per_step": 32, "engine": {"count": 4, "cpus": 2.0, "gpus": 1.0},
                            "learner": {"workers": 4, "cpus": 2.0, "gpus": 1.0},
                            "workers": {"corruption_count": 4, "reward_count": 2}}


def steps(learn: float, nothing: float, engine: float, corruption: float = 0.3, reward: float = 0.1, sync: float = 0.02
          ) -> list[dict[str, float]]:
    """Steps of 10 s in which the learner learned, nothing was sampled, and roles were busy, for these shares."""
    row = {"seconds_per_step": 10.0, "idle/trainer": 1.0 - learn, "idle/rollout": nothing, "time/sync": 10 * sync,
           "time/learn": 10 * learn, "busy/engine": engine, "busy/corruption": corruption, "busy/reward": reward}
    return [{**row, "idle/trainer": 0.0, "idle/rollout": 0.0, "busy/engine": 1.0}] * 4 + [row] * 4


@pytest.mark.parametrize(("rows", "settings", "by", "advice"), [
    (steps(0.97, 0.62, 0.38), {}, "learner", "Engines wait 62% of a step: 2 engines fewer would keep the pace; give their GPUs "
                                             "to the learner: engine.count=2 learner.workers=6."),
    (steps(0.97, 0.20, 0.80), {}, "learner", "learner.workers=5 in place of 4 would shorten it by up to 19%"),
    (steps(0.38, 0.0, 1.0), {}, "rollout", "The learner waits 62% of a step: 2 learner workers fewer would keep the pace; give "
                                           "their GPUs to engines: engine.count=6 learner.workers=2."),
    (steps(0.80, 0.0, 1.0), {}, "rollout", "engine.count=5 in place of 4 would come to the learner's pace"),
    (steps(0.38, 0.0, 1.0), {"learner": {"workers": 4, "gpus": 0.5}}, "rollout", "engine.count=5 learner.workers=2."),
    (steps(0.4, 0.0, 0.45, corruption=0.97), {}, "corruption", "workers.corruption_count=9 in place of 4 would"),
    (steps(0.4, 0.0, 0.5, reward=0.99), {}, "reward", "workers.reward_count=4 in place of 2"),
    (steps(0.3, 0.5, 0.5, sync=0.4), {}, "weights", "40% of it, 4.0 s. Twice as much between two transfers, groups_per_step=64,"
                                                    " makes that 25%; engine.weight_transfer=nccl"),
    (steps(0.4, 0.45, 0.55), {"max_staleness": 0}, "turns", "would shorten the step by up to 45%."),
    (steps(0.3, 0.35, 0.15, corruption=0.64), {"max_staleness": 0}, "corruption", "workers.corruption_count=16 in place of 4"),
    (steps(0.95, 0.05, 0.93), {}, "nothing", "Neither side bounds the step"),
])
def test_the_bound_and_the_advice_follow_from_the_timings(rows: list[dict[str, float]], settings: dict[str, Any], by: str,
                                                          advice: str) -> None:
    found = balance(rows, SETTINGS | settings)
    assert found is not None and (found.by, advice in found.sentence) == (by, True), found


def test_an_advised_division_is_what_takes_less_time() -> None:
    """Engines fewer by the advice still finish before the learner, which has more workers: arithmetic of the same step."""
    sampling, learning = 10 * 0.38 * 4, 10 * 0.97 * 4  # seconds of one engine and of one worker for a step
    before, after = (max(sampling / engines, learning / workers) for engines, workers in ((4, 4), (2, 6)))
    assert sampling / 2 <= before and after == pytest.approx(0.78 * before, abs=0.01 * before)


def test_the_terminal_gets_the_shares_too_and_nothing_without_figures() -> None:
    shown = list(lines(steps(0.97, 0.62, 0.38), SETTINGS))
    assert shown[0] == "at work, of a step: learner 97%, engine 38%, corruption 30%, reward 10%, weights 2%"
    assert shown[1] == bound(steps(0.97, 0.62, 0.38), SETTINGS)
    assert list(lines([{"step": 1}], SETTINGS)) == []
