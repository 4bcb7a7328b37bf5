"""Tries a reward and says what is wrong with it: for rewards that users bring, and for ours.

    for result in check_reward("my_rewards:brief"):
        print(result.name, result.status, result.message)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from operator import attrgetter

from squall.algorithms.checking import CheckResult, Failed, Noted, best_ms, fresh_fingerprint, one_line, try_check
from squall.algorithms.rewards import LEARNER_REWARDS, REWARDS, RewardConfig, RewardFunction, load_rewards, score_group
from squall.platform.errors import ConfigError, SquallError, nearest
from squall.platform.records import (
    Branch,
    CorruptionSpec,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    VideoSample,
)

SLOW_MS = 50.0
"""Milliseconds for a group above which one reward worker may not keep up with a few engines."""
SPEED_CALLS = 3
USUAL_RANGE = (-1.0, 1.0)
QUESTIONS = {
    ProblemType.MULTIPLE_CHOICE: ("B", ("A", "C. white", "(b)"), ("A. red", "B. blue", "C. white")),
    ProblemType.NUMERICAL: ("3", ("4", "3.00", "three"), ()),
    ProblemType.OCR: ("WET FLOOR", ("WET DOOR", "", "wet floor"), ()),
    ProblemType.FREE_FORM: ("a red car turns left", ("a car turns", "a dog", "A red car turns left."), ()),
    ProblemType.REGRESSION: ("2.5", ("2.4", "250", "-1"), ()),
}
"""By problem type: solution, other answers, options."""
BRANCH_SIZES = {Branch.CLEAN: 4, Branch.CORRUPTED: 8, Branch.SHUFFLED: 4}
ODD_TEXTS = {
    "empty answers": ("", "<think></think><answer></answer>", "<answer> </answer>"),
    "no answer tag": ("B", "<think>The shape is blue.</think>B", "<think>It goes on and on", "<answer>B"),
    "long answers": (f"<think>{'The car turns left. ' * 5000}</think><answer>{'B ' * 2000}</answer>", "x" * 50_000),
    "other scripts": ("<think>青い車が左に曲がる。</think><answer>青</answer>", "<think>ок</think><answer>٣</answer>",
                      "<think>🚗➡️</think><answer>\u202eB\u0000</answer>"),
}


def check_reward(name: str) -> Iterator[CheckResult]:
    """Check a reward by its name or as ``module:function``; yields results as they come. One that failed stops no other.

    Only the first ones, that it can be imported and called on a group, must pass for the rest to run. It starts a Python
    process of its own for one of them.
    """
    found = try_check("found", lambda: _check_found(name))
    yield found
    if found.status == "failed":
        return
    called = try_check("called", lambda: _check_called(name))
    yield called
    if called.status == "failed":
        return
    checks: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("problem types", _check_types), ("branches", _check_branches),
        *((title, lambda name, texts=texts: _check_odd(name, texts)) for title, texts in ODD_TEXTS.items()),
        ("arguments", _check_untouched), ("same again", _check_repeatable), ("order", _check_order), ("range", _check_range),
        ("speed", _check_speed), ("by reference", _check_named), ("same elsewhere", _check_fresh_process))
    for title, check in checks:
        yield try_check(title, lambda check=check: check(name))


def fingerprint(name: str) -> str:
    """What a reward gives for all made-up groups, to the last digit: the same in every process."""
    return repr([_score(name, group) for group in _good_groups(name)])


def make_group(problem_type: ProblemType = ProblemType.MULTIPLE_CHOICE, media_type: MediaType = MediaType.VIDEO,
               branches: Sequence[Branch] = tuple(Branch), texts: Sequence[str] = ()) -> SampledGroup:
    """A made-up question with answers in some branches; half are right unless `texts` says them."""
    solution, others, options = QUESTIONS[problem_type]
    sample_id = f"{problem_type} {media_type}"
    sample = VideoSample(sample_id, "clips/0001.mp4", media_type, "What is seen?", problem_type, solution, options,
                         metadata={"source": "made up", "tags": ["street"]})
    rollouts: list[Rollout] = []
    for branch in branches:
        for index in range(BRANCH_SIZES[branch]):
            text = texts[index % len(texts)] if texts else _said(solution if index % 2 == 0 else others[index // 2 % 3], index)
            tokens = tuple(range(max(1, len(text.split()))))
            rollouts.append(Rollout(sample_id, "g#0", branch, branch.value, index, SamplingSpec(), tokens, text,
                                    (-0.5,) * len(tokens), 0, "stop"))
    spec = CorruptionSpec("weather", "fog", 0.5, 7) if Branch.CORRUPTED in branches else None
    return SampledGroup("g", sample, "What is seen?", spec, {branch: branch.value for branch in branches}, tuple(rollouts))


def _said(answer: str, index: int) -> str:
    reasoning = " ".join(["The shape moves to the left while the camera stands still."] * (1 + 12 * index))
    return f"<think>{reasoning}</think><answer>{answer}</answer>"


def _good_groups(name: str) -> Iterator[SampledGroup]:
    """Every problem type, an image, and answers without a tag: those that a reward does not fail on, which has its own line."""
    groups = [make_group(problem_type) for problem_type in ProblemType]
    groups.append(make_group(media_type=MediaType.IMAGE, branches=(Branch.CLEAN, Branch.CORRUPTED)))
    groups.append(make_group(texts=(_said("B", 1), *ODD_TEXTS["no answer tag"][:2], _said("(b)", 2), _said("C", 3))))
    for group in groups:
        with suppress(SquallError):
            _score(name, group)
            yield group


def summary(reward: RewardFunction) -> str:
    """The first line of a reward's docstring; empty where it has none."""
    return ((getattr(reward, "__doc__", None) or "").strip().splitlines() or [""])[0]


