"""Manifests: questions about videos and images, as Video-R1 records in JSON, JSONL or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os.path import isdir, isfile, normpath
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.parse import unquote, urlsplit

from squall.platform.errors import DataError, nearest
from squall.platform.prompts import extract_answer, extract_think
from squall.platform.records import MediaType, ProblemType, VideoSample
from squall.platform.runs import write_text
from squall.platform.seeds import derive_seed

FIELDS = ("problem", "options", "problem_type", "data_type", "path", "solution", "process")


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that cannot be used."""

    line: int
    """Line of the file, from 1; for Parquet the row, from 1."""
    sample_id: str
    reason: str
    """Short snake_case word under which the loss is counted, such as ``missing_media``."""
    message: str
    """``FILE:LINE: sample ID: what; allowed; what to do``."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest file holds."""

    path: Path
    samples: tuple[VideoSample, ...]
    rejected: tuple[Rejection, ...]
    lines: tuple[int, ...] = ()
    """Where each sample stands, as `read_records` counts."""


def load_manifest(
    path: str | Path, *, media_root: str | Path | None = None, on_error: Literal["raise", "collect"] = "raise"
) -> Manifest:
    """Read a ``.json`` (list), ``.jsonl`` or ``.parquet`` manifest.

    Args:
        media_root: folder that relative media paths start from and may not leave; default: the manifest's folder.
        on_error: ``raise`` refuses a manifest with a bad record; ``collect`` leaves bad records out and lists them.

    Raises:
        DataError: one line for the first bad record, with the count of the others; whatever `on_error` says, for a file
            that is missing, unreadable as a whole, empty, or without one usable record.
    """
    file = Path(path)
    root = Path(normpath((Path(media_root) if media_root is not None else file.parent).absolute()))
    samples: list[VideoSample] = []
    lines: list[int] = []
    rejected: list[Rejection] = []
    lines_by_id: dict[str, int] = {}
    for line, record in read_records(file):
        fallback_id = f"{file.stem}:{line}"
        try:
            sample = parse_record(record, fallback_id, root)
            if (first := lines_by_id.setdefault(sample.id, line)) != line:
                _reject(sample.id, "duplicate_id", f"id already used on line {first}; give every record its own id")
            samples.append(sample)
            lines.append(line)
        except DataError as error:
            sample_id = error.sample_id or fallback_id
            message = f"{file}:{line}: sample {sample_id}: {error}"
            rejected.append(Rejection(line, sample_id, error.reason, message))
    if rejected and (on_error == "raise" or not samples):
        _raise_first(rejected)
    if not samples:
        raise DataError(f"{file}: no records; write at least one (the format is described in docs/data.md)",
                        reason="empty_manifest")
    return Manifest(file, tuple(samples), tuple(rejected), tuple(lines))


