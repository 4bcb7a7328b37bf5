"""Trained attackers as an attack like any other: the same call as a control's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from squall.algorithms.video_attack.asking import Ask
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.episode import Episode, play
from squall.algorithms.video_attack.outcome import VideoOutcome
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    from squall.algorithms.video_attack.policy import AttackerPolicy


@dataclass(frozen=True)
class Learned:
    """Attacks a clip by what a policy has learned on others; nothing is learned from the clip itself."""

    policy: AttackerPolicy
    greedy: bool = False
    """Take the likeliest options in place of drawn ones."""

    def run(self, ask: Ask, clip: np.ndarray, label: int, config: AttackConfig, seed: int, palette_seed: int | None = None
            ) -> VideoOutcome:
        """Attack one clip, removal included, as `Control.run` does.

        Raises:
            ConfigError: the grid does not divide the clip, or the budget is below one sweep.
            DataError: as `Control.run`, or the policy was trained for other choices (reason ``attacker_misfit``).
        """
        episode = Episode(clip, label, config, seed if palette_seed is None else palette_seed)
        return play(episode, ask, self.policy.chooser(derive_seed(seed, "policy"), self.greedy))
