"""What an evaluation leaves behind: its answers, a row each, and the report card that is computed from them.

`squall evaluate` writes ``answers.parquet`` (`ANSWERS`) and ``card.json`` (`ReportCard`) into its run directory. The card
follows from the answers and from how they were asked for alone, so that it can be made again without the model. Neither holds
a time, so that an evaluation that was interrupted ends in the same files as one that was not.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from squall.platform.config import Config

CLEAN = "clean"
"""Condition of the clips as they are."""

ANSWERS = pa.schema([
    ("question", pa.int32()),  # position in the manifest; rows are in the order of question, condition, index
    ("condition", pa.string()),  # "clean", or kind and severity, "heavy_rain 0.7"
    ("index", pa.int32()),  # of the answer, where several are sampled to one clip
    ("sample_id", pa.string()),
    ("media", pa.string()),  # relative to the manifest where it is below its folder; what intervals are clustered by
    ("file", pa.string()),  # the corrupted copy that was shown, where a benchmark has one; null where `media` itself was read
    ("problem_type", pa.string()),
    ("question_type", pa.string()),
    ("problem", pa.string()),
    ("options", pa.list_(pa.string())),
    ("solution", pa.string()),
    ("kind", pa.string()),  # null for clean, as are family, severity and corruption
    ("family", pa.string()),
    ("severity", pa.float64()),
    ("corruption", pa.string()),  # as `parse_spec` reads it
    ("clip_hash", pa.string()),
    ("text", pa.string()),
    ("answer", pa.string()),  # from the answer tag, null without one
    ("meaning", pa.string()),  # canonical answer: equal ones mean the same; null without an answer
    ("score", pa.float64()),  # in [0, 1]
    ("confidence", pa.float64()),  # probability that the model gave its answer, in [0, 1]; null where it is not known
    ("top5", pa.float64()),  # 1 where the solution is among a classifier's five likeliest classes; null for other models
    ("tokens", pa.int32()),  # null where an endpoint does not tell
    ("finish_reason", pa.string()),
    ("logprobs", pa.list_(pa.float32())),  # of the answer's tokens; empty where they are not known
    ("token_ids", pa.list_(pa.int32())),
])
"""Columns of ``answers.parquet``. A question that was lost in one condition has no row there; `ReportCard.lost` says why."""


class Estimate(Config):
    """A fraction with its 95 % bootstrap interval over videos (docs/metrics.md). None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Questions that it rests on."""

    @classmethod
    def of(cls, value: float, low: float, high: float, n: int, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
        """Rounded to six digits, below which sums in another order may differ, and kept within `bounds`; NaN becomes None."""
        low, high = max(low, bounds[0]), min(high, bounds[1])
        return cls(n=n, **{name: round(float(number), 6) + 0.0 if math.isfinite(number) else None
                           for name, number in (("value", value), ("low", low), ("high", high))})


class ConditionResult(Config):
    """One condition, against the clean answers to the same questions."""

    condition: str
    kind: str | None
    family: str | None
    severity: float | None
    accuracy: Estimate
    change: Estimate
    """Accuracy minus clean accuracy of the same questions; zero for clean."""
    flip_rate: Estimate
    """Share of questions right when clean (score above 0.5) that are wrong here."""
    consistency: Estimate
    """Share of questions whose answer means the same as the clean one, right or wrong."""
    p_value: float | None
    """Exact McNemar test against clean, two-sided, each video one coin; None for graded scores and for clean."""
    p_holm: float | None
    """The same after Holm's correction over all corrupted conditions of the card."""


class Group(Config):
    """Accuracy of some questions or conditions: a kind over its severities, a family, a severity, a question type."""

    name: str
    clean: Estimate
    corrupted: Estimate
    """Mean over the group's corrupted conditions, each of which counts the same."""
    change: Estimate
    """The same mean of the conditions' changes, over questions answered both clean and corrupted."""


class CurvePoint(Config):
    """Accuracy under a family at one severity: the mean over its kinds, each of which counts the same."""

    family: str
    severity: float
    accuracy: Estimate


class CalibrationBin(Config):
    """Answers whose confidence lies in [low, high); the last bin holds 1 too."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


class Calibration(Config):
    """How far confidence and accuracy lie apart, over the answers that have a confidence."""

    ece: Estimate
    """Expected calibration error over ten bins of equal width (Guo et al. 2017); n counts answers, as in all of this."""
    brier: Estimate
    """Mean squared difference of confidence and score."""
    bins: tuple[CalibrationBin, ...]
    n: int


class Summary(Config):
    """The card's main figures. Names are those of methods that define them."""

    clean: Estimate
    mpc: Estimate
    """Mean accuracy under corruption: over severities, then over kinds (Michaelis et al. 2019; Yi et al. 2021)."""
    rpc: Estimate
    """``mpc / clean``, like all that compares with clean over questions answered both clean and corrupted."""
    worst: Estimate
    """Accuracy under the kind that is worst on average over its severities; the interval allows for its having been chosen."""
    worst_kind: str | None
    relative_robustness: Estimate
    """``1 - (clean - mpc) / clean`` (Schiappa et al. 2023)."""
    absolute_robustness: Estimate
    """``1 - (clean - mpc)`` (Schiappa et al. 2023)."""
    pvr_drop: Estimate
    """``(clean - average over families) / clean`` (ROVA, Table 2)."""
    flip_rate: Estimate
    consistency: Estimate
    top5_clean: Estimate | None = None
    top5_corrupted: Estimate | None = None


