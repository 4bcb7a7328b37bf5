"""Frames that are lost, stand still or change places. Pixels stay as they are.

A lost frame is filled in (the clip keeps its length and its clock), cut out (what is left keeps its times), or spliced (what is
left closes ranks and the clip gets shorter): different attacks, with names of their own. One frame at least is left, so a clip
of one frame stays as it is. A shuffle that moved the times too would be the same clip, stored in another order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from squall.algorithms.corruption.registry import Parameter, corruption
from squall.algorithms.corruption.timeline import BLANK, FrameMap

_DROPPED = Parameter(lambda x: 0.9 * x, 0, 1)
_RUN = Parameter(lambda x: 4, 1, 1000)
_SHADE = Parameter(lambda x: 0, 0, 255)
_KEEP = Parameter(lambda x: 0, 0, 100_000)
_Keeps = Callable[..., np.ndarray]


@corruption("temporal", rearranges=True, fraction=_DROPPED, shade=_SHADE)
def random_drop(count: int, rng: np.random.Generator, *, fraction: float, shade: float) -> FrameMap:
    """Frames anywhere in the clip turn black."""
    return _filled(count, _random_kept(count, rng, fraction), shade)


@corruption("temporal", rearranges=True, fraction=_DROPPED)
def random_drop_cut(count: int, rng: np.random.Generator, *, fraction: float) -> FrameMap:
    """Frames anywhere in the clip are missing; the others keep their times."""
    return FrameMap.cut(_random_kept(count, rng, fraction))


@corruption("temporal", rearranges=True, fraction=_DROPPED)
def random_drop_splice(count: int, rng: np.random.Generator, *, fraction: float) -> FrameMap:
    """Frames anywhere in the clip are missing and the others close ranks: motion jerks and speeds up."""
    return FrameMap.splice(_random_kept(count, rng, fraction))


@corruption("temporal", rearranges=True, fraction=_DROPPED, run_frames=_RUN, shade=_SHADE)
def segment_drop(count: int, rng: np.random.Generator, *, fraction: float, run_frames: float, shade: float) -> FrameMap:
    """Runs of at most `run_frames` frames turn black until `fraction` of the clip is lost (ROVA: runs of 4)."""
    return _filled(count, _segments_kept(count, rng, fraction, run_frames), shade)


@corruption("temporal", rearranges=True, fraction=_DROPPED, run_frames=_RUN)
def segment_drop_cut(count: int, rng: np.random.Generator, *, fraction: float, run_frames: float) -> FrameMap:
    """Runs of frames are missing; the others keep their times."""
    return FrameMap.cut(_segments_kept(count, rng, fraction, run_frames))


@corruption("temporal", rearranges=True, fraction=_DROPPED, run_frames=_RUN)
def segment_drop_splice(count: int, rng: np.random.Generator, *, fraction: float, run_frames: float) -> FrameMap:
    """Runs of frames are missing and the others close ranks: the clip jumps ahead."""
    return FrameMap.splice(_segments_kept(count, rng, fraction, run_frames))


@corruption("temporal", rearranges=True, fraction=_DROPPED, k=_KEEP, shade=_SHADE)
def keep_k(count: int, rng: np.random.Generator, *, fraction: float, k: float, shade: float) -> FrameMap:
    """Only `k` evenly spread frames are shown, black between them; k = 0 keeps what `fraction` leaves."""
    return _filled(count, _evenly_kept(count, rng, fraction, k), shade)


@corruption("temporal", rearranges=True, fraction=_DROPPED, k=_KEEP)
def keep_k_cut(count: int, rng: np.random.Generator, *, fraction: float, k: float) -> FrameMap:
    """Only `k` evenly spread frames are left, at their own times: a lower frame rate."""
    return FrameMap.cut(_evenly_kept(count, rng, fraction, k))


@corruption("temporal", rearranges=True, fraction=_DROPPED, k=_KEEP)
def keep_k_splice(count: int, rng: np.random.Generator, *, fraction: float, k: float) -> FrameMap:
    """Only `k` evenly spread frames are left and close ranks: time lapse."""
    return FrameMap.splice(_evenly_kept(count, rng, fraction, k))


@corruption("temporal", rearranges=True, fraction=_DROPPED)
def freeze(count: int, rng: np.random.Generator, *, fraction: float) -> FrameMap:
    """The picture stands still for one run of frames, then jumps to where it should be."""
    start, lost = _frozen_run(count, rng, fraction)
    source = np.arange(count)
    source[start : start + lost] = start - 1
    return FrameMap.fill(source)


@corruption("temporal", rearranges=True, fraction=_DROPPED)
def stall(count: int, rng: np.random.Generator, *, fraction: float) -> FrameMap:
    """The picture stands still for one run of frames, then goes on from there, late: the clip's end is lost."""
    start, lost = _frozen_run(count, rng, fraction)
    return FrameMap.fill(np.concatenate([np.arange(start), np.full(lost, start - 1), np.arange(start, count - lost)]))


@corruption("temporal", rearranges=True, fraction=Parameter(lambda x: x, 0, 1))
def shuffle(count: int, rng: np.random.Generator, *, fraction: float) -> FrameMap:
    """A share of the frames change places among themselves; the clock goes on as before."""
    moved = np.sort(rng.permutation(count)[: max(round(fraction * count), min(2, count))])
    source = np.arange(count)
    source[moved] = moved[_other_order(len(moved), rng)]
    return FrameMap.fill(source)


def shuffle_frames(frames: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Put frames in another order, uniform over all orders but the given one (the shuffled branch of T-GRPO).

    Returns:
        The frames as a new array, and the permutation (T,): ``shuffled[t] = frames[permutation[t]]``.
        A clip of one frame has no other order and comes back as it was.
    """
    permutation = _other_order(len(frames), np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))))
    return frames[permutation], permutation


def _other_order(count: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation that is not the identity, where there is one."""
    identity = np.arange(count)
    permutation = rng.permutation(identity)
    while count > 1 and np.array_equal(permutation, identity):
        permutation = rng.permutation(identity)
    return permutation


def _filled(count: int, kept: np.ndarray, shade: float) -> FrameMap:
    source = np.full(count, BLANK)
    source[kept] = kept
    return FrameMap.fill(source, shade)


def _random_kept(count: int, rng: np.random.Generator, fraction: float) -> np.ndarray:
    return np.sort(rng.permutation(count)[_frames_lost(count, fraction) :])


def _segments_kept(count: int, rng: np.random.Generator, fraction: float, run_frames: float) -> np.ndarray:
    lost = _frames_lost(count, fraction)
    lengths = np.diff([*range(0, lost, int(run_frames)), lost])
    gaps = np.sort(rng.integers(count - lost + 1, size=len(lengths)))
    starts = gaps + np.cumsum(lengths) - lengths
    kept = np.ones(count, bool)
    for start, length in zip(starts, lengths, strict=True):
        kept[start : start + length] = False
    return np.flatnonzero(kept)


def _evenly_kept(count: int, rng: np.random.Generator, fraction: float, k: float) -> np.ndarray:
    kept = min(int(k), count) if k >= 1 else count - _frames_lost(count, fraction)
    return (np.arange(kept) * count + int(rng.integers(count))) // kept % count if kept < count else np.arange(count)


def _frozen_run(count: int, rng: np.random.Generator, fraction: float) -> tuple[int, int]:
    lost = _frames_lost(count, fraction)
    return 1 + int(rng.random() * (count - lost)), lost


def _frames_lost(count: int, fraction: float) -> int:
    """At least one, and never all."""
    return min(max(round(fraction * count), 1), count - 1)
