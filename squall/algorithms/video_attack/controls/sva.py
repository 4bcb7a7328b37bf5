"""SVA-like: a policy chooses the frames that matter, and NES attacks those (Wei, Yan & Li 2020, arXiv 2001.03754).

As there the policy is a Bernoulli mask over frames, learned by REINFORCE from how diverse and representative the chosen
frames are and from how the attack on them went; of the masks of a round the sparsest is attacked. Three things differ. The
authors detach the log-probabilities of the attack term, so that the attack never teaches their policy; here it does. Their
policy is a network over ImageNet features that learns on other videos; this one is a logit a frame, learned on the clip within
its budget. And an attack that fails is told by how much of the margin it left standing: every clip's last attack is its only
one to succeed, and a reward of -1 for all others would teach nothing.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from squall.algorithms.video_attack.controls.base import Target
from squall.algorithms.video_attack.controls.linf import NesControl, NesWalk
from squall.algorithms.video_attack.controls.policies import (
    Baseline,
    FramePolicy,
    diversity,
    frame_features,
    representativeness,
)
from squall.algorithms.video_attack.controls.search import Search
from squall.algorithms.video_attack.grid import CellGrid


class SVA(NesControl):
    """Choose frames in some rounds of short attacks, then attack the best choice with the rest of the budget."""

    kind: ClassVar[str] = "sva"

    warm_up_updates: int = Field(100, ge=0)
    """Updates by diversity and representativeness before the first attack; they ask nothing."""
    rounds: int = Field(4, ge=1)
    """Short attacks that teach the policy."""
    rounds_share: float = Field(0.4, gt=0, lt=1)
    """Share of the budget that the rounds may spend together; a round takes at least one step of NES."""
    masks: int = Field(5, ge=1)
    """Masks drawn in a round."""
    attack_weight: float = Field(5.0, ge=0)
    """Weight of the attack's reward beside the rewards of all masks, as in the authors' code."""
    learning_rate: float = Field(0.1, gt=0)
    """Of Adam, for the logits."""

    def _least_queries(self, grid: CellGrid) -> int:
        return 1 + (self.rounds + 1) * self.queries_per_step

    def _hunt(self, search: Search[np.ndarray], target: Target, margin: float, rng: np.random.Generator) -> None:
        learner = FrameLearner(frame_features(target.clip), self, rng)
        for _ in range(self.warm_up_updates):
            learner.learn(learner.draw())
        steps = max(int(self.rounds_share * search.left / (self.rounds * self.queries_per_step)), 1)
        walks = []
        for _ in range(self.rounds):
            masks = learner.draw()
            frames = min(masks, key=np.count_nonzero)
            walk = NesWalk(search, self, target, margin, rng)
            for _ in range(steps):
                walk.step(over_cells(frames, target.grid))
            walks.append((walk, frames))
            learner.learn(masks, frames, attack_reward(walk.margin, margin))
        walk, frames = min(walks, key=lambda pair: pair[0].margin)
        while True:
            walk.step(over_cells(frames, target.grid))


class FrameLearner:
    """REINFORCE on a mask over the frames of one clip."""

    def __init__(self, features: np.ndarray, settings: SVA, rng: np.random.Generator) -> None:
        self.policy = FramePolicy(np.zeros(len(features)), settings.learning_rate)
        self._features, self._settings, self._rng = features, settings, rng
        self._looks, self._attacks = Baseline(), Baseline()

    def draw(self) -> list[np.ndarray]:
        """Masks (T,) of a round."""
        return [self.policy.sample(self._rng) for _ in range(self._settings.masks)]

    def learn(self, masks: list[np.ndarray], attacked: np.ndarray | None = None, reward: float = 0.0) -> None:
        """Make masks likelier whose frames are diverse and represent the clip and, above all, the mask whose attack went well.

        Args:
            attacked: the mask that was attacked.
            reward: of its attack, as `attack_reward` gives it.
        """
        gradient = np.zeros_like(self.policy.logits)
        for mask in masks:
            looks = diversity(self._features, mask) + representativeness(self._features, mask)
            gradient += self._looks.advantage(looks) * self.policy.gradient(mask)
        if attacked is not None:
            gradient += self._settings.attack_weight * self._attacks.advantage(reward) * self.policy.gradient(attacked)
        self.policy.ascend(gradient)


def attack_reward(margin: float, clean: float) -> float:
    """Of an attack that failed: -1 where the margin stands as it did, 0 where it is all gone."""
    return -margin / max(clean, 1e-6)


def over_cells(frames: np.ndarray, grid: CellGrid) -> np.ndarray:
    """Mask bool (T, R, C) of all cells of the chosen frames (T,)."""
    return np.broadcast_to(frames[:, None, None], (len(frames), *grid.shape[1:]))
