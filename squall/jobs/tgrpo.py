"""Train a video-language model with T-GRPO on clean, corrupted and shuffled clips.

For every question the policy answers about the clip, about its corrupted twin and about the same frames shuffled. Rewards
make group-normalised advantages; the learner improves the policy; the engines receive the new weights; repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from squall.actors.admission import AdmissionQueue
from squall.actors.cluster import Demand
from squall.actors.groups import GroupPlan, Prepared, SampledOutcome
from squall.actors.judge_config import POLICY, JudgeConfig
from squall.actors.learner import Learner, LearnerConfig
from squall.actors.sampling import GroupSampler
from squall.algorithms.difficulty import Assessment, Decision, Difficulty, DifficultyConfig, assess_answers, decide
from squall.algorithms.memory import Deferred, Fate
from squall.algorithms.rewards import RewardConfig
from squall.algorithms.tgrpo import TGRPOConfig, group_advantages, has_signal, preset
from squall.jobs import heldout
from squall.jobs.agenda import Agenda, corruption_of
from squall.jobs.planning import budget_lines, show_plan
from squall.jobs.session import (
    CorruptionConfig,
    Session,
    SessionConfig,
    judge_demand,
    learner_demand,
    refuse_sharded_adapters,
    rollout_demands,
)
from squall.jobs.train_batch import (
    learner_branches,
    learner_clips,
    refuse_clips_without_twin,
    train_batch,
    with_consistency,
)
from squall.platform.errors import DataError, SquallError
from squall.platform.records import Branch, SamplingSpec, ScoredGroup, TrainGroup, VideoSample
from squall.platform.seeds import derive_seed
from squall.platform.store import RolloutStore

ACCURACIES = ("accuracy_clean", "accuracy_corrupted")
POLL_S = 0.05
"""How often the rollout side is looked after while the learner works."""


class TGRPOJobConfig(SessionConfig):
    """Everything of a T-GRPO run."""

    steps: int = Field(100, ge=1)
    """Optimisation steps; the engines receive new weights after each."""
    groups_per_step: int = Field(32, ge=1)
    """Groups with reward variance that each step trains on."""
    max_staleness: int = Field(0, ge=0, le=16)
    """Updates that answers may lag behind: 0 samples, then learns; 1 samples the next step's answers while learning; 2 and more
    keep more groups waiting, for uneven sampling times."""
    max_sampled_groups: int = Field(256, ge=1)
    """Most groups sampled in one step to find them; a step that finds fewer trains on what it has."""
    temperature: float = Field(1.0, gt=0, le=2)
    """Sampling temperature of training rollouts, from the whole distribution: a nucleus would bias the ratio."""
    max_tokens: int = Field(256, ge=1)
    """Longest training answer in tokens."""
    preset: str | None = None
    """Published method whose values stand wherever `tgrpo`, `rewards` and `difficulty` say nothing: `video_r1`, `rova` as its
    paper means it, `rova_code` as its published code does it."""
    corruption: CorruptionConfig = CorruptionConfig()
    """Corrupted branch."""
    tgrpo: TGRPOConfig = TGRPOConfig()
    """Advantages and loss."""
    rewards: RewardConfig = RewardConfig()
    """What an answer earns."""
    difficulty: DifficultyConfig = DifficultyConfig()
    """Which questions are trained on now, left out as easy, or put off as difficult (ROVA)."""
    judge: JudgeConfig = JudgeConfig()
    """Who compares reasoning for the `reasoning` and `alignment` rewards, and for difficulty.reading: judge."""
    learner: LearnerConfig = LearnerConfig()
    """Ray Train and DeepSpeed."""
    evaluation: heldout.EvaluationConfig = heldout.EvaluationConfig()
    """Held-out questions, asked before and after."""
    rollouts_only: bool = False
    """Sample and score with the policy as it is, and store everything; nothing is trained."""
    learn_only: Path | None = None
    """Train on the stored rollouts of this run directory; no engine is started."""
    shuffle_rewards: bool = False
    """Control that must not gain: permute the rewards over the answers of each branch before advantages are taken."""
    plan: bool = False
    """Print the plan, memory and time by arithmetic included, and stop; needs neither GPUs nor the model's files."""
    gpu_memory_gib: float = Field(80.0, gt=0)
    """Memory of a GPU for the plan of a machine that has none here."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("preset") is None:
            return values
        published = preset(str(values["preset"]))
        sections = published._asdict()
        return {**values, **{name: {**section.model_dump(exclude_unset=True), **(values.get(name) or {})}
                             for name, section in sections.items()}}

    @model_validator(mode="after")
    def _consistent(self) -> TGRPOJobConfig:
        refuse_sharded_adapters(self.model, self.learner)
        split = self.learner.workers * self.learner.updates_per_step
        if self.groups_per_step < split:
            raise ValueError(
                f"groups_per_step {self.groups_per_step} do not go round learner.workers {self.learner.workers} x "
                f"learner.updates_per_step {self.learner.updates_per_step}; make it {split} or more")
        if self.engine.colocate and self.max_staleness:
            raise ValueError("engine.colocate puts the engines to sleep while the learner learns, and max_staleness "
                             f"{self.max_staleness} lets them sample meanwhile: set max_staleness to 0")
        if self.rollouts_only and self.learn_only is not None:
            raise ValueError("rollouts_only samples without learning and learn_only learns without sampling: take one of them")
        if self.learn_only is not None:
            stored = RolloutStore(self.learn_only / "rollouts").steps()
            if len(stored) < self.steps:
                raise ValueError(f"learn_only {self.learn_only} holds the rollouts of {len(stored)} steps, steps is "
                                 f"{self.steps}")
        if self.difficulty.reading != "off":
            self._difficulty_possible()
        refuse_clips_without_twin(self)
        if self.max_sampled_groups < self.groups_per_step:
            raise ValueError(f"max_sampled_groups {self.max_sampled_groups} is below groups_per_step "
                             f"{self.groups_per_step}; raise it to about three times that")
        return self


    def _difficulty_possible(self) -> None:
        reading = self.difficulty.reading
        if reading == "answers" and not self.tgrpo.corrupts:
            raise ValueError("difficulty.reading answers looks at answers about the corrupted clip, and optimise: clean has "
                             "none: set tgrpo.corrupted_samples, or reading: self")
        if reading == "judge" and not self.judge.can_see:
            raise ValueError(f"difficulty.reading judge shows the judge the clip, and judge.kind {self.judge.kind} cannot see: "
                             "take engine or endpoint, or reading: self")
        if self.rollouts_only and self.difficulty.memory.size:
            raise ValueError("rollouts_only writes no checkpoint that could hold the difficulty memory: set "
                             "difficulty.memory.size to 0")

    @property
    def needs_judge(self) -> bool:
        """Whether a reward or the difficulty asks the judge."""
        return self.rewards.needs_judge or self.difficulty.reading == "judge"

    @property
    def corrupts(self) -> bool:
        """Whether corrupted clips are made: to be asked about, or to be assessed on."""
        return self.tgrpo.corrupts or self.difficulty.reading != "off"


def run(config: TGRPOJobConfig) -> int:
    """Train, evaluate before and after, and write the run directory. Returns the exit status."""
    sampling, learning = config.learn_only is None, not config.rollouts_only
    if config.plan:
        return show_plan(config, plan(config), demands(config))
    with Session(config, "train tgrpo", config.steps) as session:
        questions = session.questions(config.evaluation, tuple(config.corruption.kinds)) if sampling and learning else []
        session.start(demands(config), plan(config))
        sampler = session.start_sampler(config.rewards, engines=sampling, judge=config.judge, needs_judge=config.needs_judge)
        learner = None
        if learning:
            learner = session.start_learner(config.learner, "tgrpo", tgrpo=config.tgrpo, rewards=config.rewards,
                                            temperature=config.temperature)
        stream = (RolloutStream(config, session, sampler) if sampling
                  else ReplayStream(config.learn_only, session.steps_done, sampler, config.rewards))
        with session.stops_well(learner, stream.state):
            before = session.evaluate(questions, step=session.first_step)
            with session.progress.phase("train"):
                for step in range(session.steps_done, config.steps):
                    train_step(config, session, stream, sampler, learner, step)
                    if session.evaluation_due(config.evaluation):
                        session.evaluate(questions, step + 1)
            after = session.evaluate(questions, step=config.steps)
            session.finish(before, after)
    return 0


def train_step(config: TGRPOJobConfig, session: Session, stream: RolloutStream | ReplayStream, sampler: GroupSampler,
               learner: Learner | None, step: int) -> None:
    """Sample, score, learn, hand the new weights to the engines, record; with staleness, sample on while learning."""
    session.begin_step()
    with session.phase("rollout"):
        batch = stream.collect(session.check_stop)
    result: dict[str, Any] = {}
    if learner is not None:
        if not batch.groups:
            raise SquallError(f"step {step}: none of {batch.sampled} groups had reward variance or survived "
                              f"({dict(drop_counts(batch))}); raise temperature or severity, or max_sampled_groups")
        if config.engine.colocate and sampler.engines:
            with session.phase("sleep"):
                sampler.sleep()
        with session.phase("learn"):
            learner.begin(train_batch(config, step, batch.groups, batch.clips))
            while (learned := learner.poll(POLL_S)) is None:
                stream.pump(0.0, learning=True)
            result = learned
            batch.groups = with_consistency(config.rewards, batch.groups, result)
        if sampler.engines:
            with session.phase("sync"):
                sampler.update_weights(step + 1)
    with session.phase("record"):
        session.store.write(step, batch.groups, [(reason, group.scored) for reason, group in batch.dropped])
        session.consume(step, batch.outcomes)
    metrics = rollout_metrics(step, batch) | (learner_metrics(result) if result else {})
    session.record_step(step + 1, metrics, result.get("spans", ()))
    session.save_if_due(learner, stream.state())


def demands(config: TGRPOJobConfig) -> list[Demand]:
    """What a run reserves on the cluster."""
    sampling = config.learn_only is None
    own_judge = sampling and config.needs_judge and config.judge.kind == "engine" and config.judge.model != POLICY
    judges = [judge_demand(config.judge)] if own_judge else []
    return [*rollout_demands(config.engine, config.workers, engines=sampling), *judges,
            *([] if config.rollouts_only else [learner_demand(config.learner)])]


def trained_answers(config: TGRPOConfig) -> int:
    """Answers of a group that carry an advantage."""
    return config.samples_per_group + (config.clean_samples if config.optimise == "both" else 0)


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
        *difficulty_lines(config),
        *budget_lines(config),
    ]


def difficulty_lines(config: TGRPOJobConfig) -> list[str]:
    """Who judges, and what becomes of easy and of difficult questions."""
    judge, difficulty = config.judge, config.difficulty
    lines = [f"judge: {judge.kind}{'' if judge.model is None else ' ' + judge.model}"] if config.needs_judge else []
    if difficulty.reading != "off":
        memory = difficulty.memory
        lines.append(f"difficulty by {difficulty.reading}: easy and surer than {difficulty.confident_above:g} is left out; "
                     f"difficult waits, at most {memory.size}, looked at again every {memory.recheck_every_steps} steps, at "
                     f"most {memory.max_rechecks} times")
    return lines


def report_section(config: TGRPOJobConfig) -> list[str]:
    """What a reader of the report must know."""
    lines = heldout.describe(config.evaluation, "those of training")
    if config.shuffle_rewards:
        lines.append("Control run: rewards were permuted over answers, so a gain here would be an error.")
    return lines


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

    def pump(self, timeout_s: float, learning: bool) -> None:
        """Start what may be started and take in what has come back, waiting up to `timeout_s` seconds for the first."""
        while (position := self._queue.launch(learning)) is not None:
            self._sampler.submit(position, self._agenda.plan(position))
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


def rollout_metrics(step: int, batch: StepBatch) -> dict[str, float]:
    """What was sampled in a step, under the names that tracker and report use."""
    statistics: dict[str, list[float]] = {}
    for group in batch.all_groups:
        for name, value in group.statistics.items():
            statistics.setdefault(name, []).append(value)
    means = {name: float(np.mean(values)) for name, values in statistics.items()}
    trained = [group.statistics.get("contrast_effective", 0.0) for group in batch.groups]
    ages = [step - rollout.weight_version for group in batch.groups for rollout in group.scored.sampled.rollouts]
    renamed = {
        "reward/mean": means.get("reward_mean"), "reward/std": means.get("reward_std"), **rewards_by_name(batch),
        **{f"accuracy/{branch.value}": means.get(f"accuracy_{branch.value}") for branch in Branch},
        "contrast/effective": max(trained, default=0.0), "contrast/gap": means.get("contrast_gap"),
        "staleness/mean": np.mean(ages) if ages else None, "staleness/max": max(ages, default=None),
        "groups/sampled": batch.sampled, "groups/trained": len(batch.groups),
        **gaps_by_kind(batch.all_groups), **difficulty_metrics(batch),
        **{f"dropped/{reason}": count for reason, count in drop_counts(batch).items()},
    }
    return {name: float(value) for name, value in renamed.items() if value is not None}


def rewards_by_name(batch: StepBatch) -> dict[str, float]:
    """Mean of every reward, unweighted, over the answers that carry an advantage; as ``reward/accuracy``."""
    values: dict[str, list[float]] = {}
    for group in batch.groups:
        for row, advantage in zip(group.scored.rewards, group.advantages, strict=True):
            for name, value in row.items() if advantage is not None else ():
                values.setdefault(f"reward/{name}", []).append(value)
    return {name: float(np.mean(found)) for name, found in values.items()}


def difficulty_metrics(batch: StepBatch) -> dict[str, float]:
    """Shares of easy, informative and difficult questions, mean confidence, the memory's life; empty without assessments."""
    found = batch.assessments
    if not found:
        return {}
    counts = Counter(assessment.difficulty for assessment in found)
    shares = {f"difficulty/{kind}": counts[kind] / len(found) for kind in Difficulty}
    memory = dict.fromkeys(("size", "deferred", *Fate), 0) | dict(batch.memory)
    return {**shares, "difficulty/confidence": float(np.mean([assessment.confidence for assessment in found])),
            **{f"memory/{name}": float(count) for name, count in memory.items()}}


