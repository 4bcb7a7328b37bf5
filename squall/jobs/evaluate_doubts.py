"""Reasons not to trust a report card or a comparison, each a sentence that says what was found and what it means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from squall.algorithms.accuracy import canonical_answer
from squall.algorithms.bootstrap import effective_clusters
from squall.algorithms.rubrics import doubts
from squall.algorithms.score_matrix import ScoreMatrix
from squall.jobs.evaluate_matrix import AnswerMatrix
from squall.platform.records import ProblemType
from squall.platform.report_card import ReportCard
from squall.platform.rubric_labels import load_labels

FEWEST_VIDEOS = 10
"""With so many, intervals cover the truth 93 to 96 times in 100; with 5, 88 to 94 times (docs/metrics.md)."""
LOST_SHARE = 0.05
"""Accuracy over all questions may differ from that over the answered ones by as much as was lost, beyond any interval."""
LOSS_SPREAD = 0.02
"""Conditions whose losses differ by more are asked of different questions; models differ by amounts of that size."""
UNANSWERED_SHARE = 0.10
"""More answers without a tag measure whether the model keeps to the format, not what it sees."""
FEW_WRONG = 8
"""With 4 wrong answers intervals cover 92 %, with 8 94 % (docs/metrics.md); and little is left to tell models apart."""
CUT_OFF_SHARE = 0.05
"""Cut-off answers score 0 whatever the model would have said."""
SAME_ANSWER_SHARE = 0.95
"""A model that gives one letter this often does not look at the video; no solutions are so one-sided."""


def card_doubts(card: ReportCard, found: AnswerMatrix, answers: pa.Table) -> tuple[str, ...]:
    """What speaks against the figures of a card that is complete but for them."""
    return tuple([*_of_sample(found.matrix.clusters), *_of_losses(card, found), *_of_accuracy(card, found),
                  *_of_answers(answers), *_of_judge(card), *_of_severity(card)])


def comparison_doubts(cards: Sequence[ReportCard], tables: Sequence[pa.Table], found: Sequence[AnswerMatrix],
                      common: Sequence[ScoreMatrix]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What speaks against a comparison, and what is to be known about it; `common` is what both share of what they `found`."""
    against = [*_of_difference(cards, found, common), *_of_clips(tables),
               *_differing(cards, ("seed", "calibration", "frames")), *_of_sample(common[0].clusters)]
    return tuple(against), tuple(_differing(cards, ("decoding", "prompt_template")))


def _of_sample(clusters: np.ndarray) -> Iterator[str]:
    videos, worth = len(np.unique(clusters)), effective_clusters(clusters)
    if worth < FEWEST_VIDEOS:
        uneven = "" if worth > 0.9 * videos else f", as good as {worth:.0f} with equally many questions each"
        yield f"Questions come from {videos} videos{uneven}: below {FEWEST_VIDEOS} intervals are too narrow."


def _of_losses(card: ReportCard, found: AnswerMatrix) -> Iterator[str]:
    lost = Counter(loss.condition for loss in card.lost)
    if not lost:
        return
    counts = zip(found.matrix.conditions, found.matrix.answered.sum(0), strict=True)
    shares = {one.name: lost[one.name] / (lost[one.name] + int(count)) for one, count in counts if lost[one.name] or count}
    share, fewest, most = float(np.mean(list(shares.values()))), min(shares, key=shares.get), max(shares, key=shares.get)
    if share > LOST_SHARE:
        yield f"{share:.1%} of all answers are lost: what the model would have said to these is not known."
    if shares[most] - shares[fewest] > LOSS_SPREAD:
        yield (f"Losses differ between conditions: {shares[fewest]:.1%} in '{fewest}', {shares[most]:.1%} in '{most}'; their"
               " accuracies are over different questions.")


def _of_accuracy(card: ReportCard, found: AnswerMatrix) -> Iterator[str]:
    clean, chance = card.summary.clean, _chance(card, found)
    if clean.value is None:
        yield "Nothing was answered clean: there is no change, ratio or flip rate."
        return
    if clean.low <= chance:
        yield (f"Clean accuracy {clean.value:.3f} [{clean.low:.3f}, {clean.high:.3f}] is not above chance ({chance:.3f}):"
               " corruption has nothing to take away.")
    wrong = clean.n * (1 - clean.value)
    if wrong < FEW_WRONG - 0.01:
        yield (f"Only {wrong:.3g} of {clean.n:,} clean answers are wrong: with so few intervals are too narrow, and"
               " better models cannot be told apart.")


