"""What a T-GRPO configuration will cost, as lines of its plan; and the plan alone, without starting anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from squall.actors.resources import Demand, ResourcePlan
from squall.algorithms.scoring import VOCABULARY_CHUNK
from squall.platform.budget import (
    DEFAULT_SPEED,
    RUNTIME_BYTES,
    SPEEDS,
    EngineLayout,
    GpuSpeed,
    GroupTokens,
    LearnerLayout,
    Memory,
    StepTime,
    clip_tokens,
    engine_memory,
    host_optimiser_bytes,
    kv_bytes_per_gpu,
    learner_memory,
    learner_remedies,
    learner_seconds,
    rollout_seconds,
    timestamp_tokens,
)
from squall.platform.machine import GIB, Gpu, find_gpus
from squall.platform.manifest import load_manifest
from squall.platform.models import resolve_model_path
from squall.platform.records import Branch
from squall.platform.shapes import BYTES, ModelShape, find_shape

if TYPE_CHECKING:
    from squall.jobs.tgrpo import TGRPOJobConfig

PROMPT_TOKENS, QUESTION_TOKENS = 200, 50
"""Allowed for question, options and chat markers, with a request to think and without one."""
USEFUL_SHARE = 0.5
"""Share of sampled groups that have reward variance, where nothing is known yet."""
WORTH_MOVING = 0.95
"""Another division of the GPUs is proposed when it takes less than this share of the time."""
BALANCED = 1.15
"""Neither side bounds a step whose longer half is within this factor of the shorter one."""


def show_plan(config: TGRPOJobConfig, lines: Sequence[str], demands: Sequence[Demand]) -> int:
    """Print what a run would begin with. Neither the manifest nor the model's files need to be there; nothing is started."""
    resolve_model_path(config.model.path)
    console = Console()
    for line in [*lines, *ResourcePlan(tuple(demands)).lines(), _data_line(config)]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def _data_line(config: TGRPOJobConfig) -> str:
    path = config.data.train
    if not path.is_file():
        return f"data: no manifest at {path} yet; nothing above depends on it"
    manifest = load_manifest(path, on_error="collect")
    rejected = f", {len(manifest.rejected):,} more records cannot be used" if manifest.rejected else ""
    return (f"data: {len(manifest.samples):,} questions in {path}{rejected}; the run trains on "
            f"{config.steps * config.groups_per_step:,} groups")


def budget_lines(config: TGRPOJobConfig) -> list[str]:
    """Memory, tokens and time of a run by arithmetic, and what to change where it does not fit."""
    shape = find_shape(config.model.path)
    if shape is None:
        return [f"budget: the shape of {config.model.path} is not known here; give a local directory for an estimate"]
    if not config.learner.gpus and not config.engine.gpus:
        budget = _Budget(config, shape, 0.0, DEFAULT_SPEED)
        return [budget.host_memory(), *budget.tokens()]
    gpus = find_gpus()
    memory = min((gpu.memory_bytes for gpu in gpus), default=config.gpu_memory_gib * GIB)
    budget = _Budget(config, shape, memory, _speed(gpus))
    return [*budget.learner(), *budget.engine(), *budget.tokens(), *budget.time()]


def _speed(gpus: Sequence[Gpu]) -> GpuSpeed:
    return next((speed for gpu in gpus for speed in SPEEDS if speed.name in gpu.name), DEFAULT_SPEED)