def find_reward(name: str) -> RewardFunction:
    """Look a reward up by its name or as ``module:function``. Raises ConfigError with the nearest name and the allowed ones."""
    if name in LEARNER_REWARDS:
        raise ConfigError(f"reward '{name}' needs the policy's weights: the learner computes it, so it cannot be tried here")
    if ":" not in name and name not in REWARDS:
        raise ConfigError(f"unknown reward '{name}'.{nearest(name, REWARDS)} Allowed: {', '.join(REWARDS)}, or module:function")
    return load_rewards(RewardConfig(weights={name: 1.0}))[name]


def _check_found(name: str) -> str:
    reward = find_reward(name)
    where = f"{getattr(reward, '__module__', '?')}.{getattr(reward, '__qualname__', type(reward).__name__)}"
    return f"{where}: {summary(reward) or 'no docstring'}"


def _score(name: str, group: SampledGroup, config: RewardConfig | None = None) -> list[float]:
    """Values of a reward, checked to be one finite number for each rollout, or the error that training would end with."""
    scored = score_group(group, config or RewardConfig(weights={name: 1.0}))
    return [row[name] for row in scored.rewards]


def _check_called(name: str) -> str:
    group = make_group()
    values = _score(name, group)
    sizes = ", ".join(f"{size} {branch}" for branch, size in BRANCH_SIZES.items())
    return f"{len(values)} finite numbers for a group of {sizes} answers"


def _check_types(name: str) -> str:
    for problem_type in ProblemType:
        _score(name, make_group(problem_type))
    return ", ".join(ProblemType)


def _check_branches(name: str) -> str:
    cases = {"clean alone": (Branch.CLEAN,), "corrupted alone": (Branch.CORRUPTED,),
             "corrupted and shuffled": (Branch.CORRUPTED, Branch.SHUFFLED)}
    for title, branches in cases.items():
        _in_words(f"a group with {title}", lambda branches=branches: _score(name, make_group(branches=branches)))
    pictured = make_group(media_type=MediaType.IMAGE, branches=(Branch.CLEAN, Branch.CORRUPTED))
    _in_words("an image, which has no shuffled answers", lambda: _score(name, pictured))
    return f"{', '.join(cases)}; an image without shuffled"


def _in_words(what: str, check: Callable[[], object]) -> None:
    try:
        check()
    except SquallError as error:
        raise Failed(f"{what}: {one_line(error)}") from None


