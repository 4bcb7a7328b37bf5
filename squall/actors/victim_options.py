"""A video-language model as a victim: asked one multiple choice question, it gives each option a probability."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import RayTaskError

from squall.platform.errors import ConfigError, SquallError
from squall.platform.models import load_processor, render_prompt
from squall.platform.prompts import build_messages, letter_options, prompt_template
from squall.platform.records import MediaType, ProblemType, VideoSample, make_clip

if TYPE_CHECKING:
    from squall.platform.classifiers import Clips

OPENING = "<answer>"
"""What the model is made to begin with, so that its first token is the letter of an option. It cannot reason before it."""


@dataclass(frozen=True)
class OptionsSource:
    """Engines that run, and what they are asked about every clip. Where one fails its clips are asked about again."""

    engines: tuple[tuple[str, str], ...]
    """Name and namespace of each `RolloutEngine`."""
    path: str
    """Directory or id of their model, for its tokens."""
    question: str
    classes: tuple[str, ...]
    """The options, without letters."""
    label: str
    fps: float = 2.0
    """Frames per second that clips stand for."""
    template: str = "compact"
    """How question and options are put: see `squall.platform.prompts.prompt_template`."""
    timeout_s: float = 600.0
    """How long the engines may take for the clips of a batch."""

    def open(self, device: str) -> OptionClassifier:
        """See `squall.actors.victim_sources.VictimSource`. The engines have devices of their own.

        Raises:
            ConfigError: an option's letter is not one token.
        """
        return OptionClassifier(self)


class OptionClassifier:
    """`squall.platform.classifiers.VideoClassifier` by the probabilities of the options' letters among each other."""

    frame_count = None

    def __init__(self, source: OptionsSource) -> None:
        self.classes, self._source = source.classes, source
        processor = load_processor(source.path)
        options = letter_options(source.classes)
        letters = [option.strip("(")[0] for option in options]
        sample = VideoSample("victim", "clip", MediaType.VIDEO, source.question, ProblemType.MULTIPLE_CHOICE, letters[0],
                             options)
        self._prompt = render_prompt(processor, build_messages(sample, prompt_template(source.template))) + OPENING
        self._tokens = letter_tokens(processor, letters)
        self._engines = [ray.get_actor(*place) for place in source.engines]

    def probabilities(self, clips: Clips) -> np.ndarray:
        """See `VideoClassifier`; one forward pass a clip.

        Raises:
            RayError: an engine died, or did not answer in time.
        """
        asked = [self._engines[place % len(self._engines)].token_logprobs.remote(
            self._prompt, self._tokens, make_clip(np.ascontiguousarray(clip), self._source.fps), f"victim-{uuid.uuid4().hex}")
            for place, clip in enumerate(clips)]
        try:
            logprobs = np.array(ray.get(asked, timeout=self._source.timeout_s))
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, SquallError) else error) from None
        shares = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
        return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def letter_tokens(processor: Any, letters: Sequence[str]) -> tuple[int, ...]:
    """The token that each letter is, right after `OPENING`. Raises ConfigError where one is not a token of its own."""
    tokenizer = getattr(processor, "tokenizer", processor)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    start, found = encode(OPENING), []
    for letter in letters:
        *before, token = encode(OPENING + letter)
        if before != start:
            raise ConfigError(f"option '{letter}': the model's tokens do not tell it from '{OPENING}' before it, so it has no "
                              "probability of its own; take another model")
        found.append(token)
    return tuple(found)
