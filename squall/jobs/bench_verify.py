"""`squall bench verify OUTPUT`: whether a benchmark is what its card says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field
from rich.console import Console

from squall.actors.file_corruption import decoded_hash, rendered_hash
from squall.algorithms.corruption import parse_spec
from squall.jobs.console import counted, say
from squall.jobs.corrupt_config import WritingConfig
from squall.jobs.corrupt_plan import find_user_kinds, make_task
from squall.jobs.corrupt_sources import Clip
from squall.platform.bench_card import CARD_FILE, BenchCard, read_bench
from squall.platform.config import Config
from squall.platform.errors import DataError, SquallError
from squall.platform.manifest import read_records
from squall.platform.records import MediaType
from squall.platform.streaming import hash_file
from squall.platform.work_progress import WorkProgress

BUILD_FILES = frozenset(("config.yaml", "finished.jsonl", "summary.json", "ray.log", ".lock"))
"""What a build goes on from with --resume; not part of the benchmark."""
NEEDED = ("id", "path", "data_type", "sha256", "content_hash", "decoded_hash", "source", "source_sha256")


class BenchVerifyConfig(Config):
    """Check a benchmark against its card."""

    output: Path
    """Folder of the benchmark."""
    render: bool = False
    """Also render clips again from their sources and compare the pixels before encoding, which needs the sources."""
    render_files: int | None = Field(20, ge=1)
    """How many of the files to render, taken evenly from all; null for every one."""
    media_root: Path | None = None
    """Folder of the sources; by default where they were when it was built."""
    workers: int | None = Field(None, ge=1)
    """Files that are read at the same time; by default as many as there are CPUs."""


@dataclass(frozen=True, slots=True)
class BenchFile:
    """A clip of the benchmark."""

    path: str
    """Below the folder."""
    record: Mapping[str, Any]


def run(config: BenchVerifyConfig) -> int:
    """Print a line for each problem. Returns 0 where there is none, else 1."""
    console, card = Console(), read_bench(config.output)
    files, problems = read_files(config.output, card)
    problems += check_listing(config.output, card, files)
    present = [file for file in files.values() if (config.output / file.path).is_file()]
    rendered = spread(present, config.render_files) if config.render else []
    problems += check_all(config, card, present, rendered, console)
    for problem in problems:
        say(console, problem)
    again = f", {len(rendered):,} of them rendered again" if rendered else ""
    verdict = f"{counted(len(problems), 'problem')}" if problems else "all as it was made"
    say(console, f"{config.output}: {counted(len(card.conditions), 'condition')}, {counted(card.questions, 'question')}, "
                 f"{counted(len(files), 'file')}{again}: {verdict}")
    return 1 if problems else 0


def read_files(folder: Path, card: BenchCard) -> tuple[dict[str, BenchFile], list[str]]:
    """Every clip that the manifests name, and what is wrong with the manifests."""
    files: dict[str, BenchFile] = {}
    problems = list(_changed_files(folder, card))
    first: list[str] | None = None
    for condition in card.conditions:
        ids = []
        try:
            for line, record in read_records(folder / _plain_name(condition.manifest)):
                where = f"{condition.manifest}:{line}"
                problem = _bad_record(record) or _conflict(record, files)
                if problem:
                    problems.append(f"{where}: {problem}")
                    continue
                ids.append(str(record["id"]))
                path = PurePosixPath(record["path"]).as_posix()
                files.setdefault(path, BenchFile(path, record))
        except DataError as error:
            problems.append(str(error))
        first = ids if first is None else first
        problems += [f"unpaired: question {name} is in {card.conditions[0].manifest} or {condition.manifest} alone"
                     for name in sorted(set(ids) ^ set(first))]
    return files, problems


def check_listing(folder: Path, card: BenchCard, files: Mapping[str, BenchFile]) -> list[str]:
    """What is missing, and what does not belong there."""
    known = {CARD_FILE, *card.files, *files} | BUILD_FILES
    there = {Path(parent, name).relative_to(folder).as_posix() for parent, _, names in os.walk(folder) for name in names}
    return [f"missing: {path}" for path in sorted(set(files) - there)] + [f"extra: {path}" for path in sorted(there - known)]


def check_all(config: BenchVerifyConfig, card: BenchCard, files: Sequence[BenchFile], rendered: Sequence[BenchFile],
              console: Console) -> list[str]:
    """Read every file, and render some again. Returns the problems in the order of the files."""
    find_user_kinds()
    root = config.media_root or Path(card.media_root)
    checks: list[Callable[[], str | None]] = [lambda file=file: check_file(config.output, file) for file in files]
    checks += [lambda file=file: check_pixels(root, card, file) for file in rendered]
    workers = config.workers or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool, WorkProgress("checks", len(checks), len(checks), console=console) as progress:
        places = {pool.submit(check): place for place, check in enumerate(checks)}
        found = {}
        try:
            for future in as_completed(places):
                found[places[future]] = future.result()
                progress.advance(places[future], 1, problems=found[places[future]] is not None)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [problem for _, problem in sorted(found.items()) if problem]


def check_file(folder: Path, file: BenchFile) -> str | None:
    """What is wrong with a file, if anything: its bytes, or what this machine decodes them to."""
    path, record = folder / file.path, file.record
    try:
        if (own := hash_file(path)) != record["sha256"]:
            return f"changed: {file.path} has sha256 {own}, and its manifest says {record['sha256']}"
        if decoded_hash(path, record["data_type"], str(record["id"])) != record["decoded_hash"]:
            return f"decodes differently: {file.path} has the right bytes, but other pixels than where it was built"
    except (SquallError, OSError) as error:
        return f"unreadable: {file.path}: {' '.join(str(error).split())}"
    return None


def check_pixels(root: Path, card: BenchCard, file: BenchFile) -> str | None:
    """Whether the source and the spec give the pixels that were encoded; the problem if not."""
    record = file.record
    source = root / record["source"]
    if not source.is_file():
        return f"not rendered: {file.path}: its source {source} is not there; say where the sources are with media_root="
    try:
        if hash_file(source) != record["source_sha256"]:
            return f"not rendered: {file.path}: its source {source} is another file than when it was built"
        clip = Clip(str(record["id"]), source, MediaType(record["data_type"]), file.path, record)
        spec = parse_spec(record["corruption"]) if record.get("corruption") else None
        task = make_task(0, clip, source, spec, WritingConfig.model_validate(dict(card.encoding)))
        if rendered_hash(task) != record["content_hash"]:
            return f"renders differently: {file.path}: {record['corruption'] or 'clean'} of {source} gives other pixels"
    except (SquallError, OSError, ValueError) as error:
        return f"not rendered: {file.path}: {' '.join(str(error).split())}"
    return None


def spread(files: Sequence[BenchFile], count: int | None) -> list[BenchFile]:
    """So many of the files, evenly from all."""
    taken = len(files) if count is None else min(count, len(files))
    return [files[(2 * i + 1) * len(files) // (2 * taken)] for i in range(taken)]


def _changed_files(folder: Path, card: BenchCard) -> Iterator[str]:
    for name, digest in card.files.items():
        path = folder / _plain_name(name)
        if not path.is_file():
            yield f"missing: {name}"
        elif hash_file(path) != digest:
            yield f"changed: {name} is not the file that {CARD_FILE} was written for"


def _plain_name(name: str) -> str:
    if name != PurePosixPath(name).name:
        raise DataError(f"{CARD_FILE}: '{name}' is not a file beside it; build the benchmark again", reason="path_outside")
    return name


def _bad_record(record: Any) -> str | None:
    if not isinstance(record, Mapping):
        return str(record) if isinstance(record, DataError) else "not a record"
    if missing := [key for key in NEEDED if not isinstance(record.get(key), str)]:
        return f"field {missing[0]} is missing or not text"
    path = PurePosixPath(record["path"])
    return f"path {path} leaves the folder" if path.is_absolute() or ".." in path.parts else None


def _conflict(record: Mapping[str, Any], files: Mapping[str, BenchFile]) -> str | None:
    other = files.get(PurePosixPath(record["path"]).as_posix())
    same = other is None or all(record[key] == other.record[key] for key in ("sha256", "decoded_hash", "content_hash"))
    return None if same else f"{record['path']} has other hashes here than in a line before"
