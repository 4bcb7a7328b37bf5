"""The learner: Ray Train workers that run DeepSpeed, fed through the rollout buffer.

`Learner` is the driver's handle; `learner_loop` is what every worker runs. The objective is T-GRPO or supervised
fine-tuning; both reduce to sequences with a weight, so both share this file.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from pydantic import Field

from squall.actors.deepspeed_backend import OptimiserConfig
from squall.actors.rollout_buffer import Command, Publish, RolloutBuffer, TrainBatch, TrainSequence
from squall.actors.weight_transfer import Backend, EngineFleet, Sender, open_sender
from squall.algorithms.tgrpo import TGRPOConfig
from squall.platform.config import Config
from squall.platform.errors import SquallError
from squall.platform.models import ModelConfig


class LearnerConfig(Config):
    """How the learner is laid out and how it steps."""

    workers: int = Field(1, ge=1)
    """Ray Train workers; each holds one DeepSpeed rank."""
    cpus: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for each worker."""
    threads: int | None = Field(None, ge=1)
    """Torch threads of each worker; by default its CPUs, at least 1. On a small machine where learner and engine take
    turns it may be more."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for each worker."""
    sequences_per_microbatch: int = Field(32, ge=1)
    """Answers in one forward and backward pass of a worker."""
    updates_per_step: int = Field(1, ge=1)
    """Optimiser updates made from one batch of rollouts; above 1 the clipped ratio comes into play."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """AdamW and ZeRO."""
    start_timeout_s: float = Field(300.0, gt=0)
    """How long the workers may take to load the model."""
    step_timeout_s: float = Field(1800.0, gt=0)
    """How long one step may take before the run stops with an error."""


Objective = Literal["tgrpo", "sft"]
COUNTED = ("kl_sum", "ratio_sum", "clipped_tokens", "importance_sum", "importance_capped_tokens", "mismatch_sum")
"""Sums of the loss that become means per token in the step's metrics."""


def learning_rate_at(config: OptimiserConfig, update: int, total_updates: int) -> float:
    """Learning rate of optimiser update `update` (from 0) of `total_updates`."""
    if update < config.warmup_steps:
        return config.learning_rate * (update + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = min(1.0, (update - config.warmup_steps) / max(1, total_updates - config.warmup_steps))
    shape = 1 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * shape)


