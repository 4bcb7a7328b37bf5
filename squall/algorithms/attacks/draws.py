"""Random numbers of attacks: each image has a stream of its own; a replay has one stream for a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch


class Draws:
    """Random numbers of B images, each from its own seed, so that none depends on the images beside it.

    They are drawn on the CPU, and so are the same for every device.
    """

    together: ClassVar[bool] = False
    """True in a replay: images stay in their batch until its run is over, so that streams and arithmetic are the original's."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        import torch

        self.device = torch.device(device)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def uniform(self, rows: torch.Tensor, *shape: int, shared: bool = False) -> torch.Tensor:
        """float32 (n, *shape) in [0, 1) for the images ``rows[0], ..., rows[n - 1]``.

        Args:
            shared: of no concern to an image's own stream; in a replay all images get the same numbers.
        """
        import torch

        return self._stacked(torch.rand, rows, shape)

    def normal(self, rows: torch.Tensor, *shape: int, shared: bool = False) -> torch.Tensor:
        """As `uniform`, from the standard normal distribution."""
        import torch

        return self._stacked(torch.randn, rows, shape)

    def _stacked(self, draw, rows: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        drawn = [draw(shape, generator=self._generators[row]) for row in rows.tolist()]
        return (torch.stack(drawn) if drawn else torch.empty((0, *shape))).to(self.device)


class ReplayDraws(Draws):
    """One stream for a batch, the same as that of torch's global generator on the CPU after ``torch.manual_seed(seed)``."""

    together: ClassVar[bool] = True

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        super().__init__([seed], device)

    def uniform(self, rows: torch.Tensor, *shape: int, shared: bool = False) -> torch.Tensor:
        import torch

        return self._batch(torch.rand, len(rows), shape, shared)

    def normal(self, rows: torch.Tensor, *shape: int, shared: bool = False) -> torch.Tensor:
        import torch

        return self._batch(torch.randn, len(rows), shape, shared)

    def _batch(self, draw, count: int, shape: tuple[int, ...], shared: bool) -> torch.Tensor:
        drawn = draw((1 if shared else count, *shape), generator=self._generators[0])
        return drawn.expand(count, *shape).to(self.device)
