"""The learner's view of a step, and what it found, put back into the step's groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from squall.actors.rollout_buffer import TrainBatch, TrainSequence, Twin
from squall.algorithms.rewards import RewardConfig, kl_consistency
from squall.algorithms.tgrpo import contrast_bonuses, sampling_rewards
from squall.platform.errors import DataError
from squall.platform.records import Branch, Rollout, TrainGroup

if TYPE_CHECKING:
    from squall.jobs.tgrpo import TGRPOJobConfig

OTHER_CLIP = {Branch.CLEAN: Branch.CORRUPTED, Branch.CORRUPTED: Branch.CLEAN}
"""What the answers of a trained branch are compared with."""


def refuse_clips_without_twin(config: TGRPOJobConfig) -> None:
    """Raises ValueError when clips are compared and only one of each two would be rendered, or in a control without signal."""
    rewards = config.rewards
    if config.shuffle_rewards and (rewards.weights.get("kl_consistency") or rewards.kl_consistency.loss_weight):
        raise ValueError("shuffle_rewards cannot permute kl_consistency, which the learner computes: give it weight 0, and "
                         "rewards.kl_consistency.loss_weight 0")
    unseen = [branch for branch in OTHER_CLIP if not config.tgrpo.branch_sizes()[branch]]
    if rewards.compares_clips and unseen and config.learn_only is None:
        raise ValueError("kl_consistency compares the clean and the corrupted clip of a question, and tgrpo asks nothing about "
                         f"the {unseen[0]} one: with optimise: perturbed set clean_samples to 1 or more, with optimise: clean "
                         "corrupted_samples; or take it out of rewards.weights and leave rewards.kl_consistency.loss_weight "
                         "at 0")


def train_batch(config: TGRPOJobConfig, step: int, groups: Sequence[TrainGroup], clips: Mapping[str, Any]) -> TrainBatch:
    """The answers that carry an advantage, and references to the clips that the learner needs for them."""
    sequences: list[TrainSequence] = []
    for number, group in enumerate(groups):
        twins = _twins(config, group, number, len(sequences)) if config.rewards.compares_clips else {}
        sequences += [TrainSequence(group.scored.sampled.prompt, rollout.clip_hash, rollout.token_ids, advantage,
                                    rollout.logprobs, twins.get(place)) for place, rollout, advantage in _trained(group)]
    needed = {name for group in groups for name in learner_clips(config.rewards, group)}
    return TrainBatch(step, tuple(sequences), {name: clips[name] for name in needed})


def _twins(config: TGRPOJobConfig, group: TrainGroup, number: int, first: int) -> dict[int, Twin]:
    """What each trained answer is compared with, by place in the group, the batch's `number`-th.

    `first` is the place in the batch of its first trained answer.
    """
    clips = group.scored.sampled.clip_hashes
    rewards = sampling_rewards(group.scored, config.rewards.weights)
    bonuses = contrast_bonuses(group.scored, config.tgrpo)
    return {place: Twin(clips[OTHER_CLIP[rollout.branch]], first + i, 2 * number + (rollout.branch is Branch.CORRUPTED),
                        float(rewards[place]), float(bonuses[place]))
            for i, (place, rollout, _) in enumerate(_trained(group))}


def with_consistency(rewards: RewardConfig, groups: Sequence[TrainGroup], result: Mapping[str, Any]) -> list[TrainGroup]:
    """Groups with the learner's reward and the advantages that it trained with, or as they are where it is no reward.

    Statistics stay those of the rewards that every group has, the ones that were left out too.

    Args:
        result: the learner's, of the batch that `train_batch` made of these groups.
    """
    if "kl_consistency" not in rewards.weights or "divergences" not in result:
        return list(groups)
    found, alpha = zip(result["divergences"], result["advantages"], strict=True), rewards.kl_consistency.alpha
    finished = []
    for group in groups:
        rows, advantages = list(group.scored.rewards), list(group.advantages)
        for place, _, _ in _trained(group):
            divergence, advantages[place] = next(found)
            rows[place] = {**rows[place], "kl_consistency": kl_consistency(divergence, alpha)}
        finished.append(replace(group, scored=replace(group.scored, rewards=tuple(rows)), advantages=tuple(advantages)))
    return finished


def learner_branches(rewards: RewardConfig, group: TrainGroup) -> list[Branch]:
    """Branches whose clips the learner needs: of the trained answers, and where clips are compared the other ones.

    Raises:
        DataError: the group was sampled without one of them.
    """
    sampled, trained = group.scored.sampled, [rollout.branch for _, rollout, _ in _trained(group)]
    branches = dict.fromkeys([*trained, *(OTHER_CLIP[branch] for branch in trained if rewards.compares_clips)])
    for branch in branches:
        if branch not in sampled.clip_hashes:
            raise DataError(f"group {sampled.group_id}: it was sampled without its {branch} clip, with which kl_consistency "
                            "compares; take that out of rewards.weights and leave rewards.kl_consistency.loss_weight at 0",
                            sample_id=sampled.sample.id, reason="clip_missing")
    return list(branches)


def learner_clips(rewards: RewardConfig, group: TrainGroup) -> set[str]:
    """Content hashes of the clips of `learner_branches`."""
    return {group.scored.sampled.clip_hashes[branch] for branch in learner_branches(rewards, group)}


def _trained(group: TrainGroup) -> list[tuple[int, Rollout, float]]:
    """Place, answer and advantage of the answers that a group trains."""
    answers = zip(group.scored.sampled.rollouts, group.advantages, strict=True)
    return [(place, rollout, advantage) for place, (rollout, advantage) in enumerate(answers) if advantage is not None]
