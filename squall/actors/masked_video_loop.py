"""What a Ray Train worker runs to train a masked autoencoder and its sampler, and the driver's handle on the group.

The arithmetic is `squall.algorithms.masked_video.step`, the same as in one process without Ray; here it gets its share of every
batch, adds up gradients over the workers, and obeys the driver.
"""

from __future__ import annotations

import functools
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray
from pydantic import Field

from squall.actors.classifier_loop import follow, sum_over_workers
from squall.actors.clip_sources import ClipSource, gather_dropped
from squall.actors.rollout_buffer import Save
from squall.actors.run_files import RunFiles
from squall.actors.worker_group import WorkerGroup
from squall.algorithms.classifier_training import Share
from squall.algorithms.masked_video.training_config import MaskedVideoConfig
from squall.platform.config import Config

if TYPE_CHECKING:
    import torch

    from squall.algorithms.masked_video.gradients import DescentMaker
    from squall.algorithms.masked_video.measures import HeldOut, Measured


class DeepSpeedConfig(Config):
    """DeepSpeed's ZeRO for the autoencoder; the sampler, which is small, stays whole on every worker."""

    zero_stage: Literal[1, 2] = 1
    """1 divides the optimiser's moments over the workers, 2 gradients too."""
    offload_optimiser: bool = False
    """Keep the moments in host memory; needs GPUs."""


class MaskedVideoWorkersConfig(Config):
    """How a training is laid out on the cluster."""

    workers: int = Field(1, ge=1)
    """Ray Train workers of each training; each takes its part of every batch. Losses do not depend on their number."""
    cpus: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for each worker."""
    threads: int | None = Field(None, ge=1)
    """Torch threads of each worker; by default its CPUs, at least 1."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for each worker; with less than 1 several trainings share one."""
    deepspeed: DeepSpeedConfig | None = None
    """Divide optimiser and gradients over the workers; by default every worker has all."""
    start_timeout_s: float = Field(300.0, gt=0)
    """How long the workers may take to build the networks."""
    step_timeout_s: float = Field(1800.0, gt=0)
    """How long some steps, a checkpoint or the measuring may take before the run stops with an error."""


@dataclass(frozen=True)
class HeldOutClips:
    """What is measured by."""

    parts: tuple[HeldOut, ...]
    probe: HeldOut | None
    """Labelled clips of the training split."""
    classes: int
    draws: int = 4
    """Masks of each clip, of each sort."""
    examples: int = 2
    """Clips of each part whose masks are kept."""
    batch_clips: int = 16
    """Clips at a time."""


@dataclass(frozen=True, slots=True)
class Advance:
    """Train up to a number of steps."""

    until: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Write the model into a folder and measure it."""

    directory: str


class MaskedVideoLearner(WorkerGroup):
    """Driver's handle on the group of one training. `start`; then `advance` and `save`; `finish` at the end; then `stop`."""

    def __init__(self, workers: MaskedVideoWorkersConfig, config: MaskedVideoConfig, steps: int, source: Any, held: Any,
                 run_path: Path, *, resume: Path | None = None) -> None:
        """
        Args:
            source: reference to the `ClipSource` of the training clips.
            held: reference to `HeldOutClips`.
            resume: a checkpoint to go on from.
        """
        super().__init__(workers, masked_video_loop, {
            "workers": workers, "config": config, "steps": steps, "source": source, "held": held, "resume": resume},
            run_path)

    def advance(self, until: int) -> dict[str, float]:
        """Train up to `until` steps; returns means over these steps, and what they cost."""
        return self.ask(Advance(until), f"training up to step {until}")

    def finish(self, directory: Path) -> dict[str, Any]:
        """Write the model into a folder; returns ``measured``, what the training cost, and clips that were ``dropped``."""
        return self.ask(Finish(str(directory)), f"measuring, and writing {directory}")


def masked_video_loop(config: dict[str, Any]) -> None:
    """Run by every Ray Train worker."""
    follow(config, _make_worker)


def _make_worker(config: Mapping[str, Any], rank: int, workers: int) -> MaskedVideoWorker:
    settings, held = config["workers"], config["held"]
    return MaskedVideoWorker(config["config"], config["steps"], ray.get(config["source"]), lambda: ray.get(held),
                             Share(rank, workers, sum_over_workers), _device(settings), _descent(settings.deepspeed),
                             config["files"], config["resume"])


