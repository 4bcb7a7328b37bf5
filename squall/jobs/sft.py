"""Supervised fine-tuning on reasoning traces: the warm-up before reinforcement learning, and one of its rivals.

Targets are ``<think>process</think><answer>solution</answer>`` from the manifest; the loss is on those tokens only. With a
`corruption` section every training clip is corrupted, which makes this the rival of T-GRPO at equal compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from squall.actors.groups import GroupPlan, Prepared
from squall.actors.learner import Learner, LearnerConfig
from squall.actors.resources import Demand
from squall.actors.rollout_buffer import TrainBatch, TrainSequence
from squall.actors.sampling import GroupSampler
from squall.algorithms.rewards import RewardConfig
from squall.jobs import heldout
from squall.jobs.node_needs import needs_of
from squall.jobs.recovery import recovering
from squall.jobs.session import (
    CorruptionConfig,
    Session,
    SessionConfig,
    learner_demand,
    refuse_sharded_adapters,
    rollout_demands,
)
from squall.platform.errors import DataError
from squall.platform.manifest import Manifest, epoch_order
from squall.platform.models import load_processor
from squall.platform.records import Branch, SamplingSpec, VideoSample
from squall.platform.seeds import derive_seed


class SFTJobConfig(SessionConfig):
    """Everything of a supervised run."""

    steps: int = Field(1200, ge=1)
    """Optimisation steps."""
    samples_per_step: int = Field(32, ge=1)
    """Questions in one step, over all learner workers."""
    corruption: CorruptionConfig | None = None
    """Corrupt every training clip; null trains on clean clips."""
    heldout_corruption: CorruptionConfig = CorruptionConfig()
    """Kinds of the held-out corruptions, where `evaluation.kinds` names none."""
    learner: LearnerConfig = LearnerConfig()
    """Ray Train and DeepSpeed."""
    evaluation: heldout.EvaluationConfig = heldout.EvaluationConfig()
    """Held-out questions, asked before and after."""

    @model_validator(mode="after")
    def _consistent(self) -> SFTJobConfig:
        refuse_sharded_adapters(self.model, self.learner)
        split = self.learner.workers * self.learner.updates_per_step
        if self.samples_per_step < split:
            raise ValueError(f"samples_per_step {self.samples_per_step} do not go round learner.workers {self.learner.workers} "
                             f"x learner.updates_per_step {self.learner.updates_per_step}; make it {split} or more")
        return self


def run(config: SFTJobConfig) -> int:
    """Train on the manifest's traces, evaluate before and after, write the run directory."""
    recovering(train, config, config.learner.recoveries)
    return 0


def train(config: SFTJobConfig) -> Path:
    """As `run`, until the learner is lost; returns the last checkpoint."""
    with Session(config, "train sft", config.steps) as session:
        kinds = tuple((config.corruption or config.heldout_corruption).kinds)
        questions = session.questions(config.evaluation, kinds)
        stream = TargetStream(config, session.manifest, session.model_path, session.resumed.state.get("cursor", 0))
        session.start(demands(config), plan(config), needs_of(config, 2 * config.samples_per_step, hands_over=bool(questions)))
        sampler = session.launch_sampler(RewardConfig(), engines=bool(questions))
        learner = session.launch_learner(config.learner, "sft")
        session.await_actors()
        with session.stops_well(learner, stream.state):
            before = session.evaluate(questions, step=session.first_step)
            with session.progress.phase("train"):
                for step in range(session.steps_done, config.steps):
                    train_step(session, stream, sampler, learner, step)
                    if questions and session.evaluation_due(config.evaluation):
                        sampler.update_weights(step + 1)
                        session.evaluate(questions, step + 1)
            if questions:
                sampler.update_weights(config.steps)
            after = session.evaluate(questions, step=config.steps)
            session.finish(before, after)
    return session.run.latest_checkpoint()


def demands(config: SFTJobConfig) -> list[Demand]:
    """What a run reserves on the cluster; engines answer held-out questions alone."""
    asks = config.evaluation.manifest is not None
    return [*rollout_demands(config.engine, config.workers, engines=asks), learner_demand(config.learner)]


