"""Which images of a model fell to what, read from the rows of an attack run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from squall.algorithms.masking_evidence import Trial
from squall.platform.attack_card import CLEAN, transfer_parts
from squall.platform.errors import DataError


@dataclass(frozen=True)
class Trials:
    """One attack at one budget, over the N images of a model. All arrays are (N,)."""

    tried: np.ndarray
    fooled: np.ndarray
    queries: np.ndarray
    gradients: np.ndarray


@dataclass(frozen=True)
class Standing:
    """All rows of one model."""

    images: np.ndarray
    """int (N,): positions in the data set, ascending."""
    right: np.ndarray
    """bool (N,): whether the model is right about the image as it is."""
    trials: dict[Trial, Trials]
    """In the order of the rows."""

    def at(self, norm: str, epsilon: float) -> dict[Trial, Trials]:
        """Everything that was tried at a budget."""
        return {trial: one for trial, one in self.trials.items() if (trial.norm, trial.epsilon) == (norm, epsilon)}


@dataclass(frozen=True)
class Standings:
    """The rows of all models of a run."""

    models: dict[str, Standing]
    chunk: int
    """Images that were attacked, and may be lost, together."""

    def missing(self, model: str, trial: Trial) -> np.ndarray:
        """bool (N,): images that should have been tried and were not."""
        own, parts = self.models[model], transfer_parts(trial.attack)
        expected = own.right if parts is None else own.right & self._right_of(parts[0], own.images)
        return expected & ~own.trials[trial].tried

    def known(self, model: str, trial: Trial) -> np.ndarray:
        """bool (N,): images of chunks that nothing is missing of. What is missing was right: without it alone the others
        would make a model look worse than it is."""
        return self._whole(self.missing(model, trial))

    def fell(self, model: str, norm: str, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
        """bool (N,) each: images that anything at a budget fooled, and images of chunks in which that is known of all."""
        own = self.models[model]
        fooled, missing = np.zeros(len(own.images), bool), np.zeros(len(own.images), bool)
        for trial, one in own.at(norm, epsilon).items():
            fooled |= one.fooled
            missing |= self.missing(model, trial)
        return fooled, self._whole(missing & ~fooled)

    def _whole(self, missing: np.ndarray) -> np.ndarray:
        chunks = np.arange(len(missing)) // self.chunk
        return ~np.isin(chunks, chunks[missing])

    def _right_of(self, source: str, images: np.ndarray) -> np.ndarray:
        other = self.models.get(source)
        if other is None:
            return np.zeros(len(images), bool)
        return np.isin(images, other.images[other.right])


def read_standings(table: pa.Table, strikes: Collection[Trial], chunk: int) -> Standings:
    """Sort rows as in `ATTACKS` by model and attack.

    Args:
        strikes: what every model was to be attacked with, which has no rows where all of it was lost.
        chunk: images that were attacked together.

    Raises:
        DataError: an image is there twice, or was attacked though it is not known to be right as it is (reason
            ``damaged_attacks``).
    """
    names = list(dict.fromkeys(table["model"].to_pylist()))
    return Standings({name: _read(name, table.filter(pc.equal(table["model"], name)), strikes) for name in names}, chunk)


def _read(name: str, rows: pa.Table, strikes: Collection[Trial]) -> Standing:
    columns = {column: rows[column].to_numpy() for column in ("image", "fooled", "queries", "gradients")}
    keys = list(zip(rows["attack"].to_pylist(), rows["norm"].to_pylist(), rows["epsilon"].to_pylist(), strict=True))
    places: dict[tuple[str, str | None, float | None], list[int]] = {}
    for number, key in enumerate(keys):
        places.setdefault(key, []).append(number)
    found = {key: np.array(numbers) for key, numbers in places.items()}
    clean = found.pop((CLEAN, None, None), np.empty(0, np.int64))
    order = np.argsort(columns["image"][clean], kind="stable")
    images, right = columns["image"][clean][order], ~columns["fooled"][clean][order].astype(bool)
    if len(np.unique(images)) < len(images):
        raise DataError(f"rows of {name}: an image is there twice", reason="damaged_attacks")
    trials = {Trial(*key): _placed(f"{name} under {key[0]}", own, columns, images, right) for key, own in found.items()}
    nothing = np.empty(0, np.int64)
    lost = {trial: _spread(nothing, nothing, columns, len(images)) for trial in strikes if trial not in trials}
    return Standing(images, right, trials | lost)


def _placed(what: str, own: np.ndarray, columns: dict[str, np.ndarray], images: np.ndarray, right: np.ndarray) -> Trials:
    places = np.searchsorted(images, columns["image"][own])
    sound = (places < len(images)).all() and np.array_equal(images[places], columns["image"][own]) and right[places].all()
    if not sound or len(np.unique(places)) < len(places):
        raise DataError(f"rows of {what}: an image is there twice, or is not one that is right as it is",
                        reason="damaged_attacks")
    return _spread(places, own, columns, len(images))


def _spread(places: np.ndarray, own: np.ndarray, columns: dict[str, np.ndarray], count: int) -> Trials:
    tried = np.zeros(count, bool)
    tried[places] = True
    spread = {}
    for name in ("fooled", "queries", "gradients"):
        spread[name] = np.zeros(count, columns[name].dtype)
        spread[name][places] = columns[name][own]
    return Trials(tried, **spread)
