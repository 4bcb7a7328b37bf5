"""What the training of a classifier on a video encoder is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from squall.algorithms.classifier_config import AdamWConfig
from squall.platform.config import Config


class FinetuneConfig(Config):
    """How a classifier is trained on an encoder."""

    mode: Literal["full", "linear"] = "full"
    """`full` trains everything; `linear` is a linear probe: the encoder stays as it is, and a linear layer learns from its
    features, normalised over the batch as in MAE (arXiv 2111.06377, appendix A.1)."""
    epochs: float = Field(20.0, gt=0)
    """How often every training clip is seen."""
    batch_clips: int = Field(32, ge=1)
    """Clips of a training step, over all workers."""
    microbatch_clips: int = Field(0, ge=0)
    """Clips that a worker computes at a time, which bounds memory; 0 is all of its part."""
    optimiser: AdamWConfig = AdamWConfig(learning_rate=1e-3, weight_decay=0.05)
    """AdamW; biases and norms do not decay."""
    layer_decay: float = Field(0.75, gt=0, le=1)
    """`full`: share of the learning rate that a block has of that of the block above it."""
    drop_path: float = Field(0.1, ge=0, lt=1)
    """`full`: probability with which a clip skips a branch of the last block; it rises to this from 0 in the first."""
    fc_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the features that are dropped before the last layer."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Of the cross-entropy."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's arithmetic; weights, logits and losses stay float32."""
    seed: int = 0
    """Of the new layer, the order of clips, how they are cut, and what is dropped."""

    @model_validator(mode="after")
    def _mode(self) -> FinetuneConfig:
        own = type(self).model_fields
        if self.mode == "linear" and any(getattr(self, name) != own[name].default for name in ("layer_decay", "drop_path")):
            raise ValueError("layer_decay and drop_path belong to mode full: a linear probe leaves the encoder as it is")
        return self

    def total_steps(self, clips: int) -> int:
        """Steps over so many training clips; at least one."""
        return max(1, round(self.epochs * clips / self.batch_clips))
