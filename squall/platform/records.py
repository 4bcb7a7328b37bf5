"""The records that move through Squall: frozen, typed and small.

Pixels travel as `Clip` through Ray's object store; every other record refers to a clip by its content hash.
Shapes: T frames, H height, W width, 3 channels in RGB order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np


class ProblemType(StrEnum):
    """How an answer is compared with the solution. The names are those of the Video-R1 record."""

    MULTIPLE_CHOICE = "multiple choice"
    NUMERICAL = "numerical"
    OCR = "OCR"
    FREE_FORM = "free-form"
    REGRESSION = "regression"


class MediaType(StrEnum):
    VIDEO = "video"
    IMAGE = "image"


class Branch(StrEnum):
    """Which input a rollout saw."""

    CLEAN = "clean"
    CORRUPTED = "corrupted"
    SHUFFLED = "shuffled"


@dataclass(frozen=True, slots=True)
class VideoSample:
    """One question about one video or image. Pixels are never inside: `media` says where they are."""

    id: str
    media: str
    """Path or URI, resolved against the manifest's folder."""
    media_type: MediaType
    problem: str
    problem_type: ProblemType
    solution: str
    """The bare answer, without its answer tag."""
    options: tuple[str, ...] = ()
    """For multiple choice, such as ``("A. red", "B. blue")``."""
    process: str | None = None
    """Reasoning trace without its think tag, for supervised fine-tuning."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Every further field of the manifest record, as it stood."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Decoded frames and the time they stand for."""

    frames: np.ndarray
    """uint8, shape (T, H, W, 3), RGB. Read-only when it comes from the object store."""
    fps: float
    """Rate of *these* frames in frames per second; the model's temporal positions follow from it."""
    source_indices: tuple[int, ...]
    """Index of each frame in the source video."""
    source_fps: float
    content_hash: str
    """32 hex digits over pixels, shape and fps: see `hash_clip`."""
    media_type: MediaType = MediaType.VIDEO

    def video_metadata(self) -> dict[str, Any]:
        """What the vLLM engine and the learner's processor are both given. The clip counts as a whole video at `fps`."""
        count = len(self.frames)
        return {
            "fps": self.fps,
            "duration": count / self.fps,
            "total_num_frames": count,
            "frames_indices": list(range(count)),
            "video_backend": "squall",
            "do_sample_frames": False,
        }


def hash_clip(frames: np.ndarray, fps: float) -> str:
    """Content hash of a clip: the engine's multimodal cache key and the proof that learner and engine saw the same bytes."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{frames.shape}|{frames.dtype}|{fps!r}".encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def make_clip(
    frames: np.ndarray,
    fps: float,
    source_indices: tuple[int, ...] | None = None,
    source_fps: float | None = None,
    media_type: MediaType = MediaType.VIDEO,
) -> Clip:
    """Build a `Clip` from uint8 frames (T, H, W, 3) and hash it."""
    indices = tuple(range(len(frames))) if source_indices is None else source_indices
    return Clip(frames, fps, indices, source_fps or fps, hash_clip(frames, fps), media_type)


@dataclass(frozen=True, slots=True)
class CorruptionSpec:
    """Everything needed to render a corruption again: ``render(frames, spec)`` asks for nothing else.

    Prints as one line, such as ``heavy_rain 0.6 seed=7 wind=2 frames=4:12 calibration=1 + night 0.3 seed=8 calibration=1``,
    which `squall.algorithms.corruption.parse_spec` reads.
    """

    family: str
    kind: str
    """Name of a registered kind, ``module:function``, or ``learned:FOLDER`` with an absolute path to trained attackers."""
    severity: float
    """In [0, 1]; 0 leaves the clip unchanged."""
    seed: int
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Explicit values that override what severity implies."""
    span: tuple[int, int] | None = None
    """Half-open range of frames that are affected; None is the whole clip."""
    calibration: int = 0
    """Version of the table that makes severities comparable; 0 uses none."""
    checkpoint: str | None = None
    """For learned kinds, the hash of the weights: it says which attackers, and the path only where they lie."""
    then: tuple[CorruptionSpec, ...] = ()
    """What is applied after it, in this order, where corruptions are composed."""

    @property
    def name(self) -> str:
        """What tables and gauges call it: its kind, or all of a composition, ``night+light_rain``."""
        return "+".join(one.kind for one in (self, *self.then))

    def __str__(self) -> str:
        words = [self.kind, _shortest(self.severity), f"seed={self.seed}"]
        words += [f"{name}={_shortest(value)}" for name, value in self.parameters.items()]
        words += [f"frames={self.span[0]}:{self.span[1]}"] if self.span else []
        words += [f"calibration={self.calibration}"] if self.calibration else []
        words += [f"checkpoint={self.checkpoint}"] if self.checkpoint else []
        return " + ".join([" ".join(words), *map(str, self.then)])


def _shortest(value: float) -> str:
    """The shortest text that reads back as the same number."""
    text = f"{value:g}"
    return text if float(text) == value else repr(float(value))


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """How answers are drawn from the policy."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer."""

    sample_id: str
    attempt_id: str
    """A retry gets a new one, so that no answer is counted twice."""
    branch: Branch
    clip_hash: str
    index: int
    """Position within its branch, 0 .. n-1."""
    sampling: SamplingSpec
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    """Natural log-probability of each token under the distribution it was drawn from: after bans, temperature and top-p."""
    weight_version: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """One question and the answers of all its branches: the unit that moves, is stored and is counted once."""

    group_id: str
    sample: VideoSample
    prompt: str
    corruption: CorruptionSpec | None
    clip_hashes: Mapping[Branch, str]
    rollouts: tuple[Rollout, ...]

    def branch(self, branch: Branch) -> tuple[Rollout, ...]:
        """The rollouts of one branch, in order of their index."""
        return tuple(rollout for rollout in self.rollouts if rollout.branch == branch)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group whose answers have rewards."""

    sampled: SampledGroup
    rewards: tuple[Mapping[str, float], ...]
    """One mapping of reward name to unweighted value per rollout, in the order of `sampled.rollouts`."""


@dataclass(frozen=True, slots=True)
class TrainGroup:
    """A group ready for the learner."""

    scored: ScoredGroup
    advantages: tuple[float | None, ...]
    """One per rollout in the order of `sampled.rollouts`; None for rollouts that carry no gradient."""
    statistics: Mapping[str, float] = field(default_factory=dict)
    """Diagnostics of this group, such as ``contrast_effective``."""
