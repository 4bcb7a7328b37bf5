"""What is kept of a training."""

from __future__ import annotations

from squall.jobs.train_tats_records import learning_curve


def test_a_learning_curve_is_short_and_keeps_means() -> None:
    rows = [{"step": step, "loss": float(step), "motion/visible": 0.5} for step in range(1, 251)]
    points = learning_curve(rows)
    assert len(points) == 84 and points[0].loss == 2.0 and points[-1].step == 250 and points[3].motion_visible == 0.5
    assert points[0].overlap is None and learning_curve([]) == ()
