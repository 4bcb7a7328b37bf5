"""Clips cut into tubelets, which are the tokens of a masked autoencoder (VideoMAE, arXiv 2203.12602, section 3.2).

Tokens are numbered time first, then rows, then columns: token = (time * rows + row) * columns + column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from squall.platform.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """How clips of one size are cut.

    Raises:
        ConfigError: a clip is smaller than a tubelet, or tubelets do not divide it.
    """

    frames: int
    height: int
    width: int
    tubelet: int = 2
    """Frames of a token."""
    patch: int = 16
    """Pixels of a token's side."""
    channels: int = 3

    def __post_init__(self) -> None:
        clip = f"clips of {self.frames} frames of {self.height}x{self.width} pixels"
        token = f"a tubelet of {self.tubelet} frames of {self.patch}x{self.patch} pixels"
        if min(self.tubelet, self.patch, self.channels) < 1:
            raise ConfigError(f"{token} and {self.channels} channels: every number must be at least 1")
        if self.frames < self.tubelet or min(self.height, self.width) < self.patch:
            raise ConfigError(f"{clip} are smaller than {token}; take longer or larger clips, or a smaller tubelet or patch")
        if self.frames % self.tubelet or self.height % self.patch or self.width % self.patch:
            raise ConfigError(f"{clip} are not divided by {token}; frames must be a multiple of tubelet, sides of patch")

    @property
    def times(self) -> int:
        """Tubelets along time, T."""
        return self.frames // self.tubelet

    @property
    def rows(self) -> int:
        return self.height // self.patch

    @property
    def columns(self) -> int:
        return self.width // self.patch

    @property
    def places(self) -> int:
        """Tokens of one time, S."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """N = T S; 1,568 for 16 frames of 224x224."""
        return self.times * self.places

    @property
    def values(self) -> int:
        """Numbers in a token: tubelet * patch * patch * channels."""
        return self.tubelet * self.patch**2 * self.channels

    def visible(self, ratio: float) -> int:
        """Tokens that a mask ratio leaves visible, ``int(N (1 - ratio))`` as in AdaMAE: 78 of 1,568 at 0.95.

        Raises:
            ConfigError: no token would be visible, or none masked.
        """
        count = int(self.tokens * (1 - ratio) + 1e-9)
        if 0 < count < self.tokens:
            return count
        none = "masked" if count >= self.tokens else "visible"
        raise ConfigError(f"a mask ratio of {ratio} leaves no {none} token of {self.tokens}; "
                          f"take one from {1 / self.tokens:.4g} to {1 - 1 / self.tokens:.4g}")

    def check(self, clips: torch.Tensor) -> None:
        """Raises ConfigError unless clips are shaped (B, channels, frames, height, width)."""
        expected = (self.channels, self.frames, self.height, self.width)
        if tuple(clips.shape[1:]) != expected or clips.ndim != 5:
            raise ConfigError(f"clips of shape {tuple(clips.shape)}; expected (clips, channels, frames, height, width) = "
                              f"(any, {', '.join(map(str, expected))})")

    def cut(self, clips: torch.Tensor) -> torch.Tensor:
        """Tokens' pixels (B, N, tubelet * patch * patch, channels) of clips (B, channels, frames, height, width)."""
        self.check(clips)
        sizes = (self.times, self.tubelet, self.rows, self.patch, self.columns, self.patch)
        parts = clips.reshape(len(clips), self.channels, *sizes)
        return parts.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(len(clips), self.tokens, -1, self.channels)

    def join(self, pixels: torch.Tensor) -> torch.Tensor:
        """The inverse of `cut`; (B, N, values) is taken too."""
        sizes = (self.times, self.rows, self.columns, self.tubelet, self.patch, self.patch, self.channels)
        parts = pixels.reshape(len(pixels), *sizes).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return parts.reshape(len(pixels), self.channels, self.frames, self.height, self.width)
