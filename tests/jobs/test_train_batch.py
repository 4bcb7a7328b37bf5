"""What the learner is given of a step's groups, and what is stored of what it found: both make the same batch again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from squall.actors.clip_comparison import ClipComparison
from squall.algorithms.tgrpo import group_advantages
from squall.jobs.rollout_stream import replay_plan
from squall.jobs.tgrpo import TGRPOJobConfig
from squall.jobs.train_batch import learner_clips, train_batch, with_consistency
from squall.platform.config import load_config
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import (
    Branch,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    ScoredGroup,
    TrainGroup,
    VideoSample,
)
from squall.platform.store import RolloutStore

WEIGHTS = "rewards.weights={kl_consistency: 0.5, accuracy: 1.0, format: 0.2}"
SIZES = {Branch.CLEAN: 2, Branch.CORRUPTED: 3, Branch.SHUFFLED: 2}


def config(*overrides: str) -> TGRPOJobConfig:
    return load_config(TGRPOJobConfig, "@demo", [WEIGHTS, *overrides])


def group(number: int, job: TGRPOJobConfig) -> TrainGroup:
    """Trained answers of both branches; the first of each branch but the shuffled one is right."""
    sample = VideoSample(f"s{number}", "a.mp4", MediaType.VIDEO, "?", ProblemType.MULTIPLE_CHOICE, "A", metadata={})
    hashes = {branch: f"{branch}-{number}" for branch in Branch}
    rollouts = tuple(Rollout(sample.id, f"{number}#0", branch, hashes[branch], i, SamplingSpec(), (i, 9), "", (-0.5, -0.1), 0,
                             "stop") for branch, count in SIZES.items() for i in range(count))
    rewards = tuple({"accuracy": float(rollout.index == 0 and rollout.branch is not Branch.SHUFFLED),
                     "format": 0.1 * rollout.index} for rollout in rollouts)
    return group_advantages(ScoredGroup(SampledGroup(f"g{number}", sample, "prompt", None, hashes, rollouts), rewards),
                            job.tgrpo, job.rewards.weights)


CLIPS = {f"{branch}-{number}": f"reference of {branch}-{number}" for number in range(2) for branch in Branch}


def test_an_answer_is_compared_with_the_other_clip_and_its_group_is_its_branch() -> None:
    job = config()
    made = train_batch(job, 3, [group(0, job), group(1, job)], CLIPS)
    assert [(s.clip_hash, s.twin.clip_hash, s.twin.group) for s in made.sequences[:5]] == [
        ("clean-0", "corrupted-0", 0)] * 2 + [("corrupted-0", "clean-0", 1)] * 3
    assert [s.twin.place for s in made.sequences] == list(range(10))
    assert len({s.twin.group for s in made.sequences}) == 4
    assert [s.twin.reward for s in made.sequences[2:5]] == pytest.approx([1.0, 0.02, 0.04])
    assert [s.twin.bonus for s in made.sequences[:5]] == [0.0, 0.0, 0.3, 0.0, 0.0]
    assert made.clips.keys() == {f"{branch}-{number}" for branch in ("clean", "corrupted") for number in range(2)}


def test_without_comparison_only_trained_clips_are_asked_for() -> None:
    job = config("rewards.weights={accuracy: 1.0}", "tgrpo.optimise=perturbed")
    made = train_batch(job, 0, [group(0, job)], CLIPS)
    assert {s.twin for s in made.sequences} == {None} and made.clips.keys() == {"corrupted-0"}


@pytest.mark.parametrize("weights", [WEIGHTS, "rewards.weights={accuracy: 1.0, kl_consistency: 0.0}"])
def test_stored_groups_hold_what_the_learner_used_and_give_it_again(weights: str, tmp_path: Path) -> None:
    job = config(weights)
    before = [group(0, job), group(1, job)]
    made = train_batch(job, 0, before, CLIPS)
    comparison = ClipComparison(job.rewards, job.tgrpo)
    comparison.begin([made.sequences])
    divergences = [0.01 * place ** 2 for place in range(10)]
    comparison.note(made.sequences, divergences)
    result = {"divergences": divergences, "advantages": comparison.advantages(made.sequences)}

    after = with_consistency(job.rewards, before, result)
    RolloutStore(tmp_path).write(0, after)
    stored = RolloutStore(tmp_path).read(0)
    assert stored == after
    for old, new in zip(before, stored, strict=True):
        assert new.advantages == group_advantages(new.scored, job.tgrpo, job.rewards.weights).advantages
        assert (new.advantages == old.advantages) == (not job.rewards.weights["kl_consistency"])
        assert new.statistics == old.statistics
        named = ["kl_consistency" in row for row in new.scored.rewards]
        assert named == [True] * 5 + [False] * 2
    assert stored[0].scored.rewards[4]["kl_consistency"] == pytest.approx(0.61878, abs=1e-5)  # exp(-3 x 0.16)
    again = train_batch(job, 0, stored, CLIPS)
    assert [s.twin for s in again.sequences] == [s.twin for s in made.sequences]


def test_a_replay_renders_both_clips_or_says_which_is_missing() -> None:
    job = config("tgrpo.optimise=perturbed")
    whole = group(0, job)
    assert set(replay_plan(job.rewards, whole).branches) == {Branch.CLEAN, Branch.CORRUPTED}
    assert set(replay_plan(config("rewards.weights={accuracy: 1.0}").rewards, whole).branches) == {Branch.CORRUPTED}
    sampled = replace(whole.scored.sampled, clip_hashes={Branch.CORRUPTED: "corrupted-0"})
    blind = replace(whole, scored=replace(whole.scored, sampled=sampled))
    with pytest.raises(DataError, match="group g0: it was sampled without its clean clip, with which kl_consistency compares"):
        learner_clips(job.rewards, blind)


@pytest.mark.parametrize(("overrides", "message"), [
    (["tgrpo.clean_samples=0", "tgrpo.optimise=perturbed"], "asks nothing about the clean one.*clean_samples to 1"),
    (["shuffle_rewards=true"], "shuffle_rewards cannot permute kl_consistency"),
])
def test_what_cannot_be_compared_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(*overrides)
    config("rewards.weights={accuracy: 1.0}", *overrides)
