"""Many reasoning traces scored by a judge, and the judge itself checked against traces that were scored by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from threading import Event

from squall.actors.judges import Judge, JudgeError
from squall.algorithms.rubrics import agreement
from squall.platform.report_card import RubricAgreement
from squall.platform.rubric_labels import ReasoningTrace, RubricScores, load_labels

CONCURRENT = 8
OnScored = Callable[[ReasoningTrace, RubricScores | JudgeError], None]
"""Is told of every different trace as it is done, from the calling thread."""


def score_reasoning(judge: Judge, traces: Sequence[ReasoningTrace], *, concurrent: int = CONCURRENT,
                    on_scored: OnScored = lambda trace, outcome: None) -> list[RubricScores | None]:
    """The scores of traces, in their order; None for those that the judge failed on, after all its attempts.

    Traces that are the same in all but their sample are asked about once. Calls are kept in the judge's ledger and counted in
    its usage, so that what was scored before is not asked again.

    Args:
        concurrent: traces that the judge is asked about at the same time.

    Raises:
        ConfigError: this judge cannot grade, or its endpoint refuses the key or knows no such model.
    """
    distinct: dict[ReasoningTrace, ReasoningTrace] = {}
    for trace in traces:
        distinct.setdefault(_asked(trace), trace)
    scores: dict[ReasoningTrace, RubricScores | None] = {}
    refused = Event()

    def ask(trace: ReasoningTrace) -> RubricScores:
        if refused.is_set():
            raise CancelledError
        try:
            return judge.rubric_scores(trace)
        except JudgeError:
            raise
        except BaseException:
            refused.set()
            raise

    with ThreadPoolExecutor(concurrent) as pool:
        running = {pool.submit(ask, trace): asked for asked, trace in distinct.items()}
        try:
            for future in as_completed(running):
                asked, outcome = running[future], _outcome(future)
                scores[asked] = None if isinstance(outcome, JudgeError) else outcome
                on_scored(distinct[asked], outcome)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [scores[_asked(trace)] for trace in traces]


def measure_agreement(judge: Judge, *, concurrent: int = CONCURRENT) -> tuple[RubricAgreement, ...]:
    """How far a judge agrees with the traces that ship with Squall. Errors as in `score_reasoning`."""
    labels = load_labels()
    judged = score_reasoning(judge, [label.trace for label in labels], concurrent=concurrent)
    return agreement([label.scores for label in labels], judged)


def _asked(trace: ReasoningTrace) -> ReasoningTrace:
    """What the judge sees of it."""
    return trace.model_copy(update={"sample_id": ""})


def _outcome(future: Future[RubricScores]) -> RubricScores | JudgeError:
    try:
        return future.result()
    except JudgeError as error:
        return error
