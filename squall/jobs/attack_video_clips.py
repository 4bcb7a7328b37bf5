"""The clips of an attack on a video classifier: which ones victims and attackers learn from, and which ones are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator
from rich.console import Console

from squall.jobs.console import phase
from squall.platform.class_list import class_indices, plain
from squall.platform.config import Config
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.embedded.questions import QUESTION_TYPES
from squall.platform.errors import ConfigError, nearest
from squall.platform.image_data import ImageDataConfig, ImageSet, load_images, split_validation
from squall.platform.image_data.images import divide

VALIDATION_SEED, CHOICE_SEED = 42, 42
"""Which clips are set aside for tuning, and which of the held-out ones are attacked: the same for every run."""
EMBEDDED_TRAIN, EMBEDDED_TEST = 1200, 300
SMALLEST_EMBEDDED = 4

Split = Literal["test", "validation"]


class AttackedClipsConfig(Config):
    """Labelled clips: of a manifest, or those that ship with Squall."""

    path: Path | None = None
    """Manifest, or folder with train.jsonl and test.jsonl; null takes the embedded clips, real frames under moving shapes."""
    test_path: Path | None = None
    """Manifest of the test clips; without it, a fifth of the clips of `path` if that is a file."""
    question_type: str | None = None
    """Only questions whose field of that name says this; of the embedded clips by default `colour`."""
    problem_type: str | None = None
    """Only questions of this problem type."""
    frames: int = Field(8, ge=1)
    """Frames of a clip, spread evenly over it."""
    size: int = Field(56, ge=1)
    """Pixels a side: the shorter side is resized to this, and the centre is cut out. Victims are asked about these pixels."""
    train_clips: int | None = Field(None, ge=SMALLEST_EMBEDDED)
    """At most so many training clips, every class by its share; by default all, of the embedded ones 1,200."""
    test_clips: int | None = Field(None, ge=SMALLEST_EMBEDDED)
    """At most so many test clips; by default all, of the embedded ones 300."""
    validation_fraction: float = Field(0.15, gt=0, lt=1)
    """Share of the training clips, every class by its own, that neither victim nor attackers see: `split: validation` attacks
    these, so that tuning never looks at test clips."""
    directory: Path = Path("data")
    """Folder that embedded clips are written below; clips that are there are kept."""
    decode_threads: int = Field(1, ge=1)
    """Files decoded at a time."""

    @model_validator(mode="after")
    def _fitting(self) -> AttackedClipsConfig:
        if self.path is None:
            for key in ("test_path", "problem_type"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} belongs to clips of your own; give path too")
            if self.question_type is not None and self.question_type not in QUESTION_TYPES:
                raise ValueError(f"question_type '{self.question_type}': the embedded clips have none of that name."
                                 f"{nearest(self.question_type, QUESTION_TYPES)} Allowed: {', '.join(QUESTION_TYPES)}")
            if self.size % 28:
                raise ValueError(f"size {self.size}: embedded clips are of 28, 56, 84 or more pixels, in steps of 28")
        return self

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of every clip: (T, H, W, 3)."""
        return self.frames, self.size, self.size, 3

    @property
    def embedded(self) -> EmbeddedDataConfig:
        """What is written where `path` is null; clips of other settings lie in other folders."""
        kind, train, test = self.question_type or "colour", self.train_clips or EMBEDDED_TRAIN, self.test_clips or EMBEDDED_TEST
        name = f"embedded-{kind}-{self.frames}x{self.size}-{train}-{test}"
        return EmbeddedDataConfig(directory=self.directory / name, question_types=(kind,), frames=self.frames, size=self.size,
                                  train_clips=train, validation_clips=SMALLEST_EMBEDDED, test_clips=test)

    def images(self) -> ImageDataConfig:
        """The same clips as every job of classifiers reads them."""
        return ImageDataConfig(
            format="video", path=self.path or self.embedded.directory, test_path=self.test_path, size=self.size,
            frames=self.frames, question_type=self.question_type, problem_type=self.problem_type, train_images=self.train_clips,
            test_images=self.test_clips, decode_threads=self.decode_threads)


@dataclass(frozen=True)
class AttackedClips:
    """Clips of one shape. Nothing is trained on those that are held out."""

    train: ImageSet
    """What a victim that is made in the run, and attackers, learn from."""
    held_out: ImageSet
    chosen: np.ndarray
    """Positions of those that are attacked among the held-out ones, ascending."""

    def labelled_for(self, name: str, classes: Sequence[str]) -> AttackedClips:
        """With a victim's classes and its numbers for them. Raises ConfigError where it does not know one."""
        return replace(self, **{part: relabelled(name, classes, getattr(self, part)) for part in ("train", "held_out")})


def class_numbers(name: str, classes: Sequence[str], clips: ImageSet) -> np.ndarray:
    """Position of each of the clips' classes among a victim's. Raises ConfigError where it does not know one."""
    known = class_indices(classes)
    if unknown := [own for own in clips.classes if plain(own) not in known]:
        raise ConfigError(f"victim {name}: '{unknown[0]}' of {clips.source} is none of its {len(classes)} classes."
                          f"{nearest(unknown[0], classes)} It knows {', '.join(classes[:10])}")
    return np.array([known[plain(own)] for own in clips.classes], np.int64)


def relabelled(name: str, classes: Sequence[str], clips: ImageSet) -> ImageSet:
    """Clips with a victim's classes and its numbers for them. Raises ConfigError as `class_numbers`."""
    return replace(clips, labels=class_numbers(name, classes, clips)[clips.labels], classes=tuple(classes))


def load_clips(config: AttackedClipsConfig, split: Split, clips: int | None, console: Console) -> AttackedClips:
    """Read the clips; write the embedded ones before where they are not there.

    Args:
        clips: how many are attacked, every class by its share; None takes all.

    Raises:
        DataError: clips cannot be read.
        ConfigError: there are fewer than asked for.
    """
    if config.path is None and not (config.embedded.directory / "settings.json").is_file():
        with phase(console, f"drawing clips: {config.embedded.directory}", "clips", {}):
            build_dataset(config.embedded)
    images = config.images()
    with phase(console, "reading clips", "clips", {}):
        train, validation = split_validation(load_images(images, "train"), config.validation_fraction, VALIDATION_SEED)
        held_out = validation if split == "validation" else load_images(images, "test")
    if clips is not None and clips > len(held_out):
        more = "data.test_clips" if split == "test" else "data.train_clips or data.validation_fraction"
        raise ConfigError(f"clips = {clips:,}: {len(held_out):,} clips are held out ({held_out.source}); ask for fewer, "
                          f"clips=null for all, or raise {more}")
    chosen = divide(held_out.labels, len(held_out) if clips is None else clips, CHOICE_SEED)[0]
    return AttackedClips(train, held_out, chosen)
