"""What holds for every control, on a network of 3D convolutions that tells which way a square moves."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from attacked_clips import Victim, known_clips, moving_squares, trained

from squall.algorithms.video_attack.asking import label_only
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.cells import CellControl
from squall.algorithms.video_attack.controls.linf import LinfControl
from squall.algorithms.video_attack.controls.registry import CONTROLS, parse_control
from squall.algorithms.video_attack.palette import Palette
from squall.platform.errors import ConfigError, DataError

CONFIG = AttackConfig(cell=8, max_queries=140, distortion="dead_pixel")
GRADED = [kind for kind, control in CONTROLS.items() if control.graded]
every_control = pytest.mark.parametrize("kind", CONTROLS)


def test_the_victim_knows_its_trade() -> None:
    clips, labels = moving_squares(200, seed=2)
    assert (Victim(trained())(clips).argmax(1) == labels).mean() > 0.9


@every_control
def test_queries_are_those_that_the_victim_counts_and_what_fools_fools(kind: str) -> None:
    fooled = 0
    for seed, (clip, label) in enumerate(known_clips(3)):
        victim, before = Victim(trained()), clip.copy()
        outcome = CONTROLS[kind]().run(victim, clip, label, CONFIG, seed)
        assert victim.asked == outcome.total_queries <= CONFIG.max_queries
        assert [number for number, _ in outcome.trace] == list(range(1, outcome.queries + 1))
        assert outcome.adversarial.shape == clip.shape and outcome.adversarial.dtype == np.uint8
        assert np.array_equal(clip, before)
        answer = Victim(trained())(outcome.adversarial[None])[0]
        assert (answer.argmax() != label) == outcome.fooled
        if not outcome.fooled:
            assert answer[label] == pytest.approx(min(p for _, p in outcome.trace), rel=1e-4)
        fooled += outcome.fooled
    assert fooled > 0


@every_control
def test_the_same_seed_gives_the_same_outcome_and_another_one_another(kind: str) -> None:
    clip, label = known_clips(1)[0]
    one, same, other = (CONTROLS[kind]().run(Victim(trained()), clip, label, CONFIG, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(left, right) for left, right in zip(astuple(one), astuple(same), strict=True))
    assert not np.array_equal(one.adversarial, other.adversarial)


@every_control
def test_the_pixels_have_a_seed_of_their_own(kind: str) -> None:
    clip, label = known_clips(1)[0]
    usual, named, other = (CONTROLS[kind]().run(Victim(trained()), clip, label, CONFIG, *seeds) for seeds in
                           ((3,), (3, 3), (4, 9)))
    assert all(np.array_equal(left, right) for left, right in zip(astuple(usual), astuple(named), strict=True))
    if issubclass(CONTROLS[kind], CellControl):
        palette = Palette(clip, CONFIG, 9)
        assert other.occupancy.any() and np.array_equal(other.adversarial, palette.compose(other.occupancy))


@pytest.mark.parametrize("kind", [kind for kind, control in CONTROLS.items() if issubclass(control, LinfControl)])
def test_every_clip_that_is_asked_about_lies_within_epsilon_and_the_bound_is_used(kind: str) -> None:
    clip, label = known_clips(1)[0]
    victim, farthest = Victim(trained()), 0

    def watched(clips: np.ndarray) -> np.ndarray:
        nonlocal farthest
        farthest = max(farthest, int(np.abs(clips.astype(int) - clip).max()))
        return victim(clips)

    control = CONTROLS[kind](epsilon=0.05)
    outcome = control.run(watched, clip, label, CONFIG, seed=0)
    assert farthest == 12 and np.abs(outcome.adversarial.astype(int) - clip).max() <= 12
    assert outcome.queries == victim.asked == CONFIG.max_queries or outcome.fooled


@every_control
def test_a_clip_that_the_victim_gets_wrong_costs_one_query_and_is_no_success(kind: str) -> None:
    clip, label = known_clips(1)[0]
    outcome = CONTROLS[kind]().run(Victim(trained()), clip, (label + 1) % 4, CONFIG, seed=0)
    assert (outcome.fooled, outcome.queries, outcome.removal_queries) == (False, 1, 0)
    assert np.array_equal(outcome.adversarial, clip)


@pytest.mark.parametrize("kind", GRADED)
def test_a_victim_of_labels_alone_is_refused_by_those_that_compare_probabilities(kind: str) -> None:
    clip, label = known_clips(1)[0]
    config = CONFIG.model_copy(update={"distortion": "brightness", "severity": 0.01})
    victim = Victim(trained())
    with pytest.raises(ConfigError, match=f"control '{kind}' compares probabilities.*use control 'random_cells'"):
        CONTROLS[kind]().run(label_only(victim), clip, label, config, seed=0)
    assert victim.asked == 2
    with pytest.raises(ConfigError, match="tells labels alone"):
        CONTROLS[kind]().check(clip.shape, config, label_only=True)


@pytest.mark.parametrize(("entry", "least"), [
    ({"kind": "greedy", "moves": "cells"}, 66), ("nes", 26), ("sva", 126), ({"kind": "astfocus", "samples": 30}, 32)])
def test_a_budget_below_one_sweep_is_refused_before_anything_is_asked(entry: object, least: int) -> None:
    clip, label = known_clips(1)[0]
    name, control = parse_control(entry)
    control.check(clip.shape, CONFIG.model_copy(update={"max_queries": least}))
    victim = Victim(trained())
    with pytest.raises(ConfigError, match=f"max_queries = {least - 1} is below one sweep of control '{name}', {least} queries"):
        control.run(victim, clip, label, CONFIG.model_copy(update={"max_queries": least - 1}), seed=0)
    assert victim.asked == 0


@every_control
def test_a_victim_of_bad_answers_is_an_error_and_no_success(kind: str) -> None:
    clip, label = known_clips(1)[0]
    with pytest.raises(DataError, match="not finite"):
        CONTROLS[kind]().run(lambda clips: np.full((len(clips), 4), np.nan), clip, label, CONFIG, seed=0)
