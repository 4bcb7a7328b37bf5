"""The lists of a data set: which files they are, and their entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from squall.platform.errors import DataError
from squall.platform.importers.common import Request, Row, within
from squall.platform.manifest import read_records


def find_list(request: Request, folders: Sequence[str], names: Sequence[str]) -> Path:
    """The first list that is there. Names may be patterns such as ``test-*.parquet``."""
    for folder in folders:
        for name in names:
            if found := sorted(path for path in (request.source / folder).glob(name) if path.is_file()):
                return found[0]
    raise DataError(f"{request.source}: no {' or '.join(names)} in it{_below(folders)}; check the folder, and that its "
                    "lists are downloaded", reason="missing_list")


def split_list(request: Request, folders: Sequence[str], names: Sequence[str]) -> Path:
    """The list that ``list_file`` names, else the first that is there."""
    if request.list_file is None:
        return find_list(request, folders, names)
    file = within(request.source, str(request.list_file))
    if not file.is_file():
        raise DataError(f"{file}: no such list; list_file is a path from SOURCE", reason="missing_list")
    return file


def find_lists(request: Request, folders: Sequence[str], *names: str) -> list[Path]:
    """All files of the first name that is there: the parts of a Parquet file, or a list for each class."""
    first = find_list(request, folders, names)
    pattern = next(name for name in names if first.match(name))
    return sorted(path for path in first.parent.glob(pattern) if path.is_file())


def of_parts(request: Request, names: Iterable[str], rows_of: Callable[[str], Iterator[Row]]) -> Iterator[Row]:
    """The entries of the part that was asked for, or of all parts in order.

    Of several parts some may lack their list: each of these becomes an entry that cannot be read, so that it is counted.
    """
    wanted = [request.split] if request.split else list(names)
    missing = 0
    for name in wanted:
        try:
            yield from rows_of(name)
        except DataError as error:
            missing += 1
            if error.reason != "missing_list" or missing == len(wanted):
                raise
            yield Row(str(request.source), name, error)


def records_of(files: Iterable[Path], id_of: Callable[[Any, int], str]) -> Iterator[Row]:
    """The entries of JSON, JSON Lines or Parquet lists; `id_of` gets an entry and its position from 1 on."""
    position = 0
    for file in files:
        for line, data in read_records(file):
            position += 1
            entry_id = id_of(data, position) if isinstance(data, Mapping) else ""
            yield Row(f"{file}:{line}", entry_id or f"{file.stem}:{line}", data)


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that hold anything, stripped, with their numbers. Raises DataError where it is not UTF-8."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text at byte {error.start}; convert the file", reason="not_text") from None
    return ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip())


def _below(folders: Sequence[str]) -> str:
    names = [f"{folder}/" for folder in folders if folder]
    return f" or its {', '.join(names)}" if names else ""
