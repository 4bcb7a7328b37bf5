"""Files of a run for actors of other nodes: what they read and write goes in pieces to an actor beside the driver.

So a checkpoint needs no folder that all nodes share: a learner worker on another node writes it into a folder of its own, from
where it is copied; and to go on from one it fetches it. Memory and object store hold a piece at a time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

PIECE_BYTES = 64 << 20
MARK = ".driver"


@ray.remote(num_cpus=0)
class FileKeeper:
    """Reads and writes files of the node that it is on."""

    def sizes(self, folder: Path) -> dict[str, int]:
        """Size in bytes of every file below a folder."""
        return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}

    def read(self, path: Path, start: int) -> np.ndarray:
        """The bytes of a file from `start` on, at most `PIECE_BYTES`."""
        with path.open("rb") as file:
            file.seek(start)
            return np.frombuffer(file.read(PIECE_BYTES), np.uint8)

    def append(self, path: Path, piece: np.ndarray) -> None:
        """Add bytes to the end of a file, which is made where it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(memoryview(piece))


@dataclass(frozen=True)
class RunFiles:
    """The way to a run's files from any node; goes to actors."""

    folder: Path
    mark: str
    """What stands in the mark that the driver has left in the folder."""
    keeper: Any
    """None where there is no other node."""

    @classmethod
    def of(cls, folder: Path, *, served: bool) -> RunFiles:
        """The way to a folder of this node, for other nodes too where it is `served`. `close` ends it."""
        mark = uuid4().hex
        if not served:
            return cls(folder, mark, None)
        (folder / MARK).write_text(mark, encoding="utf-8")
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return cls(folder, mark, FileKeeper.options(scheduling_strategy=here).remote())

    def close(self) -> None:
        """Serve no more."""
        if self.keeper is not None:
            ray.kill(self.keeper)
            (self.folder / MARK).unlink(missing_ok=True)

    @property
    def here(self) -> bool:
        """Whether this process sees the very folder: it is on the driver's node, or the folder is shared."""
        if self.keeper is None:
            return True
        try:
            return (self.folder / MARK).read_text(encoding="utf-8") == self.mark
        except OSError:
            return False

    @contextmanager
    def writing(self, target: Path) -> Iterator[Path]:
        """A folder to fill that becomes the driver's `target` as the block ends."""
        if self.here:
            yield target
            return
        with temporary_folder() as folder:
            yield folder
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    self._send(path, target / path.relative_to(folder))

    def _send(self, path: Path, target: Path) -> None:
        with path.open("rb") as file:
            while True:
                piece = np.frombuffer(file.read(PIECE_BYTES), np.uint8)
                ray.get(self.keeper.append.remote(target, piece))
                if len(piece) < PIECE_BYTES:
                    return

    @contextmanager
    def reading(self, source: Path) -> Iterator[Path]:
        """The driver's folder `source`, or a copy of it that goes as the block ends."""
        if self.here and (source.is_dir() or self.keeper is None):
            yield source
            return
        with temporary_folder() as folder:
            for name, size in ray.get(self.keeper.sizes.remote(source)).items():
                self._receive(source / name, folder / name, size)
            yield folder

    def _receive(self, source: Path, path: Path, size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while file.tell() < size:
                file.write(memoryview(ray.get(self.keeper.read.remote(source, file.tell()))))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of this node that only this user reads; those of processes that were killed are removed first."""
    parent, prefix = Path(tempfile.gettempdir()), f"squall-files-{os.getuid()}-"
    for left in parent.glob(f"{prefix}*"):
        owner = left.name.removeprefix(prefix).split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
