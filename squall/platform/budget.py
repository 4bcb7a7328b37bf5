"""What a plan costs in memory, tokens and time, by arithmetic: nothing is loaded, nothing runs.

Memory is what a worker holds at its fullest moment, to within some 15 %; times are ratios of dense matrix products and of
memory traffic on one kind of GPU, with attention scores and communication left out. Units: bytes, tokens, seconds.

Sources: bytes of weights, gradients and optimiser state, Rajbhandari et al. 2020 (arXiv 1910.02054, section 3); activations,
the tensors that transformers' layers keep for the backward pass, in the manner of Korthikanti et al. 2022 (arXiv 2205.05198,
section 4); 6 floating-point operations per parameter and trained token, Kaplan et al. 2020 (arXiv 2001.08361, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from squall.platform.machine import GIB
from squall.platform.shapes import BYTES, ModelShape, VisionShape
from squall.platform.video import FrameSampling

TIMESTAMP_TOKENS = 9
"""Text that Qwen3-VL writes before every `temporal` frames, such as ``<1.5 seconds>`` and its markers."""
RUNTIME_BYTES = 2 * GIB
"""CUDA context, NCCL, library workspaces and fragmentation, on every GPU."""
GATHERED_PARAMETERS = 1_000_000_000
"""Parameters that DeepSpeed's ZeRO-3 keeps gathered at a time (stage3_max_live_parameters)."""
BUCKET_PARAMETERS = 500_000_000
"""Elements of DeepSpeed's reduction buffer."""
LOGIT_COPIES = 6
"""float32 copies of the logits at the same time: model output, picked, scaled, log-probabilities, entropy, gradient."""
LEARNER_EFFICIENCY, PREFILL_EFFICIENCY, DECODE_EFFICIENCY = 0.4, 0.5, 0.7
"""Shares of a GPU's peak that are usually reached: of operations in training and in prefill, of memory traffic in decoding."""


@dataclass(frozen=True, slots=True)
class GpuSpeed:
    """Peaks of a kind of GPU: dense bfloat16 operations and bytes of memory traffic per second."""

    name: str
    operations: float
    traffic: float


SPEEDS = (GpuSpeed("H200", 989e12, 4.8e12), GpuSpeed("H100", 989e12, 3.35e12), GpuSpeed("A100", 312e12, 2.0e12))
DEFAULT_SPEED = SPEEDS[1]


@dataclass(frozen=True, slots=True)
class LearnerLayout:
    """How the learner holds and trains a policy."""

    workers: int
    zero_stage: int
    dtype: str
    tokens_per_pass: int
    """Tokens of one forward and backward pass of a worker."""
    vision_tokens_per_pass: int
    """How many of them are of clips."""
    answer_tokens_per_pass: int
    """How many of them are predicted."""
    reference: bool = True
    """Whether a frozen copy of the policy gives the KL term."""
    train_vision: bool = True
    lora_rank: int | None = None
    offload_optimiser: bool = False
    recompute: bool = False
    """Whether layers keep their input alone and are computed again in the backward pass."""
    vocabulary_at_once: int | None = None
    """Vocabulary entries whose logits exist at a time; None is all."""


@dataclass(frozen=True, slots=True)
class EngineLayout:
    """How an engine holds a policy."""

    dtype: str
    tensor_parallel: int
    max_model_len: int
    max_num_seqs: int
    utilization: float
    """Share of the GPU's memory that the engine may take."""


@dataclass(frozen=True, slots=True)
class GroupTokens:
    """Tokens of one question and its answers at their longest."""

    clip: int
    text: int
    answer: int
    trained: Mapping[str, int]
    """Trained answers by branch; each branch has a clip of its own."""
    sampled: Mapping[str, int]
    """Sampled answers by branch."""

    @property
    def prompt(self) -> int:
        return self.clip + self.text

    @property
    def sequence(self) -> int:
        """Tokens of a prompt and its longest answer."""
        return self.prompt + self.answer

    @property
    def shared(self) -> int:
        """Tokens that a learner sees when the answers of a branch share their prompt."""
        return sum(self.prompt + count * self.answer for count in self.trained.values() if count)

    @property
    def naive(self) -> int:
        """Tokens that a learner sees when every answer brings its prompt along."""
        return sum(count * self.sequence for count in self.trained.values())

    def encoded_clips(self, shared: bool) -> int:
        """Clips that a learner encodes for a group."""
        return sum(1 if shared else count for count in self.trained.values() if count)

    def composition(self, tokens: int, shared: bool) -> tuple[int, int]:
        """How many of the tokens of a pass are of clips, and how many are predicted."""
        whole, answers = self.shared if shared else self.naive, sum(self.trained.values()) * self.answer
        return tokens * self.encoded_clips(shared) * self.clip // whole, tokens * answers // whole


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by purpose, in the order in which they are shown."""

    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What an engine's GPU holds."""

    memory: Memory
    """Without the cache."""
    cache_tokens: int
    """Tokens whose keys and values fit beside it."""


