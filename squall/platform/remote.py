"""A run directory that is kept at a URI (``s3://bucket/runs``) too: written there as the run goes, fetched to be resumed.

The run itself works in a local folder, which is faster and is complete whatever happens to the connection.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import fsspec
from pydantic import AfterValidator

from squall.platform.checkpoints import STATE
from squall.platform.errors import SquallError, nearest

LOCAL_FOLDER = Path("runs")
"""Where a run works whose `output` is a URI."""
PROBE_TIMEOUT_S = 20.0
INTERVAL_S = 20.0
"""Longest time between a change and its copy."""
ATTEMPTS = 3


def is_uri(text: str) -> bool:
    """Whether a text is ``protocol://...`` and not a path."""
    return "://" in text


def _checked(output: str) -> str:
    if not is_uri(output):
        return output
    parts = urlsplit(output)
    known = fsspec.available_protocols()
    if parts.scheme not in known:
        raise ValueError(f"unknown protocol '{parts.scheme}'.{nearest(parts.scheme, known)} fsspec knows s3, gs, abfs, hdfs, "
                         "sftp, file and more")
    if parts.password:
        raise ValueError("holds a password, which would be written into the run: leave it out; fsspec reads credentials from "
                         "the environment")
    return output.rstrip("/")


Output = Annotated[str, AfterValidator(_checked)]
"""A configuration's folder for runs: a local path, or a URI of fsspec."""


def local_folder(output: str) -> Path:
    """The local folder of runs that belongs to an `output`."""
    return LOCAL_FOLDER if is_uri(output) else Path(output)


