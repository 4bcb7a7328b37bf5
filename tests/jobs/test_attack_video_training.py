"""What is told of a training."""

from __future__ import annotations

from squall.jobs.attack_video_training import make_record


def row(step: int, success: float | None, **counts: float) -> dict[str, float]:
    found = {f"attackers/{name}": counts.get(name, 0.0) for name in ("episodes", "infra_errors", "failures")}
    ended = {} if success is None else {"attackers/success": success, "attackers/queries_per_episode": 40.0 - step}
    return {"step": step, "seconds": 1.26, **found, **ended}


def test_a_record_adds_up_and_leaves_out_iterations_in_which_no_attack_ended() -> None:
    rows = [row(1, None, failures=2.0), row(2, 0.25, episodes=4.0, infra_errors=1.0), row(3, 0.5, episodes=6.0)]
    assert make_record("pair", 7, rows) == {
        "attack": "pair", "seed": 7, "iterations": 3, "episodes": 10, "infra_errors": 1, "failures": 2, "seconds": 3.8,
        "learning": [(2, 0.25, 38.0), (3, 0.5, 37.0)]}
