"""Clips for training and for measuring from drawings of known motion or from video files, the same on any number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from squall.algorithms.classifier_stream import TrainingStream
from squall.algorithms.masked_video.clips import CLASSES, MotionBank, motion_bank
from squall.algorithms.masked_video.grid import TokenGrid
from squall.platform.clip_data import Split, TatsDataConfig
from squall.platform.clip_lists import ClipList, read_clip_list
from squall.platform.clip_stream import Ahead, ClipSize, held_clips, training_clip
from squall.platform.errors import ConfigError, DataError
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    import torch

BANK_CLIPS = {"train": 1024, "validation": 128, "test": 256}
REPLACEMENTS = 16
"""Other clips that are tried in the place of one that cannot be decoded."""


@dataclass(frozen=True)
class ClipBatch:
    """A worker's part of a batch."""

    clips: torch.Tensor
    """uint8 (b, C, T, H, W)."""
    motion: torch.Tensor | None
    """bool (b, N): tokens on true motion, where that is known."""
    labels: torch.Tensor
    """int64 (b,)."""


@dataclass(frozen=True)
class HeldClips:
    """Clips to measure by."""

    clips: np.ndarray
    """uint8 (n, C, T, H, W)."""
    motion: np.ndarray | None
    """bool (n, N), where true motion is known."""
    labels: np.ndarray | None
    """int64 (n,)."""
    names: tuple[str, ...]
    parts: tuple[str, ...]
    """`still` or `pan`, the camera of known motion; `data` of files."""