class RubricScore(Config):
    """One of the five reasoning metrics, 0 to 5, with its interval."""

    name: str
    higher_is_better: bool
    clean: Estimate
    corrupted: Estimate


class RubricAgreement(Config):
    """How far the judge agrees with the hand-labelled traces that ship with Squall."""

    name: str
    n: int
    exact: float
    within_one: float
    weighted_kappa: float | None
    """Cohen's kappa with quadratic weights; None where it is not defined."""


class Reasoning(Config):
    """What a judge said of the reasoning traces."""

    judge: str
    scores: tuple[RubricScore, ...]
    agreement: tuple[RubricAgreement, ...]
    unread: int
    """Traces of which the judge gave no score that could be read."""


class Loss(Config):
    """A question that has no answer in a condition."""

    question: int
    sample_id: str
    condition: str
    reason: str
    message: str


class ReportCard(Config):
    """``card.json``: how a model does, clean and corrupted, and how far that can be trusted."""

    version: Literal[1] = 1
    name: str
    """Of the run."""
    model: dict[str, Any]
    """``label``, ``kind``, ``path``, ``hash`` of its files where it has any, and ``classes`` of a classifier."""
    data: dict[str, Any]
    """``manifest``, ``hash`` of the questions asked (ids, problems, solutions and bytes of the media), ``questions``,
    ``videos``, ``rejected``: records that could not be read, by reason."""
    asked: dict[str, Any]
    """What answers follow from: ``kinds``, ``severities``, ``calibration``, ``seed``, ``frames``, ``decoding``,
    ``prompt_template``."""
    provenance: dict[str, Any]
    """Versions of Squall and of packages, and the commit."""
    summary: Summary
    conditions: tuple[ConditionResult, ...]
    """Clean first."""
    by_kind: tuple[Group, ...]
    by_family: tuple[Group, ...]
    by_severity: tuple[Group, ...]
    by_question_type: tuple[Group, ...]
    curves: tuple[CurvePoint, ...] = ()
    """A family's severities in rising order, as severity curves show them."""
    calibration_clean: Calibration | None = None
    calibration_corrupted: Calibration | None = None
    reasoning: Reasoning | None = None
    reported: dict[str, float] = {}
    """Figures that somebody else reported, by name, which stand beside the measured ones."""
    lost: tuple[Loss, ...] = ()
    unreliable: tuple[str, ...] = ()
    """Reasons why the figures should not be trusted, each a sentence; empty where none is known."""
    notes: tuple[str, ...] = ()


class Contrast(Config):
    """Two models on the same questions: the second minus the first, paired by question, clustered by video."""

    name: str
    """``clean``, ``mpc``, or a condition."""
    first: float
    second: float
    change: Estimate
    p_value: float | None
    """Exact McNemar test, each video one coin, where scores are 0 or 1; None for averages over conditions and graded scores."""
    p_holm: float | None
    """The same after Holm's correction over all contrasts of the comparison."""


class ComparisonCard(Config):
    """Two cards over the same data, question by question."""

    first: str
    second: str
    contrasts: tuple[Contrast, ...]
    n: int
    """Questions that both answered in at least one common condition."""
    unreliable: tuple[str, ...] = ()
    """Reasons why the contrasts should not be trusted, each a sentence; empty where none is known."""
    notes: tuple[str, ...] = ()


CARD_FILE, ANSWERS_FILE = "card.json", "answers.parquet"
FACTS = ("name", "model", "data", "asked", "provenance", "reasoning", "reported", "lost")
"""Fields of a card that do not follow from the answers."""


def read_card(folder: Path) -> ReportCard:
    """The card in a run directory. Raises DataError where there is none or it is not one."""
    from squall.platform.config import validate
    from squall.platform.errors import DataError
    from squall.platform.runs import read_json

    path = folder / CARD_FILE
    if not path.is_file():
        raise DataError(f"{folder}: no {CARD_FILE}; an evaluation writes it when all its questions are asked", reason="no_card")
    return validate(ReportCard, read_json(path), where=str(path))


def read_answers(folder: Path) -> pa.Table:
    """The answers in a run directory. Raises DataError where there are none, or not as this version writes them."""
    import pyarrow.parquet as pq

    from squall.platform.errors import DataError

    path = folder / ANSWERS_FILE
    try:
        table = pq.read_table(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: cannot be read ({problem}); `squall evaluate {folder / 'config.yaml'} --resume` writes it "
                        "again from the journal", reason="damaged_answers") from None
    if missing := [name for name in ANSWERS.names if name not in table.column_names]:
        raise DataError(f"{path}: has no column {missing[0]}, so another version of Squall wrote it; `squall evaluate "
                        f"{folder / 'config.yaml'} --resume` writes it again from the journal", reason="old_answers")
    return table
