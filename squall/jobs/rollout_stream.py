"""The rollout side of training: which questions a step takes, what came of them, and what is left to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from squall.actors.admission import AdmissionQueue
from squall.actors.groups import GroupPlan, Prepared, SampledOutcome
from squall.actors.lost_objects import lost_objects
from squall.actors.sampling import GroupSampler
from squall.algorithms.difficulty import Assessment, Decision, assess_answers, decide
from squall.algorithms.memory import Deferred
from squall.algorithms.rewards import RewardConfig
from squall.algorithms.tgrpo import group_advantages, has_signal
from squall.jobs.agenda import Agenda, corruption_of
from squall.jobs.train_batch import learner_branches, learner_clips
from squall.platform.errors import DataError
from squall.platform.records import Branch, SamplingSpec, ScoredGroup, TrainGroup, VideoSample
from squall.platform.seeds import derive_seed
from squall.platform.store import RolloutStore

if TYPE_CHECKING:
    from squall.jobs.session import Session
    from squall.jobs.tgrpo import TGRPOJobConfig


class RolloutStream:
    """The rollout side of the loop: questions in their order, sampled as admission allows."""

    def __init__(self, config: TGRPOJobConfig, session: Session, sampler: GroupSampler) -> None:
        self._config, self._session, self._sampler = config, session, sampler
        resumed = session.resumed
        self._agenda = Agenda(session.manifest.samples, config.seed, partial(plan_group, config), config.difficulty.memory,
                              resumed.state, str(resumed.checkpoint or session.run.path))
        self._step = session.steps_done
        self._queue = AdmissionQueue(config.groups_per_step, config.max_staleness, config.max_sampled_groups,
                                     steps=config.steps - session.steps_done, cursor=resumed.state.get("cursor", 0))

    def collect(self, meanwhile: Callable[[], None]) -> StepBatch:
        """Sample until the groups of the next step are there; with staleness they may be already.

        Args:
            meanwhile: called now and then; an exception of it leaves everything for a resumed run.
        """
        meanwhile()
        while (settled := self._queue.take()) is None:
            self.pump(0.5, learning=False)
            meanwhile()
        for entry in settled:
            judged: Judged = entry.content
            self._agenda.consume(entry.position, judged.assessment, judged.decision, judged.reason, self._step)
        self._step += 1
        self._agenda.end_step(self._step)
        memory = self._agenda.memory
        return StepBatch([entry.content for entry in settled], {"size": len(memory), **memory.take_counts()})

    def launch(self, learning: bool) -> None:
        """Start what may be started; nothing is waited for, and nothing can fail."""
        while (position := self._queue.launch(learning)) is not None:
            self._sampler.submit(position, self._agenda.plan(position))

    def pump(self, timeout_s: float, learning: bool) -> None:
        """Start what may be started and take in what has come back, waiting up to `timeout_s` seconds for the first."""
        self.launch(learning)
        for position, outcome in self._sampler.poll(timeout_s, may_publish=not learning):
            if outcome.failure is not None:
                self._session.lose(outcome.plan.group_id, outcome.failure)
            judged = judge(self._config, outcome)
            self._queue.settle(position, judged.reason is None, judged)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: positions before `cursor` were consumed; the pending ones are asked again."""
        return {"cursor": self._queue.taken, **self._agenda.state()}


class ReplayStream:
    """Steps as another run sampled them: answers, rewards and advantages from its rollouts, clips rendered again."""

    def __init__(self, run: Path, step: int, sampler: GroupSampler, rewards: RewardConfig) -> None:
        """`run` is the run directory that holds the rollouts, `step` the first step to take, counted from 0."""
        self._rewards = rewards
        self._store, self._sampler, self._step = RolloutStore(run / "rollouts"), sampler, step

    def collect(self, meanwhile: Callable[[], None]) -> StepBatch:
        """The next stored step.

        Raises:
            DataError: the step is not stored, its file is damaged, or a clip is no longer what the answers were about.
        """
        meanwhile()
        groups = self._store.read(self._step)
        dropped = self._store.read_dropped(self._step)
        prepared = self._sampler.prepare([replay_plan(self._rewards, group) for group in groups])
        judged = [Judged(group.scored.sampled.group_id, None, group, same_clips(group, clips))
                  for group, clips in zip(groups, prepared, strict=True)]
        left_out = [Judged(group.sampled.group_id, reason, TrainGroup(group, (None,) * len(group.sampled.rollouts)))
                    for reason, group in dropped]
        self._step += 1
        return StepBatch([*judged, *left_out])

    def launch(self, learning: bool) -> None:
        """Nothing is sampled."""

    def pump(self, timeout_s: float, learning: bool) -> None:
        """Nothing is sampled."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"cursor": self._step}


def replay_plan(rewards: RewardConfig, group: TrainGroup) -> GroupPlan:
    """How to render the clips of a stored group that the learner needs."""
    sampled = group.scored.sampled
    branches = dict.fromkeys(learner_branches(rewards, group), 1)
    return GroupPlan(sampled.group_id, sampled.sample, sampled.corruption, branches, sampled.rollouts[0].sampling)


def same_clips(group: TrainGroup, prepared: Prepared) -> Mapping[str, Any]:
    """References to a stored group's clips, if they are the same bytes as those that the engine saw."""
    sampled = group.scored.sampled
    if prepared.failure is not None:
        raise DataError(prepared.failure.message, sample_id=sampled.sample.id, reason=prepared.failure.reason)
    for branch, name in prepared.clip_hashes.items():
        if name != sampled.clip_hashes[branch]:
            raise DataError(f"sample {sampled.sample.id}: its {branch} clip is {name} now and was "
                            f"{sampled.clip_hashes[branch]} when it was sampled; {sampled.sample.media}, data.frames or the "
                            "corruption code has changed",
                            sample_id=sampled.sample.id, reason="clip_changed")
    return prepared.clips


