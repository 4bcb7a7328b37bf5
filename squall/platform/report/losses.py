"""What was lost on the way and why, in words that a user of the page understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REASONS = {
    "zero_variance": "every answer earned the same, so there is nothing to learn from",
    "easy": "the policy answers it, and is sure (difficulty.confident_above)",
    "deferred": "too difficult yet: it waits in the memory (difficulty.memory)",
    "judge_unparsed": "the judge's replies could not be read at any attempt (judge.max_attempts)",
    "judge_timeout": "the judge did not reply in time (judge.timeout_s)",
    "judge_failed": "the judge failed at every attempt; events.jsonl has the message",
    "judge_refused": "the judge would not take the question; events.jsonl has the message",
    "endpoint_timeout": "the endpoint did not reply in time at any attempt (engine.timeout_s)",
    "endpoint_failed": "the endpoint failed at every attempt (engine.max_attempts)",
    "endpoint_refused": "the endpoint would not answer, such as for what the clip shows",
    "unknown_class": "an option of the question is no class of the model",
    "bad_output": "what the model says of the clip is not a finite number",
    "too_long": "question, clip and answer do not fit into engine.max_model_len",
    "infrastructure": "engines or workers failed at every attempt (workers.max_attempts)",
    "engine_died": "an engine died while it answered",
    "corruption_died": "a corruption worker died while it rendered the clips",
    "reward_died": "a reward worker died while it scored the answers",
    "worker_died": "a worker died while it had the group",
    "older_weights": "answers came from older weights than the engine was given",
    "task_error": "code of a worker failed, such as a reward function; events.jsonl has the message",
    "decode_error": "the media file cannot be decoded",
    "missing_media": "the media file is not there",
    "too_few_frames": "the video has fewer frames than data.frames.min_frames",
    "aspect_ratio": "the frames are longer and narrower than the model takes",
    "encode_error": "the clip cannot be encoded",
    "duplicate_id": "another record of the manifest has this id",
    "missing_field": "the record lacks a field",
    "bad_field": "a field of the record has the wrong type",
    "not_json": "the line is not a JSON object",
    "no_options": "a multiple-choice record without options",
    "no_answer_tag": "the solution has no answer tag",
    "no_think_tag": "the reasoning trace has no think tag",
    "path_outside": "the media path leaves the manifest's folder",
    "unknown_uri": "the media address is not a file on this machine",
    "reward_error": "a reward could not be computed",
}
"""What each reason means. A reason that is not here is shown by its name."""
HELD_OUT = "heldout_"


@dataclass(frozen=True, slots=True)
class Loss:
    """How many groups or questions met one fate."""

    fate: str
    """``dropped`` or ``retried``."""
    reason: str
    meaning: str
    count: int


def losses(results: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[Loss]:
    """Dropped and retried counts, most first; from results.json where it has them, else summed over the steps."""
    return [Loss(fate, reason.removeprefix(HELD_OUT).replace("_", " "), _meaning(reason), int(count))
            for fate in ("dropped", "retried")
            for reason, count in sorted((results.get(fate) or totals(metrics, f"{fate}/")).items(),
                                        key=lambda item: (-item[1], item[0]))]


def totals(metrics: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, float]:
    """Sums over the steps of the metrics whose names start with `prefix`, by the rest of the name."""
    sums: dict[str, float] = {}
    for row in metrics:
        for name, value in row.items():
            if name.startswith(prefix) and value is not None:
                sums[name.removeprefix(prefix)] = sums.get(name.removeprefix(prefix), 0.0) + value
    return sums


def _meaning(reason: str) -> str:
    meaning = REASONS.get(reason.removeprefix(HELD_OUT), "")
    return f"held-out question: {meaning}".rstrip(": ") if reason.startswith(HELD_OUT) else meaning
