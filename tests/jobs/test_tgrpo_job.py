"""The T-GRPO job's own logic: the order of questions, what is sampled for each, and the shuffled-reward control."""

from __future__ import annotations

from pathlib import Path

import pytest

from squall.jobs.rollout_stream import permute_rewards, plan_group
from squall.jobs.tgrpo import TGRPOJobConfig, run
from squall.platform.config import load_config
from squall.platform.errors import ConfigError
from squall.platform.records import (
    Branch,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    ScoredGroup,
    VideoSample,
)


def config(*overrides: str) -> TGRPOJobConfig:
    return load_config(TGRPOJobConfig, "@demo", overrides)


def test_presets_of_rova() -> None:
    meant, ran = (load_config(TGRPOJobConfig, "@tgrpo", [f"preset={name}"]) for name in ("rova", "rova_code"))
    assert meant.difficulty.reading == "answers" and meant.tgrpo.trained_branch is Branch.CORRUPTED and meant.needs_judge
    assert meant.difficulty.memory.max_rechecks == 3 and meant.difficulty.confident_above == 0.8
    assert ran.tgrpo.trained_branch is Branch.CLEAN and ran.tgrpo.contrast == "off" and ran.difficulty.reading == "off"
    assert ran.rewards.alignment.reference == "paired" and ran.rewards.alignment.anchor is Branch.CORRUPTED


def test_a_judge_without_its_key_is_refused_before_anything_is_there(tmp_path: Path) -> None:
    endpoint = "judge={kind: endpoint, base_url: http://localhost:1/v1, model: m, api_key_env: NO_KEY}"
    judged = load_config(TGRPOJobConfig, "@rova", [f"output={tmp_path}", "name=a", endpoint])
    with pytest.raises(ConfigError, match="judge.api_key_env = NO_KEY: this environment variable is not set"):
        run(judged)
    assert not list(tmp_path.iterdir())


def sample(number: int) -> VideoSample:
    return VideoSample(f"s{number}", f"{number}.mp4", MediaType.VIDEO, "?", ProblemType.MULTIPLE_CHOICE, "A")


def test_a_question_meets_another_corruption_in_the_next_epoch() -> None:
    specs = [plan_group(config(), sample(0), epoch).corruption for epoch in range(4)]
    assert len({(spec.kind, spec.seed) for spec in specs}) == 4
    assert all(0.0 <= spec.severity <= 0.9 for spec in specs)


def test_optimising_clean_answers_samples_no_corrupted_branch() -> None:
    plan = plan_group(config("tgrpo.optimise=clean"), sample(0), 0)
    assert plan.corruption is None
    assert plan.branches == {Branch.CLEAN: 8, Branch.SHUFFLED: 4}


def scored(group: int) -> ScoredGroup:
    rollouts = tuple(Rollout(f"s{group}", "a", branch, "h", i, SamplingSpec(), (1,), "", (-1.0,), 0, "stop")
                     for branch in (Branch.CLEAN, Branch.CORRUPTED) for i in range(4))
    sampled = SampledGroup(f"g{group}", sample(group), "", None, {}, rollouts)
    rewards = tuple({"accuracy": float(rollout.branch == Branch.CLEAN), "id": float(10 * group + i)}
                    for i, rollout in enumerate(rollouts))
    return ScoredGroup(sampled, rewards)


def test_permuted_rewards_are_the_same_rewards_elsewhere_in_their_branch() -> None:
    def ids(groups: list[ScoredGroup]) -> list[float]:
        return [row["id"] for group in groups for row in group.rewards]

    groups = [scored(g) for g in range(3)]
    permuted = [permute_rewards(group, seed=3) for group in groups]
    assert sorted(ids(permuted)) == sorted(ids(groups)) and ids(permuted) != ids(groups)
    for group in permuted:
        for rollout, row in zip(group.sampled.rollouts, group.rewards, strict=True):
            assert row["accuracy"] == float(rollout.branch == Branch.CLEAN)


def test_too_small_a_pool_for_the_batch_is_refused() -> None:
    with pytest.raises(Exception, match="max_sampled_groups 8 is below groups_per_step 24"):
        config("max_sampled_groups=8")


def test_a_preset_fills_what_the_configuration_leaves_open() -> None:
    published = load_config(TGRPOJobConfig, "@tgrpo", ["preset=video_r1", "tgrpo.kl_beta=0.2"])
    assert published.tgrpo.contrast == "video_r1" and published.tgrpo.optimise == "clean"
    assert published.tgrpo.kl_beta == 0.2 and published.rewards.published_quirks
    with pytest.raises(ConfigError, match="unknown preset 'video-r1'. Did you mean 'video_r1'"):
        load_config(TGRPOJobConfig, "@tgrpo", ["preset=video-r1"])


@pytest.mark.parametrize(("overrides", "message"), [
    (["engine.weight_transfer=nccl"], "weight_transfer nccl moves weights between GPUs and engine.gpus is 0"),
    (["difficulty.reading=answers", "tgrpo.optimise=clean"], "set tgrpo.corrupted_samples, or reading: self"),
    (["difficulty.reading=judge"], "judge.kind rules cannot see: take engine or endpoint"),
    (["difficulty.reading=answers", "rollouts_only=true"], "set difficulty.memory.size to 0"),
    (["model.lora={}", "learner.optimiser.zero_stage=3"], "adapters cannot be merged into sharded weights"),
])
def test_what_does_not_go_together_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(*overrides)
