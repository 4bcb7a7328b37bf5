"""How right an answer is, by problem type, and which answers mean the same (ROVA and Video-R1, reward code).

Where the published code is wrong, ``published_quirks`` brings it back; docs/tgrpo.md lists the cases.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from squall.platform.records import ProblemType

PUBLISHED_CORRECT_ABOVE = 0.1
"""Video-R1's code counts a graded answer as correct above this accuracy."""

_OPTION_LETTER = re.compile(r"\(?([A-Za-z])(?:[.:)]+|\)?[.:]?\s*$)(?:\s.*)?", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?")


def accuracy(answer: str | None, solution: str, problem_type: ProblemType, published_quirks: bool = False) -> float:
    """Score an answer against the solution, in [0, 1]. A missing answer scores 0."""
    if answer is None:
        return 0.0
    return _SCORERS[ProblemType(problem_type)](answer.strip(), solution.strip(), published_quirks)


def _multiple_choice(answer: str, solution: str, quirks: bool) -> float:
    if quirks:
        return float(answer == solution)
    return float(
        canonical_answer(answer, ProblemType.MULTIPLE_CHOICE) == canonical_answer(solution, ProblemType.MULTIPLE_CHOICE)
    )


def _numerical(answer: str, solution: str, quirks: bool) -> float:
    if quirks and bool(set(answer) & set(".,")) != bool(set(solution) & set(".,")):
        return 0.0
    given, wanted = parse_number(answer, quirks), parse_number(solution, quirks)
    return float(given is not None and wanted is not None and round(given, 2) == round(wanted, 2))


def _ocr(answer: str, solution: str, quirks: bool) -> float:
    import jiwer

    reference, hypothesis = " ".join(solution.split()), " ".join(answer.split())
    if not reference:
        return float(not hypothesis)
    return min(1.0, max(0.0, 1.0 - jiwer.wer(reference, hypothesis)))


def _free_form(answer: str, solution: str, quirks: bool) -> float:
    # ROUGE-2 of a one-word answer is 0, so that a perfect one scores 2/3; and ROUGE drops every non-Latin letter.
    if not quirks and _plain(answer) == _plain(solution):
        return 1.0
    scores = _rouge_scorer().score(solution, answer)
    return sum(score.fmeasure for score in scores.values()) / len(scores)


def _regression(answer: str, solution: str, quirks: bool) -> float:
    given, wanted = parse_number(answer, quirks), parse_number(solution, quirks)
    if given is None or wanted is None:
        return 0.0
    error = abs(given - wanted)
    if quirks:
        return 1.0 - min(1.0, (error + 1e-9) / (abs(wanted) + 1e-9))
    if wanted == 0.0:
        return float(error < 1e-9)
    return 1.0 - min(1.0, error / abs(wanted))


def mean_relative_accuracy(answer: str | None, solution: str) -> float:
    """Share of the thresholds 0.50, 0.55, ..., 0.95 under which a number is close enough: relative error < 1 - threshold.

    In [0, 1]; how VSI-Bench (arXiv 2412.14171, section 3.3), Video-R1 and ROVA score estimates. A truth of 0, of which no
    error is relative, asks for 0 itself; what is no number scores 0.
    """
    given, wanted = (None if text is None else parse_number(text) for text in (answer, solution))
    if given is None or wanted is None:
        return 0.0
    error = abs(given - wanted) / abs(wanted) if wanted else (0.0 if given == 0.0 else math.inf)
    # Decimals are compared as such: an answer of 95 for 100 has the error 0.05, which is not below 1 - 0.95.
    return sum(round(error, 9) < (100 - percent) / 100 for percent in range(50, 100, 5)) / 10


def benchmark_accuracy(answer: str | None, solution: str, problem_type: ProblemType, published_quirks: bool = False) -> float:
    """`accuracy`, but `mean_relative_accuracy` for regression: what benchmarks report; in [0, 1]."""
    if problem_type == ProblemType.REGRESSION:
        return mean_relative_accuracy(answer, solution)
    return accuracy(answer, solution, problem_type, published_quirks)


_SCORERS: Mapping[ProblemType, Callable[[str, str, bool], float]] = {
    ProblemType.MULTIPLE_CHOICE: _multiple_choice,
    ProblemType.NUMERICAL: _numerical,
    ProblemType.OCR: _ocr,
    ProblemType.FREE_FORM: _free_form,
    ProblemType.REGRESSION: _regression,
}


def canonical_answer(answer: str, problem_type: ProblemType) -> str:
    """One spelling for answers that mean the same: "(b)" and "B. blue" become "B"; "3" and "3.00" become "3.0"."""
    if problem_type == ProblemType.MULTIPLE_CHOICE:
        letter = _OPTION_LETTER.fullmatch(answer.strip())
        return letter.group(1).upper() if letter else _plain(answer)
    if problem_type in (ProblemType.NUMERICAL, ProblemType.REGRESSION):
        number = parse_number(answer)
        return _plain(answer) if number is None else repr(round(number, 2) + 0.0)
    return _plain(answer)


def parse_number(text: str, published_quirks: bool = False) -> float | None:
    """Read "1,000", "-3.5" or "2e3"; None for anything else, such as "3,5", "about 3" or "nan".

    With `published_quirks` every comma is dropped, so that "3,5" reads as 35.
    """
    if not published_quirks and not _NUMBER.fullmatch(text.strip()):
        return None
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def majority_answer(answers: Sequence[str | None], problem_type: ProblemType) -> str | None:
    """The most frequent canonical answer; a tie goes to the first to occur, missing answers do not vote."""
    votes = Counter(canonical_answer(answer, problem_type) for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None  # most_common keeps first-seen order among equals
