"""One worker of the learner: policy under DeepSpeed, frozen reference, and the arithmetic of a step."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import ray

from squall.actors.clip_comparison import ClipComparison
from squall.actors.learner import LearnerConfig, Objective
from squall.actors.microbatches import Chunk, cut, needed_clips
from squall.actors.rollout_buffer import Command, Publish, Save, TrainBatch, TrainSequence
from squall.actors.run_files import RunFiles
from squall.actors.weight_transfer import Backend, EngineFleet, Sender, open_sender
from squall.algorithms.rewards import RewardConfig
from squall.algorithms.schedules import learning_rate_at
from squall.algorithms.tgrpo import TGRPOConfig
from squall.platform.errors import SquallError
from squall.platform.models import ModelConfig

COUNTED = ("kl_sum", "ratio_sum", "clipped_tokens", "importance_sum", "importance_capped_tokens", "mismatch_sum",
           "mismatch_kl_sum")
"""Sums of the loss that become means per token in the step's metrics."""


def learner_loop(config: dict[str, Any]) -> None:
    """Run by every Ray Train worker: take a command, do this rank's share, report, repeat."""
    from ray import train

    from squall.actors.cluster import set_threads
    from squall.actors.logs import keep_log

    settings: LearnerConfig = config["learner"]
    keep_log(config["logs"] / f"learner-{train.get_context().get_world_rank()}.log")
    set_threads(settings.threads or settings.cpus)
    os.environ.setdefault("LOCAL_RANK", str(train.get_context().get_local_rank()))
    worker = LearnerWorker(config, train.get_context().get_world_rank(), train.get_context().get_world_size())
    buffer, index = config["buffer"], 0
    ray.get(buffer.arrive.remote(ray.get_runtime_context().get_node_id()))
    if worker.rank == 0:
        ray.get(buffer.report.remote(-1, {"parameters": worker.parameter_count}))
    while (command := ray.get(buffer.take.remote(index))) is not None:
        result = worker.obey(command)
        if worker.rank == 0:
            ray.get(buffer.report.remote(index, result))
        index += 1
    if worker.sender is not None:
        worker.sender.shutdown()


