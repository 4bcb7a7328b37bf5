"""The rollout engine: vLLM inside a Ray actor, answering questions about clips. All of Squall's vLLM calls are here.

Every answer carries the version of the weights it was sampled from. Weights change only when nothing is being sampled:
a request that arrives during a change waits for its end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import ray
from pydantic import Field, model_validator

from squall.actors.engine_config import EngineActorsConfig
from squall.actors.load_slots import load_slot
from squall.actors.logs import keep_log
from squall.actors.weight_transfer import VLLM_NAMES, Backend, fetch
from squall.platform.errors import DataError
from squall.platform.models import render_prompt
from squall.platform.records import Branch, Clip, MediaType, Rollout, SamplingSpec
from squall.platform.seeds import derive_seed

logger = logging.getLogger(__name__)


class EngineConfig(EngineActorsConfig):
    """vLLM engines: how many, how large, how fed."""

    takes_chat_text: ClassVar[bool] = True

    colocate: bool = False
    """Give the GPU's memory to the learner while it learns: the engine sleeps, and wakes for new weights. For one GPU: set
    engine.gpus and learner.gpus to 0.5 each."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and activations; auto takes the learner's."""
    max_model_len: int = Field(1024, ge=16)
    """Longest prompt with its answer, in tokens. A longer one is refused, never truncated."""
    max_num_seqs: int = Field(256, ge=1)
    """Answers decoded at the same time."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory for weights and caches."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs that one copy of the policy is split over."""
    weight_transfer: Backend = "shared_memory"
    """How new weights reach the engines: `shared_memory` within one machine, and to others through Ray's object store; `nccl`
    between GPUs, of other machines too; `ipc` where learner workers and engines share GPUs."""
    enforce_eager: bool = True
    """Skip graph capture and compilation: starts sooner, decodes slower on a GPU."""
    kv_cache_gib: int = Field(1, ge=1)
    """Memory for keys and values without a GPU, in GiB."""
    loads_at_once: int = Field(2, ge=1)
    """Engines of one machine that read their weights at the same time; the others wait, and have that much longer to start."""
    clip_cache_gib: float = Field(0.5, ge=0)
    """Memory for processed clips, for further answers to them, in GiB; vLLM's own bound of 4 would fill over a long run."""
    raw_logprobs: bool = False
    """Note answers' log-probabilities as the model gives them, before temperature and top-p. A learner needs those that the
    answers were drawn with."""

    @model_validator(mode="after")
    def _consistent(self) -> EngineConfig:
        if self.tensor_parallel_size > 1 and self.gpus < self.tensor_parallel_size:
            raise ValueError(f"tensor_parallel_size {self.tensor_parallel_size} needs gpus >= "
                             f"{self.tensor_parallel_size}, got {self.gpus:g}")
        if self.weight_transfer != "shared_memory" and not self.gpus:
            raise ValueError(f"weight_transfer {self.weight_transfer} moves weights between GPUs and engine.gpus is 0; "
                             "take shared_memory")
        return self

    def patience_s(self, on_one_node: int) -> float:
        """As of the base; engines that wait for others to load have as much longer."""
        return self.startup_timeout_s * math.ceil(on_one_node / self.loads_at_once)


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One question about one clip, to be answered `n` times."""

    prompt: str
    """Chat text with one vision placeholder, as `render_prompt` makes it; the bare text of the question for engines that take
    no chat text."""
    sample_id: str
    attempt_id: str
    branch: Branch
    n: int
    sampling: SamplingSpec
    options: tuple[str, ...] = ()
    """Of a multiple choice question, for models that choose among classes in place of writing."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply to chat messages. Tokens are None where they are not known."""

    text: str
    prompt_tokens: int | None
    reply_tokens: int | None
    finish_reason: str
    """``stop``, or ``length`` where `max_tokens` cut it off."""
    logprobs: tuple[float, ...] = ()
    """Natural log-probabilities of the reply's tokens, where they were asked for and given."""


