"""What a Ray Train worker runs to train a classifier on a video encoder, and the driver's handle on the group.

The arithmetic is `squall.algorithms.masked_video.finetune`, the same as in one process without Ray.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from pydantic import Field

from squall.actors.classifier_loop import (
    Advance,
    ClassifierWorkersConfig,
    Keep,
    SteppedLearner,
    Validate,
    follow,
    sum_over_workers,
)
from squall.actors.clip_sources import ClipSource, gather_dropped
from squall.actors.rollout_buffer import Save
from squall.actors.run_files import RunFiles
from squall.algorithms.masked_video.finetune_config import FinetuneConfig
from squall.platform.clip_stream import Ahead
from squall.platform.config import Config
from squall.platform.errors import DataError, SquallError

if TYPE_CHECKING:
    import torch

TOP = 5
VIEWS_AT_ONCE = 32


class TestViewsConfig(Config):
    """What is looked at of each test clip; its probabilities are the mean over all views."""

    __test__ = False
    clips: int = Field(5, ge=1)
    """Windows, spread evenly over the video; drawings of known motion are seen once, as they are."""
    crops: int = Field(3, ge=1)
    """Cuts of each, along the longer side of the frame; 1 is the middle. Five by three is what the paper has for Kinetics."""


@dataclass(frozen=True)
class FinetuneTask:
    """Which clips are learned from and looked at."""

    encoder: str
    train: ClipSource
    validation: ClipSource | None
    test: ClipSource
    views: TestViewsConfig
    total_steps: int
    decode_threads: int = 1


class FinetuneLearner(SteppedLearner):
    """Driver's handle on the group."""

    def __init__(self, workers: ClassifierWorkersConfig, config: FinetuneConfig, task: FinetuneTask, run_path: Path, *,
                 resume: Path | None = None) -> None:
        """`resume` is a checkpoint of a run to go on from."""
        super().__init__(workers, finetune_loop, {"workers": workers, "config": config, "task": ray.put(task),
                                                  "resume": resume}, run_path)


def finetune_loop(config: dict[str, Any]) -> None:
    """Run by every Ray Train worker."""
    follow(config, FinetuneWorker)


