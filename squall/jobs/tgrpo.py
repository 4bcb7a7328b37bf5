"""Train a video-language model with T-GRPO on clean, corrupted and shuffled clips.

For every question the policy answers about the clip, about its corrupted twin and about the same frames shuffled. Rewards
make group-normalised advantages; the learner improves the policy; the engines receive the new weights; repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from squall.actors.judge_config import POLICY, JudgeConfig
from squall.actors.learner import Learner, LearnerConfig
from squall.actors.resources import Demand
from squall.actors.sampling import GroupSampler
from squall.algorithms.difficulty import Decision, DifficultyConfig
from squall.algorithms.rewards import RewardConfig
from squall.algorithms.tgrpo import TGRPOConfig, preset
from squall.jobs import heldout
from squall.jobs.node_needs import needs_of
from squall.jobs.planning import budget_lines, show_plan
from squall.jobs.recovery import recovering
from squall.jobs.rollout_stream import ReplayStream, RolloutStream, StepBatch, restore_clips
from squall.jobs.session import (
    CorruptionConfig,
    Session,
    SessionConfig,
    judge_demand,
    learner_demand,
    refuse_sharded_adapters,
    rollout_demands,
)
from squall.jobs.step_metrics import drop_counts, learner_metrics, rollout_metrics
from squall.jobs.train_batch import refuse_clips_without_twin, train_batch, with_consistency
from squall.platform.errors import SquallError
from squall.platform.store import RolloutStore

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
    return recovering(train, config, config.learner.recoveries)


def train(config: TGRPOJobConfig) -> int:
    """As `run`, until the learner is lost."""
    sampling, learning = config.learn_only is None, not config.rollouts_only
    if config.plan:
        return show_plan(config, plan(config), demands(config))
    if config.needs_judge and sampling:
        config.judge.read_key()  # refused before anything is there
    with Session(config, "train tgrpo", config.steps) as session:
        questions = session.questions(config.evaluation, tuple(config.corruption.kinds)) if sampling and learning else []
        waiting = (config.max_staleness + 1) * config.groups_per_step
        session.start(demands(config), plan(config), needs_of(config, waiting, hands_over=sampling and learning))
        sampler = session.launch_sampler(config.rewards, engines=sampling, judge=config.judge, needs_judge=config.needs_judge)
        learner = None
        if learning:
            learner = session.launch_learner(config.learner, "tgrpo", tgrpo=config.tgrpo, rewards=config.rewards,
                                             temperature=config.temperature)
        session.await_actors()
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
            raise nothing_to_train_on(config, step, batch)
        if config.engine.colocate and sampler.engines:
            with session.phase("sleep"):
                sampler.sleep()
        with session.phase("learn"):
            restore_clips(config.rewards, batch, sampler)
            learner.begin(train_batch(config, step, batch.groups, batch.clips))
            while (learned := learner.poll(POLL_S)) is None:
                stream.pump(0.0, learning=True)
            result = learned
            batch.groups = with_consistency(config.rewards, batch.groups, result)
        if sampler.engines:
            with session.phase("sync"):
                sampler.update_weights(step + 1, meanwhile=lambda: stream.pump(0.0, learning=True))
    stream.launch(learning=False)  # so that engines answer while this step is written down
    with session.phase("record"):
        session.store.write(step, batch.groups, [(reason, group.scored) for reason, group in batch.dropped])
        session.consume(step, batch.outcomes)
    metrics = rollout_metrics(step, batch) | (learner_metrics(result) if result else {})
    session.record_step(step + 1, metrics, result.get("spans", ()))
    session.save_if_due(learner, stream.state())


def nothing_to_train_on(config: TGRPOJobConfig, step: int, batch: StepBatch) -> SquallError:
    """Why a step has no groups, and what to change."""
    drops = drop_counts(batch)
    chosen = sum(drops[decision] for decision in (Decision.DISCARD, Decision.DEFER))
    advice = "raise temperature or severity, or max_sampled_groups"
    if chosen > batch.sampled / 2:
        advice = (f"difficulty.reading {config.difficulty.reading} leaves them out: change its bounds or the severity, or take "
                  "reading: answers for a policy that cannot judge itself")
    return SquallError(f"step {step}: none of {batch.sampled} groups had reward variance or survived ({dict(drops)}); {advice}")


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
