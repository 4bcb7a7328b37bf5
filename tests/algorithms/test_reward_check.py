"""The checker of rewards: ours pass it, and each way to get one wrong has a line that says what and how to mend it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from squall.algorithms.checking import CheckResult, fresh_fingerprint
from squall.algorithms.reward_check import BRANCH_SIZES, check_reward, find_reward, fingerprint, make_group, summary
from squall.algorithms.rewards import REWARDS
from squall.platform.errors import ConfigError
from squall.platform.records import Branch, MediaType

REWARD_MODULE = '''
import os, random, time
from collections import Counter

print("a module may print while it is imported")

def brief(context):
    """Short answers earn more than long ones.

    More words.
    """
    return [1 / max(1, len(rollout.token_ids)) for rollout in context.group.rollouts]

def raises(context):
    raise ValueError("no judge")

def one_short(context):
    return [0.0] * (len(context.group.rollouts) - 1)

def words(context):
    return ["good"] * len(context.group.rollouts)

def single(context):
    return 1.0

def infinite(context):
    return [float("inf")] * len(context.group.rollouts)

def needs_a_tag(context):
    return [float(answer.startswith("B")) for answer in context.answers]

def needs_words(context):
    return [len(rollout.text) / len(rollout.text.split()) / 100 for rollout in context.group.rollouts]

def chooses_only(context):
    return [float(a == context.group.sample.options[0]) for a in context.answers]

def needs_shuffled(context):
    from squall.platform.records import Branch
    first = context.indices(Branch.SHUFFLED)[0]
    return [context.accuracies[i] - context.accuracies[first] for i in range(len(context.answers))]

def short_only(context):
    return [2.0 ** (len(r.text) / 30) / 2.0 ** 900 for r in context.group.rollouts]

def latin_only(context):
    return [len(r.text.encode("latin-1")) / 1e5 for r in context.group.rollouts]

def writes(context):
    context.group.sample.metadata["tags"].append("seen")
    return brief(context)

def rewrites_the_weights(context):
    context.config.weights.clear()
    return brief(context)

def lottery(context):
    return [random.random() for _ in context.group.rollouts]

calls = Counter()
def remembers(context):
    calls["all"] += 1
    return [1 / calls["all"]] * len(context.group.rollouts)

def by_process(context):
    return [(os.getpid() + i) % 10007 / 10007 for i in range(len(context.group.rollouts))]

def by_place(context):
    return [1 / (1 + rollout.index) for rollout in context.group.rollouts]

def constant(context):
    return [1.0] * len(context.group.rollouts)

def wide(context):
    return [100 * value for value in context.accuracies]

def slow(context):
    time.sleep(0.06)
    return context.accuracies

unnamed = lambda context: context.accuracies

class Scorer:
    """An object that can be called."""
    def __call__(self, context):
        return context.accuracies

scorer = Scorer()
not_a_function = 3
'''


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of a module of users' rewards."""
    folder = tmp_path_factory.mktemp("rewards")
    Path(folder, "users_rewards.py").write_text(REWARD_MODULE)
    Path(folder, "broken_rewards.py").write_text("def brief(context:\n")
    sys.path.insert(0, str(folder))
    yield "users_rewards"
    sys.path.remove(str(folder))


def results(name: str) -> dict[str, CheckResult]:
    return {result.name: result for result in check_reward(name)}


def until(name: str, check: str) -> dict[str, CheckResult]:
    """Results up to a check: the last one of all starts a process."""
    found = {}
    for result in check_reward(name):
        found[result.name] = result
        if result.name == check:
            break
    return found


def names(found: dict[str, CheckResult], status: str) -> set[str]:
    return {name for name, result in found.items() if result.status == status}


@pytest.mark.parametrize("name", REWARDS)
def test_our_rewards_pass_and_say_what_they_give(name: str) -> None:
    found = until(name, "by reference")
    assert names(found, "failed") == names(found, "note") == set(), found
    assert len(found) == 14 and " ms for a group of 16 answers" in found["speed"].message
    line = summary(REWARDS[name])
    assert 20 < len(line) < 110 and line.endswith("."), f"the first line of {name}'s docstring is what `squall reward` lists"


def test_our_rewards_give_the_same_numbers_in_a_new_process() -> None:
    """What "same elsewhere" tries on each; one process, which imports for seconds, does it for all of them."""
    elsewhere = fresh_fingerprint("fingerprints", " ".join(REWARDS))
    assert elsewhere == " ".join(fingerprint(name) for name in REWARDS) and "nan" not in elsewhere