def train_step(session: Session, stream: TargetStream, sampler: GroupSampler, learner: Learner, step: int) -> None:
    """Prepare clips, learn, record. Engines are needed for held-out questions alone."""
    session.check_stop()
    session.begin_step()
    with session.phase("corrupt"):
        sequences, clips, outcomes = stream.take(sampler, session.check_stop)
    with session.phase("learn"):
        result = learner.step(TrainBatch(step, sequences, clips))
    session.consume(step, outcomes)
    names = ("loss", "entropy", "learning_rate", "grad_norm", "tokens")
    dropped = Counter(reason for _, reason in outcomes if reason != "trained")
    session.record_step(step + 1, {name: result[name] for name in names}
                        | {f"dropped/{reason}": count for reason, count in dropped.items()}, result["spans"])
    session.save_if_due(learner, stream.state())


class TargetStream:
    """The seeded order of training questions with their target tokens."""

    def __init__(self, config: SFTJobConfig, manifest: Manifest, model_path: str, cursor: int = 0) -> None:
        self._config, self._samples = config, manifest.samples
        lacking = [sample.id for sample in self._samples if sample.process is None]
        if lacking:
            raise DataError(f"{config.data.train}: sample {lacking[0]} and {len(lacking) - 1} more have no 'process'; "
                            "supervised fine-tuning needs a reasoning trace", sample_id=lacking[0])
        self._tokenizer = load_processor(model_path).tokenizer
        self._cursor = self._taken = cursor
        self._orders: dict[int, list[int]] = {}
        self._ahead: Iterator[Prepared] | None = None

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: questions before `cursor` were consumed."""
        return {"cursor": self._taken}

    def take(self, sampler: GroupSampler, meanwhile: Callable[[], None]
             ) -> tuple[tuple[TrainSequence, ...], dict[str, Any], list[tuple[str, str]]]:
        """Sequences and clips of the next step, and what came of each question; one whose clip cannot be read is replaced.

        The clips of the step after are started before this returns, so that they are decoded while the learner learns.
        """
        size = self._config.samples_per_step
        sequences: list[TrainSequence] = []
        clips: dict[str, Any] = {}
        outcomes: list[tuple[str, str]] = []
        while len(sequences) < size:
            prepared_clips = self._ahead or self._start(sampler, size - len(sequences))
            self._ahead = None
            for prepared in prepared_clips:
                meanwhile()
                outcomes.append((prepared.plan.group_id, prepared.failure.reason if prepared.failure else "trained"))
                if prepared.failure is not None:
                    if not sequences and len(outcomes) >= len(self._samples):
                        raise DataError(f"no clip of {self._config.data.train} can be used: {prepared.failure.message}")
                    continue
                name = prepared.clip_hashes[next(iter(prepared.plan.branches))]
                clips[name] = prepared.clips[name]
                sequences.append(TrainSequence(prepared.prompt, name, self._target(prepared.plan.sample)))
        self._taken = self._cursor
        self._ahead = self._start(sampler, size)
        return tuple(sequences), clips, outcomes

    def _start(self, sampler: GroupSampler, count: int) -> Iterator[Prepared]:
        return sampler.prepare([self._next() for _ in range(count)])

    def _next(self) -> GroupPlan:
        epoch, position = divmod(self._cursor, len(self._samples))
        if epoch not in self._orders:
            self._orders[epoch] = epoch_order(self._samples, self._config.seed, epoch)
        self._cursor += 1
        sample, spec, branch = self._samples[self._orders[epoch][position]], None, Branch.CLEAN
        if self._config.corruption is not None:
            seed = derive_seed(self._config.seed, sample.id, epoch, Branch.CORRUPTED.value)
            spec = self._config.corruption.draw(seed)
            branch = Branch.CORRUPTED
        return GroupPlan(f"{sample.id}@{epoch}", sample, spec, {branch: 1}, SamplingSpec())

    def _target(self, sample: VideoSample) -> tuple[int, ...]:
        text = f"<think>{sample.process}</think><answer>{sample.solution}</answer>"
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*ids, self._tokenizer.eos_token_id)


def plan(config: SFTJobConfig) -> list[str]:
    """The sizes that follow from the configuration, shown before any actor starts."""
    clips = "clean clips" if config.corruption is None else f"clips corrupted by {', '.join(config.corruption.kinds)}"
    return [f"supervised fine-tuning of {config.model.path}: {config.steps} steps of {config.samples_per_step} {clips} "
            f"on {config.learner.workers} worker(s)"]


def report_section(config: SFTJobConfig) -> list[str]:
    """What a reader of the report must know."""
    if config.corruption is None:
        return ["Training clips were clean.", *heldout.describe(config.evaluation, "never trained on")]
    return ["Training clips were corrupted.", *heldout.describe(config.evaluation, "those of training")]
