"""Parts of the picture, or of the tokens made of it, that are taken away without regard to what they show.

These are the unstructured masks that ROVA compares with (arXiv 2603.10652, section 5; public engine, `video_mask_drop.py`), in
units of pixels as there.
"""

from __future__ import annotations

import cv2
import numpy as np

from squall.algorithms.corruption.compositing import take_away
from squall.algorithms.corruption.registry import Parameter, corruption
from squall.algorithms.corruption.timeline import Timeline

_SHARE = Parameter(lambda x: 0.9 * x, 0, 1)
_SHADE = Parameter(lambda x: 0, 0, 255)
RANDOM, RUNS, STRIDE = range(3)
"""Which tokens go: anywhere, in runs, or every n-th."""


@corruption("mask", share=Parameter(lambda x: 0.9 * x**3, 0, 1), shade=_SHADE)
def mask_pixels(frames: np.ndarray, timeline: Timeline, *, share: float, shade: float) -> np.ndarray:
    """Each pixel of each frame is taken away with probability `share`."""
    height, width = frames.shape[1:3]
    size, slack = height * width, height * width // 4 + 97
    numbers = np.frombuffer(timeline.rng().bytes(2 * (size + slack)), np.uint16)  # read from another place in every frame
    hidden = cv2.compare(numbers, round(65536 * share) - 1, cv2.CMP_LE).ravel()
    starts = (timeline.per_frame(1)[:, 0] % np.uint64(slack)).astype(int)
    opacity = np.stack([hidden[start : start + size] for start in starts]).reshape(frames.shape[:3])
    take_away(frames, opacity, shade)
    return opacity


@corruption("mask", share=Parameter(lambda x: 0.9 * x**2, 0, 1), side_px=Parameter(lambda x: 16, 1, 4096), shade=_SHADE)
def mask_blocks(frames: np.ndarray, timeline: Timeline, *, share: float, side_px: float, shade: float) -> np.ndarray:
    """Of a grid of blocks of `side_px` pixels, the share `share` is taken away, other ones in every frame."""
    side = int(side_px)
    rows, columns = (-(-length // side) for length in frames.shape[1:3])
    hidden = np.stack([_chosen(bits, share) for bits in timeline.per_frame(rows * columns)])
    opacity = _tiled(hidden.reshape(-1, rows, columns), side, frames.shape)
    take_away(frames, opacity, shade)
    return opacity


@corruption("mask", share=_SHARE, patch_px=Parameter(lambda x: 28, 1, 4096), tubelet_frames=Parameter(lambda x: 2, 1, 64),
            pattern=Parameter(lambda x: RANDOM, RANDOM, STRIDE), run=Parameter(lambda x: 16, 1, 10_000),
            shade=Parameter(lambda x: 119, 0, 255))
def mask_tokens(frames: np.ndarray, timeline: Timeline, *, share: float, patch_px: float, tubelet_frames: float, pattern: float,
                run: float, shade: float) -> np.ndarray:
    """Visual tokens are taken away: patches of `patch_px` pixels over `tubelet_frames` frames turn to the mean grey.

    Tokens are aligned with the vision encoder's (Qwen2.5-VL: 28 pixels, 2 frames). `pattern` 0 takes any of them, 1 runs of
    `run`, 2 every (1 / `share`)-th; see `token_mask` for embeddings themselves.
    """
    side, length = int(patch_px), int(tubelet_frames)
    rows, columns = (-(-size // side) for size in frames.shape[1:3])
    tubelets = timeline.index // length
    own = Timeline(np.unique(tubelets), timeline.fps, timeline.seed)
    bits = own.per_frame(rows * columns)
    masks = np.stack([_pattern(row, share, int(pattern), int(run), first=int(number) == 0)
                      for row, number in zip(bits, own.index, strict=True)])
    hidden = masks[np.searchsorted(own.index, tubelets)]
    opacity = _tiled(hidden.reshape(-1, rows, columns), side, frames.shape)
    take_away(frames, opacity, shade)
    return opacity


def token_mask(count: int, share: float, seed: int, pattern: int = RANDOM, run: int = 16) -> np.ndarray:
    """bool (count,): which of a sequence of visual tokens to take away, to be used on embeddings; the first is always kept.

    Args:
        share: of the tokens, in [0, 1].
        pattern: `RANDOM`, `RUNS` of `run` tokens, or `STRIDE`, every int(1 / share)-th.
    """
    bits = Timeline(np.arange(1), 1.0, seed).per_frame(count)[0]
    return _pattern(bits, share, pattern, run, first=True)


def _pattern(bits: np.ndarray, share: float, pattern: int, run: int, first: bool) -> np.ndarray:
    count = len(bits)
    if pattern == STRIDE:
        hidden = np.zeros(count, bool)
        if share > 0:
            hidden[:: max(int(1 / share), 1)] = True
    elif pattern == RUNS:
        groups = -(-count // run)
        hidden = np.repeat(_chosen(bits[:groups], share), run)[:count]
    else:
        hidden = _chosen(bits, share)
    if first and count:
        hidden[0] = False
    return hidden


def _chosen(bits: np.ndarray, share: float) -> np.ndarray:
    """The share of places with the smallest bits: a larger share takes the same ones and more."""
    hidden = np.zeros(len(bits), bool)
    hidden[np.argsort(bits, kind="stable")[: round(share * len(bits))]] = True
    return hidden


def _tiled(hidden: np.ndarray, side: int, shape: tuple[int, ...]) -> np.ndarray:
    """(n, rows, columns) of blocks to uint8 (n, H, W), 255 where hidden."""
    return (hidden.repeat(side, axis=1).repeat(side, axis=2)[:, : shape[1], : shape[2]] * np.uint8(255)).astype(np.uint8)
