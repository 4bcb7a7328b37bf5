"""Sizes of a masked video autoencoder, from one that trains on a CPU to ViT-B."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, model_validator

from squall.algorithms.masked_video.grid import TokenGrid
from squall.platform.config import Config

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORM_EPSILON = 1e-12
"""Of the blocks' layer norms, as in Hugging Face's VideoMAE."""

SIZES: Mapping[str, Mapping[str, int]] = MappingProxyType({
    "tiny": {"width": 96, "depth": 4, "heads": 3, "decoder_width": 48, "decoder_depth": 1, "decoder_heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6, "decoder_width": 192, "decoder_depth": 4, "decoder_heads": 3},
    "base": {"width": 768, "depth": 12, "heads": 12, "decoder_width": 384, "decoder_depth": 4, "decoder_heads": 6}})
"""Settings by name; `small` and `base` are the paper's ViT-S and ViT-B."""


class AutoencoderConfig(Config):
    """What is built. A number that is given takes the place of that of `size`."""

    size: Literal["tiny", "small", "base"] = "tiny"
    """tiny (0.5 million parameters, for a CPU), small (ViT-S) or base (ViT-B): widths, depths and heads."""
    frames: int = Field(16, ge=1)
    """Frames of a clip."""
    image_height: int = Field(224, ge=1)
    """Pixels."""
    image_width: int = Field(224, ge=1)
    """Pixels."""
    tubelet: int = Field(2, ge=1)
    """Frames of a token; it must divide `frames`."""
    patch: int = Field(16, ge=1)
    """Pixels of a token's side; it must divide `image_height` and `image_width`."""
    channels: int = Field(3, ge=1)
    """Of a pixel."""
    width: int | None = Field(None, ge=1)
    """Numbers of a token in the encoder; a multiple of `heads`."""
    depth: int | None = Field(None, ge=1)
    """Blocks of the encoder."""
    heads: int | None = Field(None, ge=1)
    """Attention heads of the encoder."""
    decoder_width: int | None = Field(None, ge=1)
    """Numbers of a token in the decoder; a multiple of `decoder_heads`."""
    decoder_depth: int | None = Field(None, ge=0)
    """Blocks of the decoder."""
    decoder_heads: int | None = Field(None, ge=1)
    """Attention heads of the decoder."""
    mlp_ratio: int = Field(4, ge=1)
    """Hidden width of the blocks' perceptrons over that of a token."""
    final_norm: bool = True
    """Normalise what the encoder returns, as the paper's pre-training does (Hugging Face: `use_mean_pooling: false`)."""
    normalise_targets: bool = True
    """Predict pixels relative to the mean and standard deviation of their token, each channel by its own; otherwise pixels in
    [0, 1]."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Of each channel, pixels in [0, 1]; taken off before the encoder."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel."""

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        name = str(values.get("size", "tiny"))
        size = SIZES.get(name, {})
        if name != "tiny" and size and all(values.get(key) not in (None, number) for key, number in size.items()):
            raise ValueError(f"size {name} is set and so is every number that it stands for, each to another value "
                             f"({', '.join(size)}): it would do nothing. Set those to null, or leave size out")
        return {**size, **{key: value for key, value in values.items() if value is not None or key not in size}}

    @model_validator(mode="after")
    def _fits(self) -> AutoencoderConfig:
        for name, width, heads in (("", self.width, self.heads), ("decoder_", self.decoder_width, self.decoder_heads)):
            if width % heads:
                raise ValueError(f"{name}width {width} is not a multiple of {name}heads {heads}")
        if len(self.mean) != self.channels or len(self.std) != self.channels or min(self.std) <= 0:
            raise ValueError(f"mean and std need a value for each of {self.channels} channels, std above 0")
        return self

    def grid(self) -> TokenGrid:
        """Raises ConfigError where tubelets do not fit the clips."""
        return TokenGrid(self.frames, self.image_height, self.image_width, self.tubelet, self.patch, self.channels)
