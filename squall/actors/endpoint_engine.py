"""A model behind a chat endpoint, asked as a rollout engine is: the clip goes as pictures, evenly spaced."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
from pydantic import Field, SecretStr, field_validator

from squall.actors.endpoint_access import plain_address, read_key
from squall.actors.engine_config import EngineActorsConfig
from squall.actors.logs import keep_log
from squall.actors.respondents import Endpoint, Question, Unanswered, backoff
from squall.actors.rollout_engine import Completion, GenerateRequest
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import Clip, Rollout, SamplingSpec, make_clip
from squall.platform.seeds import derive_seed

TRIAL_TOKENS = 16


class EndpointEngineConfig(EngineActorsConfig):
    """Engines that ask a server that speaks OpenAI's chat protocol."""

    cpus: float = Field(0.25, gt=0)
    """CPUs that Ray reserves for each engine, which makes pictures and waits."""
    base_url: str
    """Address of the endpoint up to its version, such as `http://localhost:8000/v1`."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Name of the environment variable that holds the endpoint's key, never the key itself; null for an endpoint without."""
    max_frames: int = Field(16, ge=1)
    """Pictures that a clip is sent as at most, evenly spaced."""
    logprobs: bool = True
    """Ask for the log-probabilities of answers; a server that does not know them is not asked again."""
    calls_at_once: int = Field(16, ge=1)
    """Requests that one engine has at the server at the same time."""
    max_attempts: int = Field(4, ge=1)
    """How often an answer is asked for before it counts as failed."""
    backoff_s: float = Field(2.0, ge=0)
    """Wait before the second attempt after a failure of the network or the server; it doubles with each, up to 30 s."""
    timeout_s: float = Field(90.0, gt=0)
    """How long one attempt may wait for the server."""

    _plain_address = field_validator("base_url")(plain_address)

    def read_key(self) -> SecretStr | None:
        """The endpoint's key from the environment of this process. Raises ConfigError where it is not set."""
        return read_key(self.api_key_env, "engine", self.base_url)

    @property
    def longest_answer_s(self) -> float:
        """How long one answer may take from the time it is first asked for, in seconds, all attempts together."""
        pauses = sum(backoff(attempt, self.backoff_s) for attempt in range(1, self.max_attempts))
        return self.max_attempts * self.timeout_s + pauses


@ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"health": 1})
class EndpointEngine:
    """Asyncio actor whose requests wait in threads. Tokens are not known here: rollouts have no ids."""

    def __init__(self, model_path: str, config: EndpointEngineConfig, log: Path | None = None,
                 key: SecretStr | None = None) -> None:
        """`model_path` is the model's name at the endpoint; `log` gets what the engine prints.

        `key` comes from the driver: workers do not have its environment.
        """
        keep_log(log)
        self._config = config
        self._endpoint = Endpoint(config.base_url, model_path, key, config.max_frames, section="engine",
                                  logprobs=config.logprobs)
        self._threads = ThreadPoolExecutor(config.calls_at_once)

    async def ready(self) -> int:
        """Returns the process id once the model has replied to a picture.

        Raises:
            ConfigError: the key, the address or the model is wrong, or the model takes no pictures.
        """
        await asyncio.get_running_loop().run_in_executor(self._threads, self._try_picture)
        return os.getpid()

    @ray.method(concurrency_group="health")
    async def ping(self) -> int:
        """Returns the process id, while answers are waited for too."""
        return os.getpid()

    async def generate(self, request: GenerateRequest, clip: Clip) -> tuple[Rollout, ...]:
        """Ask `request.n` times about a clip. `logprobs` are those of the answer's tokens, empty where the server gives none.

        Raises:
            DataError: no answer after all attempts (reasons ``endpoint_timeout``, ``endpoint_failed``), or one that is refused,
                such as for its content (``endpoint_refused``).
            ConfigError: no question can be answered: the key, the address or the model is wrong.
        """
        question = Question([{"role": "user", "content": request.prompt}], request.sample_id, clip=clip)
        loop = asyncio.get_running_loop()
        replies = await asyncio.gather(*(
            loop.run_in_executor(self._threads, self._insist, question, _sampling(request, index))
            for index in range(request.n)))
        return tuple(Rollout(request.sample_id, request.attempt_id, request.branch, clip.content_hash, index, request.sampling,
                             (), reply.text, reply.logprobs, weight_version=0, finish_reason=reply.finish_reason)
                     for index, reply in enumerate(replies))

    def _insist(self, question: Question, sampling: SamplingSpec) -> Completion:
        """A reply after as many attempts as it takes, up to the limit."""
        config = self._config
        for attempt in range(1, config.max_attempts + 1):
            try:
                reply = self._endpoint.answer(question, sampling, config.timeout_s)
                if reply.finish_reason == "content_filter":
                    raise Unanswered("refused", "the server's content filter held the answer back")
                return reply
            except Unanswered as error:
                if error.reason == "refused" or attempt == config.max_attempts:
                    tried = f"{attempt} attempt{'s' * (attempt != 1)}"
                    raise DataError(f"sample {question.sample_id}: {self._endpoint.name} failed after {tried}: {error}",
                                    sample_id=question.sample_id, reason=f"endpoint_{error.reason}") from None
                time.sleep(backoff(attempt, config.backoff_s))
        raise AssertionError("the last attempt returns or raises")

    def _try_picture(self) -> None:
        """One question about a grey picture; where it is refused, once more without asking for log-probabilities."""
        grey = make_clip(np.full((1, 56, 56, 3), 128, np.uint8), 1.0)
        question = Question([{"role": "user", "content": "Which colour is the picture?"}], "trial", clip=grey)
        try:
            self._insist(question, SamplingSpec(0.0, max_tokens=TRIAL_TOKENS))
        except DataError as error:
            if error.reason != "endpoint_refused":
                raise ConfigError(f"engine {self._endpoint.name} cannot be used: {error}") from None
            if not self._endpoint.asks_logprobs:
                raise ConfigError(f"engine {self._endpoint.name} does not take a picture: {error}") from None
            self._endpoint.asks_logprobs = False
            self._try_picture()


def _sampling(request: GenerateRequest, index: int) -> SamplingSpec:
    """Answers of one question differ, and those of its branches too."""
    own = request.sampling.seed
    return request.sampling if own is None else replace(request.sampling, seed=derive_seed(own, request.branch.value, index))
