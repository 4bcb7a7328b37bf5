"""What importers are made of: entries of a published list, and the questions that they become.

An importer is two functions. `rows` goes through the lists of a folder in their order; `question` turns one entry into a
record of a manifest (docs/data.md) and says where its clip is. Neither looks outside the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import isfile, normpath
from pathlib import Path
from typing import Any, NoReturn

from squall.platform.errors import DataError
from squall.platform.video import VIDEO_SUFFIXES

SUFFIXES = (".mp4", *sorted(VIDEO_SUFFIXES - {".mp4"}), ".MP4")
"""Of the files that a list may mean: data sets are re-encoded, and lists name clips without a suffix."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to import."""

    source: Path
    """Folder of the data set, absolute."""
    split: str | None = None
    fold: int = 1
    classes: Path | None = None
    list_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """An entry of a published list."""

    where: str
    """``FILE:LINE``, or ``FILE: KEY`` where a file is one object."""
    id: str
    """Unique, and the same at every import."""
    data: Any
    """The entry; a DataError where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A clip that has to be written first."""

    source: Path
    """A video, or a folder of numbered images."""
    name: str
    """Of the new file, below the folder of clips."""
    span_s: tuple[float, float]
    """First and last second that is wanted."""
    fps: float | None = None
    """Images a second in a folder; None for a video."""


@dataclass(frozen=True, slots=True)
class Question:
    """A record of a manifest without its ``path``."""

    record: dict[str, Any]
    media: Path | Cut


@dataclass(frozen=True, slots=True)
class Importer:
    """A format that can be imported."""

    name: str
    rows: Callable[[Request], Iterator[Row]]
    """Raises DataError where a list is missing or cannot be read as a whole."""
    question: Callable[[Row, Request], Question]
    """Raises DataError, without the place, for an entry that cannot be used."""
    splits: tuple[str, ...] = ()
    default_split: str | None = None
    """None imports all splits."""
    takes: tuple[str, ...] = ()
    """Which of ``fold``, ``classes`` and ``list_file`` it makes use of."""


def reject(row: Row, reason: str, problem: str) -> NoReturn:
    """Raise the DataError of an entry that cannot be used."""
    raise DataError(problem, sample_id=row.id, reason=reason)


def value(row: Row, key: str, kind: type = str) -> Any:
    """A field of an entry, of the type `kind` and, where that is text, not empty."""
    if not isinstance(row.data, Mapping):
        reject(row, "not_json", f"expected an object with fields, got {type(row.data).__name__}")
    found = row.data.get(key)
    if found is None or found == "":
        reject(row, "missing_field", f"missing field '{key}'; there are {', '.join(map(str, row.data))}")
    if not isinstance(found, kind):
        reject(row, "bad_field", f"field '{key}' is {type(found).__name__}, not {kind.__name__}")
    return found


def within(source: Path, relative: str) -> Path:
    """A path below `source`, which need not exist. Raises DataError ``path_outside``; links are not looked through."""
    path = Path(normpath(source / relative))
    if not path.is_relative_to(source):
        raise DataError(f"'{relative}' leaves the folder {source}; nothing outside it is imported", reason="path_outside")
    return path


def look_for(source: Path, folders: Sequence[str], *names: str) -> Path | None:
    """The first file of one of these names, with the suffix given or another, in one of the folders.

    Raises:
        DataError: ``path_outside``, for a name that leaves `source`.
    """
    tried = []
    for relative in (f"{folder}/{name}" if folder else name for name in names for folder in folders):
        tried.append(within(source, relative))
        if isfile(tried[-1]):
            return tried[-1]
    stems = [str(path.with_suffix("") if path.suffix.lower() in VIDEO_SUFFIXES else path) for path in tried]
    return next((Path(stem + suffix) for suffix in SUFFIXES for stem in stems if isfile(stem + suffix)), None)


def find_media(row: Row, source: Path, folders: Sequence[str], *names: str) -> Path:
    """As `look_for`. Raises DataError ``missing_media`` where there is none."""
    if (found := look_for(source, folders, *names)) is not None:
        return found
    place = f"{folders[0]}/{names[0]}" if folders[0] else names[0]
    others = len(folders) * len(names) - 1
    reject(row, "missing_media", f"no clip {place} in {source}{f', nor in {others} other places' if others else ''}; "
                                 "download it and unpack archives")
