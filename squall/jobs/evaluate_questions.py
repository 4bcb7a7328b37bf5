"""The questions of an evaluation and the conditions they are asked in: of manifests, or of a benchmark's ready-made copies."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squall.algorithms.corruption import CorruptionSpec, parse_spec
from squall.platform.bench_card import load_conditions, read_bench
from squall.platform.errors import ConfigError, DataError
from squall.platform.manifest import Rejection, load_manifest
from squall.platform.records import VideoSample
from squall.platform.report_card import CLEAN
from squall.platform.runs import to_json
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    from squall.jobs.evaluate_plan import EvaluateConfig


@dataclass(frozen=True, slots=True)
class Condition:
    """One way in which every question is asked."""

    name: str
    kind: str | None = None
    """As the configuration says it, or the name of a benchmark's condition; None for clean."""
    severity: float | None = None
    family: str | None = None

    def spec(self, sample: VideoSample, seed: int) -> CorruptionSpec | None:
        """The corruption of a question's clip. Severities of a kind share their seeds: the same rain, only more of it."""
        if self.kind is None:
            return None
        return parse_spec(self.kind, severity=self.severity, seed=derive_seed(seed, sample.id, self.kind))


def make_conditions(kinds: Sequence[str], severities: Sequence[float]) -> tuple[Condition, ...]:
    """Clean, then every kind at each severity; a kind that names its severity is one condition.

    Raises:
        ConfigError: two conditions would be the same.
    """
    conditions = [Condition(CLEAN)]
    for kind in kinds:
        first, second = (parse_spec(kind, severity=severity, seed=0) for severity in (0.25, 0.5))
        if first.severity == second.severity:
            conditions.append(Condition(kind, kind, first.severity, first.family))
        else:
            conditions += [Condition(f"{kind} {severity:g}", kind, severity, first.family) for severity in severities]
    names = Counter(condition.name for condition in conditions)
    if twice := [name for name, number in names.items() if number > 1]:
        raise ConfigError(f"kinds and severities give '{twice[0]}' twice; name it once, as a kind with its severity or without")
    return tuple(conditions)


@dataclass(frozen=True, slots=True)
class Bench:
    """A benchmark as it is asked."""

    conditions: tuple[Condition, ...]
    copies: Mapping[str, tuple[VideoSample, ...]]
    calibration: int


def load_bench(config: EvaluateConfig) -> Bench:
    """Conditions and questions of a benchmark. Raises DataError where it is not whole."""
    card = read_bench(config.bench)
    manifests = load_conditions(config.bench, card)
    conditions = [Condition(CLEAN)]
    for name, manifest in manifests.items():
        if name != CLEAN:
            severities = {sample.metadata["corruption_spec"]["severity"] for sample in manifest.samples}
            family = name if name in card.kinds else name.rpartition("-")[0]
            conditions.append(Condition(name, name, severities.pop() if len(severities) == 1 else None, family))
    return Bench(tuple(conditions), {name: manifest.samples[:config.questions] for name, manifest in manifests.items()},
                 card.calibration)


def load_questions(config: EvaluateConfig) -> tuple[tuple[VideoSample, ...], tuple[Rejection, ...]]:
    """The questions of all manifests, and records that cannot be used.

    Raises:
        DataError: a manifest cannot be read, holds no question, or an id is there twice.
    """
    samples: list[VideoSample] = []
    rejected: list[Rejection] = []
    for path in config.manifest:
        manifest = load_manifest(path, media_root=config.data.media_root, on_error="collect")
        rejected += manifest.rejected
        if not manifest.samples:
            first = f"; the first problem: {manifest.rejected[0].message}" if manifest.rejected else ""
            raise DataError(f"{path}: no question in it can be asked{first}", reason="empty_manifest")
        samples += manifest.samples[:config.questions]
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"sample {sample.id}: two questions have this id; corruptions follow from it, so give each its own",
                            sample_id=sample.id, reason="duplicate_id")
        seen.add(sample.id)
    return tuple(samples), tuple(rejected)


def hash_questions(samples: Sequence[VideoSample]) -> str:
    """32 hex digits over ids, questions, options, solutions and the sizes of the media files."""
    digest = hashlib.blake2b(digest_size=16)
    for sample in samples:
        asked: Mapping[str, Any] = {"id": sample.id, "problem": sample.problem, "type": str(sample.problem_type),
                                    "options": sample.options, "solution": sample.solution,
                                    "bytes": os.path.getsize(sample.media)}
        digest.update(to_json(asked).encode() + b"\n")
    return digest.hexdigest()
