"""Labelled video files of a data set, from the lists and folders that it is published in; nothing is decoded here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from squall.platform.class_list import plain, read_classes
from squall.platform.clip_data import LAYOUTS, Split, TatsDataConfig
from squall.platform.errors import ConfigError, DataError
from squall.platform.image_data.clips import TEST_SEED, TEST_SHARE, labelled
from squall.platform.image_data.config import ImageDataConfig
from squall.platform.image_data.images import divide
from squall.platform.image_data.loading import LIMIT_SEED
from squall.platform.importers import IMPORTERS, find_questions
from squall.platform.importers.common import Request
from squall.platform.importers.lists import lines_of

PUBLISHED_TEST = {"ucf101": "test", "hmdb51": "test", "kinetics": "val", "somethingsomething": "validation"}
"""The split that results are reported on: test clips of the last two have no public labels."""
VALIDATION_SEED = 42
MOST_CLASSES = 100_000
"""Of a list that does not name them; a larger label is some other number."""
SHOWN = 3
"""Bad lines that an error quotes; it counts the others."""
_LINE = re.compile(r"(.*[^\s,])[\s,]+([^\s,]+)")


@dataclass(frozen=True, slots=True)
class ClipEntry:
    """A labelled video file."""

    name: str
    path: str
    label: int


@dataclass(frozen=True)
class ClipList:
    """A part of a data set."""

    entries: tuple[ClipEntry, ...]
    classes: tuple[str, ...]
    source: str
    """Where it comes from, and which part of it."""
    dropped: tuple[str, ...] = ()
    """What cannot be used, a line each with the place and the reason."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (n,), positions in `classes`."""
        return np.array([entry.label for entry in self.entries], np.int64)


def read_clip_list(config: TatsDataConfig, split: Split) -> ClipList:
    """The clips of a split, each class by its share where there is a limit.

    Raises:
        DataError: a list is missing, has a line that cannot be used (reason ``bad_line``), or leaves no clip (``no_clips``).
        ConfigError: classes that do not fit.
    """
    chosen = _split(config, split)
    if not chosen.entries:
        lost = f"; of {len(chosen.dropped)} entries none can be used, the first: {chosen.dropped[0]}" if chosen.dropped else ""
        raise DataError(f"{chosen.source}: there are no clips{lost}", reason="no_clips")
    limit = config.limit(split)
    return chosen if limit is None or limit >= len(chosen.entries) else _part(
        chosen, divide(chosen.labels, limit, LIMIT_SEED)[0], chosen.source)


def has_validation(config: TatsDataConfig) -> bool:
    """Whether there are validation clips: named ones, or a share of the training clips that is a clip at least."""
    if config.validation_path is not None:
        return True
    whole = config.model_copy(update={"validation_share": 0.0})
    return config.validation_share > 0 and _set_aside(config, _split(whole, "train")) > 0


def _set_aside(config: TatsDataConfig, training: ClipList) -> int:
    return round(config.validation_share * len(training.entries))


def _split(config: TatsDataConfig, split: Split) -> ClipList:
    published = _published(config, split)
    if published is not None and split != "train":
        return published
    training = published if published is not None else _published(config, "train")
    assert training is not None
    if config.format == "list" and config.test_path is None:
        test, rest = divide(training.labels, round(TEST_SHARE * len(training.entries)), TEST_SEED)
        if split == "test":
            return _part(training, test, f"{config.path}, a fifth of the clips for testing")
        training = _part(training, rest, f"{config.path}, without a fifth for testing")
    if config.validation_path is not None:
        return training
    count = _set_aside(config, training)
    validation, rest = divide(training.labels, count, VALIDATION_SEED)
    if split == "validation":
        if not count:
            raise ConfigError(f"{training.source}: validation_share {config.validation_share} of {len(training.entries)} clips "
                              "sets none aside for validation; raise it, or name validation_path")
        return _part(training, validation, f"{training.source}, {count} for validation")
    return _part(training, rest, f"{training.source}, without {count} for validation" if count else training.source)


def _published(config: TatsDataConfig, split: Split) -> ClipList | None:
    """A split as the data set has it; None for one that has to be set aside from the training clips."""
    if config.format in LAYOUTS:
        return None if split == "validation" else _of_layout(config, split)
    file = {"train": config.path, "validation": config.validation_path, "test": config.test_path}[split]
    if config.format == "manifest":
        return _of_manifest(config, split)
    return None if file is None else _of_list(config, file, split)


def _part(whole: ClipList, rows: Sequence[int] | np.ndarray, source: str) -> ClipList:
    return replace(whole, entries=tuple(whole.entries[row] for row in rows), source=source)


