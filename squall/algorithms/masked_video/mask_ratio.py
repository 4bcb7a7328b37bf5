"""The share of tokens that is masked: fixed, or led by the autoencoder's loss."""

from __future__ import annotations

from pydantic import Field, model_validator

from squall.algorithms.masked_video.grid import TokenGrid
from squall.platform.config import Config
from squall.platform.errors import ConfigError


class AdaptiveRatioConfig(Config):
    """After every step the ratio goes up by gain * (target_loss - loss): what is easy becomes harder. The rule is ours."""

    lowest: float = Field(0.75, gt=0, lt=1)
    """Least share that is masked."""
    highest: float = Field(0.95, gt=0, lt=1)
    """Greatest."""
    target_loss: float = Field(0.6, gt=0)
    """Mean loss of masked tokens at which the ratio stays; 1 is that of predicting a token's mean."""
    gain: float = Field(1e-3, gt=0)
    """Change of the ratio for each unit of loss."""

    @model_validator(mode="after")
    def _ordered(self) -> AdaptiveRatioConfig:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest {self.lowest} must be below highest {self.highest}")
        return self


class MaskRatioConfig(Config):
    """How much is masked."""

    ratio: float = Field(0.9, ge=0, le=1)
    """Share of tokens that is masked, at first."""
    adaptive: AdaptiveRatioConfig | None = None
    """What changes it; by default nothing does."""

    @model_validator(mode="after")
    def _within(self) -> MaskRatioConfig:
        if self.adaptive is not None and not self.adaptive.lowest <= self.ratio <= self.adaptive.highest:
            raise ValueError(f"ratio {self.ratio} is not within adaptive.lowest {self.adaptive.lowest} and adaptive.highest "
                             f"{self.adaptive.highest}")
        return self

    def check(self, grid: TokenGrid) -> None:
        """Raises ConfigError where a ratio that may come leaves no visible, or no masked, token."""
        ends = () if self.adaptive is None else (self.adaptive.lowest, self.adaptive.highest)
        for ratio in (self.ratio, *ends):
            try:
                grid.visible(ratio)
            except ConfigError as error:
                raise ConfigError(f"mask_ratio: {error}") from None


class MaskRatio:
    """The ratio as it is."""

    def __init__(self, config: MaskRatioConfig) -> None:
        self.config, self.value = config, config.ratio

    def update(self, loss: float) -> None:
        """Take in a step's mean loss over all workers."""
        rule = self.config.adaptive
        if rule is not None:
            self.value = min(rule.highest, max(rule.lowest, self.value + rule.gain * (rule.target_loss - loss)))
