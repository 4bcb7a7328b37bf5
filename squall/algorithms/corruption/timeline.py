"""Which frames are being rendered, when they are shown, and the randomness that belongs to each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLANK = -1
"""In a `FrameMap`: no frame is shown."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The frames that a renderer is given, as part of a clip."""

    index: np.ndarray
    """int64 (n,): number of each frame, counted from the first one that the corruption affects."""
    fps: float
    """Frames per second of the clip; speeds are per second, so that a faster clip moves less from frame to frame."""
    seed: int

    @property
    def seconds(self) -> np.ndarray:
        """float64 (n,): when each frame is shown."""
        return self.index / self.fps

    def rng(self) -> np.random.Generator:
        """Randomness that all frames of the clip share, the same on every call."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed)))

    def per_frame(self, columns: int, salt: int = 0) -> np.ndarray:
        """uint64 (n, columns): random bits of each frame, which follow from seed, frame number, column and salt alone."""
        with np.errstate(over="ignore"):
            stream = _mix(np.uint64(self.seed) + np.uint64(salt) * np.uint64(0xD1342543DE82EF95))
            counter = self.index.astype(np.uint64)[:, None] * np.uint64(columns) + np.arange(columns, dtype=np.uint64)
            return _mix(_mix(counter) ^ stream)


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): every bit of the result depends on every bit of the value."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class FrameMap:
    """What a clip shows, and when, after frames were lost or changed places."""

    source: np.ndarray
    """int64 (T',): the frame shown, or `BLANK`."""
    times: np.ndarray
    """float64 (T',): when, in frames of the clip's own clock, ascending."""
    shade: int = 0
    """Grey level of blank frames."""
    spliced: bool = False
    """The clip is shorter by the frames it lost: what follows comes sooner."""

    @classmethod
    def fill(cls, source: np.ndarray, shade: float = 0) -> FrameMap:
        """Every moment still shows something: `source` has the clip's length and the clock is left alone."""
        return cls(source, np.arange(len(source), dtype=float), round(shade))

    @classmethod
    def cut(cls, kept: np.ndarray) -> FrameMap:
        """Only `kept` frames are left, each at its own time."""
        return cls(kept, kept.astype(float))

    @classmethod
    def splice(cls, kept: np.ndarray) -> FrameMap:
        """Only `kept` frames are left and close ranks, so that the clip is shorter and time jumps unseen."""
        return cls(kept, np.arange(len(kept), dtype=float), spliced=True)

    def within(self, start: int, stop: int, count: int) -> FrameMap:
        """This map for frames start .. stop of a clip of `count` frames, the others as they are."""
        shown = np.where(self.source == BLANK, BLANK, self.source + start)
        after = np.arange(stop, count)
        sooner = stop - start - len(self.source) if self.spliced else 0
        return FrameMap(np.concatenate([np.arange(start), shown, after]),
                        np.concatenate([np.arange(start), self.times + start, after - sooner]), self.shade, self.spliced)

    def stands_for(self) -> np.ndarray:
        """int64 (T',): the frame shown, and for a blank one the frame whose place it takes."""
        return np.where(self.source == BLANK, np.arange(len(self.source)), self.source)

    def apply(self, frames: np.ndarray) -> np.ndarray:
        """The frames shown, a new array: (T, ...) -> (T', ...)."""
        shown = np.empty((len(self.source), *frames.shape[1:]), frames.dtype)
        for place, index in zip(shown, self.source.tolist(), strict=True):
            place[...] = self.shade if index == BLANK else frames[index]
        return shown