def _of_layout(config: TatsDataConfig, split: Split) -> ClipList:
    """A folder as its authors publish it, by the importer of `squall data import`."""
    assert config.path is not None
    if not config.path.is_dir():
        raise DataError(f"{config.path}: no such folder; format {config.format} needs the folder of the data set",
                        reason="missing_folder")
    importer, name = IMPORTERS[config.format], "train" if split == "train" else PUBLISHED_TEST[config.format]
    classes = config.classes if isinstance(config.classes, Path) else None
    found, rejected = find_questions(importer, Request(Path(os.path.abspath(config.path)), name, config.fold, classes), plain)
    entries = tuple(ClipEntry(each.row.id, str(each.question.media), each.question.record["class_index"]) for each in found)
    names = tuple(found[0].question.record["options"]) if found else ()
    part = ClipList(entries, names, f"{config.path}, {name}", tuple(each.message for each in rejected))
    if config.format != "kinetics" or classes is not None or split == "train":
        return part
    # Without a file of classes there are those of which a split has clips, and its splits need not have the same.
    return _as_in(part, _of_layout(config, "train").classes)


def _of_manifest(config: TatsDataConfig, split: Split) -> ClipList | None:
    """Clips whose answers are classes, those of the training clips; it sets test clips aside itself where none are named."""
    assert config.path is not None
    if config.path.is_dir() and (config.test_path or config.validation_path):
        raise ConfigError(f"path {config.path}: a folder has its own train.jsonl and test.jsonl; beside test_path or "
                          "validation_path, path is the manifest of the training clips")
    if split == "validation":
        return None if config.validation_path is None else _as_in(_labelled(config, config.validation_path, "test"),
                                                                  _labelled(config, config.test_path, "train").classes)
    return _labelled(config, config.test_path, split)


def _labelled(config: TatsDataConfig, test_path: Path | None, split: Literal["train", "test"]) -> ClipList:
    whole = ImageDataConfig(format="video", path=config.path, test_path=test_path, size=1, question_type=config.question_type)
    samples, labels, classes, lost = labelled(whole, split)
    entries = tuple(ClipEntry(sample.id, str(sample.media), int(label)) for sample, label in zip(samples, labels, strict=True))
    return ClipList(entries, classes, f"{config.path if split == 'train' else test_path or config.path}, {split}", lost)


def _as_in(part: ClipList, classes: tuple[str, ...]) -> ClipList:
    """The same clips with their classes numbered as in `classes`."""
    known = {plain(name): index for index, name in enumerate(classes)}
    names = [plain(part.classes[entry.label]) for entry in part.entries]
    if strange := [name for name in names if name not in known]:
        raise DataError(f"{part.source}: the answer '{strange[0]}' is that of no training clip", reason="unknown_class")
    entries = tuple(replace(entry, label=known[name]) for entry, name in zip(part.entries, names, strict=True))
    return replace(part, entries=entries, classes=classes)


def _of_list(config: TatsDataConfig, file: Path, split: Split) -> ClipList:
    """A list with ``PATH LABEL`` on each line. What classes there are the training list or `classes` says."""
    names = None if config.classes is None else read_classes(config.classes)
    if names is None and split != "train":
        assert config.path is not None
        names = _of_list(config, config.path, "train").classes
    root = config.root or file.parent
    entries, bad = [], []
    for line, text in _lines(file):
        try:
            entries.append(_entry(text, root, names))
        except DataError as error:
            bad.append(f"{file}:{line}: {error}")
    if bad and config.bad_lines == "refuse":
        more = f" ({len(bad) - SHOWN} more bad lines)" if len(bad) > SHOWN else ""
        raise DataError(f"{'; '.join(bad[:SHOWN])}{more}; mend the list, or leave such lines out with bad_lines: drop",
                        reason="bad_line")
    count = max((entry.label for entry in entries), default=-1) + 1
    return ClipList(tuple(entries), names or tuple(map(str, range(count))), f"{file}, {split}", tuple(bad))


def _lines(file: Path) -> list[tuple[int, str]]:
    if not file.is_file():
        raise DataError(f"{file}: no such list", reason="missing_list")
    return list(lines_of(file))


def _entry(text: str, root: Path, names: Sequence[str] | None) -> ClipEntry:
    """Raises DataError, without the place, for a line that cannot be used."""
    parts = _LINE.fullmatch(text)
    if parts is None:
        raise DataError(f"{text!r} is not a path and a label, such as 'clips/a.mp4 0'", reason="bad_line")
    name, label = parts[1].strip('"'), parts[2]
    if not (label.isascii() and label.isdecimal()):
        raise DataError(f"label {label!r} is no whole number from 0 on", reason="bad_line")
    if names is None and int(label) >= MOST_CLASSES:
        raise DataError(f"label {label}: without `classes` labels go up to {MOST_CLASSES - 1:,}", reason="bad_line")
    if names is not None and int(label) >= len(names):
        raise DataError(f"label {label}: there are {len(names)} classes, from 0 to {len(names) - 1}", reason="bad_line")
    path = os.path.normpath(root.absolute() / name)
    if not os.path.isfile(path):
        raise DataError(f"no clip {path}", reason="bad_line")
    return ClipEntry(name, path, int(label))
