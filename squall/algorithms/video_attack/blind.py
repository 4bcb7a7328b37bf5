"""Attackers that play without a victim: which cells of a clip they would distort if no answer ever moved.

For corruptions made of attackers. Such a play costs no query and needs nothing but the clip, and so it knows less than an
attack: what the attackers learned to see in pixels is left, and what they would learn from this clip's answers is lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.episode import Episode
from squall.algorithms.video_attack.policy import AttackerPolicy
from squall.platform.config import Config, validate
from squall.platform.errors import ConfigError

CONFIDENT = np.array([[0.999, 0.001]])
"""What the victim that is not there says of every clip: the label, and nothing that is done to the clip matters."""


class TrainedOn(Config):
    """What attackers were trained for. Their folder's `about` holds it, dumped as JSON, beside whatever else it says."""

    attack: AttackConfig
    """Of all their episodes."""
    frames: int = Field(ge=1)
    """Of the clips that they learned from."""
    height: int = Field(ge=1)
    """Of these clips, in pixels."""
    width: int = Field(ge=1)
    """Of these clips, in pixels."""

    @classmethod
    def read(cls, about: Mapping[str, Any], where: str) -> TrainedOn:
        """From a folder's `about`; `where` begins the message of an error. Raises ConfigError."""
        found = validate(cls, {key: about[key] for key in cls.model_fields if key in about}, where)
        try:
            found.attack.grid(*found.shape)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        return found

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        return self.frames, self.height, self.width


def play_blind(clip: np.ndarray, config: AttackConfig, policy: AttackerPolicy, seed: int, share: float) -> np.ndarray:
    """The cells that attackers distort, int8 (blocks, rows, columns): the level of each.

    They only add: whether distortion can be taken back is nothing that a blind player could tell. They stop when `share` of all
    cells' levels is reached, to the cell, or as soon as the attack's budget of queries or steps is spent. With the same seed
    a larger share takes the same cells and more.

    Args:
        clip: uint8 (T, H, W, 3), of the size that the attackers were trained on.
        share: in [0, 1]; above 0 it is one cell at least.

    Raises:
        ConfigError: the grid does not divide the clip.
        DataError: a user's distortion failed, or the attackers do not fit the configuration (reason ``attacker_misfit``).
    """
    episode = Episode(clip, 0, config.model_copy(update={"removal": False, "probes": False}), seed)
    wanted = math.ceil(round(share * episode.occupancy.size * config.levels, 6))
    choose = policy.chooser(seed)
    before = episode.occupancy
    episode.start()
    episode.absorb(CONFIDENT)
    while not episode.done and episode.occupancy.sum() < wanted:
        before = episode.occupancy
        episode.propose(*choose(episode))
        episode.absorb(CONFIDENT)
    return _first_raised(before, episode.occupancy, wanted)


def _first_raised(before: np.ndarray, after: np.ndarray, total: int) -> np.ndarray:
    """`before` with as many of the cells that are higher in `after` as make `total` levels, in order of time and place."""
    raised = np.flatnonzero(after > before)[:total - int(before.sum())]
    kept = before.copy()
    kept.flat[raised] = after.flat[raised]
    return kept