class ClipSource(Protocol):
    """Clips of a split. It can be handed to other processes until the first batch is drawn."""

    classes: tuple[str, ...]
    source: str
    """Where they come from."""

    @property
    def dropped(self) -> list[str]:
        """What cannot be used and, so far, could not be decoded by this process: a line each, in order."""
        ...

    def __len__(self) -> int: ...

    def draw(self, step: int, batch_clips: int, own: slice) -> ClipBatch:
        """The part `own` of a training step's batch, from 0; the whole follows from (seed, step, batch_clips) alone.

        Raises:
            DataError: many clips in a row cannot be decoded.
        """
        ...

    def batch(self, step: int, batch_clips: int, own: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`draw` without labels: clips uint8 (b, C, T, H, W), and bool (b, N) where true motion is known."""
        ...

    def all(self) -> HeldClips:
        """Every clip as it is measured by.

        Raises:
            DataError: none can be decoded.
        """
        ...

    def views(self, row: int, clips: int, crops: int) -> np.ndarray:
        """uint8 (views, C, T, H, W) of one clip; one of a drawing, ``clips * crops`` of a file. Raises DataError."""
        ...

    def label(self, row: int) -> int:
        """Position in `classes`."""
        ...

    def reordered(self, seed: int) -> ClipSource:
        """The same clips in the order, and with the cuts, of another seed."""
        ...

    def close(self) -> None:
        """Stop decoding ahead."""
        ...


def make_clip_source(config: TatsDataConfig, grid: TokenGrid, split: Split, seed: int) -> ClipSource:
    """Open the clips of a split; files are looked for, and none is decoded.

    Args:
        seed: of the order of training clips and of how they are cut. Which clips there are does not depend on it.

    Raises:
        DataError: no clips; a list is missing, or has lines that cannot be used, which are named.
        ConfigError: clips of known motion that are not square RGB; files and channels other than 3.
    """
    if config.format == "embedded":
        bank = motion_bank(config.motion, grid, split, config.limit(split) or BANK_CLIPS[split])
        return BankSource(bank, f"clips of known motion, {split}", seed)
    if grid.channels != 3:
        raise ConfigError(f"videos are RGB, and autoencoder.channels is {grid.channels}; make it 3")
    return FileSource(read_clip_list(config, split), config, grid, seed)


class BankSource:
    """Clips of known motion in memory."""

    classes = CLASSES

    def __init__(self, bank: MotionBank, source: str, seed: int) -> None:
        self.bank, self.source, self._order = bank, source, _Order(seed, len(bank.labels))

    @property
    def dropped(self) -> list[str]:
        """None."""
        return []

    def __len__(self) -> int:
        return len(self.bank.labels)

    def draw(self, step: int, batch_clips: int, own: slice) -> ClipBatch:
        """See `ClipSource`."""
        import torch

        rows = [row for row, _ in self._order.places(step, batch_clips, own)]
        clips, motion, labels = (torch.from_numpy(part[rows]) for part in (self.bank.clips, self.bank.motion, self.bank.labels))
        return ClipBatch(clips, motion, labels)

    def batch(self, step: int, batch_clips: int, own: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `ClipSource`."""
        drawn = self.draw(step, batch_clips, own)
        return drawn.clips, drawn.motion

    def all(self) -> HeldClips:
        """See `ClipSource`."""
        bank = self.bank
        names = tuple(f"{part}-{row:05d}" for row, part in enumerate(bank.parts))
        return HeldClips(bank.clips, bank.motion, bank.labels, names, bank.parts)

    def views(self, row: int, clips: int, crops: int) -> np.ndarray:
        """See `ClipSource`."""
        return self.bank.clips[row][None]

    def label(self, row: int) -> int:
        """See `ClipSource`."""
        return int(self.bank.labels[row])

    def reordered(self, seed: int) -> BankSource:
        """See `ClipSource`."""
        return BankSource(self.bank, self.source, seed)

    def close(self) -> None:
        """See `ClipSource`."""


class FileSource:
    """Clips of video files, decoded as they are asked for.

    Where one cannot be decoded another stands in, which follows from (seed, epoch, row) as the clip itself does.
    """

    def __init__(self, files: ClipList, config: TatsDataConfig, grid: TokenGrid, seed: int) -> None:
        self.classes, self.source, self._files, self._config, self._seed = files.classes, files.source, files, config, seed
        self._grid = grid
        self._size = ClipSize(grid.frames, grid.height, grid.width, grid.tubelet, grid.patch)
        self._order = _Order(seed, len(files.entries))
        self._lost: dict[int, str] = {}
        self._ahead = Ahead(self._decode, config.decode_threads)

    @property
    def dropped(self) -> list[str]:
        """See `ClipSource`."""
        return [*self._files.dropped, *(self._lost[row] for row in sorted(self._lost))]

    def __len__(self) -> int:
        return len(self._files.entries)

    def draw(self, step: int, batch_clips: int, own: slice) -> ClipBatch:
        """See `ClipSource`."""
        import torch

        for ahead in range(step, step + 1 + self._config.prefetch_steps):
            self._ahead.begin((ahead, batch_clips, own.start, own.stop),
                              lambda ahead=ahead: self._order.places(ahead, batch_clips, own))
        found = self._ahead.take((step, batch_clips, own.start, own.stop), tuple)
        clips = torch.from_numpy(np.stack([clip for clip, _ in found]))
        return ClipBatch(clips, None, torch.tensor([self._files.entries[row].label for _, row in found]))

    def batch(self, step: int, batch_clips: int, own: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `ClipSource`."""
        return self.draw(step, batch_clips, own).clips, None

    def all(self) -> HeldClips:
        """See `ClipSource`."""
        with ThreadPoolExecutor(self._config.decode_threads) as pool:
            found = list(pool.map(self._middle, range(len(self))))
        kept = [row for row, clip in enumerate(found) if clip is not None]
        if not kept:
            raise DataError(f"{self.source}: none of {len(self)} clips can be decoded; the first: {self._lost[0]}",
                            reason="nothing_readable")
        entries = [self._files.entries[row] for row in kept]
        labels, names = np.array([entry.label for entry in entries], np.int64), tuple(entry.name for entry in entries)
        return HeldClips(np.stack([found[row] for row in kept]), None, labels, names, ("data",) * len(kept))

    def views(self, row: int, clips: int, crops: int) -> np.ndarray:
        """See `ClipSource`."""
        entry = self._files.entries[row]
        try:
            found = held_clips(entry, self._size, self._config.views.stride, clips, crops)
        except DataError as error:
            self._lost[row] = str(error)
            raise
        return np.ascontiguousarray(np.moveaxis(found, -1, 1))

    def label(self, row: int) -> int:
        """See `ClipSource`."""
        return self._files.entries[row].label

    def reordered(self, seed: int) -> FileSource:
        """See `ClipSource`."""
        return FileSource(self._files, self._config, self._grid, seed)

    def close(self) -> None:
        """See `ClipSource`."""
        self._ahead.close()

    def _middle(self, row: int) -> np.ndarray | None:
        try:
            return self.views(row, 1, 1)[0]
        except DataError:
            return None  # `views` has noted it

    def _decode(self, place: tuple[int, int]) -> tuple[np.ndarray, int]:
        """A clip (C, T, H, W) for a place (row, epoch), and the row that it is from."""
        row, epoch = place
        for attempt in range(REPLACEMENTS):
            taken = row if not attempt else derive_seed(self._seed, "in its place", epoch, row, attempt) % len(self)
            try:
                clip = training_clip(self._files.entries[taken], self._size, self._config.views,
                                     derive_seed(self._seed, "view", epoch, row, attempt))
                return np.ascontiguousarray(np.moveaxis(clip, -1, 0)), taken
            except DataError as error:
                self._lost[taken] = str(error)
        raise DataError(f"{self.source}: {REPLACEMENTS} clips in a row cannot be decoded; the last: {self._lost[taken]}",
                        reason="nothing_readable")


class _Order:
    """Which clip stands where in a training: every clip once an epoch, in an order of the epoch's own."""

    def __init__(self, seed: int, clips: int) -> None:
        self._seed, self._clips = seed, clips
        self._streams: dict[int, TrainingStream] = {}

    def places(self, step: int, batch_clips: int, own: slice) -> list[tuple[int, int]]:
        """(row, epoch) of a worker's part of a step's batch."""
        stream = self._streams.setdefault(batch_clips, TrainingStream(self._seed, self._clips, batch_clips))
        first = step * batch_clips
        return [(int(row), (first + place) // self._clips) for place, row in enumerate(stream.rows(step))][own]


def gather_dropped(source: ClipSource, before: Sequence[str] = ()) -> list[str]:
    """`dropped` of all Ray Train workers together, each line once, after those from `before`; all workers must take part."""
    import torch.distributed as dist

    own = [*before, *source.dropped]
    if not dist.is_initialized():
        return list(dict.fromkeys(own))
    parts: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, own)
    return list(dict.fromkeys(line for part in parts for line in part))
