"""One attack on one clip by cells, step by step, without a word about how the victim is reached.

    episode = Episode(clip, label, config, seed)
    episode.absorb(ask(episode.start()))
    while not episode.done:
        result = episode.absorb(ask(episode.propose(spatial_action, temporal_action)))

Whoever calls it asks; the episode says what, counts, and ends before the budget is exceeded. The attack is black-box: agents
see pixels of their own clip and what past queries answered.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from squall.algorithms.video_attack.actions import Action, Masks, action_masks, action_sizes, moved
from squall.algorithms.video_attack.asking import LOG_ODDS_LIMIT, Answer, Ask, read_answers
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.observing import (
    SPATIAL_FEATURES,
    TEMPORAL_FEATURES,
    Scene,
    Touches,
    spatial_view,
    temporal_view,
)
from squall.algorithms.video_attack.outcome import VideoOutcome
from squall.algorithms.video_attack.palette import Palette
from squall.algorithms.video_attack.removal import removal_sweep

__all__ = ["AttackConfig", "Choose", "Episode", "StepResult", "play"]

P_FLOOR = 1e-4
"""Smallest probability of the label that the reward tells from 0."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one exchange with the victim."""

    reward: float
    """Shared by both agents; 0 for the start."""
    done: bool
    flipped: bool


