"""What follows from the configuration of `squall train tats`: which clips train, and which are measured by.

All that can be refused is refused before anything is written or started: by the configuration itself, or here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from squall.actors.clip_sources import ClipSource, HeldClips, make_clip_source
from squall.actors.masked_video_loop import HeldOutClips, MaskedVideoWorkersConfig
from squall.algorithms.masked_video.training_config import MaskedVideoConfig
from squall.jobs.console import counted
from squall.jobs.train_tats_config import OWN, Arm, TatsConfig, make_arms
from squall.platform.clip_data import TatsDataConfig

if TYPE_CHECKING:
    from squall.algorithms.masked_video.measures import HeldOut


@dataclass(frozen=True)
class TatsPlan:
    """Everything that could be refused has been checked."""

    config: TatsConfig
    arms: tuple[Arm, ...]
    sources: Mapping[int, ClipSource]
    """Training clips, in the order of each seed."""
    held: HeldOutClips
    held_source: str
    held_dropped: tuple[str, ...] = ()
    """Held-out clips that cannot be used, a line each."""

    @property
    def trainings(self) -> list[tuple[Arm, int]]:
        """Arm and seed, seed by seed, so that a run that is stopped has whole seeds."""
        return [(arm, seed) for seed in self.config.trained_seeds for arm in self.arms]

    @property
    def source(self) -> ClipSource:
        """The training clips, in any order."""
        return self.sources[self.config.trained_seeds[0]]

    @property
    def dropped(self) -> list[str]:
        """Clips that cannot be used, as far as that is known before training."""
        return list(dict.fromkeys([*self.source.dropped, *self.held_dropped]))

    @property
    def data(self) -> dict[str, Any]:
        """What card and settings say of the clips."""
        sizes, source = self.config.autoencoder, self.source
        return {"source": source.source, "held_out": self.held_source, "hash": fingerprint(self.held.parts),
                "shape": [sizes.frames, sizes.image_height, sizes.image_width, sizes.channels], "tokens": sizes.grid().tokens,
                "train_clips": len(source), "parts": {part.part: len(part.clips) for part in self.held.parts},
                "classes": list(source.classes), "settings": self.config.data.model_dump(
                    mode="json", exclude={"decode_threads", "prefetch_steps"})}

    @property
    def asked(self) -> dict[str, Any]:
        """What results follow from, beside the clips: a run with other settings is another run."""
        config = self.config
        common = config.model_dump(mode="json", include={"autoencoder", "optimiser", "batch_clips", "masks_per_clip",
                                                         "precision", "steps", "log_every_steps", "measuring"})
        return {"arms": {arm.name: {"kind": arm.config.sampler.kind, **arm.config.model_dump(mode="json", include=set(OWN))}
                         for arm in self.arms},
                "seeds": list(config.trained_seeds), "mask_ratio": config.mask_ratio.ratio, **common}

    def lines(self) -> list[str]:
        """What there is to do, for plan.txt and the terminal."""
        config, source, sizes = self.config, self.source, self.config.autoencoder
        passes, learner = config.steps * config.batch_clips / len(source), config.learner
        masks = f" with {config.masks_per_clip} masks each" if config.masks_per_clip > 1 else ""
        width = max(len(arm.name) for arm in self.arms)
        parts = ", ".join(f"{len(part.clips)} {part.part}" for part in self.held.parts)
        probe = f"; linear probe on {counted(len(self.held.probe.clips), 'clip')} of {self.held.classes} classes" \
            if self.held.probe is not None else ""
        return [
            f"{counted(len(self.arms), 'arm')} x {counted(len(config.trained_seeds), 'seed')}, each {config.steps:,} steps of "
            f"{config.batch_clips} clips{masks}: {passes:.1f} passes over {len(source):,} ({source.source})",
            f"autoencoder of {counted(sizes.depth, 'block')} of width {sizes.width} with {count_parameters(config):,} "
            f"parameters, clips of {sizes.frames} frames of {sizes.image_height}x{sizes.image_width}, tokens of "
            f"{sizes.tubelet}x{sizes.patch}x{sizes.patch}",
            *(f"  {arm.name:<{width}}  {arm.description}" for arm in self.arms),
            f"measured on {self.held_source}: {parts}{probe}",
            f"{counted(learner.workers, 'worker')} a training{_zero(learner)}; peak memory is that of a worker's "
            + ("GPU" if learner.gpus else "process, less what it had before the networks were made")]

    def resolved(self, name: str, output: Path) -> TatsConfig:
        """The configuration that asks the same when it is read again."""
        return self.config.model_copy(update={"name": name, "output": output, "resume": False})


def _zero(learner: MaskedVideoWorkersConfig) -> str:
    return "" if learner.deepspeed is None else f", DeepSpeed ZeRO {learner.deepspeed.zero_stage}"


def count_parameters(config: MaskedVideoConfig) -> int:
    """Of the autoencoder, which is not made for it."""
    import torch

    from squall.algorithms.masked_video.autoencoder import MaskedAutoencoder

    with torch.device("meta"):
        return sum(weight.numel() for weight in MaskedAutoencoder(config.autoencoder).parameters())


def prepare(config: TatsConfig) -> TatsPlan:
    """Open the clips, and read those that are measured by.

    Raises:
        ConfigError: clips that cannot be drawn at this size.
        DataError: clips cannot be read.
    """
    grid, measuring, data = config.autoencoder.grid(), config.measuring, config.data
    first, *others = config.trained_seeds
    source = make_clip_source(data, grid, "train", first)
    sources = {first: source} | {seed: source.reordered(seed) for seed in others}
    held_out = make_clip_source(_limited(data, f"{measuring.split}_clips", measuring.clips), grid, measuring.split, 0)
    parts, classes = held_parts(held_out.all()), held_out.classes
    probe = None
    if measuring.probe_clips and len(classes) > 1:
        fitted = source
        if len(fitted) > measuring.probe_clips:
            fitted = make_clip_source(_limited(data, "train_clips", measuring.probe_clips), grid, "train", 0)
        clips = fitted.all()
        probe = _held("train", clips, np.arange(len(clips.clips)))
    held = HeldOutClips(parts, probe, len(classes), measuring.draws, measuring.examples, measuring.batch_clips)
    return TatsPlan(config, make_arms(config), sources, held, held_out.source, tuple(held_out.dropped))


def held_parts(clips: HeldClips) -> tuple[HeldOut, ...]:
    """Held-out clips by part, in the order in which the parts first come."""
    names = np.array(clips.parts)
    return tuple(_held(part, clips, np.flatnonzero(names == part)) for part in dict.fromkeys(clips.parts))


def _held(part: str, clips: HeldClips, rows: np.ndarray) -> HeldOut:
    from squall.algorithms.masked_video.measures import HeldOut

    motion, labels = (None if values is None else values[rows] for values in (clips.motion, clips.labels))
    return HeldOut(part, clips.clips[rows], motion, labels)


def _limited(data: TatsDataConfig, key: str, most: int) -> TatsDataConfig:
    own = getattr(data, key)
    return data.model_copy(update={key: most if own is None else min(own, most)})


def fingerprint(parts: tuple[HeldOut, ...]) -> str:
    """Of held-out clips: 16 hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.part.encode() + repr(part.clips.shape).encode())
        found.update(np.ascontiguousarray(part.clips))
    return found.hexdigest()[:16]
