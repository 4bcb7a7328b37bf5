"""Clips as looping pictures inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_FRAMES = 32
PIXEL_ART_SIDE = 128
"""Clips up to this side stay lossless at their own size and the browser enlarges them: every pixel is the model's."""
PHOTO_SIDE = 320


@dataclass(frozen=True, slots=True)
class Animation:
    """A looping WebP and its first frame, as data URIs."""

    moving: str
    still: str
    width: int
    height: int
    pixelated: bool


def animate(frames: np.ndarray, fps: float) -> Animation:
    """Encode uint8 RGB frames (T, H, W, 3) at `fps`; long clips keep every n-th frame and their duration."""
    stride = -(-len(frames) // MAX_FRAMES)
    side = max(frames.shape[1:3])
    pixelated = side <= PIXEL_ART_SIDE
    pictures = [_picture(frame, min(1.0, PHOTO_SIDE / side) if not pixelated else 1.0) for frame in frames[::stride]]
    quality = {"lossless": True} if pixelated else {"quality": 80}
    moving, still = io.BytesIO(), io.BytesIO()
    pictures[0].save(still, "WEBP", **quality)
    pictures[0].save(moving, "WEBP", save_all=True, append_images=pictures[1:], loop=0,
                     duration=round(1000 * stride / fps), **quality)
    return Animation(_uri(moving), _uri(still), *pictures[0].size, pixelated)


def _picture(frame: np.ndarray, scale: float) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(frame), "RGB")
    if scale == 1.0:
        return picture
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def _uri(data: io.BytesIO) -> str:
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