def _chance(card: ReportCard, found: AnswerMatrix) -> float:
    """Expected accuracy of guessing: among the options, or a classifier's classes; 0 where an answer is written freely."""
    classes = card.model.get("classes")
    otherwise = 1 / len(classes) if classes else 0.0
    options = found.questions["options"].to_pylist()
    return float(np.mean([1 / len(one) if one else otherwise for one in options]))


def _of_answers(answers: pa.Table) -> Iterator[str]:
    unanswered = answers["answer"].null_count / len(answers)
    if unanswered > UNANSWERED_SHARE:
        yield f"{unanswered:.1%} of all texts hold no answer in an answer tag; they score 0."
    cut = pa.table({"question": answers["question"], "cut": pc.fill_null(pc.equal(answers["finish_reason"], "length"), False)})
    share = float(np.mean(cut.group_by("question").aggregate([("cut", "all")])["cut_all"].to_numpy(zero_copy_only=False)))
    if share > CUT_OFF_SHARE:
        yield f"{share:.1%} of the questions have no answer that was not cut off: allow more tokens."
    choices = answers.filter(pc.equal(answers["problem_type"], ProblemType.MULTIPLE_CHOICE.value))
    said = choices["meaning"].drop_null()
    solutions = [canonical_answer(solution, ProblemType.MULTIPLE_CHOICE) for solution in choices["solution"].to_pylist()]
    if not len(said):
        return
    letter, count = max(((row["values"], row["counts"]) for row in pc.value_counts(said).to_pylist()),
                        key=lambda pair: (pair[1], pair[0]))
    if count >= SAME_ANSWER_SHARE * len(said) and solutions.count(letter) < SAME_ANSWER_SHARE * len(solutions):
        yield f"{count / len(said):.1%} of the answers to multiple choice are '{letter}': the model hardly looks at the video."


def _of_judge(card: ReportCard) -> tuple[str, ...]:
    return doubts(card.reasoning.agreement, len(load_labels())) if card.reasoning else ()


def _of_severity(card: ReportCard) -> Iterator[str]:
    if card.asked.get("calibration") == 0 and len(card.by_kind) > 1:
        yield "Severities are not calibrated (version 0): one number is not one strength, so kinds cannot be ranked."


def _of_difference(cards: Sequence[ReportCard], found: Sequence[AnswerMatrix], common: Sequence[ScoreMatrix]) -> Iterator[str]:
    first, second = cards
    questions, both = len(common[0].scores), common[0].answered & common[1].answered
    if first.data.get("hash") != second.data.get("hash"):
        yield "The runs are over different data: hashes of questions and media differ."
    counts = [len(one.questions) for one in found]
    if questions < max(counts):
        yield f"Only {questions} questions are common to both, of {counts[0]} and {counts[1]}; the comparison is over these."
    names = [{one.name for one in matrix.matrix.conditions} for matrix in found]
    if alone := sorted(names[0] ^ names[1]):
        yield f"Conditions differ: {', '.join(alone[:5])}{' and others' if alone[5:] else ''} are in one of the runs alone."
    if (share := 1 - both.mean()) > LOST_SHARE:
        yield f"{share:.1%} of the common questions and conditions lack an answer of either run."


def _of_clips(tables: Sequence[pa.Table]) -> Iterator[str]:
    seen = [dict(zip(zip(table["sample_id"].to_pylist(), table["condition"].to_pylist(), strict=True),
                     table["clip_hash"].to_pylist(), strict=True)) for table in tables]
    common = [key for key in seen[0] if key in seen[1] and None not in (seen[0][key], seen[1][key])]
    different = sum(seen[0][key] != seen[1][key] for key in common)
    if different:
        yield f"{different} of {len(common)} common clips do not have the same pixels in both runs."


def _differing(cards: Sequence[ReportCard], keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        values = [card.asked.get(key) for card in cards]
        if values[0] != values[1]:
            yield f"The runs differ in {key}: {values[0]} and {values[1]}."
