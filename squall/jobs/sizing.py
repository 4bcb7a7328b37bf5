"""How long the engines' sequences must be for a manifest's questions, found before an engine starts."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from typing import Any

from squall.actors.rollout_engine import EngineConfig
from squall.jobs.question import choose_engine, find_processor
from squall.platform.budget import clip_tokens, timestamp_tokens
from squall.platform.errors import DataError
from squall.platform.models import count_prompt_tokens, longest_sequence, render_prompt
from squall.platform.prompts import PromptTemplate, build_messages
from squall.platform.records import VideoSample
from squall.platform.shapes import PUBLISHED, ModelShape, find_shape
from squall.platform.video import FrameSampling, load_clip

MEASURED = 64
"""Questions, the longest ones, whose tokens are counted before the engine starts."""


def measure_engine(config: EngineConfig, path: str, samples: Sequence[VideoSample], template: PromptTemplate,
                   frames: FrameSampling, max_tokens: int) -> EngineConfig:
    """The engines as configured, long enough for the longest question where that can be; longer ones are lost and counted.

    Raises:
        ConfigError: the first question does not fit.
        DataError: no clip can be read.
    """
    processor = find_processor(path)

    def prompt(sample: VideoSample) -> str:
        return render_prompt(processor, build_messages(sample, template))

    sample, clip = first_readable(samples, frames)
    first = count_prompt_tokens(processor, prompt(sample), clip)
    longest = nlargest(MEASURED, samples, key=lambda sample: len(template.render(sample).encode()))
    text = max(len(processor.tokenizer(prompt(sample)).input_ids) for sample in longest)
    limit, given = longest_sequence(path), config.model_fields_set
    limits = [limit] if limit is not None else []
    limits += [config.max_model_len] if "max_model_len" in given else []
    wanted = min([text + most_clip_tokens(frames, find_shape(path)), *(limit - max_tokens for limit in limits)])
    engine = choose_engine(config, max(first, wanted), max_tokens, limit)
    return engine.model_copy(update={"count": config.count})


def first_readable(samples: Sequence[VideoSample], frames: FrameSampling) -> tuple[VideoSample, Any]:
    """The first sample whose clip can be read, with it. Raises the first sample's DataError where there is none."""
    problem: DataError | None = None
    for sample in samples:
        try:
            return sample, load_clip(sample.media, frames, sample_id=sample.id, media_type=sample.media_type)
        except DataError as error:
            problem = problem or error
    raise DataError(f"no clip can be read; the first: {problem}", reason=problem.reason) from problem


def most_clip_tokens(frames: FrameSampling, shape: ModelShape | None) -> int:
    """Tokens of the longest clip; of a model whose shape is not known, as those of known ones that take the most."""
    shapes = PUBLISHED.values() if shape is None else [shape]
    return max(clip_tokens(frames, shape) for shape in shapes) + max(timestamp_tokens(frames, shape) for shape in shapes)
