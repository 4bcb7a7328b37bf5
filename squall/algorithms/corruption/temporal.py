"""Frames that are lost or out of order. The clip keeps its length and its timestamps.

One frame at least stays visible, so a clip of one frame is left as it is.
"""

from __future__ import annotations

import numpy as np

from squall.algorithms.corruption.registry import Parameter, corruption

_DROPPED = Parameter(lambda s: 0.6 * s, 0, 1)


@corruption("temporal", fraction=_DROPPED, run_frames=Parameter(lambda s: 4, 1, 1000))
def segment_drop(frames: np.ndarray, rng: np.random.Generator, *, fraction: float, run_frames: float) -> None:
    """Runs of at most `run_frames` frames turn black until `fraction` of the clip is lost (ROVA: runs of 4)."""
    lost = _frames_lost(len(frames), fraction)
    lengths = np.diff([*range(0, lost, int(run_frames)), lost])
    gaps = np.sort(rng.integers(len(frames) - lost + 1, size=len(lengths)))
    starts = gaps + np.cumsum(lengths) - lengths
    for start, length in zip(starts, lengths, strict=True):
        frames[start : start + length] = 0


@corruption("temporal", fraction=_DROPPED)
def random_drop(frames: np.ndarray, rng: np.random.Generator, *, fraction: float) -> None:
    """Frames anywhere in the clip turn black."""
    frames[rng.permutation(len(frames))[: _frames_lost(len(frames), fraction)]] = 0


@corruption("temporal", fraction=Parameter(lambda s: 0.9 * s, 0, 1))
def freeze(frames: np.ndarray, rng: np.random.Generator, *, fraction: float) -> None:
    """The picture stands still for one run of frames, then jumps to where it should be."""
    lost = _frames_lost(len(frames), fraction)
    start = 1 + int(rng.random() * (len(frames) - lost))
    frames[start : start + lost] = frames[start - 1]


def shuffle_frames(frames: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Put frames in another order, uniform over all orders but the given one (the shuffled branch of T-GRPO).

    Returns:
        The frames as a new array, and the permutation (T,): ``shuffled[t] = frames[permutation[t]]``.
        A clip of one frame has no other order and comes back as it was.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    identity = np.arange(len(frames))
    permutation = rng.permutation(identity)
    while len(frames) > 1 and np.array_equal(permutation, identity):
        permutation = rng.permutation(identity)
    return frames[permutation], permutation


def _frames_lost(count: int, fraction: float) -> int:
    """At least one, and never all."""
    return min(max(round(fraction * count), 1), count - 1)
