"""Which images a classifier is trained on or attacked with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from squall.platform.config import Config

Format = Literal["digits", "idx", "cifar10", "cifar100", "folder", "video"]

_BELONGS: dict[str, tuple[Format, ...]] = {
    "classes": ("idx",), "test_path": ("video",), "frames": ("video",), "question_type": ("video",), "problem_type": ("video",),
    "decode_threads": ("folder", "video"),
}


class ImageDataConfig(Config):
    """A data set of labelled images or clips."""

    format: Format = "digits"
    """`digits` is scikit-learn's 1,797 digits of 8x8 pixels and needs no file; `idx` MNIST and Fashion-MNIST, `cifar10` and
    `cifar100` the binary versions, `folder` images as train/CLASS/NAME.jpg, `video` clips of a manifest."""
    path: Path | None = None
    """Folder of the published files; for `video` a manifest, or a folder with train.jsonl and test.jsonl."""
    test_path: Path | None = None
    """`video`: manifest of the test clips; without it, a fifth of the clips of `path` if that is a file."""
    classes: tuple[str, ...] | Path | None = None
    """`idx`: names of the classes in the order of their numbers, or a file with them; by default the numbers."""
    size: int | None = Field(None, ge=1)
    """Pixels a side: the shorter side is resized to this, and the centre is cut out. `folder` and `video` need it; the others
    keep their size by default."""
    frames: int = Field(8, ge=1)
    """`video`: frames of a clip, spread evenly over it."""
    question_type: str | None = None
    """`video`: only questions whose field of that name says this."""
    problem_type: str | None = None
    """`video`: only questions of this problem type."""
    train_images: int | None = Field(None, ge=1)
    """At most this many images for training, every class by its share, the same ones every time; by default all."""
    test_images: int | None = Field(None, ge=1)
    """At most this many images for testing, chosen in the same way."""
    decode_threads: int = Field(1, ge=1)
    """`folder` and `video`: files decoded at a time."""

    @model_validator(mode="after")
    def _fitting(self) -> ImageDataConfig:
        for name, formats in _BELONGS.items():
            if self.format not in formats and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} belongs to format {' or '.join(formats)}, and format is {self.format}")
        if (self.format == "digits") != (self.path is None):
            raise ValueError("format digits takes no path" if self.path else f"format {self.format} needs path")
        if self.format in ("folder", "video") and self.size is None:
            raise ValueError(f"format {self.format} needs size, the pixels of a side")
        return self