# --- tokens ---


def clip_tokens(frames: FrameSampling, shape: ModelShape) -> int:
    """Vision tokens of the longest clip at the largest size that the frame sampling allows."""
    vision = shape.vision
    blocks = frames.max_pixels // vision.block**2
    if frames.resize:
        blocks = (frames.resize[0] // vision.block) * (frames.resize[1] // vision.block)
    return math.ceil(frames.max_frames / vision.temporal) * max(1, blocks)


def timestamp_tokens(frames: FrameSampling, shape: ModelShape) -> int:
    """Tokens of text that the processor writes into the prompt of the longest clip."""
    return 0 if shape.vision.gated else math.ceil(frames.max_frames / shape.vision.temporal) * TIMESTAMP_TOKENS


# --- memory ---


def trainable_parameters(shape: ModelShape, layout: LearnerLayout) -> int:
    """Parameters that learn."""
    if layout.lora_rank is not None:
        return shape.lora_parameters(layout.lora_rank)
    return shape.parameters - (0 if layout.train_vision else shape.vision.parameters)


def learner_memory(shape: ModelShape, layout: LearnerLayout) -> Memory:
    """Bytes of one learner worker at the end of a forward pass.

    AdamW keeps two float32 moments, and a float32 copy of the weights wherever these are shorter or sharded.
    """
    size, stage, workers = BYTES[layout.dtype], layout.zero_stage, layout.workers
    learning = trainable_parameters(shape, layout)
    frozen = shape.parameters if layout.lora_rank is not None else shape.parameters - learning
    weights = (learning + frozen) * size
    state = learning * (8 if layout.dtype == "float32" and stage == 0 else 12)
    parts = {
        "weights": weights / (workers if stage == 3 else 1),
        "gradients": learning * size / (workers if stage >= 2 else 1),
        "optimiser": 0.0 if layout.offload_optimiser else state / (workers if stage >= 1 else 1),
        "reference": shape.parameters * size / (workers if stage == 3 else 1) if layout.reference else 0.0,
        "activations": activation_bytes(shape, layout),
        "ZeRO buffers": _buffer_parameters(shape, layout, learning) * size,
    }
    return Memory({name: value for name, value in parts.items() if value})


def host_optimiser_bytes(shape: ModelShape, layout: LearnerLayout) -> float:
    """Bytes of optimiser state that all workers together keep in host memory."""
    return 12.0 * trainable_parameters(shape, layout) if layout.offload_optimiser else 0.0


def activation_bytes(shape: ModelShape, layout: LearnerLayout) -> float:
    """Bytes kept for the backward pass, and the logits.

    Per token and layer of the language model: norms (a float32 input, a result and its scaled copy), five tensors of the
    attention (queries, repeated keys and values, output, output laid out anew), four of the gated MLP. The vision tower's
    attention keeps the joint projection as well, which makes seven; Qwen3's has plain norms and an MLP of two.
    """
    size = BYTES[layout.dtype]
    total = _kept(layout.tokens_per_pass, shape.layers, _language_layer(shape, size), shape.hidden * size, layout.recompute)
    if layout.train_vision and layout.lora_rank is None:
        vision = shape.vision
        patches = layout.vision_tokens_per_pass * vision.merge**2
        ends = size * vision.pixels + (1 + vision.deepstack) * vision.hidden * (4 + 5 * size)
        total += patches * ends
        total += _kept(patches, vision.layers, _vision_layer(vision, size), vision.hidden * size, layout.recompute)
    at_once = min(shape.vocabulary, layout.vocabulary_at_once or shape.vocabulary)
    return total + layout.answer_tokens_per_pass * at_once * 4 * LOGIT_COPIES


def _language_layer(shape: ModelShape, size: int) -> int:
    """Bytes that a layer of the language model keeps per token."""
    normed = 2 * shape.hidden + (shape.query_size + shape.kv_size if shape.qk_norm else 0)
    return normed * (4 + 2 * size) + size * (5 * shape.query_size + 4 * shape.intermediate)


def _vision_layer(vision: VisionShape, size: int) -> int:
    """Bytes that a layer of the vision tower keeps per patch."""
    norms = 2 * vision.hidden * (4 + 2 * size if vision.gated else 2 * size)
    return norms + size * (7 * vision.hidden + (4 if vision.gated else 2) * vision.intermediate)


def _kept(tokens: int, layers: int, layer: int, layer_input: int, recompute: bool) -> float:
    return tokens * (layers * layer_input + layer if recompute else layers * layer)


def _buffer_parameters(shape: ModelShape, layout: LearnerLayout, learning: int) -> int:
    if layout.zero_stage == 0 or layout.workers == 1:
        return 0
    gathered = GATHERED_PARAMETERS if layout.zero_stage == 3 else BUCKET_PARAMETERS
    return min(gathered, shape.parameters) + min(BUCKET_PARAMETERS, learning)


def engine_memory(shape: ModelShape, layout: EngineLayout, gpu_bytes: float) -> EngineMemory:
    """Bytes of one engine GPU beside its cache, and the tokens that the rest of its share holds."""
    size, split = BYTES[layout.dtype], layout.tensor_parallel
    batch = max(8192, layout.max_model_len)
    working = batch * (4 * shape.hidden + 2 * shape.intermediate) * size / split
    logits = 2 * layout.max_num_seqs * shape.vocabulary * 4 / split
    memory = Memory({"weights": shape.parameters * size / split, "activations": working + logits})
    room = gpu_bytes * layout.utilization - RUNTIME_BYTES - memory.total
    return EngineMemory(memory, max(0, int(room / kv_bytes_per_gpu(shape, layout))))


def kv_bytes_per_gpu(shape: ModelShape, layout: EngineLayout) -> float:
    """Bytes of one token's keys and values on one GPU; heads that do not divide are held several times."""
    return shape.kv_bytes_per_token(layout.dtype) / min(layout.tensor_parallel, shape.kv_heads)


# --- time ---


def learner_operations(shape: ModelShape, layout: LearnerLayout, tokens: float, clip_tokens: float, answer_tokens: float,
                       updates: int = 1) -> float:
    """Floating-point operations of all workers for one step.

    Per parameter and token 2 forward, 2 backward to the inputs, 2 to the weights; 2 for the reference; 2 where layers are
    computed again; 2 for the log-probabilities before several updates.
    """
    forwards = 1 + layout.reference + layout.recompute + (updates > 1)
    language = 2 * forwards + (2 if layout.lora_rank is not None else 4)
    vision = 2 * forwards + (4 if layout.train_vision and layout.lora_rank is None else 0)
    head = shape.vocabulary * shape.hidden * answer_tokens
    patches = clip_tokens * shape.vision.merge**2
    return language * (shape.layer_parameters * tokens + head) + vision * shape.vision.layer_parameters * patches


def prefill_operations(shape: ModelShape, prompts: float, prompt_tokens: int, clip_tokens: int) -> float:
    """Operations of encoding prompts and their clips once each."""
    patches = clip_tokens * shape.vision.merge**2
    return 2 * prompts * (shape.layer_parameters * prompt_tokens + shape.vision.layer_parameters * patches)


def decode_bytes(shape: ModelShape, layout: EngineLayout, answers: float, answer_tokens: int, context: float,
                 batch: int) -> float:
    """Bytes that engines read to decode answers, `batch` at a time: the weights for each step, the cache for each token."""
    size = BYTES[layout.dtype]
    weights = (shape.layer_parameters + shape.vocabulary * shape.hidden) * size
    steps = math.ceil(answers / batch) * answer_tokens
    return steps * weights + answers * answer_tokens * context * shape.kv_bytes_per_token(layout.dtype)


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step's two halves, each on all of its GPUs, at the same time or one after the other."""

    rollout: float
    learn: float
    overlapped: bool

    @property
    def total(self) -> float:
        return max(self.rollout, self.learn) if self.overlapped else self.rollout + self.learn


def rollout_seconds(shape: ModelShape, layout: EngineLayout, group: GroupTokens, groups: int, engines: int, cache_tokens: int,
                    speed: GpuSpeed = DEFAULT_SPEED) -> float:
    """Seconds to sample `groups` groups on `engines` engines, every answer at its longest."""
    prompts, answers = groups * sum(1 for count in group.sampled.values() if count), groups * sum(group.sampled.values())
    batch = max(1, min(layout.max_num_seqs, cache_tokens // group.sequence, math.ceil(answers / engines)))
    gpus = engines * layout.tensor_parallel
    prefill = prefill_operations(shape, prompts, group.prompt, group.clip) / (PREFILL_EFFICIENCY * speed.operations * gpus)
    context = group.prompt + group.answer / 2
    read = engines * decode_bytes(shape, layout, answers / engines, group.answer, context, batch)
    return prefill + read / (DECODE_EFFICIENCY * speed.traffic * gpus)


def learner_seconds(shape: ModelShape, layout: LearnerLayout, group: GroupTokens, groups: int, shared: bool, updates: int = 1,
                    speed: GpuSpeed = DEFAULT_SPEED) -> float:
    """Seconds to train on `groups` groups; `shared` says whether answers of a branch share their prompt."""
    trained = sum(group.trained.values())
    operations = learner_operations(shape, layout, groups * (group.shared if shared else group.naive),
                                    groups * group.encoded_clips(shared) * group.clip, groups * trained * group.answer, updates)
    return operations / (LEARNER_EFFICIENCY * speed.operations * layout.workers)


# --- what to change ---


Change = Callable[[LearnerLayout], LearnerLayout]


def learner_remedies(shape: ModelShape, layout: LearnerLayout, room: float) -> list[str]:
    """Changes after which a worker's memory fits in `room` bytes: up to three single ones, else the first two or three that
    do together. They are tried from the cheapest on; none when no three are enough.
    """
    offered = _offered(layout)
    for count in (1, 2, 3):
        found = []
        for chosen in combinations(offered, count):
            changed = layout
            for _, change in chosen:
                changed = change(changed)
            together = changed.lora_rank is None or changed.zero_stage < 3  # adapters cannot be merged into sharded weights
            if together and learner_memory(shape, changed).total <= room:
                found.append(" and ".join(text for text, _ in chosen))
        if found:
            return found[:3] if count == 1 else found[:1]
    return []


def _offered(layout: LearnerLayout) -> list[tuple[str, Change]]:
    full, learns = layout.lora_rank is None, layout.train_vision and layout.lora_rank is None
    offered: list[tuple[bool, str, Change]] = [
        (full and layout.zero_stage < 3 and layout.workers > 1, "learner.optimiser.zero_stage=3",
         lambda now: replace(now, zero_stage=3)),
        (learns, "model.train_vision=false", lambda now: replace(now, train_vision=False)),
        (True, "half the tokens of a pass (micro-batch, data.frames, max_tokens)", _halve_tokens),
        (not layout.offload_optimiser and layout.zero_stage > 0, "learner.optimiser.offload_optimiser=true",
         lambda now: replace(now, offload_optimiser=True)),
        (True, f"learner.workers={2 * layout.workers}", lambda now: replace(now, workers=2 * layout.workers)),
        (full and layout.zero_stage < 3, "model.lora={rank: 16}", lambda now: replace(now, lora_rank=16)),
        (True, f"learner.workers={4 * layout.workers}", lambda now: replace(now, workers=4 * layout.workers)),
    ]
    return [(text, change) for allowed, text, change in offered if allowed]


def _halve_tokens(layout: LearnerLayout) -> LearnerLayout:
    return replace(layout, tokens_per_pass=layout.tokens_per_pass // 2,
                   vision_tokens_per_pass=layout.vision_tokens_per_pass // 2,
                   answer_tokens_per_pass=layout.answer_tokens_per_pass // 2)