def _check_odd(name: str, texts: Sequence[str]) -> str:
    for problem_type in ProblemType:
        _score(name, make_group(problem_type, texts=texts))
    return "finite numbers for " + ", ".join(repr(text) if len(text) < 60 else f"{len(text):,} characters" for text in texts)


def _check_untouched(name: str) -> str:
    for group in _good_groups(name):
        config = RewardConfig(weights={name: 1.0})
        before = deepcopy((group, config.model_dump()))
        _score(name, group, config)
        if (group, config.model_dump()) != before:
            raise Failed(f"it changes what it is given (sample {group.sample.id}), which other rewards get too; work on a copy")
    return "group and configuration are as they were"


def _check_repeatable(name: str) -> str:
    for group in _good_groups(name):
        first, second = _score(name, group), _score(name, group)
        if first != second:
            raise Failed(f"the same group gave {_difference(first, second)} the second time (sample {group.sample.id}); draw "
                         "no random numbers and keep nothing between calls: another worker may score a group again")
    return "the same groups get the same numbers"


def _check_fresh_process(name: str) -> str:
    if fresh_fingerprint(__name__, name) != fingerprint(name):
        raise Failed("a new process gives other numbers; let nothing depend on hash(), the clock, the process or its state")
    return "a new process gives the same numbers"


def _check_order(name: str) -> str:
    for group in _good_groups(name):
        turned = replace(group, rollouts=tuple(
            replace(rollout, index=index) for branch in Branch for index, rollout in enumerate(reversed(group.branch(branch)))))
        expected = [value for branch in Branch for value in reversed(_of_branch(group, _score(name, group), branch))]
        if not _alike(expected, _score(name, turned)):
            raise Noted(f"answers of a branch in another order get other numbers (sample {group.sample.id}); their order is "
                        "chance, so let a number follow from the answers alone")
    return "answers get the same numbers whatever their order within a branch"


def _of_branch(group: SampledGroup, values: Sequence[float], branch: Branch) -> list[float]:
    return [value for rollout, value in zip(group.rollouts, values, strict=True) if rollout.branch is branch]


def _alike(first: Sequence[float], second: Sequence[float]) -> bool:
    """Equal but for the order in which sums are rounded."""
    return all(abs(a - b) <= 1e-9 * max(1.0, abs(a)) for a, b in zip(first, second, strict=True))


def _check_named(name: str) -> str:
    reward = find_reward(name)
    module, own = getattr(reward, "__module__", None), getattr(reward, "__qualname__", None)
    if own is None:
        raise Noted("it is an object that can be called; Squall's workers import it by name, so that each has its own copy")
    try:
        found = attrgetter(own)(importlib.import_module(str(module)))
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is not reward:
        raise Noted(f"it calls itself {module}.{own}, which is not it. Workers import it by the name that is given and need "
                    "not care; whatever sends it to another process does: write it with `def` at the top of its module")
    return "workers find the same function by its name"


def _check_range(name: str) -> str:
    values = [value for group in _good_groups(name) for value in _score(name, group)]
    low, high = min(values), max(values)
    found = f"from {low:.3g} to {high:.3g}"
    if low == high:
        raise Noted(f"{low:.3g} for every answer tried, right or wrong, long or short; what all answers earn teaches nothing")
    if low < USUAL_RANGE[0] or high > USUAL_RANGE[1]:
        raise Noted(f"{found}: beyond [-1, 1] it outweighs the others; set its weight accordingly, or scale it")
    return found


def _check_speed(name: str) -> str:
    groups = list(_good_groups(name))
    own_ms = best_ms(lambda: [_score(name, group) for group in groups], SPEED_CALLS) / len(groups)
    text = f"{own_ms:.2f} ms for a group of {sum(BRANCH_SIZES.values())} answers, accuracy included"
    if own_ms > SLOW_MS:
        raise Noted(f"{text}: a reward worker scores at most {1000 / own_ms:.3g} groups a second; raise workers.reward_count")
    return text


def _difference(first: Sequence[float], second: Sequence[float]) -> str:
    place = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    return f"{second[place]:.6g} in place of {first[place]:.6g}"
