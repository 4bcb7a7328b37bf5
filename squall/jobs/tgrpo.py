"""Train a video-language model with T-GRPO on clean, corrupted and shuffled clips.

For every question the policy answers about the clip, about its corrupted twin and about the same frames shuffled. Rewards
make group-normalised advantages; the learner improves the policy; the engines receive the new weights; repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from squall.actors.learner import Learner, LearnerConfig
from squall.actors.rollout_buffer import TrainBatch, TrainSequence
from squall.actors.sampling import GroupPlan, GroupSampler, SampledOutcome
from squall.algorithms.corruption import sample_spec
from squall.algorithms.rewards import RewardConfig
from squall.algorithms.tgrpo import TGRPOConfig, group_advantages, has_signal, preset
from squall.jobs import heldout
from squall.jobs.session import (
    CorruptionConfig,
    Session,
    SessionConfig,
    learner_demand,
    refuse_sharded_adapters,
    rollout_demands,
)
from squall.platform.errors import SquallError
from squall.platform.manifest import Manifest, epoch_order
from squall.platform.records import Branch, SamplingSpec, ScoredGroup, TrainGroup, VideoSample
from squall.platform.seeds import derive_seed


class TGRPOJobConfig(SessionConfig):
    """Everything of a T-GRPO run."""

    steps: int = Field(100, ge=1)
    """Optimisation steps; the engines receive new weights after each."""
    groups_per_step: int = Field(32, ge=1)
    """Groups with reward variance that each step trains on."""
    max_sampled_groups: int = Field(256, ge=1)
    """Most groups sampled in one step to find them; a step that finds fewer trains on what it has."""
    temperature: float = Field(1.0, gt=0, le=2)
    """Sampling temperature of training rollouts, from the whole distribution: a nucleus would bias the ratio."""
    max_tokens: int = Field(256, ge=1)
    """Longest training answer in tokens."""
    preset: str | None = None
    """Published method whose values stand wherever `tgrpo` and `rewards` say nothing: `video_r1`."""
    corruption: CorruptionConfig = CorruptionConfig()
    """Corrupted branch."""
    tgrpo: TGRPOConfig = TGRPOConfig()
    """Advantages and loss."""
    rewards: RewardConfig = RewardConfig()
    """What an answer earns."""
    learner: LearnerConfig = LearnerConfig()
    """Ray Train and DeepSpeed."""
    evaluation: heldout.EvaluationConfig = heldout.EvaluationConfig()
    """Held-out questions, asked before and after."""
    checkpoint_every_steps: int = Field(0, ge=0)
    """Write a checkpoint every so many steps; 0 writes only the last."""
    shuffle_rewards: bool = False
    """Control that must not gain: permute the rewards over all answers of a step before advantages are taken."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("preset") is None:
            return values
        published = preset(str(values["preset"]))
        sections = {"tgrpo": published.tgrpo, "rewards": published.rewards}
        return {**values, **{name: {**section.model_dump(exclude_unset=True), **(values.get(name) or {})}
                             for name, section in sections.items()}}

    @model_validator(mode="after")
    def _consistent(self) -> TGRPOJobConfig:
        per_group = trained_answers(self.tgrpo)
        answers = self.groups_per_step * per_group
        refuse_sharded_adapters(self.model, self.learner)
        split = self.learner.workers * self.learner.updates_per_step
        if answers % split:
            raise ValueError(
                f"groups_per_step {self.groups_per_step} x {per_group} trained answers of a group = {answers} do not divide "
                f"over learner.workers {self.learner.workers} x learner.updates_per_step {self.learner.updates_per_step}; "
                f"make it a multiple of {split}")
        if self.max_sampled_groups < self.groups_per_step:
            raise ValueError(f"max_sampled_groups {self.max_sampled_groups} is below groups_per_step "
                             f"{self.groups_per_step}; raise it to about three times that")
        return self


def run(config: TGRPOJobConfig) -> int:
    """Train, evaluate before and after, and write the run directory. Returns the exit status."""
    session = Session(config, "train tgrpo", config.steps)
    questions = session.questions(config.evaluation, config.corruption.kinds)
    with session:
        session.start([*rollout_demands(config.engine, config.workers), learner_demand(config.learner)], plan(config))
        sampler = session.start_sampler(config.rewards)
        learner = session.start_learner(config.learner, "tgrpo", tgrpo=config.tgrpo, temperature=config.temperature)
        stream = GroupStream(config, session.manifest)
        before = session.evaluate(questions, step=0)
        with session.progress.phase("train"):
            for step in range(config.steps):
                train_step(config, session, stream, sampler, learner, step)
        after = session.evaluate(questions, step=config.steps)
        session.finish(before, after, questions)
    return 0