class _Budget:
    """The budget of one configuration. GPU memory in bytes."""

    def __init__(self, config: TGRPOJobConfig, shape: ModelShape, gpu_memory: float, speed: GpuSpeed) -> None:
        self._config, self._shape, self._gpu_memory, self._speed = config, shape, gpu_memory, speed
        self._group = group_tokens(config, shape)
        self._learner = learner_layout(config, self._group)
        dtype = config.model.dtype if config.engine.dtype == "auto" else config.engine.dtype
        engine = config.engine
        self._engine = EngineLayout(dtype, engine.tensor_parallel_size, engine.max_model_len, engine.max_num_seqs,
                                    engine.gpu_memory_utilization)
        self._found = engine_memory(shape, self._engine, gpu_memory)

    def host_memory(self) -> str:
        """The line of a run without GPUs."""
        weights = Memory({"weights": self._shape.parameters * BYTES[self._engine.dtype]})
        return (f"memory per learner worker: {_sum(learner_memory(self._shape, self._learner))}; per engine: {_sum(weights)} + "
                f"cache {self._config.engine.kv_cache_gib} GiB; beside what the processes themselves take")

    def learner(self) -> Iterator[str]:
        """Memory of a learner GPU, and what to change where it does not fit."""
        if not self._config.learner.gpus:
            return
        room, shared = self._learner_room()
        memory = learner_memory(self._shape, self._learner)
        memory = Memory({**memory.parts, "runtime": RUNTIME_BYTES})
        yield f"memory per learner GPU: {_sum(memory)} of {_gib(room)}" + (" that its engine leaves" if shared else "")
        if host := host_optimiser_bytes(self._shape, self._learner):
            yield f"host memory: optimiser {_gib(host)} GiB over all learner workers"
        resting, left = memory.total - memory.parts["activations"], self._gpu_memory * (1 - self._engine.utilization)
        if self._config.engine.colocate:
            yield f"while the engine samples the learner keeps {_gib(resting)} of the {_gib(left)} GiB that it leaves"
            if resting > left:
                yield (f"DOES NOT FIT: the learner keeps {_gib(resting)} GiB and the engine leaves {_gib(left)}; lower "
                       "engine.gpu_memory_utilization, or set learner.optimiser.offload_optimiser or model.lora")
        if memory.total > room:
            remedies = learner_remedies(self._shape, self._learner, room - RUNTIME_BYTES)
            change = f"enough would be {' or '.join(remedies)}" if remedies else "more GPUs or a smaller model are needed"
            yield f"DOES NOT FIT: a learner GPU needs {_gib(memory.total)} of {_gib(room)} GiB; {change}"

    def _learner_room(self) -> tuple[float, bool]:
        """Bytes that a learner GPU has, and whether an engine takes its share of the same GPU."""
        if self._config.engine.colocate:  # it sleeps while the learner needs the most
            return self._gpu_memory, False
        shared = self._config.learner.gpus < 1 and self._config.engine.gpus < 1 and self._config.engine.gpus > 0
        return self._gpu_memory * (1 - self._engine.utilization if shared else 1), shared

    def engine(self) -> Iterator[str]:
        """Memory of an engine GPU, and what to change where it does not fit."""
        if not self._config.engine.gpus:
            return
        found, share = self._found, self._gpu_memory * self._engine.utilization
        cache = found.cache_tokens * kv_bytes_per_gpu(self._shape, self._engine)
        memory = Memory({**found.memory.parts, "runtime": RUNTIME_BYTES, "cache": cache})
        answers, longest = (found.cache_tokens // length for length in (self._group.sequence, self._engine.max_model_len))
        yield (f"memory per engine GPU: {_sum(memory)} of {_gib(self._gpu_memory)}; the cache holds "
               f"{found.cache_tokens:,} tokens: {answers:,} answers with their prompts at once ({longest:,} of "
               f"engine.max_model_len; engine.max_num_seqs allows {self._engine.max_num_seqs:,})")
        if self._config.engine.weight_transfer == "shared_memory":
            yield (f"hand-over: {_gib(self._shape.parameters * BYTES[self._config.model.dtype])} GiB of weights pass through "
                   "/dev/shm after every step")
        if found.cache_tokens < self._engine.max_model_len:
            yield (f"DOES NOT FIT: of {_gib(share)} GiB an engine GPU has no room for one answer of engine.max_model_len "
                   f"{self._engine.max_model_len:,}; raise engine.tensor_parallel_size (with engine.gpus), raise "
                   "engine.gpu_memory_utilization, or lower max_model_len")

    def tokens(self) -> Iterator[str]:
        """Tokens of a clip, a question and a group."""
        group, trained = self._group, sum(self._group.trained.values())
        takes = "shared" if self._config.learner.shared_prefix else "without"
        yield (f"tokens: clip up to {group.clip:,} + text ~{group.text} + answer up to {group.answer:,}; the {trained} trained "
               f"answers of a group are {group.shared:,} with the prompt shared, {group.naive:,} without "
               f"({group.naive / group.shared:.1f}x); the learner takes them {takes}")
        block, multiple = self._shape.vision.block, self._config.data.frames.size_multiple
        if multiple % block:
            yield (f"TO MEND: data.frames.size_multiple is {multiple} and this model's blocks are {block} pixels, so that its "
                   f"processor would resize frames; set it to {block}")
        if group.sequence > self._engine.max_model_len:
            yield (f"TO MEND: prompt and answer reach {group.sequence:,} tokens and engine.max_model_len is "
                   f"{self._engine.max_model_len:,}: longer questions are dropped and counted; raise it or take fewer pixels")

    def time(self) -> Iterator[str]:
        """Which side bounds a step, and a better division of the GPUs where there is one."""
        learner, engine = self._config.learner, self._config.engine
        if not (learner.gpus and engine.gpus):
            return
        if not (self._learner_fits(learner.workers) and self._found.cache_tokens >= self._engine.max_model_len):
            return
        step, better = self._step(engine.count, learner.workers), self._best_division()
        side, ratio = ("learner", step.learn / step.rollout) if step.learn > step.rollout else (
            "rollouts", step.rollout / step.learn)
        bound = "neither side" if ratio < BALANCED else f"{side}, {ratio:.1f} times the other side"
        turns = "at the same time" if step.overlapped else "one after the other (max_staleness=1 overlaps them)"
        line = (f"bound by: {bound} (rollouts {step.rollout:.0f} s, learner {step.learn:.0f} s a step, {turns}; by "
                f"arithmetic for {self._speed.name} GPUs, half of the sampled groups useful, answers at their longest)")
        moved = self._step(*better)
        if moved.total < WORTH_MOVING * step.total:
            line += (f"; engine.count={better[0]} learner.workers={better[1]} would take {moved.total:.0f} s in place of "
                     f"{step.total:.0f} s")
        yield line

    def _step(self, engines: int, workers: int) -> StepTime:
        config, shape = self._config, self._shape
        sampled = min(config.max_sampled_groups, round(config.groups_per_step / USEFUL_SHARE))
        rollout = rollout_seconds(shape, self._engine, self._group, sampled, engines, self._found.cache_tokens, self._speed)
        layout = learner_layout(config, self._group, workers)
        learn = learner_seconds(shape, layout, self._group, config.groups_per_step, config.learner.shared_prefix,
                                config.learner.updates_per_step, self._speed)
        return StepTime(rollout, learn, overlapped=config.max_staleness > 0)

    def _best_division(self) -> tuple[int, int]:
        """(engines, learner workers) on as many GPUs that take the least time; every worker needs a group of each update."""
        config = self._config
        now = (config.engine.count, config.learner.workers)
        if config.learner.gpus != 1 or config.engine.gpus != self._engine.tensor_parallel:
            return now
        split = self._engine.tensor_parallel
        gpus = now[0] * split + now[1]
        choices = [(count, gpus - count * split) for count in range(1, (gpus - 1) // split + 1)]
        allowed = [(engines, workers) for engines, workers in choices
                   if workers * config.learner.updates_per_step <= config.groups_per_step and self._learner_fits(workers)]
        return min([now, *allowed], key=lambda choice: self._step(*choice).total)

    def _learner_fits(self, workers: int) -> bool:
        layout = learner_layout(self._config, self._group, workers)
        return learner_memory(self._shape, layout).total + RUNTIME_BYTES <= self._learner_room()[0]


def group_tokens(config: TGRPOJobConfig, shape: ModelShape) -> GroupTokens:
    """Tokens of a group at their longest."""
    method = config.tgrpo
    sizes = {branch.value: count for branch, count in method.branch_sizes().items()}
    trained = {method.trained_branch.value: method.samples_per_group}
    if method.optimise == "both":
        trained[Branch.CLEAN.value] = method.clean_samples
    frames, asked = config.data.frames, QUESTION_TOKENS if config.data.prompt_template == "compact" else PROMPT_TOKENS
    return GroupTokens(clip_tokens(frames, shape), asked + timestamp_tokens(frames, shape), config.max_tokens, trained, sizes)


def learner_layout(config: TGRPOJobConfig, group: GroupTokens, workers: int | None = None) -> LearnerLayout:
    """How the learner of a configuration holds and trains its policy."""
    learner, model = config.learner, config.model
    whole = config.groups_per_step * (group.shared if learner.shared_prefix else group.naive)
    tokens = min(max(learner.tokens_per_microbatch, group.sequence), whole)
    clips, answers = group.composition(tokens, learner.shared_prefix)
    return LearnerLayout(
        workers=workers or learner.workers, zero_stage=learner.optimiser.zero_stage, dtype=model.dtype, tokens_per_pass=tokens,
        vision_tokens_per_pass=clips, answer_tokens_per_pass=answers, reference=config.tgrpo.kl_beta > 0,
        train_vision=model.train_vision, lora_rank=model.lora.rank if model.lora is not None else None,
        offload_optimiser=learner.optimiser.offload_optimiser, recompute=learner.gradient_checkpointing,
        vocabulary_at_once=VOCABULARY_CHUNK)


def _sum(memory: Memory) -> str:
    """``weights 3.9 + gradients 3.9 = 7.8 GiB``, with parts that would read 0.0 left out; below 1 GiB in MiB."""
    unit, name = (GIB, "GiB") if memory.total >= GIB else (2**20, "MiB")
    parts = [f"{part} {_amount(value / unit)}" for part, value in memory.parts.items() if value >= 0.05 * unit]
    total = f" = {_amount(memory.total / unit)}" if len(parts) > 1 else ""
    return f"{' + '.join(parts)}{total} {name}"


def _gib(value: float) -> str:
    return _amount(value / GIB)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"
