"""Masks drawn over playing clips, for every arm side by side: what is visible, true motion, and probabilities as heat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from squall.platform.report.images import MAX_FRAMES, PIXEL_ART_SIDE, Animation, animate
from squall.platform.report.tats_masks import MaskExample
from squall.platform.report.video_attack_examples import LINE, LINE_SIDE, beside, reduced

FPS = 6.0
"""Frames per second at which the page plays clips, whatever they were recorded at."""
MOST_CLIPS = 4
"""On the page; a run directory may keep more."""
ALL_BYTES, TILE_BYTES = 3_000_000, 160_000
"""Of the pictures of all clips and arms, and of one: the more there are, the more they are compressed, and where that is not
enough, as with noise, fewer clips are shown."""
DIM, FLOOR = 0.22, 14
"""What is left of a masked token's brightness, in grey, and what is added."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MORE, LESS = np.array([255, 84, 20], np.float32), np.array([40, 110, 235], np.float32)
"""Heat of tokens that are drawn more often than by chance, and less often."""
MOST_HEAT = 2.0
"""Doublings from which on heat is full: 4 times as likely as by chance, or a quarter."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What one arm shows of a clip: its masks, and beside them its probabilities."""

    arm: str
    seed: int
    picture: Animation
    on_motion: float | None
    """Share of visible tokens on true motion, over the masks that are kept."""
    draws: int
    """Masks that the picture plays one after another."""
    likely: bool
    """Whether it has probabilities."""


@dataclass(frozen=True, slots=True)
class MaskedClip:
    """A clip, and what every arm shows of it."""

    part: str
    number: int
    picture: Animation
    chance: float | None
    """Share of all tokens on true motion."""
    shown: int
    """Visible tokens."""
    tokens: int
    tiles: tuple[Tile, ...]
    gap: float
    """Between the two halves of a tile, in percent of its width."""


def masked_clips(examples: Sequence[MaskExample], arms: Sequence[str]) -> list[MaskedClip]:
    """The first clips of every part in turn, each with the first seed of every arm, in the order of `arms`."""
    groups = [group for group in _groups(examples, arms) if group][:MOST_CLIPS]
    clips: list[MaskedClip] = []
    room, pictures = ALL_BYTES, sum(len(group) + 1 for group in groups)
    for group in groups:
        if room > 0:
            clips.append(_clip(group, min(TILE_BYTES, room // pictures)))
            room -= sum(len(one.moving) + len(one.still) for one in (clips[-1].picture, *(t.picture for t in clips[-1].tiles)))
            pictures -= len(group) + 1
    return clips


def _groups(examples: Sequence[MaskExample], arms: Sequence[str]) -> Iterator[list[MaskExample]]:
    chosen: dict[tuple[int, str], dict[str, MaskExample]] = {}
    for one in sorted(examples, key=lambda one: one.seed):
        chosen.setdefault((one.number, one.part), {}).setdefault(one.arm, one)
    parts = list(dict.fromkeys(one.part for one in examples))
    for key in sorted(chosen, key=lambda key: (key[0], parts.index(key[1]))):
        yield [chosen[key][arm] for arm in arms if arm in chosen[key]]


def _clip(group: Sequence[MaskExample], most_bytes: int) -> MaskedClip:
    first = group[0]
    plain = enlarged(first.clip)
    draw_outline(plain, first)
    tiles = [_tile(one, most_bytes) for one in group]
    return MaskedClip(first.part, first.number, animate(reduced(plain), FPS, most_bytes // 2, side=_side(plain)),
                      None if first.motion is None else float(first.motion.mean()), int(first.visible[0].sum()),
                      first.visible.shape[1], tuple(tile for tile, _ in tiles), tiles[0][1])


def _tile(one: MaskExample, most_bytes: int) -> tuple[Tile, float]:
    draws = min(len(one.visible), max(1, MAX_FRAMES // len(one.clip)))
    masks = np.concatenate([_finished(masked_frames(one, visible), one) for visible in one.visible[:draws]])
    heat = np.concatenate([_finished(heat_frames(one), one)] * draws)
    frames, gap = beside([masks, heat])
    picture = animate(frames, FPS, most_bytes, side=_side(masks))
    on_motion = None if one.motion is None else float(one.visible[:, one.motion].sum() / one.visible.sum())
    return Tile(one.arm, one.seed, picture, on_motion, draws, one.probabilities is not None), 100 * gap / frames.shape[2]


def _finished(frames: np.ndarray, one: MaskExample) -> np.ndarray:
    frames = enlarged(frames)
    draw_outline(frames, one)
    return reduced(frames)


def masked_frames(one: MaskExample, visible: np.ndarray) -> np.ndarray:
    """The clip, uint8 (T, H, W, 3), with visible tokens, bool (N,), as they are and the others dark and grey."""
    grey = (one.clip.astype(np.float32) @ LUMA)[..., None]
    return np.where(spread(visible, one)[..., None], one.clip, DIM * grey + FLOOR).round().astype(np.uint8)


def heat_frames(one: MaskExample) -> np.ndarray:
    """The clip in grey, uint8 (T, H, W, 3), red where tokens are likelier to be drawn than by chance, blue where less."""
    grey = np.repeat(0.6 * (one.clip.astype(np.float32) @ LUMA)[..., None] + 24, 3, -1)
    if one.probabilities is None:
        return grey.round().astype(np.uint8)
    doublings = np.log2(np.maximum(one.probabilities * len(one.probabilities), 1e-6)) / MOST_HEAT
    strength = spread(doublings.clip(-1, 1), one)[..., None]
    return (grey + 0.85 * np.abs(strength) * (np.where(strength > 0, MORE, LESS) - grey)).round().astype(np.uint8)


def draw_outline(frames: np.ndarray, one: MaskExample) -> None:
    """Draw a line into frames, which may be larger than the clip, around all that is on true motion."""
    if one.motion is None:
        return
    scale = frames.shape[1] // one.clip.shape[1]
    inside = spread(one.motion, one).repeat(scale, 1).repeat(scale, 2)
    wide = max(1, _side(frames) // LINE_SIDE)
    padded = np.pad(inside, ((0, 0), (wide, wide), (wide, wide)))
    height, width = inside.shape[1:]
    steps = (0, wide, 2 * wide)
    kept = np.logical_and.reduce([padded[:, y:y + height, x:x + width] for y in steps for x in steps])
    frames[inside & ~kept] = LINE


def spread(values: np.ndarray, one: MaskExample) -> np.ndarray:
    """Values of tokens, (N,), at every pixel (T, H, W) of the clip."""
    return values.reshape(one.shape).repeat(one.tubelet, 0).repeat(one.patch, 1).repeat(one.patch, 2)


def enlarged(frames: np.ndarray) -> np.ndarray:
    """Small frames whole times as large, so that lines can be thin."""
    scale = max(1, PIXEL_ART_SIDE // _side(frames))
    return frames.repeat(scale, 1).repeat(scale, 2)


def _side(frames: np.ndarray) -> int:
    return int(max(frames.shape[1:3]))
