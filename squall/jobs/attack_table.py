"""From answers to the rows of ``attacks.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from squall.actors.attack_tasks import Answers
from squall.jobs.attack_memory import Case, Targets
from squall.platform.attack_card import ATTACKS, CLEAN, transfer_name

NUMBERS = ("prediction", "queries", "gradients", "l2", "linf")


class Answered:
    """What one model said in one case, image by image, as chunks come in."""

    def __init__(self, count: int) -> None:
        """`count` is the number of images in the run."""
        self.known = np.zeros(count, bool)
        self._columns = {name: np.zeros(count, np.float64 if name.startswith("l") else np.int64) for name in NUMBERS}
        self._by = np.full(count, None, object)

    def enter(self, rows: np.ndarray, answers: Answers) -> None:
        """Note the answers about some images."""
        self.known[rows] = True
        for name, column in self._columns.items():
            column[rows] = getattr(answers, name)
        self._by[rows] = answers.by

    def right(self, labels: np.ndarray) -> np.ndarray:
        """bool (N,): which images the model is known to give their label."""
        return self.known & (self._columns["prediction"] == labels)

    @property
    def prediction(self) -> np.ndarray:
        """int64 (N,), of the images that are known."""
        return self._columns["prediction"]

    def columns(self, targets: Targets) -> dict[str, pa.Array]:
        """Columns of the table that differ from image to image, for the images that are known."""
        rows = np.flatnonzero(self.known)
        labels, prediction = targets.data.labels[rows], self._columns["prediction"][rows]
        fooled = prediction != labels
        values = {"image": targets.positions[rows], "label": labels, "prediction": prediction, "fooled": fooled,
                  **{name: self._columns[name][rows] for name in NUMBERS[1:]}}
        by = pa.array([name if fell else None for name, fell in zip(self._by[rows], fooled, strict=True)], pa.string())
        return {name: pa.array(value) for name, value in values.items()} | {"by": by}


@dataclass
class Record:
    """All answers of a run, by case."""

    targets: Targets
    _answered: dict[Case, Answered] = field(default_factory=dict)

    def of(self, case: Case) -> Answered:
        """What is known in a case."""
        return self._answered.setdefault(case, Answered(len(self.targets.positions)))

    def right(self, model: str) -> np.ndarray:
        """bool (N,): which images the model with this hash gives their label as they are."""
        return self.of(Case(model)).right(self.targets.data.labels)

    def table(self, models: Sequence[tuple[str, str]], names: Sequence[str]) -> pa.Table:
        """Rows as in `ATTACKS`.

        Args:
            models: (name, hash), in their order; two names may share a hash.
            names: of the attacks, in their order.
        """
        titles: dict[str, str] = {}
        for name, hash_ in models:
            titles.setdefault(hash_, name)
        order = {name: place for place, name in enumerate((CLEAN, *names))}
        parts = [ATTACKS.empty_table()]
        for name, hash_ in models:
            own = [case for case in self._answered if case.model == hash_]
            for case in sorted(own, key=lambda case: _place(case, order, titles)):
                parts.append(self._rows(name, case, titles))
        return pa.concat_tables(parts)

    def _rows(self, name: str, case: Case, titles: dict[str, str]) -> pa.Table:
        columns = self._answered[case].columns(self.targets)
        attack = case.attack if case.source is None else transfer_name(titles[case.source], case.attack)
        norm, epsilon = (None, None) if case.threat is None else (case.threat.norm, case.threat.epsilon)
        count = len(columns["image"])
        fixed = {"model": name, "attack": attack, "norm": norm, "epsilon": epsilon}
        return pa.table([columns[one.name].cast(one.type) if one.name in columns
                         else pa.array([fixed[one.name]] * count, one.type) for one in ATTACKS], schema=ATTACKS)


def _place(case: Case, order: dict[str, int], titles: dict[str, str]) -> tuple[object, ...]:
    budget = ("", 0.0) if case.threat is None else (case.threat.norm, case.threat.epsilon)
    return *budget, case.source is not None, list(titles).index(case.source) if case.source else 0, order[case.attack]
