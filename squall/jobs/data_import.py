"""`squall data import FORMAT SOURCE OUTPUT`: a benchmark or data set, as its authors publish it, as a manifest.

Clips stay where they are. Those that the lists cut out of longer videos, and those that are folders of images, are written into
``NAME.clips/`` beside the manifest. What cannot be used is counted and stands, entry by entry, in ``NAME.rejected.jsonl``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator
from rich.console import Console
from rich.progress import track

from squall.algorithms.accuracy import canonical_answer
from squall.jobs.console import counted, say
from squall.platform.config import Config
from squall.platform.errors import FULL_DISK, ConfigError, DataError, SquallError, nearest
from squall.platform.importers import IMPORTERS, Found, Rejected, choose, find_questions, finish
from squall.platform.importers.common import Request
from squall.platform.manifest import write_manifest
from squall.platform.records import ProblemType
from squall.platform.runs import to_json, write_text

__all__ = ["DataImportConfig", "run"]

SHOWN_REJECTIONS = 3
"""Of each reason, on the terminal; the list has all."""


class DataImportConfig(Config):
    """What to import, and where to."""

    format: str
    """mvbench, tempcompass, videomme, videommmu, vsibench, mmvu, ucf101, hmdb51, kinetics or somethingsomething."""
    source: Path
    """Folder of the data set, its archives unpacked; docs/data.md has the layouts. Nothing outside it is read."""
    output: Path
    """Manifest to write, .jsonl. Paths in it start from its folder where clips are below that, and are absolute elsewhere."""
    split: str | None = None
    """train, test, val or validation of a data set; a task of mvbench or tempcompass; Perception, Comprehension or Adaptation
    of videommmu; short, medium or long of videomme. null is the split that is used for testing, or all of them."""
    fold: int = Field(default=1, ge=1, le=3)
    """Of the three that ucf101 and hmdb51 have."""
    classes: Path | None = None
    """Names of kinetics' classes in the order of their index: a line each, a CSV file with a column name, or JSON."""
    list_file: Path | None = None
    """List to read in place of the one that is found, within SOURCE; for kinetics, ucf101 and somethingsomething."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many questions: a fixed random choice from the whole list, in its order."""

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in IMPORTERS:
            raise ValueError(f"unknown format.{nearest(name, IMPORTERS)} Allowed: {', '.join(IMPORTERS)}")
        return name

    @model_validator(mode="after")
    def _fits_the_format(self) -> DataImportConfig:
        importer = IMPORTERS[self.format]
        if self.split is not None and self.split not in importer.splits:
            allowed = f"Allowed: {', '.join(importer.splits)}" if importer.splits else "It has none; leave it out"
            hint = nearest(self.split, importer.splits)
            raise ValueError(f"split '{self.split}' is none of {self.format}'s.{hint} {allowed}")
        for key in ("fold", "classes", "list_file"):
            if key in self.model_fields_set and key not in importer.takes:
                users = ", ".join(other.name for other in IMPORTERS.values() if key in other.takes)
                raise ValueError(f"{self.format} makes no use of '{key}', only {users} do; leave it out")
        return self


def run(config: DataImportConfig) -> int:
    """Write the manifest and the list of what was rejected. Returns 0.

    Raises:
        ConfigError: SOURCE is no folder, or OUTPUT cannot be a manifest.
        DataError: a list is missing or empty, or not one entry can be used.
    """
    console = Console()
    importer, output = IMPORTERS[config.format], Path(os.path.abspath(config.output))
    check_paths(config, output)
    request = Request(Path(os.path.abspath(config.source)), config.split or importer.default_split, config.fold, config.classes,
                      config.list_file)
    found, rejected = find_questions(importer, request, partial(canonical_answer, problem_type=ProblemType.MULTIPLE_CHOICE))
    chosen = choose(found, config.limit)
    records: list[dict[str, Any]] = []
    for result in finish_all(chosen, output, console):
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            records.append(result)
    write_rejected(output, rejected)
    if not records:
        raise DataError(f"{config.source}: not one of {counted(len(rejected), 'record')} can be used; the first: "
                        f"{rejected[0].message}", reason=rejected[0].reason)
    write_manifest(output, records)
    report(config, records, rejected, len(found) - len(chosen), console)
    return 0


def check_paths(config: DataImportConfig, output: Path) -> None:
    """Refuse a SOURCE that is no folder and an OUTPUT that is no name of a manifest."""
    if not config.source.is_dir():
        what = "a file; unpack it" if config.source.exists() else "no such folder"
        raise ConfigError(f"{config.source}: {what}; SOURCE is the folder of the data set")
    if output.suffix != ".jsonl":
        raise ConfigError(f"{config.output}: manifests are written as JSON lines; use a name that ends in .jsonl")
    output.parent.mkdir(parents=True, exist_ok=True)


def finish_all(chosen: Sequence[Found], output: Path, console: Console) -> Iterator[dict[str, Any] | Rejected]:
    """Records, or why there is none, in the order of `chosen`; clips are written on all cores.

    Raises:
        SquallError: the disk is full.
    """
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        results = pool.map(partial(finish, output=output, clips=output.with_suffix(".clips")), chosen)
        yield from track(results, "clips", total=len(chosen), console=console, transient=True, disable=not console.is_terminal)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise SquallError(f"no room on the disk for {error.filename or output.parent} ({error.strerror}); make room and "
                          "import again: clips that are there are kept") from error
    finally:
        pool.shutdown(cancel_futures=True)


def write_rejected(output: Path, rejected: Sequence[Rejected]) -> None:
    """The list of what was rejected, a line each; none where nothing was."""
    file = output.with_suffix(".rejected.jsonl")
    if rejected:
        write_text(file, (to_json(asdict(one)) + "\n" for one in rejected))
    else:
        file.unlink(missing_ok=True)


def report(config: DataImportConfig, records: Sequence[Mapping[str, Any]], rejected: Sequence[Rejected], left_out: int,
           console: Console) -> None:
    """What came of it: counts, and for each reason the first entries that were rejected."""
    videos = len({record["path"] for record in records})
    limited = f"; {left_out:,} more left out by limit" if left_out else ""
    say(console, f"{config.output}: {counted(len(records), 'question')} about {counted(videos, 'clip')}{limited}")
    for reason, count in Counter(one.reason for one in rejected).most_common():
        say(console, f"rejected, {reason}: {count:,}")
        for one in [one for one in rejected if one.reason == reason][:SHOWN_REJECTIONS]:
            say(console, f"  {one.message}")
    if rejected:
        say(console, f"all {counted(len(rejected), 'rejected record')}: {config.output.with_suffix('.rejected.jsonl')}")
