"""SVA-like frame selection: the attack teaches the policy, and NES keeps to the frames that were chosen."""

from __future__ import annotations

import numpy as np
import pytest
from planned_victims import PlannedVictim

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.nes import Nes
from squall.algorithms.video_attack.controls.policies import diversity, frame_features, representativeness
from squall.algorithms.video_attack.controls.sva import SVA, FrameLearner, attack_reward

ALIKE = np.zeros((8, 4))
"""Features of frames that tell none from another."""


def taught(settings: SVA, updates: int = 60) -> np.ndarray:
    """Probabilities of frames after attacks that went well where frame 3 was among those attacked, and nowhere else."""
    learner = FrameLearner(ALIKE, settings, np.random.default_rng(0))
    for _ in range(updates):
        masks = learner.draw()
        learner.learn(masks, masks[0], -0.2 if masks[0][3] else -1.0)
    return learner.policy.probabilities()


def test_the_attack_teaches_the_policy_which_frames_count() -> None:
    probabilities = taught(SVA())
    assert probabilities[3] > 0.95 and np.delete(probabilities, 3).max() < 0.95


def test_without_the_attacks_term_it_learns_nothing_of_the_kind() -> None:
    """So it is in the authors' code, where that term's log-probabilities are detached."""
    assert taught(SVA(attack_weight=0.0))[3] == pytest.approx(0.5, abs=0.35)


def test_one_update_is_the_sum_of_what_masks_look_like_and_what_the_attack_brought() -> None:
    learner = FrameLearner(ALIKE, SVA(attack_weight=5.0), np.random.default_rng(0))
    seen: list[np.ndarray] = []
    learner.policy.ascend = seen.append  # type: ignore[method-assign]
    one, other = np.eye(8, dtype=bool)[1], np.arange(8) % 4 == 0
    learner.learn([one, other], one, -0.4)
    looks = [1.0, (1.0 + 1.0) - 0.1]
    assert seen[0] == pytest.approx(looks[0] * (one - 0.5) + looks[1] * (other - 0.5) + 5 * -0.4 * (one - 0.5))


def test_warm_up_makes_masks_diverse_and_representative() -> None:
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    features = frame_features(scenes.repeat(4, 0))
    learner = FrameLearner(features, SVA(), rng)
    learner.policy.logits -= 3

    def looks() -> float:
        return float(np.mean([diversity(features, mask) + representativeness(features, mask)
                              for _ in range(20) for mask in learner.draw()]))

    before = looks()
    for _ in range(100):
        learner.learn(learner.draw())
    assert before < 1.0 and looks() > 1.5


def test_a_failed_attack_is_judged_by_the_margin_it_left() -> None:
    assert [attack_reward(margin, 4.0) for margin in (4.0, 1.0, 0.0, 6.0)] == [-1.0, -0.25, 0.0, -1.5]


def test_rounds_begin_at_the_clean_clip_and_change_chosen_frames_alone(clip: np.ndarray) -> None:
    victim = PlannedVictim(clip, lambda change: 9 + change.mean() / 100)
    outcome = SVA(rounds=2, samples=4).run(victim, clip, 0, AttackConfig(cell=4, max_queries=100), seed=2)
    assert outcome.queries == len(victim.asked) == 100
    frames = [(asked != clip).any((1, 2, 3)) for asked in victim.asked]
    first, second, last = frames[1], frames[1 + 4 * 5 - 1], frames[-1]
    assert all(np.array_equal(touched, first) for touched in frames[1:16]) and 0 < first.sum() < 8
    assert last.sum() < 8 and any(np.array_equal(last, chosen) for chosen in (first, second))


def test_a_victim_with_one_weak_frame_falls_to_a_change_of_few_frames(clip: np.ndarray) -> None:
    """What selection is for: NES on the whole grid changes every frame of such a clip."""
    weights = np.random.default_rng(1).choice([-1.0, 1.0], (4, 4, 3)).repeat(4, 0).repeat(4, 1)

    def victim() -> PlannedVictim:
        return PlannedVictim(clip, lambda change: 5 + 0.9 * (change[3] * weights).mean())

    config = AttackConfig(cell=4, max_queries=600)
    outcome = SVA(epsilon=0.05).run(victim(), clip, 0, config, seed=0)
    everywhere = Nes(epsilon=0.05).run(victim(), clip, 0, config, seed=0)
    assert outcome.fooled and everywhere.fooled
    changed, all_over = ((result.adversarial != clip).any((1, 2, 3)) for result in (outcome, everywhere))
    assert changed[3] and changed.sum() < 8 == all_over.sum()