def train_step(config: TGRPOJobConfig, session: Session, stream: GroupStream, sampler: GroupSampler, learner: Learner,
               step: int) -> None:
    """Sample, score, learn, hand the new weights to the engines, record."""
    session.begin_step()
    with session.phase("rollout"):
        batch = collect(config, stream, sampler, step)
    if not batch.groups:
        raise SquallError(f"step {step}: none of {batch.sampled} groups had reward variance or survived "
                          f"({dict(drop_counts(batch))}); raise temperature or severity, or max_sampled_groups")
    with ExitStack() as stack:
        path = stack.enter_context(session.checkpoint(step + 1)) if checkpoint_due(config, step) else None
        with session.phase("learn"):
            result = learner.step(train_batch(config, step, batch, path))
    with session.phase("sync"):
        sampler.update_weights(step + 1)
    with session.phase("record"):
        session.store.write(step, batch.groups, [(reason, group.scored) for reason, group in batch.dropped])
    session.record_step(step + 1, step_metrics(batch, result))


def trained_answers(config: TGRPOConfig) -> int:
    """Answers of a group that carry an advantage."""
    return config.samples_per_group + (config.clean_samples if config.train_clean_anchors else 0)


def checkpoint_due(config: TGRPOJobConfig, step: int) -> bool:
    """Whether the weights after this step (counted from 0) are kept."""
    every = config.checkpoint_every_steps
    return step + 1 == config.steps or (every > 0 and (step + 1) % every == 0)


def plan(config: TGRPOJobConfig) -> list[str]:
    """The sizes that follow from the configuration, shown before any actor starts."""
    sizes = {branch.value: count for branch, count in config.tgrpo.branch_sizes().items() if count}
    answers = config.groups_per_step * trained_answers(config.tgrpo)
    return [
        f"T-GRPO on {config.model.path}: {config.steps} steps, optimise {config.tgrpo.optimise}, contrast "
        f"{config.tgrpo.contrast}",
        f"per group: {' + '.join(f'{count} {name}' for name, count in sizes.items())} answers",
        f"per step: {config.groups_per_step} groups with reward variance (at most {config.max_sampled_groups} sampled), "
        f"{answers} answers trained in {config.learner.updates_per_step} update(s) on {config.learner.workers} worker(s)",
        f"corruptions: {', '.join(config.corruption.kinds)} at severity {config.corruption.severity[0]:g} to "
        f"{config.corruption.severity[1]:g}",
    ]


def report_section(config: TGRPOJobConfig) -> list[str]:
    """What a reader of the report must know."""
    lines = heldout.describe(config.evaluation, "those of training")
    if config.shuffle_rewards:
        lines.append("Control run: rewards were permuted over answers, so a gain here would be an error.")
    return lines


class GroupStream:
    """The endless, seeded order in which training questions are asked."""

    def __init__(self, config: TGRPOJobConfig, manifest: Manifest) -> None:
        self._config, self._samples = config, manifest.samples
        self._cursor = 0
        self._order: list[int] = []
        self.useful_rate = 0.5
        """Share of groups with reward variance in the last step; sizes the next step's first wave."""

    def take(self, count: int) -> list[GroupPlan]:
        """The next `count` groups to sample."""
        return [self._next() for _ in range(count)]

    def _next(self) -> GroupPlan:
        epoch, position = divmod(self._cursor, len(self._samples))
        if position == 0:
            self._order = epoch_order(self._samples, self._config.seed, epoch)
        self._cursor += 1
        return plan_group(self._config, self._samples[self._order[position]], epoch)


def plan_group(config: TGRPOJobConfig, sample: VideoSample, epoch: int) -> GroupPlan:
    """Which branches of a question are sampled, how often, and through which corruption."""
    branches = {branch: count for branch, count in config.tgrpo.branch_sizes().items() if count}
    sampling = SamplingSpec(config.temperature, 1.0, config.max_tokens,
                            derive_seed(config.seed, sample.id, epoch, "sampling"))
    spec = None
    if config.tgrpo.optimise == "perturbed":
        spec = sample_spec(derive_seed(config.seed, sample.id, epoch, Branch.CORRUPTED.value), config.corruption.kinds,
                           config.corruption.severity)
    return GroupPlan(f"{sample.id}@{epoch}", sample, spec, branches, sampling)


class StepBatch:
    """What one step sampled: groups to train on in stream order, the others by reason, clips by hash."""

    def __init__(self) -> None:
        self.groups: list[TrainGroup] = []
        self.dropped: list[tuple[str, TrainGroup]] = []
        self.failures: Counter[str] = Counter()
        self.clips: dict[str, Any] = {}
        self.sampled = 0

    @property
    def all_groups(self) -> list[TrainGroup]:
        return [*self.groups, *(group for _, group in self.dropped)]