def test_a_good_reward_of_a_user_passes(module: str) -> None:
    found = results(f"{module}:brief")
    assert names(found, "passed") == set(found) and len(found) == 15, found
    assert found["found"].message == "users_rewards.brief: Short answers earn more than long ones."
    assert found["called"].message == "16 finite numbers for a group of 4 clean, 8 corrupted, 4 shuffled answers"


@pytest.mark.parametrize(("function", "check", "says"), [
    ("absent", "found", "has no attribute 'absent'"),
    ("not_a_function", "found", "not_a_function is a int, not a function"),
    ("raises", "called", "failed on sample multiple choice video: ValueError: no judge"),
    ("one_short", "called", "returned 15 numbers for sample multiple choice video; expected 16, one per rollout"),
    ("words", "called", "returned list for sample multiple choice video; expected 16 numbers, one per rollout"),
    ("single", "called", "returned float for sample multiple choice video; expected 16 numbers"),
    ("infinite", "called", "returned a value that is not finite"),
    ("chooses_only", "problem types", "failed on sample numerical video: IndexError"),
    ("needs_shuffled", "branches", "a group with clean alone: reward 'users_rewards:needs_shuffled' failed"),
    ("needs_words", "empty answers", "ZeroDivisionError"),
    ("needs_a_tag", "no answer tag", "'NoneType' object has no attribute 'startswith'"),
    ("short_only", "long answers", "OverflowError"),
    ("latin_only", "other scripts", "UnicodeEncodeError"),
    ("writes", "arguments", "it changes what it is given (sample multiple choice video)"),
    ("rewrites_the_weights", "arguments", "it changes what it is given"),
    ("lottery", "same again", "the second time (sample multiple choice video); draw no random numbers"),
    ("remembers", "same again", "keep nothing between calls"),
    ("by_process", "same elsewhere", "a new process gives other numbers"),
])
def test_each_mistake_has_its_line(module: str, function: str, check: str, says: str) -> None:
    found = until(f"{module}:{function}", check)[check]
    assert found.status == "failed" and says in found.message and "\n" not in found.message, found


@pytest.mark.parametrize(("function", "failing"), [
    ("needs_a_tag", {"empty answers", "no answer tag", "long answers"}), ("chooses_only", {"problem types"}),
    ("writes", {"arguments"}), ("by_process", {"same elsewhere"}), ("latin_only", {"other scripts"}),
])
def test_one_mistake_does_not_fail_the_other_checks(module: str, function: str, failing: set[str]) -> None:
    odd = {"empty answers", "no answer tag", "long answers", "other scripts"} if function == "chooses_only" else set()
    assert names(results(f"{module}:{function}"), "failed") == failing | odd


@pytest.mark.parametrize(("function", "check", "says"), [
    ("by_place", "order", "answers of a branch in another order get other numbers"),
    ("constant", "range", "1 for every answer tried, right or wrong, long or short"),
    ("wide", "range", "from 0 to 100: beyond [-1, 1] it outweighs the others"),
    ("slow", "speed", "a reward worker scores at most 1"),
    ("unnamed", "by reference", "it calls itself users_rewards.<lambda>, which is not it"),
    ("scorer", "by reference", "it is an object that can be called"),
])
def test_what_a_user_should_know_is_a_note_and_not_a_failure(module: str, function: str, check: str, says: str) -> None:
    found = until(f"{module}:{function}", check)
    assert names(found, "failed") == set() and names(found, "note") == {check}, found
    assert says in found[check].message


def test_a_reward_of_the_learner_is_said_to_be_one() -> None:
    (found,) = check_reward("kl_consistency")
    assert found.status == "failed" and "the learner computes it" in found.message


def test_nothing_is_tried_on_what_cannot_be_called(module: str) -> None:
    assert list(results(f"{module}:raises")) == ["found", "called"]
    assert list(results("acuracy")) == ["found"] and "Did you mean 'accuracy'?" in results("acuracy")["found"].message
    broken = results("broken_rewards:brief")
    assert list(broken) == ["found"] and broken["found"].message.startswith("SyntaxError: ")
    with pytest.raises(ConfigError, match="No module named 'no_rewards'"):
        find_reward("no_rewards:brief")


def test_made_up_groups_have_right_and_wrong_answers_of_every_length_in_every_branch() -> None:
    group = make_group()
    assert {branch: len(group.branch(branch)) for branch in Branch} == BRANCH_SIZES
    lengths = [len(rollout.token_ids) for rollout in group.rollouts]
    assert min(lengths) < 20 and max(lengths) > 512 and any(320 <= length <= 512 for length in lengths)
    pictured = make_group(media_type=MediaType.IMAGE, branches=(Branch.CLEAN,))
    assert pictured.corruption is None and {rollout.branch for rollout in pictured.rollouts} == {Branch.CLEAN}
