"""A masked video autoencoder of a few thousand weights, on clips of eight tokens."""

from __future__ import annotations

from squall.jobs.train_tats_config import TatsConfig
from squall.platform.config import load_config

MODEL = ["autoencoder={frames: 4, image_height: 16, image_width: 16, patch: 8, width: 16, depth: 1, heads: 2, "
         "decoder_width: 16, decoder_depth: 1, decoder_heads: 2}", "batch_clips=6", "mask_ratio.ratio=0.6",
         "sampler.network={width: 12, heads: 2}"]
SETTINGS = [*MODEL, "sampler_training={warmup_steps: 3, buffer_steps: 2}", "arms={tats: {}, random: {sampler.kind: random}}",
            "seeds=[2]", "steps=60", "log_every_steps=2", "checkpoint_every_steps=6", "data={train_clips: 24, test_clips: 8}",
            "tracking.tensorboard=false", "learner.cpus=0.5"]
TIMED = ("time/step", "speed/tokens_per_second", "memory/peak_bytes", "time")
"""Figures that are not the same again."""


def settings(*overrides: str) -> TatsConfig:
    """Of a run."""
    return load_config(TatsConfig, None, [*SETTINGS, *overrides])