@ray.remote(max_restarts=-1, max_task_retries=0, concurrency_groups={"health": 1})
class RolloutEngine:
    """Asyncio actor around vLLM's AsyncLLM; control calls answer while it generates.

    Ray does not retry its calls: whoever asked does, under a new attempt id, so that no answer counts twice. Ray runs
    every concurrency group in an event loop of its own, and AsyncLLM lives in one loop: only `ping` has a group.
    """

    def __init__(self, model_path: str, config: EngineConfig, log: Path | None = None) -> None:
        """`log` is the file that gets what the engine prints."""
        keep_log(log)
        os.environ.update(_environment(config))  # before torch and vLLM read it
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from squall.algorithms.scoring import BAN_BIAS
        from squall.platform.models import banned_token_ids, load_processor

        self._config = config
        self._processor = load_processor(model_path)
        self._bias = dict.fromkeys(banned_token_ids(self._processor), BAN_BIAS)
        self._loop = asyncio.get_running_loop()
        with load_slot(config.loads_at_once):
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**_engine_arguments(model_path, config)))
        _unlink_shared_buffers(os.getpid())
        self._versioned = self._asleep = False
        self._updating = asyncio.Lock()
        self._counts = {"requests": 0, "answers": 0, "tokens": 0, "weight_updates": 0}
        self._active = 0
        self._sync_s = self._update_started = 0.0

    async def ready(self) -> int:
        """Returns the process id once the engine can serve; its weights are version 0, those of the model directory."""
        if not self._versioned:
            await self._llm.update_weight_version("0")
            self._versioned = True
        await self._llm.check_health()
        return os.getpid()

    @ray.method(concurrency_group="health")
    async def ping(self) -> int:
        """Returns the process id, while generating too; raises when vLLM's own process is dead.

        The question goes through the loop that generates, so a loop that is stuck does not answer.
        """
        health = asyncio.run_coroutine_threadsafe(self._llm.check_health(), self._loop)
        await asyncio.wrap_future(health)
        return os.getpid()

    async def generate(self, request: GenerateRequest, clip: Clip) -> tuple[Rollout, ...]:
        """Sample `request.n` answers about a clip; the prompt is prefilled once.

        Raises:
            DataError: prompt and longest answer together exceed `max_model_len` (reason ``too_long``).
        """
        engine_input = await self._admit(request.prompt, clip, request.sampling, request.sample_id)
        parameters = _rollout_params(request, self._bias)
        output = await self._sample(engine_input, parameters, f"{request.attempt_id}/{request.branch}")
        return tuple(_rollout(request, clip.content_hash, answer) for answer in output.outputs)

    async def complete(self, messages: Sequence[Mapping[str, Any]], sampling: SamplingSpec, request_id: str, sample_id: str,
                       clip: Clip | None = None, pattern: str | None = None) -> Completion:
        """Reply once to chat messages, to which the model's own template is applied.

        Args:
            messages: where there is a clip, one content item among them is of type ``video`` or ``image``.
            request_id: no other request that is being answered may have it.
            pattern: regular expression that the reply is held to, token by token; a reply of `finish_reason` ``stop``
                matches it as a whole.

        Raises:
            DataError: prompt and longest reply together exceed `max_model_len` (reason ``too_long``).
        """
        prompt = render_prompt(self._processor, list(messages))
        engine_input = await self._admit(prompt, clip, sampling, sample_id)
        output = await self._sample(engine_input, _completion_params(sampling, self._bias, pattern), request_id)
        (answer,) = output.outputs
        return Completion(answer.text, len(output.prompt_token_ids), len(answer.token_ids), answer.finish_reason)

    async def token_logprobs(self, prompt: str, tokens: Sequence[int], clip: Clip, request_id: str) -> tuple[float, ...]:
        """Natural log-probabilities of some tokens, at most 128, as the first one of an answer, at temperature 1.

        Args:
            request_id: no other request that is being answered may have it.

        Raises:
            DataError: the prompt exceeds `max_model_len` (reason ``too_long``).
        """
        sampling = SamplingSpec(max_tokens=1, seed=0)
        engine_input = await self._admit(prompt, clip, sampling, request_id)
        parameters = _sampling_params(sampling, self._bias, logprobs=len(tokens), logprob_token_ids=list(tokens))
        output = await self._sample(engine_input, parameters, request_id)
        (found,) = output.outputs[0].logprobs
        return tuple(found[token].logprob for token in tokens)

    async def count_prompt_tokens(self, prompt: str, clip: Clip) -> int:
        """Tokens of a prompt with its clip's vision tokens."""
        return len((await self._render(prompt, clip))["prompt_token_ids"])

    async def connect(self, init_info: dict[str, Any]) -> None:
        """Join the learner's weight transfer; `init_info` is the back end's own."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))

    async def sleep(self) -> None:
        """Let running requests end, then give back the GPU's memory until the next weight update; new requests wait."""
        await self._llm.sleep(level=2, mode="wait")
        self._asleep = True

    async def start_weight_update(self) -> None:
        """Let running requests end and hold new ones back until `finish_weight_update`; an engine asleep wakes half."""
        await self._updating.acquire()
        self._update_started = time.monotonic()
        if self._asleep:
            await self._llm.wake_up(tags=["weights"])
        else:
            await self._llm.pause_generation(mode="wait", clear_cache=False)
        await self._llm.start_weight_update()

    async def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive weights; `update_info` is the back end's own.

        Where it names a file of another node, ``pieces`` are references to its bytes.
        """
        pieces = update_info.pop("pieces", ())
        if not pieces or await self.sees(update_info["path"]):
            await self._receive(update_info)
            return
        path = await asyncio.to_thread(fetch, Path(update_info["path"]), pieces)
        try:
            await self._receive({"path": str(path)})
        finally:
            path.unlink(missing_ok=True)

    async def _receive(self, update_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self._llm.update_weights(WeightTransferUpdateRequest(update_info=update_info))

    async def sees(self, path: Path | str) -> bool:
        """Whether a file is there for this engine: its writer is on the same node."""
        return os.path.exists(path)

    async def finish_weight_update(self, version: int, vision_changed: bool) -> None:
        """Stamp `version` on every rollout from now on, forget what was computed from older weights, and go on.

        The cache of processed clips stays, because it depends on pixels alone; the encoder's goes only when the vision
        tower has learned.
        """
        await self._llm.finish_weight_update(str(version))
        if self._asleep:  # its caches went when it fell asleep
            await self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        else:
            await self._llm.reset_prefix_cache()
            if vision_changed:
                await self._llm.reset_encoder_cache()
            await self._llm.resume_generation()
        self._sync_s = time.monotonic() - self._update_started
        self._counts["weight_updates"] += 1
        self._updating.release()

    async def weight_version(self) -> int:
        """Version of the weights that the next answer will be sampled from."""
        return int(await self._llm.get_weight_version())

    async def stats(self) -> dict[str, float]:
        """Counts since the start, requests being answered, and seconds of the last weight update."""
        return {**self._counts, "active_requests": self._active, "weight_sync_s": self._sync_s}

    async def _admit(self, prompt: str, clip: Clip | None, sampling: SamplingSpec, sample_id: str) -> dict[str, Any]:
        engine_input = await self._render(prompt, clip)
        length, limit = len(engine_input["prompt_token_ids"]), self._config.max_model_len
        if length + sampling.max_tokens > limit:
            raise DataError(
                f"sample {sample_id}: prompt of {length} tokens + max_tokens {sampling.max_tokens} "
                f"exceed engine.max_model_len {limit}; raise it, or take fewer or smaller frames",
                sample_id=sample_id, reason="too_long")
        return engine_input

    async def _render(self, prompt: str, clip: Clip | None) -> dict[str, Any]:
        from vllm.renderers.inputs.preprocess import parse_model_prompt
        from vllm.renderers.params import TokenizeParams

        parsed = parse_model_prompt(self._llm.model_config, {"prompt": prompt, **(_media(clip) if clip else {})})
        # No limit here: vLLM's own refusal would not name the sample.
        (engine_input,) = await self._llm.renderer.render_cmpl_async([parsed], TokenizeParams(max_total_tokens=None))
        return engine_input

    async def _sample(self, engine_input: dict[str, Any], parameters: Any, request_id: str) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        self._active += 1
        try:
            outputs = [output async for output in self._llm.generate(engine_input, parameters, request_id)]
        except EngineDeadError:
            logger.exception("vLLM's engine process died while answering request %s", request_id)
            os._exit(1)  # the actor is an empty shell now; only its death makes Ray start another
        finally:
            self._active -= 1
        self._counts["requests"] += 1
        self._counts["answers"] += len(outputs[-1].outputs)
        self._counts["tokens"] += sum(len(answer.token_ids) for answer in outputs[-1].outputs)
        return outputs[-1]


def _environment(config: EngineConfig) -> dict[str, str]:
    threads = str(max(1, int(config.cpus)))
    # IPC handles are Python objects, which vLLM hands to its own worker processes only when it is told that it may.
    handles = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"} if config.weight_transfer == "ipc" else {}
    return handles | {
        "VLLM_CPU_KVCACHE_SPACE": str(config.kv_cache_gib),
        # vLLM's own choice pins every engine of a machine to the same cores.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
    }


def _unlink_shared_buffers(process: int) -> None:
    """Unlink the shared-memory buffers between vLLM's processes, which all have mapped them once the engine serves.

    They live on until the last of those processes ends. Left with a name, they would outlive an engine that was killed.
    """
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):  # a thread or process that has just ended
            for child in map(int, children.read_text().split()):
                maps = Path(f"/proc/{child}/maps").read_text()
                for name in set(re.findall(r"/dev/shm/psm_\w+", maps)):
                    Path(name).unlink(missing_ok=True)
                _unlink_shared_buffers(child)


def _engine_arguments(model_path: str, config: EngineConfig) -> dict[str, Any]:
    from vllm.config.weight_transfer import WeightTransferConfig

    arguments: dict[str, Any] = dict(
        model=model_path, dtype=config.dtype, max_model_len=config.max_model_len, max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=max(8192, config.max_model_len), tensor_parallel_size=config.tensor_parallel_size,
        enforce_eager=config.enforce_eager, enable_prefix_caching=True, mm_processor_cache_gb=config.clip_cache_gib,
        limit_mm_per_prompt={"video": 1, "image": 1},
        logprobs_mode="raw_logprobs" if config.raw_logprobs else "processed_logprobs", disable_log_stats=True,
        weight_transfer_config=WeightTransferConfig(backend=VLLM_NAMES[config.weight_transfer]),
    )
    if config.tensor_parallel_size > 1:  # in a placement group vLLM would ask Ray for GPUs beside those that the actor has
        arguments.update(distributed_executor_backend="mp")
    if config.gpus:
        arguments.update(gpu_memory_utilization=config.gpu_memory_utilization, enable_sleep_mode=config.colocate)
    else:
        # vLLM rewinds a seeded request's generator after a partial prefill, which a CPU generator cannot do: it dies.
        arguments.update(enable_chunked_prefill=False, skip_mm_profiling=True)
        # vLLM would put one worker of a CPU into a process beside its engine's, for the sake of thread bindings that
        # `_environment` turns off: another process that has to load torch.
        arguments.update(distributed_executor_backend="vllm.v1.executor.uniproc_executor.UniProcExecutor")
    return arguments


def _media(clip: Clip) -> dict[str, Any]:
    if clip.media_type is MediaType.IMAGE:
        from PIL import Image

        return {"multi_modal_data": {"image": [Image.fromarray(clip.frames[0])]},
                "multi_modal_uuids": {"image": [clip.content_hash]}}
    return {"multi_modal_data": {"video": [(clip.frames, clip.video_metadata())]},
            "multi_modal_uuids": {"video": [clip.content_hash]}}


def _rollout_params(request: GenerateRequest, bias: dict[int, float]) -> Any:
    # Branches of a group share the sample's seed; answer i of one must not repeat the noise of answer i of another.
    own = request.sampling.seed
    seed = None if own is None else derive_seed(own, request.branch.value)
    return _sampling_params(replace(request.sampling, seed=seed), bias, n=request.n, logprobs=0, flat_logprobs=True)


def _completion_params(sampling: SamplingSpec, bias: dict[int, float], pattern: str | None) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    form = None if pattern is None else StructuredOutputsParams(regex=pattern)
    return _sampling_params(sampling, bias, structured_outputs=form)


def _sampling_params(sampling: SamplingSpec, bias: dict[int, float], **more: Any) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens,
                          seed=sampling.seed, logit_bias=bias or None, output_kind=RequestOutputKind.FINAL_ONLY, **more)


def _rollout(request: GenerateRequest, clip_hash: str, answer: Any) -> Rollout:
    logprobs = tuple(answer.logprobs.logprobs)
    if len(logprobs) != len(answer.token_ids) or answer.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"sample {request.sample_id}: vLLM ended an answer with '{answer.finish_reason}', "
                           f"{len(answer.token_ids)} tokens and {len(logprobs)} log-probabilities")
    return Rollout(request.sample_id, request.attempt_id, request.branch, clip_hash, answer.index, request.sampling,
                   tuple(answer.token_ids), answer.text, logprobs, int(answer.weight_versions[0].version),
                   answer.finish_reason)
