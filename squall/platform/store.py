"""Rollouts on disk: a Parquet file per step, a row per answer; enough to read the answers and to replay the learner."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from squall.platform.errors import DataError
from squall.platform.records import (
    Branch,
    CorruptionSpec,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    ScoredGroup,
    TrainGroup,
    VideoSample,
)
from squall.platform.runs import to_json

_STRING_MAP, _NUMBER_MAP = pa.map_(pa.string(), pa.string()), pa.map_(pa.string(), pa.float64())

SCHEMA = pa.schema([
    ("step", pa.int32()),
    ("group", pa.int32()),  # position within the step: group ids need not be unique
    ("group_id", pa.string()),
    ("sample_id", pa.string()),
    ("attempt_id", pa.string()),
    ("branch", pa.string()),
    ("index", pa.int32()),
    ("problem_type", pa.string()),
    ("problem", pa.string()),
    ("options", pa.list_(pa.string())),
    ("solution", pa.string()),
    ("process", pa.string()),
    ("media", pa.string()),
    ("media_type", pa.string()),
    ("metadata", pa.string()),
    ("corruption_family", pa.string()),
    ("corruption_kind", pa.string()),
    ("corruption_severity", pa.float64()),
    ("corruption_seed", pa.int64()),
    ("corruption_parameters", pa.string()),
    ("corruption_span", pa.list_(pa.int32())),
    ("corruption_calibration", pa.int32()),
    ("corruption_checkpoint", pa.string()),
    ("corruption_then", pa.string()),
    ("clip_hash", pa.string()),
    ("clip_hashes", _STRING_MAP),
    ("prompt", pa.string()),
    ("text", pa.string()),
    ("token_ids", pa.list_(pa.int32())),
    ("logprobs", pa.list_(pa.float64())),
    ("finish_reason", pa.string()),
    ("temperature", pa.float64()),
    ("top_p", pa.float64()),
    ("max_tokens", pa.int32()),
    ("sampling_seed", pa.int64()),
    ("weight_version", pa.int64()),
    ("rewards", _NUMBER_MAP),
    ("advantage", pa.float64()),
    ("statistics", _NUMBER_MAP),
    ("dropped", pa.string()),  # why the group was not trained on; null when it was
])


class RolloutStore:
    """``step-000123.parquet`` files in one folder. Columns are those of `SCHEMA`.

    The ``corruption_*`` columns are the group's, on the rows of its clean branch too: ``branch`` says what a row saw.
    Numbers are float64 so that records come back equal; ``metadata``, ``corruption_parameters`` and
    ``corruption_then`` are JSON, and ``corruption_kind`` names all of a composition, ``night+light_rain``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._folder

    def path(self, step: int) -> Path:
        """Where a step's rollouts are."""
        return self._folder / f"step-{step:06d}.parquet"

    def steps(self) -> list[int]:
        """The stored steps, in order."""
        names = (path.stem.removeprefix("step-") for path in self._folder.glob("step-*.parquet"))
        return sorted(int(name) for name in names if name.isdecimal())

    def write(self, step: int, groups: Sequence[TrainGroup], dropped: Sequence[tuple[str, ScoredGroup]] = ()) -> Path:
        """Store a step's trained groups, and (reason, group) for the scored ones left out. Replaces the step's file."""
        trained = [(group, None) for group in groups]
        untrained = [(TrainGroup(group, (None,) * len(group.sampled.rollouts)), reason) for reason, group in dropped]
        rows = [row for position, (group, reason) in enumerate(trained + untrained)
                for row in _rows(step, position, group, reason)]
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{self.path(step).name}"
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary, compression="zstd",
                       use_dictionary=_repeated(), column_encoding={"logprobs.list.element": "BYTE_STREAM_SPLIT"})
        return temporary.replace(self.path(step))

    def read(self, step: int) -> list[TrainGroup]:
        """The trained groups of a step, equal to those written. Raises DataError when the step is not stored."""
        return [group for group, reason in self._groups(step) if reason is None]

    def read_dropped(self, step: int) -> list[tuple[str, ScoredGroup]]:
        """The (reason, group) pairs of a step, equal to those written. Raises DataError when the step is not stored."""
        return [(reason, group.scored) for group, reason in self._groups(step) if reason is not None]

    def read_group(self, step: int, position: int) -> TrainGroup:
        """The group at a position of a step, trained or dropped. Raises DataError when it is not stored."""
        rows = []
        if self.path(step).exists():
            table = read_columns(self.path(step))
            rows = table.filter(pc.equal(table["group"], position)).to_pylist()
        if not rows:
            raise DataError(f"{self.path(step)}: no group {position} is stored", reason="missing_rollouts")
        return _group(rows)

    def _groups(self, step: int) -> Iterator[tuple[TrainGroup, str | None]]:
        path = self.path(step)
        if not path.exists():
            stored = self.steps()
            known = f"stored steps are {stored[0]} to {stored[-1]}" if stored else "no step is stored"
            raise DataError(f"{path}: no rollouts of step {step}; {known} in this folder", reason="missing_rollouts")
        for _, rows in groupby(read_columns(path).to_pylist(), key=itemgetter("group")):
            members = list(rows)
            yield _group(members), members[0]["dropped"]


