"""A trial's arms and contrasts, from rows made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from squall.jobs.attack_standing import read_standings
from squall.jobs.trial_card import CLEAN, TRANSFER, WORST, ArmScores, Key, arm_scores, make_arm, make_contrasts
from squall.platform.attack_card import ATTACKS, ModelResult
from squall.platform.report_card import Estimate

UNKNOWN = Estimate(value=None, low=None, high=None, n=0)
PGD, SQUARE = Key("pgd", "linf", 0.1), Key("square", "linf", 0.1)
SHOWN, LEFT = Key(TRANSFER, "linf", 0.1), Key(WORST, "linf", 0.1)
IMAGES = 40


def rows(model: str, clean_wrong: Sequence[int], **fallen: Sequence[int]) -> list[dict]:
    """Rows of a model that is wrong about some images as they are, and loses others to attacks at linf 0.1."""
    found = []
    for attack, fell in {CLEAN: clean_wrong, **fallen}.items():
        for image in range(IMAGES):
            if attack != CLEAN and image in clean_wrong:
                continue
            budget = {} if attack == CLEAN else {"norm": "linf", "epsilon": 0.1}
            found.append({"model": model, "attack": attack.replace("__", ":"), "image": image, "label": 0,
                          "prediction": int(image in fell), "fooled": image in fell, "queries": 1, "gradients": 0, "l2": 0.0,
                          "linf": 0.0, **budget})
    return found


def models(arm: str, seeds: int) -> list[ModelResult]:
    return [ModelResult(name=f"{arm}.s{seed}", path="", hash="", arm=arm, seed=seed, clean=UNKNOWN, budgets=(), results=(),
                        training={"passes": 10.0 + seed, "seconds": 2.0 * seed}) for seed in range(1, seeds + 1)]


@pytest.fixture(scope="module")
def arms() -> dict[str, ArmScores]:
    """SL falls to PGD; RL stands against PGD and falls to Square and to what was made on SL. Three seeds each."""
    half, most = range(5, 25), range(5, 35)
    made = []
    for seed in (1, 2, 3):
        own = range(5 if seed < 3 else 4)  # images that it is wrong about as they are
        made += rows(f"SL.s{seed}", own, pgd=most, square=half)
        shown = {"transfer__A__pgd": range(5, 9), "transfer__B__pgd": range(5, 15)}
        made += rows(f"RL.s{seed}", own, pgd=range(5, 7), square=half, **shown)
    standings = read_standings(pa.Table.from_pylist(made, schema=ATTACKS), (), IMAGES)
    return {name: arm_scores(name, models(name, 3), standings) for name in ("SL", "RL")}


def test_figures_are_means_over_seeds_and_the_worst_case_counts_every_image_that_anything_fooled(arms) -> None:
    arm = make_arm(arms["RL"], "reinforce")
    figures = {Key(one.figure, one.norm, one.epsilon): one for one in arm.figures}
    assert list(figures) == [Key(CLEAN), PGD, SQUARE, SHOWN, LEFT]
    assert figures[Key(CLEAN)].seeds == (35 / 40, 35 / 40, 36 / 40)
    assert figures[Key(CLEAN)].mean == pytest.approx(35.333 / 40, abs=1e-4)
    assert figures[PGD].mean == pytest.approx(33.333 / 40, abs=1e-4)
    assert figures[SHOWN].mean == pytest.approx(25.333 / 40, abs=1e-4), "the source that left the fewest"
    assert figures[LEFT].mean == figures[SQUARE].mean == pytest.approx(15.333 / 40, abs=1e-4)
    assert figures[LEFT].low < figures[LEFT].mean < figures[LEFT].high
    assert (arm.passes, arm.seconds, arm.description) == (12.0, 4.0, "reinforce")


def test_contrasts_are_paired_by_image_and_find_what_was_planted_and_nothing_else(arms) -> None:
    keys = [Key(CLEAN), PGD, SQUARE, SHOWN, LEFT]
    found = {one.figure: one for one in make_contrasts(arms, [("SL", "RL")], keys)}
    assert list(found) == [CLEAN, "pgd", "square", WORST], "SL was shown nothing"
    assert found["pgd"].change.value == pytest.approx(28 / 40) and found["pgd"].change.low > 0.5
    assert found["pgd"].p_value < 1e-6 and (found[CLEAN].change.value, found[CLEAN].p_value) == (0, 1)
    assert found[WORST].change.value == pytest.approx(10 / 40)


def test_with_two_seeds_no_arm_is_said_to_differ(arms) -> None:
    two = {name: ArmScores(name, arm.models[:2], {key: scores[:2] for key, scores in arm.scores.items()})
           for name, arm in arms.items()}
    assert [one.p_value for one in make_contrasts(two, [("SL", "RL")], [PGD])] == [None]
    assert np.isfinite(make_contrasts(two, [("SL", "RL")], [PGD])[0].change.low)
