"""What the joint training of an autoencoder and its sampler is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from squall.algorithms.classifier_config import AdamWConfig
from squall.algorithms.masked_video.autoencoder_config import AutoencoderConfig
from squall.algorithms.masked_video.mask_ratio import MaskRatioConfig
from squall.algorithms.masked_video.monitors import CollapseConfig
from squall.algorithms.masked_video.ppo import SamplerTrainingConfig
from squall.algorithms.masked_video.samplers.config import SamplerConfig
from squall.platform.config import Config
from squall.platform.errors import ConfigError


class MaskedVideoConfig(Config):
    """An autoencoder, its sampler, and how both are trained."""

    autoencoder: AutoencoderConfig = AutoencoderConfig()
    """What is trained."""
    sampler: SamplerConfig = SamplerConfig()
    """What decides which tokens it sees."""
    sampler_training: SamplerTrainingConfig = SamplerTrainingConfig()
    """How the sampler learns."""
    mask_ratio: MaskRatioConfig = MaskRatioConfig()
    """How much is masked."""
    collapse: CollapseConfig = CollapseConfig()
    """When the sampler counts as collapsed."""
    optimiser: AdamWConfig = AdamWConfig(learning_rate=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=40)
    """The autoencoder's (arXiv 2203.12602, appendix; the rate is for 256 clips a step)."""
    batch_clips: int = Field(32, ge=1)
    """Clips of a training step, over all workers."""
    masks_per_clip: int = Field(1, ge=1)
    """Masks of each of those clips, all in the same step (repeated augmentation, arXiv 2205.09113): a clip is loaded, and its
    sampler looks at it, once."""
    microbatch_clips: int = Field(0, ge=0)
    """Clips that a worker computes at a time, which bounds memory; 0 is all of its part."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks' arithmetic; weights, logits, losses and moments stay float32."""
    seed: int = 0
    """Of weights and masks."""

    @model_validator(mode="after")
    def _possible(self) -> MaskedVideoConfig:
        try:
            self.mask_ratio.check(self.autoencoder.grid())
            self.sampler_training.check(self.masks_per_clip)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self
