"""Square Attack on clips: the paper's schedule, boxes that keep their share, changes that do not flicker."""

from __future__ import annotations

import numpy as np
import pytest
from planned_victims import PlannedVictim

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.square_video import SquareVideo, random_box, share_at

CONFIG = AttackConfig(cell=4, max_queries=150)


def test_the_share_halves_at_the_papers_steps_of_ten_thousand() -> None:
    steps = (0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4001, 6001, 8001, 9999)
    halvings = [round(np.log2(0.8 / share_at(step / 10_000, 0.8))) for step in steps]
    assert halvings == [0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert share_at(150 / 300, 0.8) == share_at(0.5, 0.8) == 0.8 / 2**7


@pytest.mark.parametrize("share", [0.8, 0.4, 0.1, 0.0016])
def test_boxes_lie_in_the_clip_and_cover_about_their_share(share: float) -> None:
    rng, shape = np.random.default_rng(0), (16, 64, 96, 3)
    hits = np.zeros(shape[:3], int)
    for _ in range(200):
        hits[random_box(shape, share, rng)] += 1
    assert hits.sum() / 200 / hits.size == pytest.approx(share, rel=0.25)
    assert hits[0].any() and hits[-1].any() and hits[:, 0].any() and hits[:, :, -1].any()


def test_values_lie_at_the_bounds_and_a_box_is_one_colour_through_its_frames(clip: np.ndarray) -> None:
    victim = PlannedVictim(clip, lambda change: 5 + change[:, :8].mean() / 10)
    outcome = SquareVideo(epsilon=8 / 255).run(victim, clip, 0, CONFIG, seed=0)
    change = outcome.adversarial.astype(int) - clip
    assert set(np.unique(change)) == {-8, 8}
    stripes, *tries = (asked.astype(int) - clip for asked in victim.asked[1:])
    assert (stripes == stripes[:1, :1]).all() and len(np.unique(stripes[0, 0], axis=0)) > 1
    first = (tries[0] != stripes).any(-1)
    frames, rows, columns = (np.flatnonzero(first.any(axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    box = tries[0][frames[0]:frames[-1] + 1, rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    assert len(frames) == 5 and len(np.unique(box.reshape(-1, 3), axis=0)) == 1


def test_what_lowers_the_margin_stays_and_nothing_is_asked_twice_in_a_row(clip: np.ndarray) -> None:
    victim = PlannedVictim(clip, lambda change: 5 + change[:, :8].mean() / 10)
    outcome = SquareVideo(epsilon=8 / 255).run(victim, clip, 0, CONFIG, seed=0)
    assert not outcome.fooled and outcome.queries == len(victim.asked) == 150
    assert (outcome.adversarial.astype(int) - clip)[:, :8].mean() < -1.5
    least = np.minimum.accumulate([p for _, p in outcome.trace])
    assert least[-1] < least[20] < least[1]
    assert all((left != right).any() for left, right in zip(victim.asked, victim.asked[1:], strict=False))
