"""A video classifier inside a Ray actor, asked as a rollout engine is: it picks an answer in place of writing one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import ray
from pydantic import Field

from squall.actors.batching import Batcher
from squall.actors.cluster import set_threads
from squall.actors.engine_config import EngineActorsConfig
from squall.actors.logs import keep_log
from squall.actors.rollout_engine import GenerateRequest
from squall.platform.class_list import candidates, choose
from squall.platform.classifiers import ClassifierConfig, open_classifier, try_classifier
from squall.platform.errors import DataError
from squall.platform.records import Clip, Rollout


class ClassifierEngineConfig(EngineActorsConfig):
    """Engines that hold a video classifier."""

    classifier: ClassifierConfig = ClassifierConfig()
    """Which kind of classifier the model is."""
    max_batch: int = Field(8, ge=1)
    """Clips that go through the model together at most."""
    wait_ms: float = Field(5.0, ge=0)
    """How long a batch that is not full waits for more clips, in milliseconds."""


@ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"health": 1})
class ClassifierEngine:
    """Asyncio actor that answers concurrent questions in batches. The text of a question is not looked at."""

    def __init__(self, model_path: str, config: ClassifierEngineConfig, log: Path | None = None) -> None:
        """`model_path` is what `ClassifierConfig.kind` says; `log` is the file that gets what the engine prints."""
        keep_log(log)
        set_threads(config.cpus)
        self._classifier = open_classifier(model_path, config.classifier, "cuda" if config.gpus else "cpu")
        self._classify: Batcher[np.ndarray, np.ndarray] = Batcher(
            lambda clips: list(self._classifier.probabilities(clips)), config.max_batch, config.wait_ms / 1000)

    async def ready(self) -> int:
        """Returns the process id once a clip of noise has gone through the model. Raises ConfigError where that fails."""
        await asyncio.to_thread(try_classifier, self._classifier)
        return os.getpid()

    @ray.method(concurrency_group="health")
    async def ping(self) -> int:
        """Returns the process id, while it classifies too."""
        return os.getpid()

    async def generate(self, request: GenerateRequest, clip: Clip) -> tuple[Rollout, ...]:
        """The likeliest of a question's options, or of all classes where it has none; `request.n` times the same.

        `text` is ``<answer>B</answer>``, or the class itself where the option has no letter. `token_ids` are the five
        likeliest classes and `logprobs` their natural log-probabilities; the answer's stand first, and its probability is that
        among the options.
        Of the sampling nothing is used.

        Raises:
            DataError: an option is no class of the model (reason ``unknown_class``), or what the model says of the clip is
                not finite (``bad_output``).
        """
        allowed = candidates(request.sample_id, request.options, self._classifier.classes)
        try:
            probabilities = await self._classify(clip.frames)
        except DataError as error:
            raise DataError(f"sample {request.sample_id}: {error}", sample_id=request.sample_id, reason=error.reason) from None
        answer, classes, logprobs = choose(probabilities, allowed)
        return tuple(Rollout(request.sample_id, request.attempt_id, request.branch, clip.content_hash, index, request.sampling,
                             classes, f"<answer>{answer}</answer>", logprobs, weight_version=0, finish_reason="stop")
                     for index in range(request.n))