class Learner:
    """Driver's handle on the Ray Train learner. Use `start`, then `step` in order, then `stop`."""

    def __init__(self, config: LearnerConfig, model: ModelConfig, objective: Objective, run_path: Path, *,
                 total_steps: int, tgrpo: TGRPOConfig | None = None, temperature: float = 1.0, seed: int = 0,
                 fleet: EngineFleet | None = None, weight_transfer: Backend = "shared_memory") -> None:
        self.config = config
        self._buffer = RolloutBuffer.remote(capacity=1)
        self._index = 0
        self._failure: BaseException | None = None
        self._loop_config = {
            "learner": config, "model": model, "objective": objective, "tgrpo": tgrpo, "temperature": temperature,
            "seed": seed, "total_updates": total_steps * config.updates_per_step, "buffer": self._buffer,
            "fleet": fleet, "weight_transfer": weight_transfer,
        }
        self._run_path = run_path
        self._thread = threading.Thread(target=self._fit, name="learner", daemon=True)

    def start(self) -> None:
        """Start the workers and wait until every one has loaded the model."""
        self._thread.start()
        self._await(-1, self.config.start_timeout_s, "loading the model")

    def step(self, batch: TrainBatch) -> dict[str, Any]:
        """Train on one batch and return its metrics."""
        per_update, rest = divmod(len(batch.sequences), self.config.workers * self.config.updates_per_step)
        if rest or not per_update:
            raise SquallError(f"learner step {batch.step}: {len(batch.sequences)} sequences do not divide over "
                              f"{self.config.workers} workers x {self.config.updates_per_step} updates")
        return self._command(batch, f"training on step {batch.step}")

    def publish(self, version: int, *, reconnect: bool = False) -> list[int]:
        """Hand the current weights to the engines under a version; returns the numbers of engines that died meanwhile."""
        return self._command(Publish(version, reconnect), f"handing over weights {version}")["lost"]

    def _command(self, command: Command, phase: str) -> dict[str, Any]:
        index = self._index
        self._index += 1
        ray.get(self._buffer.put.remote(index, command), timeout=self.config.step_timeout_s)
        return self._await(index, self.config.step_timeout_s, phase)

    def stop(self) -> None:
        """Let the workers leave their loop and wait for Ray Train to finish."""
        if self._thread.is_alive():
            ray.get(self._buffer.put.remote(self._index, None))
            self._thread.join(timeout=60)
        ray.kill(self._buffer)

    def _await(self, index: int, timeout_s: float, phase: str) -> dict[str, Any]:
        reference = self._buffer.result.remote(index)
        deadline = time.monotonic() + timeout_s
        while True:
            done, _ = ray.wait([reference], timeout=0.5)
            if done:
                return ray.get(reference)
            if self._failure is not None:
                raise SquallError(f"learner failed while {phase}: {_first_line(self._failure)}") from self._failure
            if time.monotonic() > deadline:
                raise SquallError(f"learner: no answer after {timeout_s:.0f} s while {phase}; see the Ray Train "
                                  f"worker logs, or raise learner.step_timeout_s")

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        resources = {"CPU": self.config.cpus} | ({"GPU": self.config.gpus} if self.config.gpus else {})
        trainer = TorchTrainer(
            learner_loop, train_loop_config=self._loop_config,
            scaling_config=ScalingConfig(num_workers=self.config.workers, use_gpu=self.config.gpus > 0,
                                         resources_per_worker=resources),
            run_config=RunConfig(name="learner", storage_path=str(self._run_path.resolve()),
                                 failure_config=FailureConfig(max_failures=0)),
        )
        try:
            trainer.fit()
        except BaseException as error:  # handed to the driver's thread, which raises it
            self._failure = error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def learner_loop(config: dict[str, Any]) -> None:
    """Run by every Ray Train worker: take a command, do this rank's share, report, repeat."""
    from ray import train

    from squall.actors.cluster import set_threads

    settings: LearnerConfig = config["learner"]
    set_threads(settings.threads or settings.cpus)
    os.environ.setdefault("LOCAL_RANK", str(train.get_context().get_local_rank()))
    worker = LearnerWorker(config, train.get_context().get_world_rank(), train.get_context().get_world_size())
    buffer, index = config["buffer"], 0
    if worker.rank == 0:
        ray.get(buffer.report.remote(-1, {"parameters": worker.parameter_count}))
    while (command := ray.get(buffer.take.remote(index))) is not None:
        result = worker.publish(command) if isinstance(command, Publish) else worker.train(command)
        if worker.rank == 0:
            ray.get(buffer.report.remote(index, result))
        index += 1
    if worker.sender is not None:
        worker.sender.shutdown()


