"""Which clips a video encoder is trained on and measured by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from squall.platform.config import Config

Format = Literal["embedded", "list", "ucf101", "hmdb51", "kinetics", "somethingsomething", "manifest"]
Split = Literal["train", "validation", "test"]
LAYOUTS = ("ucf101", "hmdb51", "kinetics", "somethingsomething")

_BELONGS: dict[str, tuple[Format, ...]] = {
    "test_path": ("list", "manifest"), "validation_path": ("list", "manifest"), "root": ("list",), "bad_lines": ("list",),
    "classes": ("list", "kinetics"), "fold": ("ucf101", "hmdb51"), "question_type": ("manifest",), "motion": ("embedded",),
}


class MotionBankConfig(Config):
    """Clips of known motion, drawn when a run begins: shapes over a real frame."""

    cameras: tuple[Literal["still", "pan"], ...] = Field(("still", "pan"), min_length=1)
    """Scenes that stand, or that a camera pans over; clips take them in turn."""
    surface: Literal["plain", "textured"] = "plain"
    """Shapes of one colour, or of other footage, which nothing but motion tells from the scene."""
    objects: int = Field(1, ge=1)
    """Shapes of a clip."""
    radius: tuple[float, float] = (0.10, 0.16)
    """Range of their size, in sides of the frame."""
    seed: int = 0
    """Of the clips; apart from a training's own seed, so that all trainings of a run have the same clips."""

    @model_validator(mode="after")
    def _sized(self) -> MotionBankConfig:
        if not 0 < self.radius[0] <= self.radius[1] < 0.5:
            raise ValueError(f"radius {list(self.radius)}: expected 0 < least <= greatest < 0.5")
        return self


class ViewConfig(Config):
    """How a training clip is cut out of a video."""

    stride: int = Field(4, ge=1)
    """Frames of the video from one frame of the clip to the next; less where the video is shorter."""
    area: tuple[float, float] = (0.5, 1.0)
    """Range of the share of a frame that is cut out, at random, and scaled to the clip's size."""
    aspect: tuple[float, float] = (0.75, 4 / 3)
    """Range of that cut's width over its height."""
    flip: bool = True
    """Mirror half of the clips; by default not for `somethingsomething`, where left and right are classes."""

    @model_validator(mode="after")
    def _possible(self) -> ViewConfig:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area {list(self.area)}: expected 0 < least <= greatest <= 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect {list(self.aspect)}: expected 0 < least <= greatest")
        return self


class TatsDataConfig(Config):
    """Clips for training, and those that are set aside to measure by."""

    format: Format = "embedded"
    """`embedded` draws clips whose true motion is known and needs no file; `list` is a file with PATH LABEL on each line,
    whole numbers from 0 on, a tab, blank or comma between; `ucf101`, `hmdb51`, `kinetics` and `somethingsomething` are folders
    as their authors publish them; `manifest` is a manifest of Squall's, whose answers are the classes."""
    path: Path | None = None
    """List or manifest of the training clips, or the folder of a data set."""
    root: Path | None = None
    """`list`: folder that relative paths start from; by default the list's own."""
    validation_path: Path | None = None
    """`list` and `manifest`: the validation clips; by default `validation_share` of the training clips."""
    test_path: Path | None = None
    """`list` and `manifest`: the test clips; by default a fifth of the clips of `path`, every class by its share."""
    classes: tuple[str, ...] | Path | None = None
    """`list`: names of the classes in the order of their numbers, or a file with them, by default the numbers; `kinetics`: a
    file with them."""
    bad_lines: Literal["refuse", "drop"] = "refuse"
    """`list`: what is done about a line whose clip is missing or whose label is no number; `drop` counts and names them."""
    fold: int = Field(1, ge=1, le=3)
    """Of the three that `ucf101` and `hmdb51` have."""
    question_type: str | None = None
    """`manifest`: only questions whose field of that name says this."""
    validation_share: float = Field(0.1, ge=0, lt=1)
    """Share of the training clips of files that is set aside for validation, every class by its own; 0 trains on all."""
    train_clips: int | None = Field(None, ge=1)
    """At most this many training clips, every class by its share; of `embedded` this many, by default 1,024."""
    validation_clips: int | None = Field(None, ge=1)
    """As `train_clips`; of `embedded` by default 128."""
    test_clips: int | None = Field(None, ge=1)
    """As `train_clips`; of `embedded` by default 256."""
    motion: MotionBankConfig = MotionBankConfig()
    """`embedded`: what is drawn."""
    views: ViewConfig = ViewConfig()
    """Files: how training clips are cut; others are cut from the middle."""
    decode_threads: int = Field(1, ge=1)
    """Videos decoded at a time by each worker."""
    prefetch_steps: int = Field(2, ge=0)
    """Training steps whose clips are decoded ahead."""

    @model_validator(mode="before")
    @classmethod
    def _left_and_right(cls, values: Any) -> Any:
        views = values.get("views", {}) if isinstance(values, Mapping) else None
        if not isinstance(views, Mapping) or values.get("format") != "somethingsomething":
            return values
        return {**values, "views": {"flip": False, **views}}

    @model_validator(mode="after")
    def _fitting(self) -> TatsDataConfig:
        for name, formats in _BELONGS.items():
            if self.format not in formats and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to format {' or '.join(formats)}, and format is {self.format}")
        if self.format == "kinetics" and isinstance(self.classes, tuple):
            raise ValueError(f"classes: format kinetics takes a file with the names, got a list of {len(self.classes)}")
        if (self.format == "embedded") != (self.path is None):
            raise ValueError("format embedded takes no path; say which format the files have" if self.path
                             else f"format {self.format} needs path")
        return self

    def limit(self, split: Split) -> int | None:
        """At most how many clips of a split."""
        return {"train": self.train_clips, "validation": self.validation_clips, "test": self.test_clips}[split]
