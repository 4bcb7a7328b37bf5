"""Clips as looping pictures inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_FRAMES = 32
PIXEL_ART_SIDE = 128
"""Clips up to this side stay at their own size and the browser enlarges them; lossless where `MAX_BYTES` allows it."""
MAX_BYTES = 85_000
"""Of one moving picture, so that a page with some thirty of them stays below 4 MB."""
PIXEL_ART_TRIES = ((PIXEL_ART_SIDE, {"lossless": True}), *((PIXEL_ART_SIDE, {"quality": q}) for q in (90, 70, 45)))
PHOTO_TRIES = tuple((side, {"quality": quality}) for side, quality in ((320, 80), (320, 50), (320, 30), (240, 35), (160, 40)))
"""(longest side, settings of the encoder), best first."""


@dataclass(frozen=True, slots=True)
class Animation:
    """A looping WebP and one of its frames, as data URIs."""

    moving: str
    still: str
    width: int
    height: int
    pixelated: bool


def animate(frames: np.ndarray, fps: float, max_bytes: int = MAX_BYTES, *, side: int | None = None, still: int = 0
            ) -> Animation:
    """Encode uint8 frames (T, H, W, 3 or with transparency 4) at `fps`; long clips keep every n-th frame and their duration.

    Quality, then size, go down until the moving picture takes at most `max_bytes`; the smallest try is taken as it is.

    Args:
        side: longest side of a clip, where several stand beside each other in a frame; limits of size hold for each of them.
        still: frame that stands for the clip where nothing may move.
    """
    stride = -(-len(frames) // MAX_FRAMES)
    side = side or max(frames.shape[1:3])
    pixelated = side <= PIXEL_ART_SIDE
    for limit, settings in PIXEL_ART_TRIES if pixelated else PHOTO_TRIES:
        pictures = [_picture(frame, min(1.0, limit / side)) for frame in frames[::stride]]
        moving, standing = io.BytesIO(), io.BytesIO()
        pictures[0].save(moving, "WEBP", save_all=True, append_images=pictures[1:], loop=0,
                         duration=round(1000 * stride / fps), **settings)
        if moving.tell() <= max_bytes:
            break
    pictures[still // stride].save(standing, "WEBP", **settings)
    return Animation(_uri(moving), _uri(standing), *pictures[0].size, pixelated)


def _picture(frame: np.ndarray, scale: float) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(frame))
    if scale == 1.0:
        return picture
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def _uri(data: io.BytesIO) -> str:
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