class LearnerWorker:
    """One rank of the learner: policy under DeepSpeed, frozen reference, and the arithmetic of a step."""

    def __init__(self, config: Mapping[str, Any], rank: int, world_size: int) -> None:
        import torch

        from squall.actors import deepspeed_backend
        from squall.platform.models import add_lora, banned_token_ids, load_policy, load_processor, resolve_model_path

        self.rank, self.world_size = rank, world_size
        self.settings: LearnerConfig = config["learner"]
        self.model_config: ModelConfig = config["model"]
        self.objective: Objective = config["objective"]
        self.tgrpo: TGRPOConfig | None = config["tgrpo"]
        self.temperature: float = config["temperature"]
        self.total_updates: int = config["total_updates"]
        self.updates_done = 0
        self.fleet: EngineFleet | None = config["fleet"]
        self.weight_transfer: Backend = config["weight_transfer"]
        self.sender: Sender | None = None
        torch.manual_seed(config["seed"])
        path = resolve_model_path(self.model_config.path)
        self.processor = load_processor(path)
        self.banned = banned_token_ids(self.processor)
        model = load_policy(path, self.model_config.dtype, self.model_config.attention)
        if not self.model_config.train_vision:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("visual" not in name)
        if self.model_config.lora is not None:
            model = add_lora(model, self.model_config.lora)
        model.train()
        self.tokens_per_second = getattr(model.config.vision_config, "tokens_per_second", None)
        self.parameter_count = sum(parameter.numel() for parameter in model.parameters())
        self.backend = deepspeed_backend
        self.engine = deepspeed_backend.initialise(model, self.settings.optimiser, self.model_config.dtype)
        self.reference = self._load_reference(path)

    def _load_reference(self, path: str) -> Any:
        from squall.platform.models import load_policy

        if self.tgrpo is None or self.tgrpo.kl_beta == 0:
            return None
        model = load_policy(path, self.model_config.dtype, self.model_config.attention).eval().requires_grad_(False)
        if self.settings.optimiser.zero_stage == 3:
            return self.backend.shard_for_inference(model, self.model_config.dtype)
        return model.to(self.engine.device)

    def train(self, batch: TrainBatch) -> dict[str, Any]:
        """Make `updates_per_step` optimiser updates from a batch; returns metrics that are equal on every rank."""
        started = time.monotonic()
        updates = self.settings.updates_per_step
        per_update = len(batch.sequences) // updates
        prepared = [self._prepare(batch, batch.sequences[i * per_update:(i + 1) * per_update])
                    for i in range(updates)]
        old = [[self._old_logprobs(chunk) for chunk in chunks] if updates > 1 else [None] * len(chunks)
               for chunks in prepared]
        totals: dict[str, float] = {}
        for i, chunks in enumerate(prepared):
            share = batch.sequences[i * per_update:(i + 1) * per_update]
            tokens = sum(len(sequence.token_ids) for sequence in share)
            self._update(chunks, old[i], tokens, len(share), totals)
        result: dict[str, Any] = self._metrics(totals)
        result["seconds"] = time.monotonic() - started
        if batch.checkpoint:
            self.save(Path(batch.checkpoint))
        return result

    def _prepare(self, batch: TrainBatch, sequences: tuple[TrainSequence, ...]) -> list[Any]:
        """This rank's contiguous share of the sequences as padded micro-batches on the device."""
        from squall.algorithms.policy import collate, encode_prompt

        share = len(sequences) // self.world_size
        own = sequences[self.rank * share:(self.rank + 1) * share]
        needed = sorted({sequence.clip_hash for sequence in own})
        clips = dict(zip(needed, ray.get([batch.clips[name] for name in needed]), strict=True))
        keys = {(sequence.prompt, sequence.clip_hash) for sequence in own}
        encoded = {key: encode_prompt(self.processor, key[0], clips[key[1]], self.tokens_per_second) for key in keys}
        size = self.settings.sequences_per_microbatch
        pad = self.processor.tokenizer.pad_token_id
        chunks = []
        for start in range(0, len(own), size):
            part = own[start:start + size]
            answers = collate([encoded[s.prompt, s.clip_hash] for s in part], [s.token_ids for s in part], pad)
            chunks.append((part, answers.to(self.engine.device)))
        return chunks

    def _logprobs(self, model: Any, answers: Any) -> Any:
        from squall.algorithms.policy import answer_logprobs

        return answer_logprobs(model, answers, self.banned, self.temperature)

    def _old_logprobs(self, chunk: Any) -> Any:
        import torch

        with torch.no_grad():
            return self._logprobs(self.engine, chunk[1])[0]

    def _update(self, chunks: list[Any], old: list[Any], tokens: int, sequences: int,
                totals: dict[str, float]) -> None:
        """One optimiser update; the loss is divided by totals over all workers, so it does not depend on their number."""
        rate = learning_rate_at(self.settings.optimiser, self.updates_done, self.total_updates)
        self.backend.set_learning_rate(self.engine, rate)
        for number, (chunk, old_BL) in enumerate(zip(chunks, old, strict=True)):
            loss, sums = self._loss(chunk, old_BL, tokens, sequences)
            # DeepSpeed averages gradients over workers; the factor turns that average back into the sum.
            norm = self.backend.backward(self.engine, loss * self.world_size, last=number == len(chunks) - 1)
            totals["importance_max"] = max(totals.get("importance_max", 0.0), sums.pop("importance_max", 0.0))
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
        self.updates_done += 1
        totals["_learning_rate"] = rate
        totals["_grad_norm"] = norm

    def _loss(self, chunk: Any, old_BL: Any, tokens: int, sequences: int) -> tuple[Any, dict[str, float]]:
        part, answers = chunk
        logprobs_BL, entropy_BL = self._logprobs(self.engine, answers)
        measured = {"entropy": float(entropy_BL.sum()), "tokens": float(answers.mask_BL.sum())}
        if self.objective == "sft":
            loss = -logprobs_BL.sum() / tokens
            return loss, {**measured, "loss": float(loss.detach())}
        return self._policy_loss(part, answers, logprobs_BL, old_BL, tokens, sequences, measured)

    def _policy_loss(self, part: Any, answers: Any, logprobs_BL: Any, old_BL: Any, tokens: int, sequences: int,
                     measured: dict[str, float]) -> tuple[Any, dict[str, float]]:
        import torch

        from squall.algorithms.tgrpo import token_loss

        device = logprobs_BL.device
        engine_BL = torch.zeros_like(logprobs_BL)
        for row, sequence in enumerate(part):
            engine_BL[row, :len(sequence.token_ids)] = torch.tensor(sequence.engine_logprobs, device=device)
        reference_BL = None
        if self.reference is not None:
            with torch.no_grad():
                reference_BL = self._logprobs(self.reference, answers)[0]
        advantages_B = torch.tensor([sequence.advantage for sequence in part], device=device)
        terms = token_loss(logprobs_BL, logprobs_BL.detach() if old_BL is None else old_BL, engine_BL, reference_BL,
                           advantages_B, answers.mask_BL, self.tgrpo)
        divisor = tokens if self.tgrpo.loss_aggregation == "token" else sequences
        loss = terms.loss_sum / divisor
        sums = {name: float(value) for name, value in terms.sums().items() if name in COUNTED}
        return loss, {**measured, **sums, "importance_max": float(terms.importance_max), "loss": float(loss.detach())}

    def _metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """Sum the counters over workers and turn them into means per token."""
        import torch
        import torch.distributed as dist

        largest = torch.tensor([totals.pop("importance_max", 0.0)], dtype=torch.float64)
        names = sorted(name for name in totals if not name.startswith("_"))
        values = torch.tensor([totals[name] for name in names], dtype=torch.float64)
        if self.world_size > 1:
            largest, values = largest.to(self.engine.device), values.to(self.engine.device)
            dist.all_reduce(values)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        summed = dict(zip(names, values.tolist(), strict=True))
        tokens, loss = summed.pop("tokens"), summed.pop("loss") / self.settings.updates_per_step
        metrics = {name.removesuffix("_sum"): value / max(1.0, tokens) for name, value in summed.items()}
        if self.objective == "tgrpo":
            metrics["importance_max"] = float(largest)
        return {"loss": loss, "tokens": tokens, "learning_rate": totals["_learning_rate"],
                "grad_norm": totals["_grad_norm"], **metrics}

    def publish(self, command: Publish) -> dict[str, Any]:
        """Send the current weights to every engine; a collective."""
        if self.fleet is None:
            raise SquallError("this learner was started without engines to hand weights to")
        self.fleet.version = command.version
        if command.reconnect and self.sender is not None:
            self.sender.shutdown()
            self.sender = None
        if self.sender is None:
            source = LearnerWeights(self, everywhere=self.weight_transfer == "ipc")  # each rank shares its own GPU's
            self.sender = open_sender(self.weight_transfer, self.rank, self.fleet, source)
        self.sender.send_weights()
        return {"lost": self.fleet.lost}

    def save(self, directory: Path) -> None:
        """Write a Hugging Face directory (safetensors, tokenizer, processor); a collective under ZeRO-3."""
        weights = {name: tensor.cpu() for name, tensor in LearnerWeights(self)}
        if self.rank == 0:
            module = self.engine.module if self.model_config.lora is None else self.engine.module.get_base_model()
            module.save_pretrained(directory, state_dict=weights)
            self.processor.save_pretrained(directory)