def gaps_by_kind(groups: Sequence[TrainGroup]) -> dict[str, float]:
    """Clean minus corrupted accuracy of each kind of corruption, as ``gap/fog``."""
    gaps: dict[str, list[float]] = {}
    for group in groups:
        spec, clean, corrupted = group.scored.sampled.corruption, *map(group.statistics.get, ACCURACIES)
        if spec is not None and clean is not None and corrupted is not None:
            gaps.setdefault(f"gap/{spec.name}", []).append(clean - corrupted)
    return {name: float(np.mean(values)) for name, values in gaps.items()}


def learner_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """What the learner reports of a step, under the names that tracker and report use."""
    return {
        "loss": result["loss"], "kl": result["kl"], "clip_fraction": result["clipped_tokens"],
        "ratio": result["ratio"], "entropy": result["entropy"], "mismatch/abs_logprob": result["mismatch"],
        "tis/mean": result["importance"], "tis/max": result["importance_max"],
        "tis/capped": result["importance_capped_tokens"], "learning_rate": result["learning_rate"],
        "grad_norm": result["grad_norm"], "tokens": result["tokens"],
        **{name: value for name, value in result.items() if name.startswith("kl_consistency/")},
    }


def drop_counts(batch: StepBatch) -> Counter[str]:
    """Groups that were sampled and not trained on, by reason."""
    return Counter(reason for _, reason in batch.outcomes if reason != "trained")
