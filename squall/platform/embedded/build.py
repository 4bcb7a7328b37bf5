"""Write the embedded data set: H.264 clips and a Video-R1 manifest for each split."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from squall.platform.config import Config
from squall.platform.embedded.questions import QUESTION_TYPES, make_question
from squall.platform.errors import nearest
from squall.platform.manifest import write_manifest
from squall.platform.seeds import derive_seed
from squall.platform.video import encode_video

CHUNK = 250
Progress = Callable[[int, int], None]


class EmbeddedDataConfig(Config):
    """What the embedded data set holds and where it goes."""

    directory: Path = Path("data/embedded")
    """Folder that receives the clips and manifests; an existing set with the same settings is kept."""
    train_clips: int = Field(12_000, ge=4)
    """Training clips; each is a fresh draw of footage, crop, shapes and options."""
    validation_clips: int = Field(1_000, ge=4)
    """Validation clips, from shots of the film that training never shows."""
    test_clips: int = Field(2_000, ge=4)
    """Held-out clips, from footage of other cameras."""
    question_types: tuple[str, ...] = ("colour", "count", "camera")
    """Types in equal shares; see squall.platform.embedded.questions."""
    frames: int = Field(8, ge=2)
    """Frames of a clip."""
    size: int = Field(56, ge=28, multiple_of=28)
    """Height and width in pixels."""
    fps: float = Field(4.0, gt=0)
    """Frame rate written into the files; at 4 the small policy places successive frame pairs at 0, 1, 2, 3."""
    seed: int = 0
    """Seed of all scenes."""
    processes: int = Field(0, ge=0)
    """Processes that draw and encode; 0 is one per CPU."""

    @field_validator("question_types")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in QUESTION_TYPES:
                raise ValueError(f"unknown question type '{name}'.{nearest(name, QUESTION_TYPES)} "
                                 f"Available: {', '.join(QUESTION_TYPES)}")
        if not names:
            raise ValueError(f"needs at least one of: {', '.join(QUESTION_TYPES)}")
        return names


def build_dataset(config: EmbeddedDataConfig, progress: Progress | None = None) -> dict[str, Path]:
    """Write all splits; returns the manifest of each. Finished sets with the same settings are reused.

    Args:
        progress: called with (clips done, clips in all).
    """
    root = config.directory
    counts = {"train": config.train_clips, "validation": config.validation_clips, "test": config.test_clips}
    manifests = {split: root / f"{split}.jsonl" for split in counts}
    stamp, content = root / "settings.json", config.model_dump_json(exclude={"directory", "processes"})
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == content and all(map(Path.is_file, manifests.values())):
        return manifests
    stamp.unlink(missing_ok=True)
    jobs = [(config, split, start, min(start + CHUNK, count))
            for split, count in counts.items() for start in range(0, count, CHUNK)]
    records: dict[str, list[dict[str, Any]]] = {split: [] for split in counts}
    done, total = 0, sum(counts.values())
    for split in counts:
        (root / split).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(config.processes or len(os.sched_getaffinity(0))) as pool:
        for (_, split, start, stop), made in zip(jobs, pool.map(_write_chunk, jobs), strict=True):
            records[split] += made
            done += stop - start
            if progress:
                progress(done, total)
    for split, manifest in manifests.items():
        write_manifest(manifest, records[split])
    stamp.write_text(content, encoding="utf-8")
    return manifests


def _write_chunk(job: tuple[EmbeddedDataConfig, str, int, int]) -> list[dict[str, Any]]:
    config, split, start, stop = job
    return [_write_clip(config, split, index) for index in range(start, stop)]


def _write_clip(config: EmbeddedDataConfig, split: str, index: int) -> dict[str, Any]:
    kind = config.question_types[index % len(config.question_types)]
    question = make_question(kind, split, config.frames, config.size, derive_seed(config.seed, split, index))
    name = f"{split}/{index:06d}.mp4"
    encode_video(config.directory / name, question.frames, config.fps)
    return {
        "problem_id": f"{split}-{index:06d}", "problem": question.problem, "options": list(question.options),
        "problem_type": "multiple choice", "data_type": "video", "path": f"./{name}",
        "process": f"<think>{question.answer}</think>", "solution": f"<answer>{question.letter}</answer>",
        "question_type": kind,
    }


def corpus(config: EmbeddedDataConfig, count: int) -> list[str]:
    """Texts from which the small policy's tokenizer learns its merges."""
    texts = []
    for index in range(count):
        kind = list(QUESTION_TYPES)[index % len(QUESTION_TYPES)]
        question = make_question(kind, "train", 2, 28, derive_seed(config.seed, "corpus", index))
        texts.append("\n".join((question.problem, *question.options, question.answer, question.letter, "user\nassistant")))
    return texts


def footage_clips(config: EmbeddedDataConfig, count: int) -> list[np.ndarray]:
    """Clips from which the small policy's patch embedding is made: uint8 (frames, size, size, 3) each.

    Real frames under a moving camera alone: where shapes are drawn on them, their edges take the strongest components, and a
    policy made from such clips did not learn to see motion.
    """
    return [make_question("camera", "train", config.frames, config.size, derive_seed(config.seed, "footage clip", i)).frames
            for i in range(count)]