@dataclass(frozen=True, slots=True)
class TensorShape:
    """What a tensor of the iteration will be."""

    name: str
    dtype: Any
    shape: tuple[int, ...]


class LearnerWeights:
    """All weights, adapters merged, named as in the model's own state dictionary.

    Every rank iterates; rank 0 receives them, or with `everywhere` every rank.
    """

    def __init__(self, worker: LearnerWorker, everywhere: bool = False) -> None:
        self._worker, self._keep = worker, everywhere or worker.rank == 0

    def metadata(self) -> list[TensorShape]:
        """Name, type and whole shape of every tensor of the iteration, without gathering any."""
        return [TensorShape(name, parameter.dtype, tuple(getattr(parameter, "ds_shape", parameter.shape)))
                for name, parameter in self._named()]

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        worker = self._worker
        tensors = worker.backend.gathered(self._named(), worker.settings.optimiser.zero_stage == 3, self._keep)
        if worker.model_config.lora is None:
            yield from tensors
            return
        worker.engine.module.merge_adapter()
        try:
            yield from ((name, tensor.clone()) for name, tensor in tensors)  # the parameters lose the adapters again
        finally:
            worker.engine.module.unmerge_adapter()

    def _named(self) -> Iterator[tuple[str, Any]]:
        for name, parameter in self._worker.engine.module.named_parameters():
            if "lora_" not in name:
                yield name.removeprefix("base_model.model.").replace(".base_layer", ""), parameter