class FinetuneWorker:
    """One rank of the group."""

    def __init__(self, config: Mapping[str, Any], rank: int, workers: int) -> None:
        from squall.actors.video_encoder_files import open_encoder
        from squall.algorithms.classifier_training import Share
        from squall.algorithms.masked_video.finetune import ClipClassifier, FinetuneTraining

        own: FinetuneConfig = config["config"]
        self.task: FinetuneTask = ray.get(config["task"])
        self.share = Share(rank, workers, sum_over_workers)
        module = ClipClassifier(open_encoder(self.task.encoder), len(self.task.train.classes), own.seed)
        device = "cuda" if config["workers"].gpus else "cpu"
        self.training = FinetuneTraining(own, module, self.task.total_steps, device, self.share)
        self.sums: Counter[str] = Counter()
        self.dropped: list[str] = []
        """What could not be decoded before the checkpoint."""
        self.files: RunFiles = config["files"]
        if config["resume"] is not None:
            with self.files.reading(config["resume"]) as checkpoint:
                self._restore(checkpoint)

    def facts(self) -> dict[str, Any]:
        """What the driver shows of the training before it begins."""
        return {"step": self.training.step, "device": self.training.device.type}

    def obey(self, command: Advance | Validate | Save | Keep) -> dict[str, Any]:
        """Carry out a command; what rank 0 returns goes to the driver."""
        if isinstance(command, Advance):
            return self._advance(command.until)
        if isinstance(command, Validate):
            return self._validate()
        if isinstance(command, Save):
            return self._save(Path(command.directory))
        return self._keep(Path(command.directory))

    def _advance(self, until: int) -> dict[str, Any]:
        batch = self.training.config.batch_clips
        while self.training.step < until:
            began = time.perf_counter()
            drawn = self.task.train.draw(self.training.step, batch, self.share.of(batch))
            loaded = time.perf_counter()
            figures = self.training.advance(drawn.clips, drawn.labels)
            self.sums.update(figures)
            self.sums.update({"steps": 1, "time/train": time.perf_counter() - began, "time/clips": loaded - began})
        return {}

    def _validate(self) -> dict[str, float]:
        steps = self.sums.pop("steps")
        row = {name: value / steps for name, value in self.sums.items()}
        self.sums = Counter()
        if self.task.validation is None:
            return row
        found = self._look(self.task.validation, TestViewsConfig(clips=1, crops=1))
        return {**row, "accuracy/validation": found["top1"]}

    def _look(self, source: ClipSource, views: TestViewsConfig) -> dict[str, float]:
        """Accuracy on the clips that can be decoded, and how many these are; all workers take part.

        Raises:
            DataError: none can be.
        """
        import torch

        counts = torch.zeros(3, dtype=torch.float64)
        for row, probabilities in self._seen(source, views):
            likeliest = probabilities.topk(min(TOP, len(probabilities))).indices.tolist()
            counts += torch.tensor([likeliest[0] == source.label(row), source.label(row) in likeliest, 1.0])
        counts = counts.to(self.training.device)
        self.share.add(counts)
        right, among, seen = counts.tolist()
        if not seen:
            raise DataError(f"{source.source}: none of {len(source)} clips can be decoded; the first: {source.dropped[:1]}",
                            reason="nothing_readable")
        found = {"top1": right / seen, "clips": int(seen)}
        return found | ({f"top{TOP}": among / seen} if len(source.classes) > TOP else {})  # or it would always be 1

    def _seen(self, source: ClipSource, views: TestViewsConfig) -> Iterator[tuple[int, torch.Tensor]]:
        """This rank's rows of a source and their probabilities (K,), means over views; without those that cannot be decoded."""
        import torch

        def attempt(row: int) -> np.ndarray | None:
            try:
                return source.views(row, views.clips, views.crops)
            except DataError:
                return None  # the source has noted it

        own, size = range(len(source))[self.share.of(len(source))], max(1, VIEWS_AT_ONCE // (views.clips * views.crops))
        parts, ahead = [own[start:start + size] for start in range(0, len(own), size)], Ahead(attempt, self.task.decode_threads)
        for number, part in enumerate(parts):
            for near in parts[number:number + 2]:
                ahead.begin(near, lambda near=near: near)
            found = {row: clips for row, clips in zip(part, ahead.take(part, tuple), strict=True) if clips is not None}
            if found:
                probabilities = self.training.probabilities(torch.from_numpy(np.concatenate(list(found.values()))))
                sizes = [len(clips) for clips in found.values()]
                yield from zip(found, (each.mean(0) for each in probabilities.split(sizes)), strict=True)
        ahead.close()

    def _save(self, folder: Path) -> dict[str, Any]:
        from squall.platform.checkpoints import TRAINER, write_tensors

        dropped = gather_dropped(self.task.train, self.dropped)
        if self.share.rank == 0:
            tensors = ((name, value.detach().cpu()) for name, value in self.training.tensors())
            with self.files.writing(folder) as written:
                write_tensors(written / TRAINER, tensors,
                              {"step": self.training.step, "sums": dict(self.sums), "dropped": dropped})
        return {}

    def _restore(self, checkpoint: Path) -> None:
        from squall.platform.checkpoints import TRAINER, StoredTensors

        stored = StoredTensors(checkpoint / TRAINER)
        if "step" not in stored.metadata:
            raise SquallError(f"{checkpoint}: no checkpoint of `squall train tats-finetune`; encoder= takes a trained encoder")
        self.training.restore(stored, stored.metadata["step"])
        self.sums, self.dropped = Counter(stored.metadata["sums"]), stored.metadata.get("dropped", [])

    def _keep(self, folder: Path) -> dict[str, Any]:
        from squall.actors.video_encoder_files import save_clip_classifier

        training, task = self.training, self.task
        found = self._look(task.test, task.views)
        dropped = [line for source in (task.train, task.validation, task.test) if source
                   for line in gather_dropped(source, self.dropped if source is task.train else ())]
        task.train.close()
        config = training.config.model_dump(mode="json", include=set(FinetuneConfig.model_fields))
        facts = {"encoder": task.encoder, "steps": training.step, "test": found, "data": task.train.source, "config": config}
        if self.share.rank == 0:
            with self.files.writing(folder) as written:
                save_clip_classifier(written, training.module, task.train.classes, facts)
        return {**found, "steps": training.step, "dropped": list(dict.fromkeys(dropped))}
