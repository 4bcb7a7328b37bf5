"""Questions for the report, chosen from the answers that a run keeps, with their clips rendered again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from squall.algorithms.corruption import render_clip
from squall.jobs.heldout import HeldOutAnswers
from squall.platform.answers import Scoring
from squall.platform.errors import SquallError
from squall.platform.records import Branch, CorruptionSpec, SampledGroup, ScoredGroup, VideoSample
from squall.platform.report import ClipPair, ExampleAnswer, ExampleClip, TrainingAnswer, TrainingExample
from squall.platform.store import RolloutStore
from squall.platform.video import FrameSampling, load_clip

LATEST_STEPS = 5
"""Training examples are taken from so many of the last steps."""


def held_out_examples(before: HeldOutAnswers, after: HeldOutAnswers, sampling: FrameSampling,
                      count: int = 6) -> list[ExampleClip]:
    """Questions that training changed on the corrupted clip first, one per corruption kind and direction."""
    order = {sample.id: i for i, sample in enumerate(after.samples)}
    rows = [(i, order[sample.id]) for i, sample in enumerate(before.samples) if sample.id in order]
    change = {row: after.scores[Branch.CORRUPTED][row[1]] - before.scores[Branch.CORRUPTED][row[0]] for row in rows}
    rows.sort(key=lambda row: -abs(change[row]))
    chosen: dict[tuple[str, bool], tuple[int, int]] = {}
    for row in rows:  # both directions are shown: answers won and answers lost
        chosen.setdefault((before.kinds[row[0]], change[row] < 0), row)
    won = [row for (_, lost), row in chosen.items() if not lost][:count - 2]
    lost = [row for (_, lost), row in chosen.items() if lost][:2]
    return [_held_out_example(before, after, i, j, sampling) for i, j in (*won, *lost)]


def _held_out_example(before: HeldOutAnswers, after: HeldOutAnswers, i: int, j: int, sampling: FrameSampling) -> ExampleClip:
    def answer(held: HeldOutAnswers, branch: Branch, row: int) -> ExampleAnswer:
        return ExampleAnswer(held.texts[branch][row], bool(held.scores[branch][row] > 0.5))

    group = before.groups[i].sampled
    return ExampleClip(
        sample=group.sample, corruption=group.corruption.name, severity=group.corruption.severity,
        clips=render_pair(group, sampling),
        clean_before=answer(before, Branch.CLEAN, i), clean_after=answer(after, Branch.CLEAN, j),
        corrupted_before=answer(before, Branch.CORRUPTED, i), corrupted_after=answer(after, Branch.CORRUPTED, j),
    )


def training_examples(store: RolloutStore, answers: pa.Table, scoring: Scoring, sampling: FrameSampling,
                      count: int = 3) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """Groups of the last steps that earned most and least, each of another corruption kind.

    A group's reward is the mean over its corrupted answers, or over its clean ones where nothing is corrupted. Among equals,
    strong corruptions come first where most was earned and weak ones where least was. `answers` is `Answers.table`.
    """
    table = answers.filter(pc.greater(answers["step"], pc.subtract(pc.max(answers["step"]), LATEST_STEPS)))
    branch = Branch.CORRUPTED if pc.any(pc.equal(table["branch"], Branch.CORRUPTED.value)).as_py() else Branch.CLEAN
    groups = table.filter(pc.equal(table["branch"], branch.value)).group_by(["step", "group", "kind", "severity", "sample"])
    rows = groups.aggregate([("reward", "mean")]).to_pylist()
    rows = [row for row in rows if row["reward_mean"] is not None]
    rows.sort(key=lambda row: (row["reward_mean"], row["severity"] or 0.0, row["step"], row["group"]))
    best = _one_per_kind(list(reversed(rows)), count)
    worst = _one_per_kind([row for row in rows if row not in best], count)
    return tuple([_training_example(store, row, scoring, sampling) for row in chosen] for chosen in (best, worst))


def _one_per_kind(rows: Sequence[dict], count: int) -> list[dict]:
    chosen: dict[str, dict] = {}
    for row in rows:
        chosen.setdefault(row["kind"] or row["sample"], row)
    return list(chosen.values())[:count]


def _training_example(store: RolloutStore, row: dict, scoring: Scoring, sampling: FrameSampling) -> TrainingExample:
    scored = store.read_group(row["step"], row["group"]).scored
    spec = scored.sampled.corruption
    return TrainingExample(
        sample=scored.sampled.sample, step=row["step"] + 1, reward=row["reward_mean"],
        corruption=spec.name if spec else None, severity=spec.severity if spec else 0.0,
        clips=render_pair(scored.sampled, sampling), answers=_answers(scored, scoring))


def _answers(scored: ScoredGroup, scoring: Scoring) -> tuple[TrainingAnswer, ...]:
    return tuple(TrainingAnswer(rollout.branch.value, rollout.text, scoring.total(rewards), scoring.is_correct(rewards))
                 for rollout, rewards in zip(scored.sampled.rollouts, scored.rewards, strict=True))


def render_pair(group: SampledGroup, sampling: FrameSampling) -> ClipPair:
    """The clean and the corrupted clip of a group, or the reason why they cannot be shown."""
    return render_clips(group.sample, group.corruption, group.clip_hashes, sampling)


def render_clips(sample: VideoSample, spec: CorruptionSpec | None, seen: Mapping[Branch, str],
                 sampling: FrameSampling) -> ClipPair:
    """The sample's clip and what `spec` makes of it, or the reason why they cannot be shown.

    Args:
        seen: content hashes of what the model saw, which these clips are compared with.
    """
    try:
        clip = load_clip(sample.media, sampling, sample_id=sample.id, media_type=sample.media_type)
        corrupted = None if spec is None else render_clip(clip, spec)
    except SquallError as error:
        return ClipPair(problem=f"The clips cannot be shown: {error}")
    shown = {Branch.CLEAN: clip, Branch.CORRUPTED: corrupted}
    changed = any(shown.get(branch) is not None and shown[branch].content_hash != stored for branch, stored in seen.items())
    problem = "The file or the packages changed since the run: these are not exactly the pixels that the model saw."
    return ClipPair(clip.frames, None if corrupted is None else corrupted.frames, clip.fps, problem if changed else "")
