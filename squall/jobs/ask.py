"""`squall ask VIDEO QUESTION`: one question about one clip, clean and corrupted, answered on the path that training uses.

Everything that can be refused is refused before Ray starts. Then one engine, one corruption worker and one reward worker answer
the question about the clean clip and about each corruption of it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import ray
from rich.console import Console

from squall.actors.cluster import start_ray, stop_ray
from squall.actors.groups import SampledOutcome
from squall.actors.resources import ResourcePlan
from squall.actors.sampling import GroupSampler
from squall.algorithms.accuracy import canonical_answer, majority_answer
from squall.jobs.console import counted, phase, say
from squall.jobs.question import AskConfig, Question, prepare
from squall.jobs.session import rollout_demands
from squall.platform.errors import SquallError
from squall.platform.prompts import extract_answer, extract_think
from squall.platform.records import Clip, CorruptionSpec, MediaType, ProblemType, Rollout, VideoSample
from squall.platform.report.asked import AskedAnswer, AskedView, print_asked, write_asked

__all__ = ["AskConfig", "run"]

RIGHT_ABOVE = 0.5
"""Accuracy above which an answer is marked right."""


@dataclass(frozen=True)
class View:
    """One input to the model, as it was, and its answers."""

    corruption: CorruptionSpec | None
    clip: Clip
    rollouts: tuple[Rollout, ...]
    scores: tuple[float, ...] | None
    """Accuracy of each answer in [0, 1]; None without a solution."""

    @property
    def name(self) -> str:
        return "clean" if self.corruption is None else self.corruption.name


def run(config: AskConfig) -> int:
    """Ask, print the answers side by side, and write the page where one is wanted."""
    console, seconds = Console(), {}
    question = prepare(config)
    views = ask(question, config.ray_address, console, seconds)
    shown = [to_asked(view, question.sample, views[0]) for view in views]
    print_asked(question.sample, shown, console)
    say(console, closing_line(question, views, seconds))
    if config.page is not None:
        command = shlex.join(["squall", *sys.argv[1:]])
        page = write_asked(config.page, question.sample, shown, facts(config, question, views), command)
        say(console, f"page: {page}")
    return 0


def ask(question: Question, ray_address: str | None, console: Console, seconds: dict[str, float]) -> list[View]:
    """Start the actors, ask about every clip, stop. `seconds` receives how long each phase took.

    Raises:
        SquallError: the actors cannot start, or a clip got no answer.
    """
    engine, workers = question.sampler.engine, question.sampler.workers
    demands = ResourcePlan(tuple(rollout_demands(engine, workers)))
    sampler = GroupSampler(question.sampler)
    with phase(console, "starting Ray", "ray", seconds):
        cluster = start_ray(ray_address)
    try:
        demands.check(cluster)
        with phase(console, f"starting the engine with {question.sampler.model.path} (tens of seconds)", "engine", seconds):
            sampler.start()
        with phase(console, f"asking about {counted(len(question.plans), 'clip')}", "answers", seconds):
            return [to_view(outcome) for outcome in sampler.run(question.plans)]
    finally:
        sampler.stop()
        stop_ray()


def to_view(outcome: SampledOutcome) -> View:
    """An outcome with the clip that the model saw. Raises SquallError where there is none."""
    if outcome.scored is None:
        raise SquallError(f"{outcome.plan.group_id}: {outcome.failure.message}")
    group = outcome.scored.sampled
    (clip,) = ray.get(list(outcome.clips.values()))
    scores = tuple(row["accuracy"] for row in outcome.scored.rewards) if group.sample.solution else None
    # The clip belongs to the object store, which ends before it is shown.
    return View(group.corruption, replace(clip, frames=clip.frames.copy()), group.rollouts, scores)


def to_asked(view: View, sample: VideoSample, clean: View) -> AskedView:
    """A view as table and page show it: answers that mean the same are counted together, the most frequent first."""
    kind = sample.problem_type
    usual = majority_answer([final_answer(rollout) for rollout in clean.rollouts], kind)
    alike: dict[str, list[int]] = {}
    for index, rollout in enumerate(view.rollouts):
        alike.setdefault(canonical_answer(final_answer(rollout), kind), []).append(index)
    answers = []
    for meaning, indices in sorted(alike.items(), key=lambda item: -len(item[1])):
        first = view.rollouts[indices[0]]
        verdict, good = None, None
        if view.scores is not None:
            good = view.scores[indices[0]] > RIGHT_ABOVE
            verdict = score_text(view.scores[indices[0]])
        elif view.corruption is not None:
            good = meaning == usual
            verdict = "as clean" if good else "changed"
        answers.append(AskedAnswer(with_words(final_answer(first), sample), extract_think(first.text), first.text, len(indices),
                                   verdict, good, oddity(first, sample)))
    severity = None if view.corruption is None else view.corruption.severity
    return AskedView(view.name, severity, view.clip.frames, view.clip.fps, tuple(answers))


def final_answer(rollout: Rollout) -> str:
    """What stands in the answer tag; the whole text of an answer without one."""
    answer = extract_answer(rollout.text)
    return rollout.text.strip() if answer is None else answer


def with_words(answer: str, sample: VideoSample) -> str:
    """``B`` as ``B. blue`` where that is an option."""
    if sample.problem_type is not ProblemType.MULTIPLE_CHOICE:
        return answer
    letter = canonical_answer(answer, sample.problem_type)
    return next((option for option in sample.options if canonical_answer(option, sample.problem_type) == letter), answer)


def score_text(score: float) -> str:
    """``right`` or ``wrong``, with the score where it is graded."""
    word = "right" if score > RIGHT_ABOVE else "wrong"
    return word if score in (0.0, 1.0) else f"{word}, {score:.2f}"


def oddity(rollout: Rollout, sample: VideoSample) -> str | None:
    """What a reader must know to judge an answer."""
    if rollout.finish_reason == "length":
        return f"cut off after max_tokens {rollout.sampling.max_tokens:,}"
    if extract_answer(rollout.text) is None:
        return "no answer tag: the whole text counts as none"
    kind = sample.problem_type
    letters = {canonical_answer(option, kind) for option in sample.options}
    if kind is ProblemType.MULTIPLE_CHOICE and canonical_answer(final_answer(rollout), kind) not in letters:
        return "none of the options"
    return None


def closing_line(question: Question, views: Sequence[View], seconds: dict[str, float]) -> str:
    """What it took."""
    rollouts = [rollout for view in views for rollout in view.rollouts]
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    start = seconds["ray"] + seconds["engine"]
    return (f"{counted(len(rollouts), 'answer')}, {counted(tokens, 'token')} in {seconds['answers']:.1f} s, after "
            f"{start:.1f} s to start; prompt {question.prompt_tokens:,} tokens, {question.clip_tokens:,} of them the clip's")


def facts(config: AskConfig, question: Question, views: Sequence[View]) -> dict[str, str]:
    """What the page says about how the answers came about."""
    sampling, clip = question.plans[0].sampling, views[0].clip
    height, width = clip.frames.shape[1:3]
    return {
        "model": config.model.path, "weights": f"version {views[0].rollouts[0].weight_version}",
        "type": str(question.sample.problem_type), "temperature": f"{sampling.temperature:g}", "seed": str(config.seed),
        "max tokens": f"{sampling.max_tokens:,}",
        "model saw": f"{counted(len(clip.frames), 'frame')} of {width} x {height} pixels"
                     + (f" at {clip.fps:.3g} a second" if clip.media_type is MediaType.VIDEO else ""),
        "prompt": f"{question.prompt_tokens:,} tokens, {question.clip_tokens:,} of them the clip's",
    }