class LearnerWorker:
    """One rank of the learner."""

    def __init__(self, config: Mapping[str, Any], rank: int, world_size: int) -> None:
        import torch

        from squall.actors import deepspeed_backend
        from squall.platform.models import banned_token_ids, load_processor, resolve_model_path

        self.rank, self.world_size = rank, world_size
        self.settings: LearnerConfig = config["learner"]
        self.model_config: ModelConfig = config["model"]
        self.objective: Objective = config["objective"]
        self.tgrpo: TGRPOConfig | None = config["tgrpo"]
        self.rewards: RewardConfig = config["rewards"]
        self.comparison: ClipComparison | None = None
        self.temperature: float = config["temperature"]
        self.total_updates: int = config["total_updates"]
        self.updates_done = 0
        self.fleet: EngineFleet | None = config["fleet"]
        self.weight_transfer: Backend = config["weight_transfer"]
        self.sender: Sender | None = None
        self.files: RunFiles = config["files"]
        self._restoring = ExitStack()
        self.spans: list[tuple[str, float, float]] = []
        torch.manual_seed(config["seed"])
        path = resolve_model_path(self.model_config.path)
        self.processor = load_processor(path)
        self.banned = banned_token_ids(self.processor)
        self.restored = None
        if config["resume"] is not None:
            self.restored = RestoredState(self._restoring.enter_context(self.files.reading(config["resume"])))
        scorer = self._load_policy(path)
        self.parameter_count = sum(parameter.numel() for parameter in scorer.parameters())
        self.backend = deepspeed_backend
        self.engine = deepspeed_backend.initialise(scorer, self.settings.optimiser, self.model_config.dtype)
        self.reference = self._load_reference(path)

    def _load_policy(self, path: str) -> Any:
        from squall.platform.models import add_lora, load_policy

        model = load_policy(path, self.model_config.dtype)
        if not self.model_config.train_vision:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("visual" not in name)
        if self.model_config.lora is not None:
            model = add_lora(model, self.model_config.lora)
        scorer = self._scorer(model)
        if self.settings.gradient_checkpointing:
            scorer.model.gradient_checkpointing_enable({"use_reentrant": False})
            scorer.model.enable_input_require_grads()
        if self.restored is not None:
            self.restored.load_weights(trained(scorer))
            self.updates_done = self.restored.updates
        return scorer.train()

    def _load_reference(self, path: str) -> Any:
        from squall.platform.models import load_policy

        if self.tgrpo is None or self.tgrpo.kl_beta == 0:
            return None
        scorer = self._scorer(load_policy(path, self.model_config.dtype)).eval().requires_grad_(False)
        if self.settings.optimiser.zero_stage == 3:
            return self.backend.shard_for_inference(scorer, self.model_config.dtype)
        if self._vision_frozen:
            scorer.model.model.visual = self.engine.module.model.model.visual  # the same weights, and the same cache
            scorer.vision_cache = self.engine.module.vision_cache
        return scorer.to(self.engine.device)

    def _scorer(self, model: Any) -> Any:
        from squall.algorithms.scoring import AnswerScorer

        # Under ZeRO-3 a pass through the tower is a collective, which ranks with other clips in store would miss.
        cached = self._vision_frozen and self.settings.optimiser.zero_stage < 3
        cache = self.settings.vision_cache_mib << 20 if cached else 0
        return AnswerScorer(model, self.banned, self.temperature, cache, self.rewards.kl_consistency)

    @property
    def _vision_frozen(self) -> bool:
        return not self.model_config.train_vision or self.model_config.lora is not None

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time a part of a command, for the step's trace."""
        started = time.time()
        yield
        self.spans.append((name, started, time.time()))

    def obey(self, command: Command) -> dict[str, Any]:
        """Carry out a command; what rank 0 returns goes to the driver."""
        self.spans.clear()
        if isinstance(command, Publish):
            result = self.publish(command)
        elif isinstance(command, Save):
            result = self.save(Path(command.directory))
        else:
            result = self.train(command)
        return {**result, "spans": tuple(self.spans)}

    def train(self, batch: TrainBatch) -> dict[str, Any]:
        """Make `updates_per_step` optimiser updates from a batch; returns metrics that are equal on every rank."""
        started = time.monotonic()
        self.comparison = ClipComparison(self.rewards, self.tgrpo) if self.rewards.compares_clips else None
        shares = batch.split(self.settings.updates_per_step)
        prepared = [self._prepare(batch, share) for share in shares]
        moved = len(shares) > 1  # from the second update on the policy is not the one that `old` stands for
        old = [[self._old_logprobs(chunk) for chunk in chunks] if moved else [None] * len(chunks) for chunks in prepared]
        if self.restored is not None:
            self._restore_optimiser(prepared[0][0])
        totals: dict[str, float] = {}
        for share, chunks, old_logprobs in zip(shares, prepared, old, strict=True):
            tokens = sum(len(sequence.token_ids) for sequence in share)
            self._update(chunks, old_logprobs, tokens, len(share), totals)
        return {**self._metrics(totals), **self._compared(len(batch.sequences)), "seconds": time.monotonic() - started}

    def _prepare(self, batch: TrainBatch, sequences: tuple[TrainSequence, ...]) -> list[Chunk]:
        """This rank's share of an update's answers in micro-batches, as many as every other rank has."""
        with self.span("encode"):
            share = self._share(sequences)
            own = share or [sequences[0]]  # more workers than prompts: this one takes part, and counts nothing
            needed = needed_clips(own)
            clips = dict(zip(needed, ray.get([batch.clips[name] for name in needed]), strict=True))
            chunks = cut(own, clips, self.processor, self.engine.module.model, self.settings)
        if not share:
            chunks = [chunk.emptied() for chunk in chunks]
        # Sharded ranks meet in every pass: one that has fewer repeats its last, counting nothing.
        return chunks + [chunks[-1].emptied()] * (self._most(len(chunks)) - len(chunks))

    def _share(self, sequences: tuple[TrainSequence, ...]) -> list[TrainSequence]:
        """Whole groups of answers with one prompt, dealt by their tokens so that ranks have about the same work."""
        from squall.algorithms.packing import deal

        numbers = {key: number for number, key in enumerate(dict.fromkeys(sequence.key for sequence in sequences))}
        sizes = dict.fromkeys(numbers.values(), 0)
        for sequence in sequences:
            sizes[numbers[sequence.key]] += len(sequence.token_ids)
        own = set(deal(sizes, self.world_size)[self.rank])
        return [sequence for sequence in sequences if numbers[sequence.key] in own]

    def _most(self, count: int) -> int:
        if self.world_size == 1:
            return count
        import torch
        import torch.distributed as dist

        largest = torch.tensor([count], device=self.engine.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def _old_logprobs(self, chunk: Chunk) -> Any:
        import torch

        with torch.no_grad(), self.span("old log-probabilities"):
            return self.engine(chunk.batch.to(self.engine.device))[0]

    def _compare_first(self, chunks: list[Chunk]) -> bool:
        """Where micro-batches part a group, find all divergences before any answer is trained; returns whether they did.

        Sharded ranks meet in every pass, so one that need not do it does it with the others.
        """
        import torch

        parted = self.comparison.begin([chunk.sequences for chunk in chunks if chunk.counts])
        if not self._most(int(parted)):
            return False
        for chunk in chunks:
            with torch.no_grad(), self.span("compare"):
                batch, anchor = chunk.on(self.engine.device)
                self._note(chunk, _token_means(self.engine(batch, anchor)[2], batch))
        return True

    def _note(self, chunk: Chunk, divergence_A: Any) -> None:
        if chunk.counts:
            self.comparison.note(chunk.sequences, divergence_A.tolist())

    def _compared(self, count: int) -> dict[str, Any]:
        """Divergences and new advantages of all answers of a step, in their order; nothing where clips are not compared."""
        if self.comparison is None:
            return {}
        import torch
        import torch.distributed as dist

        values = torch.zeros((2, count), dtype=torch.float64)
        for row, found in zip(values, (self.comparison.found, self.comparison.taken), strict=True):
            row[list(found)] = torch.tensor(list(found.values()), dtype=torch.float64)
        if self.world_size > 1:
            values = values.to(self.engine.device)
            dist.all_reduce(values)
        divergences, advantages = values.tolist()
        return {"divergences": divergences, "advantages": advantages, "kl_consistency/kl": fmean(divergences),
                "kl_consistency/mean": fmean(map(self.comparison.reward, divergences))}

    def _restore_optimiser(self, chunk: Chunk) -> None:
        """Make an update of size 0, which lets DeepSpeed allocate what it keeps, and put the stored values there."""
        self.backend.set_learning_rate(self.engine, 0.0)
        logprobs_AL, _ = self.engine(chunk.batch.to(self.engine.device))
        self.backend.backward(self.engine, logprobs_AL.sum() * 0.0, last=True)
        self.restored.load_optimiser(self.backend, self.engine, trained(self.engine.module))
        self.restored = None
        self._restoring.close()

    def _update(self, chunks: list[Chunk], old: list[Any], tokens: int, sequences: int, totals: dict[str, float]) -> None:
        """One optimiser update; the loss is divided by totals over all workers, so it does not depend on their number."""
        rate = learning_rate_at(self.settings.optimiser, self.updates_done, self.total_updates)
        self.backend.set_learning_rate(self.engine, rate)
        known = self.comparison is not None and self._compare_first(chunks)
        compare = self.comparison is not None and (not known or self.rewards.kl_consistency.loss_weight > 0)
        for number, (chunk, old_AL) in enumerate(zip(chunks, old, strict=True)):
            loss, sums = self._loss(chunk, old_AL, tokens, sequences, compare)
            with self.span("backward"):
                # DeepSpeed averages gradients over workers; the factor turns that average back into the sum.
                norm = self.backend.backward(self.engine, loss * self.world_size, last=number == len(chunks) - 1)
            totals["importance_max"] = max(totals.get("importance_max", 0.0), sums.pop("importance_max", 0.0))
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
        self.updates_done += 1
        totals["_learning_rate"] = rate
        totals["_grad_norm"] = norm

    def _loss(self, chunk: Chunk, old_AL: Any, tokens: int, sequences: int, compare: bool) -> tuple[Any, dict[str, float]]:
        batch, anchor = chunk.on(self.engine.device)
        with self.span("forward"):
            logprobs_AL, entropy_AL, *divergence = self.engine(batch, anchor if compare else None)
        measured = {"entropy": float(entropy_AL.sum()), "tokens": float(batch.mask_AL.sum())}
        if self.objective == "sft":
            loss = -logprobs_AL.sum() / tokens
            return loss, {**measured, "loss": float(loss.detach())}
        if divergence:
            self._note(chunk, _token_means(divergence[0], batch))
        loss, sums = self._policy_loss(chunk, batch, logprobs_AL, old_AL, tokens, sequences)
        if divergence and self.rewards.kl_consistency.loss_weight:
            loss = loss + self.rewards.kl_consistency.loss_weight * _token_means(divergence[0], batch).sum() / sequences
        return loss, {**measured, **sums, "loss": float(loss.detach())}

    def _policy_loss(self, chunk: Chunk, batch: Any, logprobs_AL: Any, old_AL: Any, tokens: int,
                     sequences: int) -> tuple[Any, dict[str, float]]:
        import torch

        from squall.algorithms.tgrpo import token_loss

        answers, device = chunk.sequences, logprobs_AL.device
        engine_AL = torch.zeros_like(logprobs_AL)
        for row, sequence in enumerate(answers):
            engine_AL[row, :len(sequence.token_ids)] = torch.tensor(sequence.engine_logprobs, device=device)
        reference_AL = None
        if self.reference is not None:
            with torch.no_grad(), self.span("reference"):
                reference_AL = self.reference(batch)[0]
        anew = self.comparison is not None and chunk.counts
        advantages = self.comparison.advantages(answers) if anew else [answer.advantage for answer in answers]
        advantages_A = torch.tensor(advantages, device=device)
        terms = token_loss(logprobs_AL, logprobs_AL.detach() if old_AL is None else old_AL, engine_AL, reference_AL,
                           advantages_A, batch.mask_AL, self.tgrpo)
        divisor = tokens if self.tgrpo.loss_aggregation == "token" else sequences
        sums = {name: float(value) for name, value in terms.sums().items() if name in COUNTED}
        return terms.loss_sum / divisor, {**sums, "importance_max": float(terms.importance_max)}

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
        self.fleet.aim(command.version, command.engines)
        if command.reconnect and self.sender is not None:
            self.sender.shutdown()
            self.sender = None
        if self.sender is None:
            source = LearnerWeights(self, everywhere=self.weight_transfer == "ipc")  # each rank shares its own GPU's
            self.sender = open_sender(self.weight_transfer, self.rank, self.fleet, source)
        self.sender.send_weights()
        return {"lost": self.fleet.lost}

    def save(self, directory: Path) -> dict[str, Any]:
        """Write a Hugging Face directory (safetensors, tokenizer, processor) and, in ``trainer/``, what a resumed run needs."""
        from squall.platform.checkpoints import TRAINER, write_tensors

        weights = {name: tensor.cpu() for name, tensor in LearnerWeights(self)}
        state = self.backend.training_state(self.engine, trained(self.engine.module), keep=self.rank == 0)
        if self.rank:
            _exhaust(state)
            return {}
        with self.files.writing(directory) as folder:
            self.engine.module.model.save_pretrained(folder, state_dict=weights)
            self.processor.save_pretrained(folder)
            write_tensors(folder / TRAINER, state, {"updates": self.updates_done})
        return {}


def _token_means(values_AL: Any, batch: Any) -> Any:
    """Mean over each answer's tokens (A,); 0 for one that is masked out."""
    return values_AL.sum(1) / batch.mask_AL.sum(1).clamp(min=1.0)


class RestoredState:
    """What a resumed worker reads from a checkpoint: weights when it starts, moments at its first update."""

    def __init__(self, checkpoint: Path) -> None:
        from squall.platform.checkpoints import TRAINER, StoredTensors

        self._checkpoint = checkpoint
        self._stored = StoredTensors(checkpoint / TRAINER)
        self.updates: int = self._stored.metadata["updates"]

    def load_weights(self, named: Iterable[tuple[str, Any]]) -> None:
        """Overwrite a model's trained weights; to be called before DeepSpeed shards them.

        Raises:
            SquallError: the checkpoint is of another model.
        """
        import torch

        own = dict(named)
        stored = {name.removeprefix("weight.") for name in self._stored if name.startswith("weight.")}
        if other := sorted(own.keys() ^ stored):
            raise SquallError(f"{self._checkpoint}: a checkpoint of another model: '{other[0]}' and {len(other) - 1} more "
                              "parameters are in only one of the two")
        with torch.no_grad():
            for name, parameter in own.items():
                value = self._stored[f"weight.{name}"]
                if value.shape != parameter.shape:
                    raise SquallError(f"{self._checkpoint}: a checkpoint of another model: '{name}' is {tuple(value.shape)} "
                                      f"there and {tuple(parameter.shape)} here")
                parameter.copy_(value)

    def load_optimiser(self, backend: Any, engine: Any, named: Iterable[tuple[str, Any]]) -> None:
        """Put the moments and fp32 weights into a DeepSpeed engine that has made one update."""
        backend.restore_training_state(engine, named, self._stored, self.updates)


def trained(scorer: Any) -> list[tuple[str, Any]]:
    """Names, as in the policy's own state dictionary, and parameters that learn."""
    return [(name, parameter) for name, parameter in scorer.policy.named_parameters() if parameter.requires_grad]


def _exhaust(values: Iterable[Any]) -> None:
    for _ in values:
        pass


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
        # Out of place: merging into the weights and taking the adapters out again would not give the same bits back.
        modules = worker.engine.module.policy.named_modules()
        adapted = {_own_name(f"{name}.base_layer.weight"): module for name, module in modules
                   if hasattr(module, "get_delta_weight")}
        for name, tensor in tensors:
            delta = adapted[name].get_delta_weight("default").detach() if name in adapted else None
            yield name, tensor.clone() if delta is None else (tensor.float() + delta.float()).to(tensor.dtype)

    def _named(self) -> Iterator[tuple[str, Any]]:
        for name, parameter in self._worker.engine.module.policy.named_parameters():
            if "lora_" not in name:
                yield _own_name(name), parameter


def _own_name(name: str) -> str:
    """The name that a parameter has without PEFT's wrapping."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")
