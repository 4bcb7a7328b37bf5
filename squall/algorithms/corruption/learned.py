"""Trained attackers as a kind of corruption, ``learned:FOLDER``: they choose cells of the clip, which are then distorted.

The attackers play blind (`squall.algorithms.video_attack.blind`): no victim is asked, so that a spec is all that rendering
needs. The kind is whole-clip, as they look at all frames before they choose.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from squall.algorithms.corruption.registry import Kind, Parameter, full_name
from squall.algorithms.corruption.timeline import Timeline
from squall.algorithms.video_attack.blind import TrainedOn, play_blind
from squall.algorithms.video_attack.distortions import find_distortion
from squall.algorithms.video_attack.policy import AttackerPolicy, rebuild
from squall.platform.attacker_files import DESCRIPTION, WEIGHTS, attackers_hash, read_attackers
from squall.platform.errors import ConfigError, SquallError
from squall.platform.seeds import derive_seed

FAMILY = "learned"
MOST = 0.5
"""Share of the cells that are distorted at severity 1."""

_Stamp = tuple[tuple[int, int, int], ...]
_loaded: dict[Path, tuple[_Stamp, Kind]] = {}
"""Of this process, by folder, with what the files looked like when they were read."""


@dataclass(frozen=True, slots=True)
class Attackers:
    """Attackers and what they were trained for."""

    policy: AttackerPolicy
    trained: TrainedOn

    def distort(self, frames: np.ndarray, timeline: Timeline, *, share: float) -> None:
        """Distorts `share` of the cells, in place: uint8 (T, H, W, 3) of any size and length."""
        attack, seed = self.trained.attack, timeline.seed
        occupancy = play_blind(_resampled(frames, self.trained.shape), attack, self.policy, seed, share)
        levels = occupancy[np.ix_(*map(_nearest, frames.shape[:3], occupancy.shape))]
        distortion, clean = find_distortion(attack.distortion), frames.copy()
        for level in np.unique(levels[levels > 0]).tolist():
            distorted = distortion.distorted(clean, derive_seed(seed, "distortion"), attack.severity * level / attack.levels)
            np.copyto(frames, distorted, where=(levels == level)[..., None])


def learned_kind(name: str) -> Kind:
    """The kind of a name such as ``learned:runs/NAME/attackers/pair/seed-0``.

    Attackers are read once in a process, and anew when their files have changed.

    Raises:
        ConfigError: there are none, they are damaged, or of a Squall or a distortion that is not known here.
    """
    full = full_name(name)
    folder = Path(full.partition(":")[2])
    stamp = _stamp(folder)
    if folder not in _loaded or _loaded[folder][0] != stamp:
        try:
            _loaded[folder] = stamp, _load(full, folder)
        except SquallError as error:
            raise ConfigError(str(error)) from None
    return _loaded[folder][1]


def _load(name: str, folder: Path) -> Kind:
    description, tensors = read_attackers(folder)
    trained = TrainedOn.read(description.get("about", {}), f"{folder / DESCRIPTION}: about")
    attackers = Attackers(rebuild(description, tensors), trained)
    try:
        attackers.distort(np.zeros((*trained.shape, 3), np.uint8), Timeline(np.arange(trained.frames), 1.0, 0), share=1e-3)
    except SquallError as error:
        raise ConfigError(f"{folder}: {error}") from None
    parameters = {"share": Parameter(lambda intensity: MOST * intensity, 0, 1)}
    return Kind(name, FAMILY, attackers.distort, MappingProxyType(parameters), whole_clip=True,
                checkpoint=attackers_hash(folder),
                summary=f"Cells that trained attackers choose show {trained.attack.distortion}.")


def _stamp(folder: Path) -> _Stamp:
    """Changes when the files do. Raises ConfigError where there are none."""
    try:
        found = [os.stat(folder / name) for name in (DESCRIPTION, WEIGHTS)]
    except OSError as error:
        raise ConfigError(f"{folder}: no trained attackers here ({error.strerror}); give the folder that holds {DESCRIPTION}"
                          f" and {WEIGHTS}, such as runs/NAME/attackers/pair/seed-0, by a path that every node can"
                          " read and that has no space") from None
    return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)


def _resampled(frames: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The clip at another length and size."""
    chosen = frames[_nearest(shape[0], len(frames))]
    if chosen.shape[1:3] == shape[1:]:
        return chosen
    return np.stack([cv2.resize(frame, shape[:0:-1], interpolation=cv2.INTER_AREA) for frame in chosen])


def _nearest(count: int, parts: int) -> np.ndarray:
    """Into which of `parts` equal parts of a length the middle of each of `count` equal parts falls, int64 (count,)."""
    return (2 * np.arange(count) + 1) * parts // (2 * count)
