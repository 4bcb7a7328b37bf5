"""What a control is: a clip, its label and a budget of questions go in; a changed clip and what it cost come out."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from squall.algorithms.video_attack.asking import Ask, BudgetSpent
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.search import Fooled, LabelsAlone, Search
from squall.algorithms.video_attack.grid import CellGrid
from squall.algorithms.video_attack.outcome import VideoOutcome
from squall.algorithms.video_attack.palette import Palette
from squall.platform.config import Config
from squall.platform.errors import ConfigError
from squall.platform.seeds import derive_seed


@dataclass(frozen=True)
class Target:
    """A clip that is attacked, and what may be done to it."""

    palette: Palette
    """The clip, clean and distorted; the same pixels as an `Episode` of that seed has."""
    label: int
    config: AttackConfig

    @property
    def clip(self) -> np.ndarray:
        """As it is, uint8 (T, H, W, 3)."""
        return self.palette.clip

    @property
    def grid(self) -> CellGrid:
        """Over the clip."""
        return self.palette.grid


class Control(Config):
    """Settings of a control, and the way to run it."""

    kind: ClassVar[str]
    graded: ClassVar[bool] = True
    """Whether it lives on probabilities; one that does not can attack a victim that tells labels alone."""

    def run(self, ask: Ask, clip: np.ndarray, label: int, config: AttackConfig, seed: int, palette_seed: int | None = None
            ) -> VideoOutcome:
        """Attack one clip until the victim takes it for another class, or ``config.max_queries`` clips were asked about.

        Args:
            ask: the victim: uint8 clips (n, T, H, W, 3) to probabilities (n, K).
            clip: uint8 (T, H, W, 3) RGB; it is asked about first. Where the victim errs on it there is nothing to attack.
            label: the clip's class.
            seed: of the control's draws; the same seeds give the same outcome.
            palette_seed: of the distorted pixels, by default `seed`: one for all attacks on a clip makes them comparable.

        Raises:
            ConfigError: as `check` does, and for a victim that tells labels alone where the control needs probabilities.
            DataError: the clip is no uint8 (T, H, W, 3) (reason ``frame_format``), or the victim's answer no row of
                probabilities for each clip with one for the label (``bad_output``).
        """
        target = Target(Palette(clip, config, seed if palette_seed is None else palette_seed), label, config)
        self.check(clip.shape, config)
        search = self._search(ask, target)
        try:
            margin = float(search.ask([search.best])[1][0])
            self._hunt(search, target, margin, np.random.default_rng(derive_seed(seed, self.kind)))
        except LabelsAlone:
            raise ConfigError(self._refusal()) from None
        except (Fooled, BudgetSpent):
            pass
        return self._outcome(search, target)

    def check(self, shape: tuple[int, ...], config: AttackConfig, *, label_only: bool = False) -> None:
        """Refuse, before anything is asked, what cannot work on clips of a shape (T, H, W, 3).

        Args:
            label_only: the victim tells labels and no probabilities.

        Raises:
            ConfigError: the grid does not divide the clips, the budget is below one sweep of the control, or it needs
                probabilities that there are not.
        """
        if label_only and self.graded:
            raise ConfigError(self._refusal())
        least = self._least_queries(config.grid(*shape[:3]))
        if config.max_queries < least:
            raise ConfigError(f"max_queries = {config.max_queries} is below one sweep of control '{self.kind}', {least} queries"
                              f" about {shape[0]} frames of {shape[2]}x{shape[1]}; raise it, or leave the control out")

    def _refusal(self) -> str:
        return (f"control '{self.kind}' compares probabilities, and the victim tells labels alone; use control 'random_cells',"
                " or a victim with probabilities")

    def _least_queries(self, grid: CellGrid) -> int:
        """The clean clip and what the control asks before it can choose for the first time."""
        return 2

    @abstractmethod
    def _search(self, ask: Ask, target: Target) -> Search[Any]:
        """Begin with the clip as it is."""

    @abstractmethod
    def _hunt(self, search: Search[Any], target: Target, margin: float, rng: np.random.Generator) -> None:
        """Ask until Fooled or BudgetSpent ends it; to return is to give up. `margin` is the clean clip's, 0 or more."""

    def _outcome(self, search: Search[Any], target: Target) -> VideoOutcome:
        return VideoOutcome(search.clip, search.fooled, search.queries, trace=tuple(search.trace))
