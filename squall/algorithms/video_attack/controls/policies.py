"""Small policies learned afresh for one clip by policy gradient: which frames, and which patch in every block of frames.

They are tables of logits, one for a frame or a place: some ten or twenty rounds of one clip are too few for a network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Table:
    """Logits that Adam (Kingma & Ba 2015, algorithm 1) moves uphill."""

    logits: np.ndarray
    rate: float
    _first: np.ndarray | float = 0.0
    _second: np.ndarray | float = 0.0
    _steps: int = 0

    def ascend(self, gradient: np.ndarray) -> None:
        """One step along a gradient of the logits' shape."""
        self._steps += 1
        self._first = 0.9 * self._first + 0.1 * gradient
        self._second = 0.999 * self._second + 0.001 * gradient**2
        first, second = self._first / (1 - 0.9**self._steps), self._second / (1 - 0.999**self._steps)
        self.logits = self.logits + self.rate * first / (np.sqrt(second) + 1e-8)


@dataclass
class FramePolicy(Table):
    """Every frame is chosen or not, each by itself: logits (T,)."""

    def probabilities(self) -> np.ndarray:
        """Of being chosen, (T,)."""
        return 1 / (1 + np.exp(-self.logits))

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Mask bool (T,) with at least one frame: where none was drawn, the likeliest."""
        mask = rng.random(len(self.logits)) < self.probabilities()
        return mask if mask.any() else np.arange(len(mask)) == self.logits.argmax()

    def log_probability(self, mask: np.ndarray) -> float:
        """Of a mask."""
        return float(-np.logaddexp(0, np.where(mask, -self.logits, self.logits)).sum())

    def gradient(self, mask: np.ndarray) -> np.ndarray:
        """Of `log_probability` by the logits, (T,)."""
        return mask - self.probabilities()


@dataclass
class PlacePolicy(Table):
    """One place out of P for every block of frames: logits (B, P)."""

    def probabilities(self) -> np.ndarray:
        """(B, P); rows sum to 1."""
        weights = np.exp(self.logits - self.logits.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Places int64 (B,)."""
        return (self.probabilities().cumsum(1) < rng.random((len(self.logits), 1))).sum(1).clip(max=self.logits.shape[1] - 1)

    def log_probability(self, places: np.ndarray) -> float:
        """Of places."""
        return float(np.log(self.probabilities()[np.arange(len(places)), places]).sum())

    def gradient(self, places: np.ndarray) -> np.ndarray:
        """Of `log_probability` by the logits, (B, P)."""
        return np.eye(self.logits.shape[1])[places] - self.probabilities()


@dataclass
class Baseline:
    """Moving mean of what rewards have been: b <- 0.9 b + 0.1 r, as in SVA's code."""

    value: float = 0.0

    def advantage(self, reward: float) -> float:
        """How far a reward lies above the rewards before it, which it then joins."""
        above = reward - self.value
        self.value += 0.1 * above
        return above


def frame_features(clip: np.ndarray, side: int = 8) -> np.ndarray:
    """Colours (T, side * side * 3) of a clip's frames at a small size, less the clip's mean, of mean square length 1.

    They stand where SVA has features of a network trained on ImageNet.
    """
    rows, columns = (np.linspace(0, size, min(side, size) + 1).astype(int)[:-1] for size in clip.shape[1:3])
    sums = np.add.reduceat(np.add.reduceat(clip.astype(np.float64), rows, axis=1), columns, axis=2)
    heights, widths = np.diff([*rows, clip.shape[1]]), np.diff([*columns, clip.shape[2]])
    means = (sums / (heights[:, None, None] * widths[:, None])).reshape(len(clip), -1)
    centred = means - means.mean(0)
    length = np.sqrt((centred**2).sum(1).mean())
    return centred / length if length else centred


def diversity(features: np.ndarray, mask: np.ndarray) -> float:
    """R_div of SVA: mean over pairs of chosen frames of 1 - cosine; pairs more than 3 apart count 1. 0 without a pair."""
    chosen = mask.nonzero()[0]
    if len(chosen) < 2:
        return 0.0
    directions = features[chosen] / np.maximum(np.linalg.norm(features[chosen], axis=1, keepdims=True), 1e-12)
    unlike = np.where(np.abs(chosen[:, None] - chosen) > 3, 1.0, 1 - directions @ directions.T)
    return float(unlike[~np.eye(len(chosen), dtype=bool)].mean())


def representativeness(features: np.ndarray, mask: np.ndarray) -> float:
    """R_rep of SVA: exp(-mean squared distance of every frame to the nearest that is chosen), in (0, 1]."""
    squares = ((features[:, None] - features[mask][None]) ** 2).sum(2)
    return float(np.exp(-squares.min(1).mean()))
