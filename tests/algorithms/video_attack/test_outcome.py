"""Outcomes: what their counts add up to."""

from __future__ import annotations

from spot_victim import noise_clip

from squall.algorithms.video_attack.outcome import VideoOutcome


def test_all_queries_are_those_of_the_attack_and_of_the_removal() -> None:
    outcome = VideoOutcome(noise_clip(), fooled=True, queries=7, removal_queries=5)
    assert outcome.total_queries == 12 and outcome.occupancy is None and outcome.trace == ()