class MaskedVideoWorker:
    """One rank of the group."""

    def __init__(self, config: MaskedVideoConfig, steps: int, source: ClipSource, held: Callable[[], HeldOutClips],
                 share: Share, device: torch.device, descent: DescentMaker, files: RunFiles,
                 resume: Path | None = None) -> None:
        """`held` is called when there is something to measure."""
        from squall.actors.masked_video_files import restore_checkpoint
        from squall.actors.peak_memory import PeakMemory
        from squall.algorithms.masked_video.step import JointTraining

        self.share, self.source, self.held, self.files = share, source, held, files
        _warm_up()
        self.memory = PeakMemory(device)
        self.totals: Counter[str] = Counter()
        self.dropped: list[str] = []
        """What could not be decoded before the checkpoint."""
        self.training = JointTraining(config, steps, device, share, descent)
        if resume is not None:
            with files.reading(resume) as checkpoint:
                totals = restore_checkpoint(self.training, checkpoint)
            self.dropped = totals.pop("dropped", [])
            self.totals.update(totals)

    def facts(self) -> dict[str, Any]:
        """What the driver shows of the training before it begins."""
        return {"step": self.training.step, "device": str(self.training.device)}

    def obey(self, command: Advance | Save | Finish) -> dict[str, Any]:
        """Carry out a command; what rank 0 returns goes to the driver."""
        if isinstance(command, Advance):
            return self._advance(command.until)
        if isinstance(command, Save):
            from squall.actors.masked_video_files import write_checkpoint

            totals = {**self._totals(), "dropped": gather_dropped(self.source, self.dropped)}
            with self.files.writing(Path(command.directory)) as folder:
                write_checkpoint(self.training, totals, folder)
            return {}
        return self._finish(Path(command.directory))

    def _advance(self, until: int) -> dict[str, float]:
        sums: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        first, batch = self.training.step, self.training.config.batch_clips
        self.memory.restart()  # what a checkpoint takes is none of training's
        while self.training.step < until:
            began, warm = time.perf_counter(), self.training.acting is not self.training.sampler
            clips, motion = self.source.batch(self.training.step, batch, self.share.of(batch))
            loaded = time.perf_counter()
            figures = self.training.advance(clips, motion)
            sums.update(figures)
            counts.update(figures.keys())
            self.totals.update(seconds=time.perf_counter() - began, data_seconds=loaded - began,
                               collapsed_steps=0 if warm else int(figures["collapsed"]))
            sums["seconds"] += time.perf_counter() - began
        self.totals["peak_bytes"] = max(self.totals["peak_bytes"], self.memory.bytes)
        steps, seconds = until - first, sums.pop("seconds")
        tokens = steps * batch * self.training.config.masks_per_clip * self.training.autoencoder.grid.tokens
        return {name: value / counts[name] for name, value in sums.items()} | {
            "time/step": seconds / steps, "speed/tokens_per_second": tokens / seconds,
            "memory/peak_bytes": float(self.totals["peak_bytes"])}

    def _finish(self, folder: Path) -> dict[str, Any]:
        from squall.actors.masked_video_files import save_model

        totals, training, dropped = self._totals(), self.training, gather_dropped(self.source, self.dropped)
        self.source.close()
        if self.share.rank != 0:
            return {}
        facts = {
            **totals, "device": training.device.type, "steps": training.step, "mask_ratio": training.ratio.value,
            "parameters": _count(training.autoencoder), "sampler_parameters": _count(training.sampler),
            "sampler_updates": 0 if training.learner is None else training.learner.updates}
        with self.files.writing(folder) as written:
            save_model(training, written, facts)
        return {**facts, "dropped": dropped, "measured": self._measure()}

    def _measure(self) -> Measured:
        from squall.algorithms.masked_video.measures import measure

        held = self.held()
        return measure(self.training, held.parts, held.probe, held.classes, held.draws, held.examples, held.batch_clips)

    def _totals(self) -> dict[str, float]:
        """What the training took so far: `seconds`, `data_seconds` of them waiting for clips, `collapsed_steps`, and
        `peak_bytes` of the worker that needed most. Every worker calls it."""
        import torch

        peaks = torch.zeros(self.share.workers, dtype=torch.float64, device=self.training.device)
        peaks[self.share.rank] = self.totals["peak_bytes"]
        self.share.add(peaks)
        return {"seconds": 0.0, "data_seconds": 0.0, "collapsed_steps": 0, **self.totals, "peak_bytes": int(peaks.max())}


def _device(settings: MaskedVideoWorkersConfig) -> torch.device:
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if settings.gpus else torch.device("cpu")


def _count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _warm_up() -> None:
    """Train the smallest autoencoder for a step, so that what libraries load at their first use is not taken for its memory."""
    import torch

    from squall.algorithms.masked_video.step import JointTraining

    config = MaskedVideoConfig.model_validate({
        "autoencoder": {"frames": 2, "image_height": 16, "image_width": 16, "patch": 8, "width": 8, "depth": 1, "heads": 1,
                        "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 1},
        "sampler": {"network": {"width": 8, "heads": 1}}, "sampler_training": {"warmup_steps": 0},
        "mask_ratio": {"ratio": 0.5}, "batch_clips": 2})
    JointTraining(config, 1).advance(torch.zeros(2, 3, 2, 16, 16))


def _descent(config: DeepSpeedConfig | None) -> DescentMaker:
    if config is None:
        from squall.algorithms.masked_video.gradients import PlainDescent

        return PlainDescent
    from ray import train

    from squall.actors.deepspeed_backend import ZeroDescent

    os.environ.setdefault("LOCAL_RANK", str(train.get_context().get_local_rank()))
    return functools.partial(ZeroDescent, config.zero_stage, config.offload_optimiser)
