"""The folder that corrupted files are written to: claimed, begun or gone on with, and closed with its manifest and summary."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from squall.actors.file_corruption import FileOutcome
from squall.jobs.corrupt_config import WritingConfig
from squall.jobs.corrupt_plan import Work, make_record
from squall.platform.config import dump_yaml
from squall.platform.errors import ConfigError, SquallError
from squall.platform.manifest import write_manifest
from squall.platform.runs import RunDirectory, append_line, read_lines, to_json, write_text
from squall.platform.streaming import hash_file

FREE = ("source", "manifest", "output", "workers", "held_mib", "resume", "preview", "preview_only", "preview_clips", "list",
        "check", "licence", "ray_address")
"""Keys that may differ when a run is gone on with; the clips themselves are compared by their bytes."""
PREVIEW_FILES = ("preview.png", "gallery.html")
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}")
STAGES = ("decode", "corrupt", "encode", "hash")


@dataclass(frozen=True)
class OutputFolder:
    """Where everything goes, claimed for this process until the block ends."""

    path: Path
    lock: IO[str]

    @property
    def finished(self) -> Path:
        """One line for every file that is written, as it is finished."""
        return self.path / "finished.jsonl"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def ray_log(self) -> Path:
        return self.path / "ray.log"

    @classmethod
    def open(cls, path: Path, config: WritingConfig) -> OutputFolder:
        """Make the folder, or with `resume` take up what an equal configuration began. Errors as in `check_output`.

        Raises:
            SquallError: a live run writes there.
        """
        check_output(path, config)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path, RunDirectory(path).lock())
        if config.resume:
            for leftover in path.rglob(".*"):
                if leftover.is_file() and _UNFINISHED.fullmatch(leftover.name):
                    leftover.unlink(missing_ok=True)
        elif config.writes_files:
            write_text(folder.config, dump_yaml(config))
        return folder

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.close()

    def note_ray(self, line: str) -> None:
        """Keep what Ray says, such as that a worker died."""
        append_line(self.ray_log, line)

    def record(self, work: Work, outcome: FileOutcome) -> None:
        """Note a finished file, so that a resumed run knows it."""
        task = work.tasks[outcome.number]
        append_line(self.finished, to_json({
            "output": Path(task.output).relative_to(self.path).as_posix(), "spec": task.spec, "source": task.source,
            "facts": outcome.facts, "seconds": outcome.seconds}))

    def outcomes(self, work: Work) -> dict[int, FileOutcome]:
        """Finished files of earlier runs that are whole and whose sources are as they were, by the number of their task."""
        rows = {row["output"]: row for row in read_lines(self.finished)}
        numbers = {Path(task.output).relative_to(self.path).as_posix(): task.number for task in work.tasks}
        found = [(numbers[name], row) for name, row in rows.items() if name in numbers]
        known = [(number, row) for number, row in found
                 if (row["spec"], row["source"]) == (work.tasks[number].spec, work.tasks[number].source)]
        sources = _hash_all({Path(row["source"]) for _, row in known})
        sizes = {number: _size(Path(work.tasks[number].output)) for number, _ in known}
        same = [(number, row) for number, row in known if sizes[number] == row["facts"]["bytes"]
                and sources[Path(row["source"])] == row["facts"]["source_sha256"]]
        outputs = _hash_all({Path(work.tasks[number].output) for number, _ in same})
        return {number: FileOutcome(number, "done", row["facts"], row["seconds"]) for number, row in same
                if outputs[Path(work.tasks[number].output)] == row["facts"]["sha256"]}

    def finish(self, work: Work, done: Mapping[int, FileOutcome], failed: Sequence[tuple[str, str]], wall_s: float,
               workers: int) -> dict[str, Any]:
        """Write the manifest, in the order of the tasks, and the summary; returns the summary."""
        write_manifest(self.manifest, (make_record(work, done[number]) for number in sorted(done)))
        return self.summarise(done, failed, wall_s, workers)

    def summarise(self, done: Mapping[int, FileOutcome], failed: Sequence[tuple[str, str]], wall_s: float,
                  workers: int) -> dict[str, Any]:
        """Write the summary, and return it."""
        seconds = stage_seconds(done.values())
        counts = Counter(failed)
        summary = {
            "files": len(done), "frames": sum(outcome.facts["frames"] for outcome in done.values()),
            "bytes": sum(outcome.facts["bytes"] for outcome in done.values()),
            "seconds": seconds, "corrupt_share": corrupt_share(seconds), "wall_s": wall_s, "workers": workers,
            "failures": [{"reason": reason, "files": count, "message": message} for (reason, message), count in counts.items()]}
        write_text(self.summary, to_json(summary, indent=2) + "\n")
        return summary


def stage_seconds(outcomes: Iterable[FileOutcome]) -> dict[str, float]:
    """Seconds of each stage over all files, one worker's after the other's."""
    total: defaultdict[str, float] = defaultdict(float)
    for outcome in outcomes:
        for stage, seconds in outcome.seconds.items():
            total[stage] += seconds
    return {stage: total[stage] for stage in STAGES}


def corrupt_share(seconds: Mapping[str, float]) -> float:
    """Share of decoding, corrupting and encoding that corrupting takes; 0 where nothing was done."""
    whole = sum(seconds[stage] for stage in ("decode", "corrupt", "encode"))
    return seconds["corrupt"] / whole if whole else 0.0


def check_output(path: Path, config: WritingConfig) -> None:
    """Whether the folder can be written to.

    Raises:
        ConfigError: it is a file, is not empty, was begun with another configuration, or is missing with `resume`.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file; OUT is a folder, or for a single clip the name of a new file")
    entries = sorted(entry.name for entry in path.iterdir() if entry.name != ".lock") if path.is_dir() else []
    if not config.resume:
        if others := [name for name in entries if name not in PREVIEW_FILES]:
            more = " ..." if len(others) > 3 else ""
            raise ConfigError(f"{path}: is not empty (it holds {', '.join(others[:3])}{more}); choose another folder, or go "
                              "on with what was begun there: --resume")
        return
    file = path / "config.yaml"
    if not file.is_file():
        what = f"was not begun by {config.command} (it has no config.yaml)" if entries else "holds nothing to resume"
        raise ConfigError(f"{path}: {what}; leave --resume off to start in a new folder")
    stored = yaml.safe_load(file.read_text(encoding="utf-8"))
    now = yaml.safe_load(dump_yaml(config))
    for key in now:
        if key not in FREE and now[key] != stored.get(key):
            raise ConfigError(f"{path} was begun with {key} = {stored.get(key)!r}, and now it is {now[key]!r}; give {key} as "
                              "it was, or choose another folder")


def _hash_all(files: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of files; empty for those that cannot be read."""
    ordered = sorted(files)
    with ThreadPoolExecutor() as pool:
        return dict(zip(ordered, pool.map(_hash_or_nothing, ordered), strict=True))


def _hash_or_nothing(file: Path) -> str:
    try:
        return hash_file(file)
    except OSError:
        return ""


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1


def explain_full_disk(message: str, done: int, folder: Path) -> SquallError:
    """What to show when there is no room any more."""
    return SquallError(f"{message}; the {done:,} files in {folder} that were finished before are good. Make room, then go on "
                       "with --resume")