def collect(config: TGRPOJobConfig, stream: GroupStream, sampler: GroupSampler, step: int) -> StepBatch:
    """Sample waves of groups until enough have reward variance; groups without any carry no gradient.

    Waves are sized by the share of useful groups so far, and groups are taken in stream order, so the batch does not
    depend on which worker was faster.
    """
    batch = StepBatch()
    while len(batch.groups) < config.groups_per_step and batch.sampled < config.max_sampled_groups:
        missing = config.groups_per_step - len(batch.groups)
        count = min(config.max_sampled_groups - batch.sampled, max(4, round(missing / stream.useful_rate)))
        outcomes = sampler.run(stream.take(count))
        batch.sampled += count
        sort_outcomes(config, outcomes, batch, step)
        stream.useful_rate = max(0.1, (len(batch.groups) + _surplus(batch)) / batch.sampled)
    return batch


def _surplus(batch: StepBatch) -> int:
    return sum(reason == "surplus" for reason, _ in batch.dropped)


def sort_outcomes(config: TGRPOJobConfig, outcomes: Sequence[SampledOutcome], batch: StepBatch, step: int) -> None:
    """Turn scored groups into train groups and put each where it belongs."""
    good = [outcome for outcome in outcomes if outcome.scored is not None]
    batch.failures.update(outcome.failure.reason for outcome in outcomes if outcome.scored is None)
    scored = [outcome.scored for outcome in good]
    if config.shuffle_rewards:
        scored = permute_rewards(scored, derive_seed(config.seed, step, "shuffle rewards", batch.sampled))
    for outcome, group in zip(good, scored, strict=True):
        train = group_advantages(group, config.tgrpo, config.rewards.weights)
        if not has_signal(train):
            batch.dropped.append(("zero_variance", train))
        elif len(batch.groups) >= config.groups_per_step:
            batch.dropped.append(("surplus", train))
        else:
            batch.groups.append(train)
            batch.clips.update(outcome.clips)


def permute_rewards(groups: Sequence[ScoredGroup], seed: int) -> list[ScoredGroup]:
    """Permute whole reward mappings over all rollouts of the same branch: the control whose signal is noise."""
    rng = np.random.default_rng(seed)
    rewards = [list(group.rewards) for group in groups]
    for branch in Branch:
        places = [(g, r) for g, group in enumerate(groups) for r, rollout in enumerate(group.sampled.rollouts)
                  if rollout.branch is branch]
        shuffled = [groups[g].rewards[r] for g, r in places]
        for (g, r), index in zip(places, rng.permutation(len(places)), strict=True):
            rewards[g][r] = shuffled[index]
    return [replace(group, rewards=tuple(own)) for group, own in zip(groups, rewards, strict=True)]


def train_batch(config: TGRPOJobConfig, step: int, batch: StepBatch, checkpoint: Path | None) -> TrainBatch:
    """The learner's view of a step: the answers that carry an advantage, and references to their clips."""
    sequences = [
        TrainSequence(group.scored.sampled.prompt, rollout.clip_hash, rollout.token_ids, advantage, rollout.logprobs)
        for group in batch.groups
        for rollout, advantage in zip(group.scored.sampled.rollouts, group.advantages, strict=True)
        if advantage is not None
    ]
    split = config.learner.workers * config.learner.updates_per_step
    sequences = sequences[:len(sequences) // split * split]  # only a step cut short by max_sampled_groups loses any
    clips = {sequence.clip_hash: batch.clips[sequence.clip_hash] for sequence in sequences}
    return TrainBatch(step, tuple(sequences), clips, str(checkpoint) if checkpoint else None)


def step_metrics(batch: StepBatch, result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one step under the names that tracker and report use."""
    groups = batch.all_groups
    statistics: dict[str, list[float]] = {}
    for group in groups:
        for name, value in group.statistics.items():
            statistics.setdefault(name, []).append(value)
    means = {name: float(np.mean(values)) for name, values in statistics.items()}
    trained = [group.statistics.get("contrast_effective", 0.0) for group in batch.groups]
    renamed = {
        "reward/mean": means.get("reward_mean"), "reward/std": means.get("reward_std"),
        **{f"accuracy/{branch.value}": means.get(f"accuracy_{branch.value}") for branch in Branch},
        "contrast/effective": max(trained, default=0.0), "contrast/gap": means.get("contrast_gap"),
        "loss": result["loss"], "kl": result["kl"], "clip_fraction": result["clipped_tokens"],
        "ratio": result["ratio"], "entropy": result["entropy"], "mismatch/abs_logprob": result["mismatch"],
        "tis/mean": result["importance"], "tis/max": result["importance_max"],
        "tis/capped": result["importance_capped_tokens"],
        "learning_rate": result["learning_rate"], "grad_norm": result["grad_norm"], "tokens": result["tokens"],
        "groups/sampled": batch.sampled, "groups/trained": len(batch.groups),
        **{f"dropped/{reason}": count for reason, count in drop_counts(batch).items()},
    }
    return {name: float(value) for name, value in renamed.items() if value is not None}


def drop_counts(batch: StepBatch) -> Counter[str]:
    """Groups that were sampled and not trained on, by reason."""
    return batch.failures + Counter(reason for reason, _ in batch.dropped)