def write_manifest(path: str | Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as JSON lines, replacing the file in one piece. The name must end in ``.jsonl``."""
    file = Path(path)
    if file.suffix != ".jsonl":
        raise DataError(f"{file}: manifests are written as JSON lines; use a name that ends in .jsonl",
                        reason="file_type")
    write_text(file, (json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def epoch_order(samples: Sequence[VideoSample], run_seed: int, epoch: int) -> list[int]:
    """Positions of `samples` in the order of this epoch.

    Samples are sorted by a hash of (run seed, id, epoch): the order depends on nothing else, so neither the number of
    workers nor the order of the manifest changes it, and a sample more or less leaves the others in their order.
    """
    keys = [(derive_seed(run_seed, sample.id, "order", epoch), sample.id) for sample in samples]
    return sorted(range(len(samples)), key=keys.__getitem__)


def read_records(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, record) as they stand in a manifest; a record is a DataError where that line cannot be read.

    Raises:
        DataError: the file is missing, of an unknown kind, or unreadable as a whole.
    """
    readers = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise DataError(f"{file}: unknown kind of manifest '{file.suffix}'; allowed: {', '.join(readers)}",
                        reason="file_type")
    if not file.is_file():
        raise DataError(f"{file}: no such manifest file; check the path", reason="missing_manifest")
    return reader(file)


def _read_jsonl(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if not raw.strip():
                continue
            try:
                yield number, json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:  # covers UnicodeDecodeError and JSONDecodeError
                problem = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
                yield number, DataError(f"line is not JSON ({problem}); write one JSON object per line",
                                        reason="not_json")


def _read_json(file: Path) -> Iterator[tuple[int, Any]]:
    """Decode the list element by element, which gives each its line. A break inside makes the whole file unusable."""
    decoder = json.JSONDecoder()
    try:
        text = file.read_bytes().decode("utf-8-sig")
        position = _skip_blanks(text, 0)
        if text[position:position + 1] != "[":
            raise DataError(f"{file}:1: a .json manifest is a list of records; "
                            "put them in [ ], or name a file with one record per line .jsonl", reason="not_json")
        position = _skip_blanks(text, position + 1)
        line, counted = 1, 0
        while text[position:position + 1] != "]":
            line, counted = line + text.count("\n", counted, position), position
            record, position = decoder.raw_decode(text, position)
            yield line, record
            position = _skip_blanks(text, position)
            if text[position:position + 1] == ",":
                position = _skip_blanks(text, position + 1)
            elif text[position:position + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", text, position)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: not JSON: {error.msg} at column {error.colno}; mend the file",
                        reason="not_json") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text at byte {error.start}; convert the file", reason="not_json") from None


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _read_parquet(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=4096):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except (pa.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{file}: not a readable Parquet file: {problem}", reason="not_parquet") from None


def parse_record(record: Any, fallback_id: str, root: Path) -> VideoSample:
    """Build a sample from one record, whose relative path starts from `root`, an absolute folder, and may not leave it.

    Raises:
        DataError: without the file and line, which the caller adds.
    """
    if isinstance(record, DataError):
        raise record
    if not isinstance(record, dict):
        _reject(fallback_id, "not_json", f"expected an object with fields, got {type(record).__name__}")
    id_field = next((key for key in ("id", "problem_id") if record.get(key) not in (None, "")), None)
    sample_id = str(record[id_field]) if id_field else fallback_id
    for key in ("problem", "problem_type", "data_type", "path", "solution"):
        value = record.get(key)
        if value is None or value == "":
            _reject(sample_id, "missing_field",
                    f"missing field '{key}'; needed: problem, problem_type, data_type, path, solution")
        if not isinstance(value, str):
            _reject(sample_id, "bad_field", f"field '{key}' is {type(value).__name__}; write it as text")
    problem_type = _one_of(sample_id, "problem_type", record["problem_type"], ProblemType)
    return VideoSample(
        id=sample_id,
        media_type=MediaType(_one_of(sample_id, "data_type", record["data_type"], MediaType)),
        media=resolve_media(sample_id, record["path"], root),
        problem=record["problem"],
        problem_type=ProblemType(problem_type),
        options=_options(sample_id, record.get("options"), problem_type),
        solution=_solution(sample_id, record["solution"]),
        process=_process(sample_id, record.get("process")),
        metadata={key: value for key, value in record.items() if key not in FIELDS and key != id_field},
    )


def _one_of(sample_id: str, key: str, value: str, allowed: type[ProblemType] | type[MediaType]) -> str:
    names = [str(member) for member in allowed]
    if value not in names:
        same = next((name for name in names if name.lower() == value.lower()), None)
        hint = f" Did you mean '{same}'?" if same else nearest(value, names)
        _reject(sample_id, f"unknown_{key}", f"unknown {key} '{value}'.{hint} Allowed: {', '.join(names)}")
    return value


def _options(sample_id: str, options: Any, problem_type: str) -> tuple[str, ...]:
    if not isinstance(options or [], list | tuple) or not all(isinstance(option, str) for option in options or ()):
        _reject(sample_id, "bad_field", "field 'options' must be a list of texts such as [\"A. red\", \"B. blue\"]")
    if problem_type == ProblemType.MULTIPLE_CHOICE and not options:
        _reject(sample_id, "no_options",
                "a multiple choice record has no options; list them in 'options' or change problem_type")
    return _shared(tuple(options or ()))


@lru_cache(maxsize=64)
def _shared(options: tuple[str, ...]) -> tuple[str, ...]:
    """The first tuple that was equal: the hundreds of classes of a data set are held once, not with every sample."""
    return options


def _solution(sample_id: str, text: str) -> str:
    if not (answer := extract_answer(text)):
        _reject(sample_id, "no_answer_tag",
                f"solution {text[:60]!r} holds no answer tag with text in it; write it as <answer>B</answer>")
    return answer


def _process(sample_id: str, text: Any) -> str | None:
    if text is None or text == "":
        return None
    if not isinstance(text, str) or (trace := extract_think(text)) is None:
        _reject(sample_id, "no_think_tag",
                "process holds no think tag; write it as <think>...</think>, or leave the field out")
    return trace


def resolve_media(sample_id: str, text: str, root: Path) -> str:
    """The file that a manifest's ``path`` names, from its folder `root` (absolute).

    Links are not followed, so that a folder of links to media elsewhere can be used.

    Raises:
        DataError: not a file on this machine, or a relative path that leaves the folder.
    """
    uri = urlsplit(text) if "://" in text else None
    if uri and (uri.scheme != "file" or uri.netloc not in ("", "localhost")):
        _reject(sample_id, "unknown_uri", f"cannot read '{text}'; allowed: a path or a file:/// URI on this machine")
    given = Path(unquote(uri.path) if uri else text)
    path = Path(normpath(root / given))
    if not given.is_absolute() and not path.is_relative_to(root):
        _reject(sample_id, "path_outside",
                f"path '{text}' leaves the folder {root}; move the file into it or set media_root")
    if isdir(path):
        _reject(sample_id, "missing_media", f"media {path} is a folder; name a file in 'path'")
    if not isfile(path):
        _reject(sample_id, "missing_media", f"media file {path} does not exist; check 'path' and media_root")
    return str(path)


def _reject(sample_id: str, reason: str, message: str) -> NoReturn:
    raise DataError(message, sample_id=sample_id, reason=reason)


def _raise_first(rejected: Sequence[Rejection]) -> NoReturn:
    first, others = rejected[0], len(rejected) - 1
    more = f" ({others} more bad record{'s' if others > 1 else ''})" if others else ""
    raise DataError(first.message + more, sample_id=first.sample_id, reason=first.reason)
