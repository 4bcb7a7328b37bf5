"""What the learner finds when it compares a step's answers behind both clips, and the advantages that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from squall.actors.rollout_buffer import TrainSequence
from squall.algorithms.rewards import RewardConfig, kl_consistency
from squall.algorithms.tgrpo import TGRPOConfig, contrast_advantages


class ClipComparison:
    """Divergences of the answers that one rank trains in a step."""

    def __init__(self, rewards: RewardConfig, tgrpo: TGRPOConfig) -> None:
        self._weight = rewards.weights.get("kl_consistency")
        self._config, self._tgrpo = rewards.kl_consistency, tgrpo
        self._groups: dict[int, list[TrainSequence]] = {}
        self.found: dict[int, float] = {}
        """Mean KL divergence over the tokens of each answer, nats, by its place in the batch."""
        self.taken: dict[int, float] = {}
        """Advantages that the answers were trained with, where the comparison is a reward."""

    def begin(self, microbatches: Sequence[Sequence[TrainSequence]]) -> bool:
        """Take the answers of an update; returns whether a group is spread over micro-batches."""
        answers = sorted((answer for batch in microbatches for answer in batch), key=lambda answer: answer.twin.place)
        self._groups = {}
        for answer in answers:
            self._groups.setdefault(answer.twin.group, []).append(answer)
        batches = Counter(group for batch in microbatches for group in {answer.twin.group for answer in batch})
        return max(batches.values(), default=0) > 1

    def note(self, answers: Sequence[TrainSequence], divergences: Sequence[float]) -> None:
        """Keep what a pass has found; where an answer is passed twice, the first value stands."""
        found = {answer.twin.place: value for answer, value in zip(answers, divergences, strict=True)}
        self.found = found | self.found

    def advantages(self, answers: Sequence[TrainSequence]) -> list[float]:
        """Advantages with the reward for consistency, once the divergences of the answers' whole groups are there."""
        if self._weight is None:
            return [answer.advantage for answer in answers]
        for group in dict.fromkeys(answer.twin.group for answer in answers):
            twins = [answer.twin for answer in self._groups[group]]
            rewards_G = np.array([twin.reward + self._weight * self.reward(self.found[twin.place]) for twin in twins])
            advantages_G = contrast_advantages(rewards_G, np.array([twin.bonus for twin in twins]), self._tgrpo)
            self.taken |= {twin.place: float(advantage) for twin, advantage in zip(twins, advantages_G, strict=True)}
        return [self.taken[answer.twin.place] for answer in answers]

    def reward(self, divergence: float) -> float:
        """In (0, 1]."""
        return kl_consistency(divergence, self._config.alpha)