def restore_clips(rewards: RewardConfig, batch: StepBatch, sampler: GroupSampler) -> None:
    """Render those of a step's clips anew that went with their node; groups and answers stay as they are.

    Raises:
        DataError: one is not the clip any more that the answers are about.
    """
    if not (lost := lost_objects(batch.clips)):
        return
    groups = [group for group in batch.groups if lost & set(group.scored.sampled.clip_hashes.values())]
    prepared = sampler.prepare([replay_plan(rewards, group) for group in groups])
    for group, clips in zip(groups, prepared, strict=True):
        batch.clips |= same_clips(group, clips)


def plan_group(config: TGRPOJobConfig, sample: VideoSample, epoch: int, deferred: Deferred | None = None) -> GroupPlan:
    """Which branches of a question are sampled, how often, and through which corruption.

    A deferred question gets the corruption that it had, a name and a sampling seed of its own for each time it is looked at.
    """
    branches = {branch: count for branch, count in config.tgrpo.branch_sizes().items() if count}
    name, spec, again = f"{sample.id}@{epoch}", None, ()
    if deferred is not None:
        again = (f"again {deferred.rechecks + 1}",)
        name, spec = f"{name}~{deferred.rechecks + 1}", corruption_of(deferred)
    elif config.corrupts:
        spec = config.corruption.draw(derive_seed(config.seed, sample.id, epoch, Branch.CORRUPTED.value))
    sampling = SamplingSpec(config.temperature, 1.0, config.max_tokens,
                            derive_seed(config.seed, sample.id, epoch, "sampling", *again))
    return GroupPlan(name, sample, spec, branches, sampling, shuffled_from=config.tgrpo.trained_branch,
                     difficulty=config.difficulty)


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of a question: a group to train on, or the reason why not."""

    group_id: str
    reason: str | None
    """Why it is not trained on; None when it is."""
    group: TrainGroup | None = None
    clips: Mapping[str, Any] = field(default_factory=dict)
    """References to the clips by content hash, for a group to train on."""
    assessment: Assessment | None = None
    decision: Decision | None = None
    """What its difficulty makes of it; None when it could not be asked."""


def judge(config: TGRPOJobConfig, outcome: SampledOutcome) -> Judged:
    """Assess the difficulty and take advantages; what is not trained on now gives its place back."""
    name, assessment = outcome.plan.group_id, outcome.assessment
    if outcome.failure is not None:
        return Judged(name, outcome.failure.reason, assessment=assessment)
    if outcome.scored is not None and config.difficulty.reading == "answers":
        assessment = assess_answers(outcome.scored, config.difficulty, config.rewards)
    decision = decide(assessment, config.difficulty)
    if outcome.scored is None:
        return Judged(name, decision.value, None, {}, assessment, decision)
    scored = outcome.scored
    if config.shuffle_rewards:
        scored = permute_rewards(scored, derive_seed(config.seed, name, "shuffle rewards"))
    group = group_advantages(scored, config.tgrpo, config.rewards.weights)
    if decision is not Decision.TRAIN:
        return Judged(name, decision.value, group, {}, assessment, decision)
    if not has_signal(group):
        return Judged(name, "zero_variance", group, {}, assessment, decision)
    clips = {name: outcome.clips[name] for name in learner_clips(config.rewards, group)}
    return Judged(name, None, group, clips, assessment, decision)


def permute_rewards(group: ScoredGroup, seed: int) -> ScoredGroup:
    """Permute whole reward mappings over the answers of each branch: the control whose signal is noise."""
    rng, rewards = np.random.default_rng(seed), list(group.rewards)
    for branch in Branch:
        places = [place for place, rollout in enumerate(group.sampled.rollouts) if rollout.branch is branch]
        for place, other in zip(places, rng.permutation(places), strict=True):
            rewards[place] = group.rewards[other]
    return replace(group, rewards=tuple(rewards))


class StepBatch:
    """What one step consumed: groups to train on in stream order, the others by reason, clips by hash."""

    def __init__(self, judged: Sequence[Judged], memory: Mapping[str, int] | None = None) -> None:
        """`memory` is the difficulty memory's size and what happened in it."""
        self.sampled = len(judged)
        self.assessments = [entry.assessment for entry in judged if entry.assessment is not None]
        self.memory = memory or {}
        self.outcomes = [(entry.group_id, entry.reason or "trained") for entry in judged]
        self.groups = [entry.group for entry in judged if entry.reason is None]
        self.dropped = [(entry.reason, entry.group) for entry in judged if entry.reason and entry.group]
        self.clips = {name: clip for entry in judged for name, clip in entry.clips.items()}

    @property
    def all_groups(self) -> list[TrainGroup]:
        return [*self.groups, *(group for _, group in self.dropped)]
