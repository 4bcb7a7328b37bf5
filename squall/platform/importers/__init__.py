"""Benchmarks and data sets as they are published, read into records of a manifest. `IMPORTERS` names the formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os.path import normpath
from pathlib import Path
from types import MappingProxyType
from typing import Any

from squall.platform.errors import DataError
from squall.platform.importers.classes import HMDB51, SOMETHING, UCF101
from squall.platform.importers.clips import write_clip
from squall.platform.importers.common import Cut, Importer, Question, Request, Row
from squall.platform.importers.kinetics import KINETICS
from squall.platform.importers.mvbench import MVBENCH
from squall.platform.importers.question_sets import MMVU, VIDEOMME, VIDEOMMMU, VSIBENCH
from squall.platform.importers.tempcompass import TEMPCOMPASS
from squall.platform.manifest import parse_record
from squall.platform.records import ProblemType
from squall.platform.seeds import derive_seed

IMPORTERS: Mapping[str, Importer] = MappingProxyType({importer.name: importer for importer in (
    MVBENCH, TEMPCOMPASS, VIDEOMME, VIDEOMMMU, VSIBENCH, MMVU, UCF101, HMDB51, KINETICS, SOMETHING)})


@dataclass(frozen=True, slots=True)
class Rejected:
    """An entry that did not become a record."""

    where: str
    """``FILE:LINE``, or ``FILE: KEY``."""
    id: str
    reason: str
    """Short snake_case word under which it is counted."""
    message: str


@dataclass(frozen=True, slots=True)
class Found:
    """An entry that can be used."""

    row: Row
    question: Question


def find_questions(importer: Importer, request: Request, meaning: Callable[[str], str]) -> tuple[list[Found], list[Rejected]]:
    """Go through the lists, in their order. Every entry is in one of the two results.

    Args:
        meaning: by which answers to multiple choice questions are compared; no two options may have the same one.

    Raises:
        DataError: a list is missing, empty or cannot be read.
    """
    found: list[Found] = []
    rejected: list[Rejected] = []
    places: dict[str, str] = {}
    for row in importer.rows(request):
        try:
            if isinstance(row.data, DataError):
                raise row.data
            question = importer.question(row, request)
            _check_options(question.record, meaning)
            if (first := places.setdefault(row.id, row.where)) != row.where:
                raise DataError(f"id already used at {first}", reason="duplicate_id")
            found.append(Found(row, question))
        except DataError as error:
            rejected.append(_rejected(row, error))
    if not found and not rejected:
        part = f" of the split '{request.split}'" if request.split else ""
        raise DataError(f"{request.source}: the list{part} has no entry", reason="empty_split")
    return found, rejected


def choose(found: Sequence[Found], limit: int | None) -> list[Found]:
    """At most `limit` of them, always the same ones from all over the list, in its order."""
    ranked = sorted(range(len(found)), key=lambda i: (derive_seed(0, found[i].row.id, "import"), i))
    return [found[i] for i in sorted(ranked[:limit])]


def finish(found: Found, output: Path, clips: Path) -> dict[str, Any] | Rejected:
    """The record that the manifest `output` gets; a clip that has to be written goes below the folder `clips`.

    Paths start from the manifest's folder where the clip is below it, and are absolute elsewhere.
    """
    row, media = found.row, found.question.media
    try:
        if isinstance(media, Cut):
            target = Path(normpath(clips / media.name))
            write_clip(media, target, row.id)
            media = target
        root = output.parent
        path = media.relative_to(root).as_posix() if media.is_relative_to(root) else str(media)
        record = found.question.record | {"path": path}
        parse_record(record, row.id, root)
        return record
    except DataError as error:
        return _rejected(row, error)


def _rejected(row: Row, error: DataError) -> Rejected:
    return Rejected(row.where, row.id, error.reason, f"{row.where}: {row.id}: {error}")


def _check_options(record: Mapping[str, Any], meaning: Callable[[str], str]) -> None:
    if record["problem_type"] == ProblemType.MULTIPLE_CHOICE:
        _refuse_alike(record["options"], meaning)


@lru_cache(maxsize=64)
def _refuse_alike(options: tuple[str, ...], meaning: Callable[[str], str]) -> None:
    first: dict[str, str] = {}
    for option in options:
        other = first.setdefault(meaning(option), option)
        if other is not option:
            raise DataError(f"options '{other}' and '{option}' cannot be told apart in an answer", reason="options_alike")