def read_columns(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of a file of rollouts, or all. Raises DataError when the file is damaged, cut short or of another kind."""
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: cannot be read as rollouts, so it is damaged or cut short ({problem})",
                        reason="damaged_rollouts") from None


def _repeated() -> list[str]:
    unique = {"logprobs", "token_ids", "text", "attempt_id", "advantage"}
    return [field.name for field in SCHEMA if field.name not in unique and not pa.types.is_nested(field.type)]


def _rows(step: int, position: int, group: TrainGroup, dropped: str | None) -> Iterable[dict[str, Any]]:
    scored, sampled = group.scored, group.scored.sampled
    shared = {
        "step": step,
        "group": position,
        "group_id": sampled.group_id,
        "prompt": sampled.prompt,
        "clip_hashes": [(str(branch), clip) for branch, clip in sampled.clip_hashes.items()],
        "statistics": list(group.statistics.items()),
        "dropped": dropped,
        **_sample_columns(sampled.sample),
        **_corruption_columns(sampled.corruption),
    }
    for rollout, rewards, advantage in zip(sampled.rollouts, scored.rewards, group.advantages, strict=True):
        yield shared | _rollout_columns(rollout) | {"rewards": list(rewards.items()), "advantage": advantage}


def _sample_columns(sample: VideoSample) -> dict[str, Any]:
    return {
        "sample_id": sample.id,
        "problem_type": str(sample.problem_type),
        "problem": sample.problem,
        "options": list(sample.options),
        "solution": sample.solution,
        "process": sample.process,
        "media": sample.media,
        "media_type": str(sample.media_type),
        "metadata": to_json(sample.metadata),
    }


def _corruption_columns(spec: CorruptionSpec | None) -> dict[str, Any]:
    if spec is None:
        return {}
    columns = {f"corruption_{name}": value for name, value in asdict(spec).items()}
    return columns | {"corruption_kind": spec.name, "corruption_parameters": to_json(spec.parameters),
                      "corruption_then": to_json(columns["corruption_then"])}


def _rollout_columns(rollout: Rollout) -> dict[str, Any]:
    columns = {name: getattr(rollout, name) for name in
               ("attempt_id", "clip_hash", "index", "text", "token_ids", "logprobs", "weight_version", "finish_reason")}
    sampling = rollout.sampling
    return columns | {"branch": str(rollout.branch), "temperature": sampling.temperature, "top_p": sampling.top_p,
                      "max_tokens": sampling.max_tokens, "sampling_seed": sampling.seed}


def _group(rows: list[dict[str, Any]]) -> TrainGroup:
    first = rows[0]
    sampled = SampledGroup(
        group_id=first["group_id"],
        sample=_sample(first),
        prompt=first["prompt"],
        corruption=_corruption(first),
        clip_hashes={Branch(branch): clip for branch, clip in first["clip_hashes"]},
        rollouts=tuple(_rollout(row) for row in rows),
    )
    scored = ScoredGroup(sampled, tuple(dict(row["rewards"]) for row in rows))
    return TrainGroup(scored, tuple(row["advantage"] for row in rows), dict(first["statistics"]))


def _sample(row: dict[str, Any]) -> VideoSample:
    return VideoSample(
        id=row["sample_id"],
        media=row["media"],
        media_type=MediaType(row["media_type"]),
        problem=row["problem"],
        problem_type=ProblemType(row["problem_type"]),
        solution=row["solution"],
        options=tuple(row["options"]),
        process=row["process"],
        metadata=json.loads(row["metadata"]),
    )


def _corruption(row: dict[str, Any]) -> CorruptionSpec | None:
    if row["corruption_kind"] is None:
        return None
    return _spec({
        "family": row["corruption_family"],
        "kind": row["corruption_kind"].split("+")[0],
        "severity": row["corruption_severity"],
        "seed": row["corruption_seed"],
        "parameters": json.loads(row["corruption_parameters"]),
        "span": row["corruption_span"],
        "calibration": row.get("corruption_calibration") or 0,  # runs of earlier versions have none
        "checkpoint": row.get("corruption_checkpoint"),
        "then": json.loads(row.get("corruption_then") or "[]"),
    })


def _spec(values: dict[str, Any]) -> CorruptionSpec:
    span = values["span"]
    return CorruptionSpec(**values | {"span": None if span is None else tuple(span), "then": tuple(map(_spec, values["then"]))})


def _rollout(row: dict[str, Any]) -> Rollout:
    return Rollout(
        sample_id=row["sample_id"],
        attempt_id=row["attempt_id"],
        branch=Branch(row["branch"]),
        clip_hash=row["clip_hash"],
        index=row["index"],
        sampling=SamplingSpec(row["temperature"], row["top_p"], row["max_tokens"], row["sampling_seed"]),
        token_ids=tuple(row["token_ids"]),
        text=row["text"],
        logprobs=tuple(row["logprobs"]),
        weight_version=row["weight_version"],
        finish_reason=row["finish_reason"],
    )
