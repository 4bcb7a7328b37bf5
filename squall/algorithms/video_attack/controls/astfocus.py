"""AstFocus-like: one agent picks frames, another a patch, NES moves what both picked (Wei, Wang & Yan 2023, arXiv 2301.00896).

As there both agents are learned afresh for every clip, by PPO, from the reward that they share (how far the margin fell) and
from one of their own: the frame agent's is for few frames that represent the clip, the patch agent's for places where something
moves, which stands where the authors have EdgeBoxes. The authors' agents are recurrent networks on MobileNetV2 features; these
are tables of logits, which the ten or twenty rounds of a small budget can fill.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import ClassVar

import numpy as np
from pydantic import Field

from squall.algorithms.video_attack.controls.base import Target
from squall.algorithms.video_attack.controls.linf import NesControl, NesWalk
from squall.algorithms.video_attack.controls.policies import (
    Baseline,
    FramePolicy,
    PlacePolicy,
    frame_features,
    representativeness,
)
from squall.algorithms.video_attack.controls.search import Search
from squall.algorithms.video_attack.grid import CellGrid


class AstFocus(NesControl):
    """Rounds of: pick frames and a patch a block, one step of NES there, both agents learn from the fall of the margin."""

    kind: ClassVar[str] = "astfocus"

    patch_share: float = Field(0.58, gt=0, le=1)
    """Share of the clip's height and width that a patch has, to the next whole cell: 65 of 112 pixels in the authors' code."""
    own_weight: float = Field(0.1, ge=0)
    """Weight of an agent's own reward beside the shared one, which is the share of the clean margin that fell."""
    learning_rate: float = Field(0.1, gt=0)
    """Of Adam, for the logits of both agents."""
    remembered_rounds: int = Field(4, ge=1)
    """Rounds that an update learns from."""
    epochs: int = Field(4, ge=1)
    """Passes over those rounds in an update."""
    clip_ratio: float = Field(0.2, gt=0, lt=1)
    """PPO's bound on how much likelier or less likely a choice becomes in an update."""

    def _hunt(self, search: Search[np.ndarray], target: Target, margin: float, rng: np.random.Generator) -> None:
        walk = NesWalk(search, self, target, margin, rng)
        patches = Patches(target.grid, self.patch_share)
        frame_agent = Agent(FramePolicy(np.zeros(target.grid.frames), self.learning_rate), self)
        patch_agent = Agent(PlacePolicy(np.zeros((target.grid.shape[0], patches.count)), self.learning_rate), self)
        features, motion = frame_features(target.clip), patches.motion(target.clip)
        while True:
            frames, places = frame_agent.policy.sample(rng), patch_agent.policy.sample(rng)
            fall = walk.step(patches.masks(places) & frames[:, None, None]) / max(margin, 1e-6)
            frame_agent.learn(frames, fall + self.own_weight * (representativeness(features, frames) - frames.mean()))
            patch_agent.learn(places, fall + self.own_weight * float(motion[np.arange(len(places)), places].mean()))


class Agent:
    """A policy that PPO (Schulman et al. 2017, equation 7) moves after every round, by its last few rounds."""

    def __init__(self, policy: FramePolicy | PlacePolicy, settings: AstFocus) -> None:
        self.policy = policy
        self._settings = settings
        self._baseline = Baseline()
        self._rounds: deque[tuple[np.ndarray, float, float]] = deque(maxlen=settings.remembered_rounds)

    def learn(self, choice: np.ndarray, reward: float) -> None:
        """Make a choice likelier whose reward lies above the moving mean, and less likely one below it."""
        self._rounds.append((choice, self.policy.log_probability(choice), self._baseline.advantage(reward)))
        for _ in range(self._settings.epochs):
            gradient = np.sum([self._gradient(*remembered) for remembered in self._rounds], axis=0)
            if gradient.any():
                self.policy.ascend(gradient)

    def _gradient(self, choice: np.ndarray, log_probability: float, advantage: float) -> np.ndarray:
        ratio = np.exp(self.policy.log_probability(choice) - log_probability)
        bound = self._settings.clip_ratio
        spent = ratio > 1 + bound if advantage > 0 else ratio < 1 - bound
        return (0.0 if spent else ratio * advantage) * self.policy.gradient(choice)


class Patches:
    """Square patches of whole cells, at every place of the grid where one fits."""

    def __init__(self, grid: CellGrid, share: float) -> None:
        self._grid = grid
        rows, columns = grid.shape[1:]
        self._height, self._width = ceil(share * rows), ceil(share * columns)
        self._across = columns - self._width + 1
        self.count = (rows - self._height + 1) * self._across
        """Places; place p has its first cell in row p // across and column p % across."""

    def masks(self, places: np.ndarray) -> np.ndarray:
        """Cells (T, R, C) of the patches at one place for every block (B,)."""
        free = np.zeros(self._grid.shape, bool)
        for block, place in zip(free, places, strict=True):
            top, left = divmod(int(place), self._across)
            block[top:top + self._height, left:left + self._width] = True
        return free.repeat(self._grid.block, axis=0)

    def motion(self, clip: np.ndarray) -> np.ndarray:
        """How much a clip (T, H, W, 3) moves at every place (B, P), as a share of the block's place of most motion."""
        moved = np.abs(np.diff(clip.astype(np.int16), axis=0, append=clip[-1:])).sum(-1)
        cells = self._grid.split(moved).sum((3, 4, 5))
        sums = np.stack([self._sum(cells, *divmod(place, self._across)) for place in range(self.count)], axis=1)
        return sums / np.maximum(sums.max(1, keepdims=True), 1)

    def _sum(self, cells: np.ndarray, top: int, left: int) -> np.ndarray:
        return cells[:, top:top + self._height, left:left + self._width].sum((1, 2))
