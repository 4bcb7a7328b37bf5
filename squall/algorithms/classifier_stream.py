"""Which images a step of training learns from, and every random number that it uses, from (seed, step, place in the batch)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from squall.algorithms.attacks.draws import Draws
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    import torch


class TrainingStream:
    """The same stream on every worker: each takes its part of a batch, and of the numbers that belong to it."""

    def __init__(self, seed: int, images: int, batch_size: int) -> None:
        self._seed, self._images, self._batch_size = seed, images, batch_size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def rows(self, step: int) -> np.ndarray:
        """Positions (batch_size,) of a step's images; every image comes once an epoch, in an order of the epoch's own."""
        rows, place = [], step * self._batch_size
        while len(rows) < self._batch_size:
            epoch, position = divmod(place + len(rows), self._images)
            rows.extend(self._order_of(epoch)[position:position + self._batch_size - len(rows)])
        return np.array(rows)

    def generator(self, step: int, purpose: str) -> torch.Generator:
        """Source of a whole batch's numbers for one purpose."""
        import torch

        return torch.Generator().manual_seed(derive_seed(self._seed, purpose, step))

    def draws(self, step: int, places: Iterable[int], device: torch.device) -> Draws:
        """Random numbers of single images, each from its own place in the batch of a step."""
        return Draws([derive_seed(self._seed, "noise", step, int(place)) for place in places], device)

    def layers_seed(self, step: int, rank: int) -> int:
        """Of what layers draw for themselves, such as dropout."""
        return derive_seed(self._seed, "layers", step, rank)

    def _order_of(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            generator = np.random.default_rng(derive_seed(self._seed, "order", epoch))
            self._epoch, self._order = epoch, generator.permutation(self._images)
        return self._order
