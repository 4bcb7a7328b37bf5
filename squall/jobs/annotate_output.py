"""What `squall annotate` keeps: which answer is the best, what was asked, and the new manifest with its summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from squall.jobs.annotate_plan import Annotation, Target
from squall.platform.errors import ConfigError
from squall.platform.manifest import write_manifest
from squall.platform.prompts import FORMAT_PATTERN, extract_answer, extract_think
from squall.platform.records import ScoredGroup
from squall.platform.runs import RunDirectory, append_line, read_json, read_lines, to_json, write_text

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of a question: its best answer, if one had the format."""

    id: str
    fingerprint: str
    attempts: int
    """Answers sampled."""
    well_formed: int
    """Those with reasoning and answer in their tags."""
    tokens: int
    reward: float | None = None
    """Of the best well-formed answer, as `reasoning` and `answer` are."""
    reasoning: str = ""
    answer: str = ""
    corruption: str | None = None
    """What was done to the clip, as `parse_spec` reads it."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A question without answers."""

    id: str
    reason: str
    message: str


def reasoning_of(text: str) -> str | None:
    """The reasoning of an answer in the format, each tag once and something in each; None for any other."""
    if FORMAT_PATTERN.fullmatch(text.strip()) is None or any(text.count(tag) != 1 for tag in TAGS):
        return None
    return (extract_think(text) or None) if extract_answer(text) else None


def judge(target: Target, scored: ScoredGroup, weights: Mapping[str, float]) -> Answered:
    """Choose the best of a question's answers: the highest reward; among equals the shortest reasoning, then the first."""
    group = scored.sampled
    found = []
    for index, (rollout, row) in enumerate(zip(group.rollouts, scored.rewards, strict=True)):
        reasoning = reasoning_of(rollout.text)
        if reasoning is not None:
            reward = sum(weight * row[name] for name, weight in weights.items())
            found.append((-reward, len(reasoning), index, reasoning, extract_answer(rollout.text)))
    facts: dict[str, Any] = {
        "id": target.sample.id, "fingerprint": target.fingerprint, "attempts": len(group.rollouts), "well_formed": len(found),
        "tokens": sum(len(rollout.token_ids) for rollout in group.rollouts),
        "corruption": None if group.corruption is None else str(group.corruption)}
    if not found:
        return Answered(**facts)
    worth, _, _, reasoning, answer = min(found)
    return Answered(**facts, reward=-worth, reasoning=reasoning, answer=answer)


@dataclass(frozen=True)
class AnnotationFolder:
    """``NAME.annotate/`` beside the new manifest, claimed for this process until the block ends."""

    path: Path
    lock: IO[str]

    @property
    def settings(self) -> Path:
        """What answers follow from."""
        return self.path / "settings.json"

    @property
    def answered(self) -> Path:
        """One line for every question that was answered, as it comes in."""
        return self.path / "answered.jsonl"

    @property
    def lost(self) -> Path:
        """One line for every question that the last run could not get answers to."""
        return self.path / "lost.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def logs(self) -> Path:
        """What the actors print."""
        return self.path / "logs"

    @classmethod
    def open(cls, work: Annotation) -> AnnotationFolder:
        """Make the folder, or take up one that was begun with the same settings; one without an answer yet is begun anew.

        Raises:
            ConfigError: it was begun with other settings.
            SquallError: a live run writes there.
        """
        path, now = work.folder, work.settings
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path, RunDirectory(path).lock())
        stored = read_json(folder.settings) if read_lines(folder.answered) else now
        for key in now:
            if stored.get(key) != now[key]:
                folder.lock.close()
                raise ConfigError(f"{path} was begun with {key} = {stored.get(key)!r}, and now it is {now[key]!r}; give it as "
                                  f"it was to go on, choose another OUTPUT, or delete {path} and OUTPUT to start anew")
        write_text(folder.settings, to_json(now, indent=2) + "\n")
        return folder

    def __enter__(self) -> AnnotationFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.close()

    def note_ray(self, line: str) -> None:
        """Keep what Ray says, such as that a worker died."""
        append_line(self.path / "ray.log", line)

    def record(self, answered: Answered) -> None:
        """Note an answered question, so that it is never asked again."""
        append_line(self.answered, to_json(asdict(answered)))

    def earlier(self, work: Annotation) -> dict[str, Answered]:
        """What earlier runs answered, by id, of questions that are as they were."""
        known = {target.sample.id: target.fingerprint for target in work.targets}
        rows = [Answered(**row) for row in read_lines(self.answered)]
        return {row.id: row for row in rows if known.get(row.id) == row.fingerprint}

    def write_lost(self, lost: Sequence[Lost]) -> None:
        """Name every question without answers."""
        write_text(self.lost, "".join(to_json(asdict(one)) + "\n" for one in lost))

    def finish(self, work: Annotation, answered: Mapping[str, Answered], lost: Sequence[Lost]) -> dict[str, Any]:
        """Write the manifest, in the order of the questions, unless nothing is kept, and the summary; returns the summary."""
        bound, config = work.config.keep_above, work.config
        kept = [(target, answered[target.sample.id]) for target in work.targets
                if target.sample.id in answered and is_kept(answered[target.sample.id], bound)]
        if kept:
            write_manifest(config.output, (make_record(work, target, best) for target, best in kept))
        below = [one for one in answered.values() if not is_kept(one, bound)]
        rewards = [one.reward for one in answered.values() if one.reward is not None]
        summary = {
            "asked": len(answered), "kept": len(kept), "below": len(below), "keep_above": bound,
            "without_format": sum(not one.well_formed for one in below), "best_reward": max(rewards, default=None),
            "answers": sum(one.attempts for one in answered.values()),
            "well_formed": sum(one.well_formed for one in answered.values()),
            "tokens": sum(one.tokens for one in answered.values()), "lost": dict(Counter(one.reason for one in lost))}
        write_text(self.summary, to_json({**summary, "settings": work.settings}, indent=2) + "\n")
        return summary


def is_kept(answered: Answered, keep_above: float) -> bool:
    """Whether a question's best answer is good enough."""
    return answered.reward is not None and answered.reward > keep_above


def make_record(work: Annotation, target: Target, best: Answered) -> dict[str, Any]:
    """The line of the new manifest: the record with the reasoning of the best answer and where it comes from."""
    origin = {"model": work.config.model.path, "reward": best.reward, "answer": best.answer, "seed": work.config.seed,
              "attempts": best.attempts}
    if best.corruption is not None:
        origin["corruption"] = best.corruption
    record = {**target.record, "process": f"<think>{best.reasoning}</think>", "annotation": origin}
    return json.loads(to_json(record))  # what Parquet has and JSON has not, such as dates, as text
