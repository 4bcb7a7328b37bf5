"""Clips with the answers about them, as the page shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from squall.platform.prompts import extract_answer, extract_think
from squall.platform.records import VideoSample
from squall.platform.report.images import Animation, animate

MAX_OPTIONS = 12
"""Of a worst case; where a classifier's labels are more, the right one alone is shown."""


@dataclass(frozen=True, slots=True)
class ClipPair:
    """A clean clip and its corrupted twin."""

    clean: np.ndarray | None = None
    """uint8 (T, H, W, 3), RGB; None when the clip cannot be shown."""
    corrupted: np.ndarray | None = None
    """uint8 (T, H, W, 3), RGB; T may differ from the clean clip's. None when there is no corruption."""
    fps: float = 1.0
    """Frames per second of both clips; the page plays them at this rate."""
    problem: str = ""
    """What a reader must know: why there is no clip, or that it is not what the model saw."""


@dataclass(frozen=True, slots=True)
class ExampleAnswer:
    """One answer of the model and whether it is right."""

    text: str
    correct: bool

    @property
    def final(self) -> str | None:
        """What stands in the answer tag, to be shown first; None without one."""
        return extract_answer(self.text)


@dataclass(frozen=True, slots=True)
class ExampleClip:
    """One held-out question with both of its clips and the answers before and after training."""

    sample: VideoSample
    corruption: str
    """Kind, such as ``rain``."""
    severity: float | None
    """In [0, 1]; None where several corruptions of different severity make one."""
    clips: ClipPair
    clean_before: ExampleAnswer
    clean_after: ExampleAnswer
    corrupted_before: ExampleAnswer
    corrupted_after: ExampleAnswer


@dataclass(frozen=True, slots=True)
class TrainingAnswer:
    """One sampled answer and what it earned."""

    branch: str
    text: str
    reward: float | None
    correct: bool | None
    """None where accuracy was not computed."""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One training question with its clips and all its sampled answers."""

    sample: VideoSample
    step: int
    """Counted from 1, as the curves count."""
    reward: float
    """Mean over the answers for which it was chosen."""
    corruption: str | None
    """Kind, such as ``rain``; None without a corruption."""
    severity: float | None
    """In [0, 1]; None where several corruptions of different severity make one."""
    clips: ClipPair
    answers: tuple[TrainingAnswer, ...]


@dataclass(frozen=True, slots=True)
class WorstCase:
    """A question that is answered right about the clean clip and wrong about the corrupted one."""

    model: str
    """Label of the model that answered."""
    sample: VideoSample
    corruption: str
    """Kind, such as ``rain``."""
    severity: float | None
    """In [0, 1]; None where several corruptions of different severity make one."""
    clips: ClipPair
    clean: ExampleAnswer
    corrupted: ExampleAnswer
    confidence: float | None
    """Of the clean answer, in [0, 1]; None where it is not known."""
    failed: int
    """Kinds under which it is wrong at some severity."""
    asked: int
    """Kinds under which it was asked."""


def held_out_card(example: ExampleClip) -> dict[str, Any]:
    """What the template draws of a held-out question."""
    return _card(example) | {"answers": [
        ("clean", example.clean_before, example.clean_after),
        ("corrupted", example.corrupted_before, example.corrupted_after)]}


def training_card(example: TrainingExample) -> dict[str, Any]:
    """What the template draws of a training question: per branch, equal answers once with their count, most frequent first."""
    branches = dict.fromkeys(answer.branch for answer in example.answers)
    return _card(example) | {"step": example.step, "reward": example.reward, "branches": [
        (branch, _tally([answer for answer in example.answers if answer.branch == branch])) for branch in branches]}


def worst_case_card(example: WorstCase) -> dict[str, Any]:
    """What the template draws of a worst case."""
    options = [] if len(example.sample.options) > MAX_OPTIONS else _card_options(example.sample)
    said = (("clean", example.clean), ("corrupted", example.corrupted))
    return _card(example) | {"case": example, "options": options,
                             "answers": [(name, answer, extract_think(answer.text)) for name, answer in said]}


def _tally(answers: Sequence[TrainingAnswer]) -> list[dict[str, Any]]:
    """Answers with the same final answer and reward, counted; the first one's text stands for them."""
    counts = Counter((extract_answer(a.text) or _shortened(a.text), a.reward, a.correct) for a in answers)
    texts: dict[tuple, str] = {}
    for a in answers:
        texts.setdefault((extract_answer(a.text) or _shortened(a.text), a.reward, a.correct), a.text)
    return [{"final": key[0], "reward": key[1], "correct": key[2], "count": count, "text": texts[key]}
            for key, count in counts.most_common()]


def _shortened(text: str, length: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[:length - 1] + "…"


def _card(example: ExampleClip | TrainingExample | WorstCase) -> dict[str, Any]:
    pair = example.clips
    clips: list[tuple[str, str, Animation]] = []
    severity = "" if example.severity is None else f"severity {example.severity:.2g}"
    if pair.clean is not None:
        clips.append(("clean", "", animate(pair.clean, pair.fps)))
    if pair.corrupted is not None and example.corruption is not None:
        caption = example.corruption.replace("_", " ")
        clips.append((caption, severity, animate(pair.corrupted, pair.fps)))
    corruption = ", ".join(filter(None, (example.corruption.replace("_", " "), severity))) if example.corruption else ""
    return {"sample": example.sample, "clips": clips, "problem": pair.problem, "corruption": corruption,
            "options": _card_options(example.sample)}


def _card_options(sample: VideoSample) -> list[tuple[str, bool]]:
    return [(option, is_solution(option, sample.solution)) for option in sample.options]


def is_solution(option: str, solution: str) -> bool:
    """Whether an option such as ``B. blue`` is the one that a solution names by letter or by words."""
    letter, dot, words = option.partition(".")
    accepted = {option.strip(), words.strip()} | ({letter.strip()} if dot else set())
    return solution.strip().rstrip(".") in accepted