class RemoteCopy:
    """Copies what changes in a local folder to a URI, every some seconds and at the end; a failed copy is tried again."""

    def __init__(self, output: str, name: str, on_trouble: Callable[[str], None] = lambda text: None) -> None:
        """Reach the place and write to it once, so that a long run does not find out at its end.

        Args:
            output: the URI that run directories go to.
            name: of the run directory.
            on_trouble: told, from another thread, the first time that copying fails, and when it works again.

        Raises:
            SquallError: it cannot be written, or nothing answers within `PROBE_TIMEOUT_S`.
        """
        self.uri = f"{output}/{name}"
        self._on_trouble = on_trouble
        self._copied: dict[str, tuple[int, int]] = {}
        self._wake, self._closing, self._busy = threading.Event(), False, threading.Lock()
        self._troubled = False
        self._thread: threading.Thread | None = None
        self._fs, self._root = _within(PROBE_TIMEOUT_S, self._reach, self.uri)

    def _reach(self) -> tuple[Any, str]:
        fs, root = fsspec.core.url_to_fs(self.uri)
        fs.makedirs(root, exist_ok=True)
        probe = f"{root}/.probe"
        fs.pipe_file(probe, b"squall")
        fs.rm_file(probe)
        return fs, root

    @property
    def started(self) -> bool:
        """Whether a folder is being copied."""
        return self._thread is not None

    def holds_a_run(self) -> bool:
        """Whether a run directory is there already."""
        return any(True for _ in self._remote_files())

    def fetch(self, local: Path) -> bool:
        """Bring the run here where its copy is further than the local folder, which is then put aside. Returns whether it was.

        Further is who has more whole checkpoints. A fetch that breaks off leaves nothing behind.
        """
        files = dict(self._remote_files())
        if not files or (local.is_dir() and _checkpoints(files) <= _checkpoints(dict(_local_files(local)))):
            return False
        arriving = local.with_name(f".{local.name}.arriving")
        shutil.rmtree(arriving, ignore_errors=True)
        try:
            for name in files:
                target = (arriving / name).resolve()
                if not target.is_relative_to(arriving.resolve()):
                    raise SquallError(f"{self.uri}: '{name}' would leave the run directory")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(f"{self._root}/{name}", str(target))
        except BaseException:
            shutil.rmtree(arriving, ignore_errors=True)
            raise
        if local.exists():
            local.rename(local.with_name(f"{local.name}.before-{time.strftime('%Y%m%d-%H%M%S')}"))
        arriving.rename(local)
        return True

    def start(self, local: Path) -> None:
        """Begin to copy a folder in the background. What is there and not here any more is removed there."""
        self._local = local
        self._copied = {name: (-1, -1) for name, _ in self._remote_files()}
        self._thread = threading.Thread(target=self._work, name="remote copy", daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """The run did not begin: remove the empty folder that reaching the place has made."""
        with suppress(Exception):  # filesystems raise their libraries' own errors, and it is no harm if it stays
            self._fs.rmdir(self._root)

    def hurry(self) -> None:
        """Copy now, in the background: a checkpoint has been written."""
        self._wake.set()

    def close(self) -> None:
        """Copy all that is left and stop.

        Raises:
            SquallError: it did not work, several times; all of it is in the local folder.
        """
        if self._thread is None:
            return
        self._closing = True
        self._wake.set()
        self._thread.join()
        self._thread = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self.copy()
            except Exception as error:  # filesystems raise their libraries' own errors
                if attempt == ATTEMPTS:
                    raise SquallError(f"{self.uri}: could not be written ({_reason(error)}); all of it is in {self._local}: "
                                      "copy it from there") from error
                time.sleep(2 ** attempt)

    def copy(self) -> None:
        """Bring the remote folder up to date with the local one; a checkpoint's seal goes last, when all of it is there."""
        with self._busy:
            found = dict(_local_files(self._local))
            for name in sorted(found, key=lambda name: (Path(name).name == STATE, name)):
                if self._copied.get(name) != found[name]:
                    self._fs.makedirs(f"{self._root}/{name}".rpartition("/")[0], exist_ok=True)
                    self._fs.put_file(str(self._local / name), f"{self._root}/{name}")
                    self._copied[name] = found[name]
            for name in [name for name in self._copied if name not in found]:
                if self._fs.exists(f"{self._root}/{name}"):
                    self._fs.rm_file(f"{self._root}/{name}")
                del self._copied[name]

    def _work(self) -> None:
        while not self._closing:
            self._wake.wait(INTERVAL_S)
            self._wake.clear()
            if self._closing:
                return
            try:
                self.copy()
            except FileNotFoundError:
                continue  # replaced while it was read: it comes with the next round
            except Exception as error:  # filesystems raise their libraries' own errors
                if not self._troubled:
                    self._on_trouble(f"{self.uri} cannot be written now ({_reason(error)}); trying again")
                self._troubled = True
            else:
                if self._troubled:
                    self._on_trouble(f"{self.uri} is written again")
                self._troubled = False

    def _remote_files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        self._fs.invalidate_cache()
        prefix = self._root.rstrip("/") + "/"
        for path, info in self._fs.find(self._root, detail=True).items():
            name = path.removeprefix(prefix) if path.startswith(prefix) else path.lstrip("/").removeprefix(prefix.lstrip("/"))
            if not any(part.startswith(".") for part in name.split("/")):
                yield name, (info["size"], 0)


def open_remote(output: str, name: str | None, resume: bool, on_trouble: Callable[[str], None]) -> RemoteCopy | None:
    """The remote copy of a run that is about to begin or go on, or None where `output` is a path.

    Raises:
        SquallError: the URI cannot be written, or a new run's name is taken there.
    """
    if not is_uri(output):
        return None
    copy = RemoteCopy(output, name or "", on_trouble)
    if resume and copy.fetch(LOCAL_FOLDER / str(name)):
        on_trouble(f"fetched from {copy.uri}, which is further than what is here")
    elif name is not None and not resume and copy.holds_a_run():
        raise SquallError(f"{copy.uri}: already holds a run. Choose another name, or resume it")
    return copy


def _local_files(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Files with their size and time of change, but for hidden ones, which are locks and what is still being written."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts) and path.is_file():
            state = path.stat()
            yield name.as_posix(), (state.st_size, state.st_mtime_ns)


def _checkpoints(files: dict[str, tuple[int, int]]) -> int:
    return sum(name.rpartition("/")[2] == STATE for name in files)


def _within(seconds: float, work: Callable[[], Any], uri: str) -> Any:
    """What `work` returns, if it does so in time; libraries of remote filesystems try for minutes."""
    outcome: list[Any] = []

    def attempt() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # raised by the caller
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise SquallError(f"output: {uri} does not answer within {seconds:.0f} seconds; check the address and the network")
    if isinstance(outcome[0], ImportError):
        raise SquallError(f"output: {uri} needs a package that is not installed ({outcome[0]})") from outcome[0]
    if isinstance(outcome[0], BaseException):
        raise SquallError(f"output: {uri} cannot be written ({_reason(outcome[0])}); check the address, your rights there, and "
                          "the credentials in the environment") from outcome[0]
    return outcome[0]


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")