class Episode:
    """An attack on a clip, uint8 (T, H, W, 3), that should be classified as `label`."""

    def __init__(self, clip: np.ndarray, label: int, config: AttackConfig, seed: int) -> None:
        """Prepare; nothing is asked. `seed` is that of the distorted pixels, of which alone something is drawn. Errors as in
        `Palette`."""
        self.palette = Palette(clip, config, seed)
        self.grid = self.palette.grid
        self.label, self.config = int(label), config
        self.occupancy = np.zeros(self.grid.shape, np.int8)
        """Level of every cell (blocks, rows, columns)."""
        self.queries = self.removal_queries = self.steps = 0
        self.done = self.flipped = False
        self.correct: bool | None = None
        """The victim gives the clean clip its label; None before it was asked. Otherwise there is nothing to attack."""
        self.trace: list[tuple[int, float]] = []
        self._scene = Scene(self.palette)
        self._places, self._blocks = Touches(self.grid.places), Touches(self.grid.shape[0])
        self._answer = Answer(1.0, 1.0, LOG_ODDS_LIMIT, False)
        self._asked: list[np.ndarray] = []
        self._best, self._best_p = self.occupancy, np.inf

    @property
    def left(self) -> int:
        """Clips that may still be asked about."""
        return self.config.max_queries - self.queries - self.removal_queries

    @property
    def p_label(self) -> float:
        """Probability of the label in the last answer about the attack's own state."""
        return self._answer.p_label

    @property
    def action_spaces(self) -> dict[str, tuple[int, ...]]:
        """Choices of every part of each agent's action: see `actions`."""
        return action_sizes(self.grid, self.config)

    @property
    def action_masks(self) -> Masks:
        """Choices that can have an effect now. Others are taken too."""
        return action_masks(self.occupancy, self.config)

    @property
    def observation_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the float32 arrays of `observations`, whose values lie in [-1, 1]."""
        blocks, rows, columns = self.grid.shape
        return {"spatial": (len(SPATIAL_FEATURES), rows, columns), "temporal": (len(TEMPORAL_FEATURES), blocks)}

    def observations(self) -> dict[str, np.ndarray]:
        """What each agent sees now."""
        answer = self._answer
        scalars = np.array([answer.p_label, answer.margin, answer.log_odds / LOG_ODDS_LIMIT,
                            self.queries / self.config.max_queries])
        now = self._scene, self.occupancy, self.config.levels
        return {"spatial": spatial_view(*now, self._places, self.steps, scalars),
                "temporal": temporal_view(*now, self._blocks, self.steps, scalars)}

    def start(self) -> np.ndarray:
        """The first clips to ask about (n, T, H, W, 3): the clean one, then the probes of places and blocks, if any."""
        self._expect(asked=False, begun=False)
        self._asked = [self.occupancy, *(self._probes() if self.config.probes else ())]
        return self._pictures()

    def propose(self, spatial: Action, temporal: Action) -> np.ndarray:
        """The clip to ask about (1, T, H, W, 3) after both agents' actions. Raises ValueError for an action out of range."""
        self._expect(asked=False, begun=True)
        self._asked = [moved(self.occupancy, spatial, temporal, self.config, self.grid)]
        return self._pictures()

    def absorb(self, probabilities: np.ndarray) -> StepResult:
        """Take the victim's answer (n, K) about the clips of `start` or `propose`.

        Raises:
            DataError: it is no answer to them, and nothing is changed (reason ``bad_output``).
        """
        self._expect(asked=True, begun=None)
        answers = read_answers(probabilities, len(self._asked), self.label)
        asked, self._asked = self._asked, []
        before = self.queries
        for occupancy, answer in zip(asked, answers, strict=True):
            self.queries += 1
            self.trace.append((self.queries, answer.p_label))
            if answer.p_label < self._best_p:
                self._best, self._best_p = occupancy, answer.p_label
        reward = self._begin(asked, answers) if before == 0 else self._advance(asked[0], answers[0])
        self.done = self.done or self.flipped or self._spent()
        return StepResult(reward, self.done, self.flipped)

    def removal(self) -> Generator[np.ndarray, np.ndarray, None]:
        """After a flip: yields clips (1, T, H, W, 3) to ask about, is sent the answers, and drops cells that are not needed.

        Places that seemed least sensitive go first. It ends with the budget; what is dropped by then stays dropped.

        Raises:
            DataError: as `absorb`.
        """
        if not (self.flipped and self.config.removal):
            return
        sweep = removal_sweep(self.occupancy, self._removal_order())
        candidate = next(sweep, None)
        while candidate is not None and self.left > 0:
            (answer,) = read_answers((yield self.palette.compose(candidate)[None]), 1, self.label)
            self.removal_queries += 1
            if answer.flipped:
                self.occupancy, self._answer = candidate, answer
            candidate = _sent(sweep, answer.flipped)

    def outcome(self) -> VideoOutcome:
        """The result so far; of a clip that stands, the attempt that came closest."""
        occupancy = self.occupancy if self.flipped else self._best
        return VideoOutcome(self.palette.compose(occupancy), self.flipped, self.queries, self.removal_queries,
                            occupancy.copy(), tuple(self.trace))

    def _begin(self, asked: list[np.ndarray], answers: list[Answer]) -> float:
        clean = self._answer = answers[0]
        self.correct = not clean.flipped
        self.done = clean.flipped
        if not self.correct:
            return 0.0
        for occupancy, answer in zip(asked[1:], answers[1:], strict=True):
            self._note(self.occupancy, occupancy, clean.log_odds - answer.log_odds)
        flips = [pair for pair in zip(asked, answers, strict=True) if pair[1].flipped]
        if flips:
            self.occupancy, self._answer = min(flips, key=lambda pair: self.palette.l2(pair[0]))
            self.flipped = True
        return 0.0

    def _advance(self, occupancy: np.ndarray, answer: Answer) -> float:
        self.steps += 1
        reward = self._reward(occupancy, answer)
        self._note(self.occupancy, occupancy, self._answer.log_odds - answer.log_odds)
        self.occupancy, self._answer, self.flipped = occupancy, answer, answer.flipped
        return reward

    def _spent(self) -> bool:
        """No query, no step, or nothing to try is left."""
        full = bool((self.occupancy == self.config.levels).all())
        return self.left < 1 or self.steps == self.config.max_steps or (full and not self.config.removal)

    def _reward(self, occupancy: np.ndarray, answer: Answer) -> float:
        """lam1 (log p - log p') - lam2 (rms' - rms) - lam3 flicker' - lam4 / max_queries + bonus if flipped."""
        config = self.config
        lost = np.log(max(self._answer.p_label, P_FLOOR)) - np.log(max(answer.p_label, P_FLOOR))
        grown = self.palette.rms(occupancy) - self.palette.rms(self.occupancy)
        return float(config.lam1 * lost - config.lam2 * grown - config.lam3 * self.palette.flicker(occupancy)
                     - config.lam4 / config.max_queries + config.bonus * answer.flipped)

    def _note(self, before: np.ndarray, after: np.ndarray, lost: float) -> None:
        up, down = (change.reshape(len(before), -1) for change in (after > before, after < before))
        self._places.note(up.any(0), down.any(0), lost, self.steps)
        self._blocks.note(up.any(1), down.any(1), lost, self.steps)

    def _probes(self) -> list[np.ndarray]:
        """Every place through all blocks, then every block all over the picture, at the highest level."""
        blocks, rows, columns = self.grid.shape
        places = np.eye(self.grid.places, dtype=np.int8).reshape(-1, 1, rows, columns).repeat(blocks, 1)
        moments = np.eye(blocks, dtype=np.int8)[:, :, None, None].repeat(rows, 2).repeat(columns, 3)
        return [probe * np.int8(self.config.levels) for probe in (*places, *moments)]

    def _removal_order(self) -> list[int]:
        flat = self.occupancy.reshape(len(self.occupancy), -1)
        on = [(place, block) for block, place in np.argwhere(flat)]
        on.sort(key=lambda cell: (self._places.sensitivity[cell[0]], cell))
        return [int(block * self.grid.places + place) for place, block in on]

    def _pictures(self) -> np.ndarray:
        return np.stack([self.palette.compose(occupancy) for occupancy in self._asked])

    def _expect(self, asked: bool, begun: bool | None) -> None:
        if self.done or bool(self._asked) != asked or begun not in (None, self.queries > 0):
            raise RuntimeError("out of turn: start, absorb, then propose and absorb until done")


Choose = Callable[[Episode], tuple[Action, Action]]
"""The spatial and the temporal action for an episode as it stands."""


def play(episode: Episode, ask: Ask, choose: Choose) -> VideoOutcome:
    """Attack a clip to the end, removal included."""
    episode.absorb(ask(episode.start()))
    while not episode.done:
        episode.absorb(ask(episode.propose(*choose(episode))))
    sweep = episode.removal()
    clips = next(sweep, None)
    while clips is not None:
        clips = _sent(sweep, ask(clips))
    return episode.outcome()


def _sent(generator: Generator, value: object) -> np.ndarray | None:
    """What it yields next, or None at its end."""
    try:
        return generator.send(value)
    except StopIteration:
        return None
