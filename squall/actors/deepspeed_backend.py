"""The one file that speaks DeepSpeed: sharded optimisation with ZeRO 0 to 3, and weights and moments gathered back from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from squall.algorithms.schedules import learning_rate_at
from squall.platform.config import Config
from squall.platform.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from squall.algorithms.classifier_config import AdamWConfig
    from squall.algorithms.classifier_training import Share


class OptimiserConfig(Config):
    """AdamW under DeepSpeed."""

    learning_rate: float = Field(1e-6, gt=0)
    """Peak learning rate."""
    warmup_steps: int = Field(0, ge=0)
    """Optimiser steps over which the rate rises linearly from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the rate does after warm-up; linear and cosine end at `final_fraction` of the peak."""
    final_fraction: float = Field(0.1, ge=0, le=1)
    """Fraction of the peak rate at the last step."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moments."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage: 1 shards optimiser state, 2 gradients too, 3 parameters too."""
    offload_optimiser: bool = False
    """Keep optimiser state in host memory (ZeRO 1 to 3 on GPUs)."""


def initialise(model: PreTrainedModel, config: OptimiserConfig, dtype: str) -> Any:
    """Wrap a model in a DeepSpeed engine. Call on every worker, inside a Ray Train loop.

    Raises:
        ConfigError: ZeRO 0 in half precision, where DeepSpeed keeps no master weights that could be read back.
    """
    import deepspeed

    if config.zero_stage == 0 and dtype != "float32":
        raise ConfigError(f"learner.optimiser.zero_stage 0 with model.dtype {dtype} could not be resumed; take zero_stage 1, "
                          "on one worker too")

    _join_workers()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(model=model, model_parameters=trainable, config=_engine_config(config, dtype))
    return engine


def _join_workers() -> None:
    import deepspeed
    import torch

    if deepspeed.comm.is_initialized():
        return
    # DeepSpeed would compile a faster all-reduce for CPUs at its first start: that needs a compiler, and a start that is killed
    # meanwhile leaves a lock file for which every later one waits without end. gloo's serves.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False)


def shard_for_inference(model: PreTrainedModel, dtype: str) -> Any:
    """Shard a frozen model over the workers with ZeRO-3, for a reference that does not fit beside the policy."""
    import deepspeed

    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}, **_precision(dtype)}
    engine, *_ = deepspeed.initialize(model=model, config=config)
    return engine


def _engine_config(config: OptimiserConfig, dtype: str) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.offload_optimiser:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": config.learning_rate, "betas": list(config.betas), "weight_decay": config.weight_decay,
                       "torch_adam": True},
        },
        **_precision(dtype),
    }


def _precision(dtype: str) -> dict[str, Any]:
    return {"bf16": {"enabled": dtype == "bfloat16"}, "fp16": {"enabled": dtype == "float16"}}


def set_learning_rate(engine: Any, rate: float) -> None:
    """Set the rate that the next optimiser step uses."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def backward(engine: Any, loss: torch.Tensor, last: bool) -> float:
    """Accumulate one micro-batch's gradients; the optimiser steps after the last one.

    Returns:
        After the last micro-batch the global L2 norm of the gradients before clipping, else 0.
    """
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss)
    plain = _plain_gradient_norm(engine) if last and engine.zero_optimization_stage() == 0 else 0.0
    engine.step()
    norm = engine.get_global_grad_norm() if last else 0.0
    return plain if norm is None else float(norm)


def _plain_gradient_norm(engine: Any) -> float:
    """The norm under ZeRO 0, where DeepSpeed keeps none: gradients are whole on every worker once they are reduced."""
    import torch

    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0


def gathered(named: Iterable[tuple[str, Any]], sharded: bool, keep: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Walk parameters in one order on every worker, whole even where ZeRO-3 has sharded them; a collective.

    Args:
        named: names and parameters.
        sharded: whether ZeRO-3 holds them; what is yielded are copies then, else the parameters' own memory.
        keep: yield on this worker; workers that do not keep take part in the gathering only.
    """
    import deepspeed

    for name, parameter in named:
        with deepspeed.zero.GatheredParameters([parameter]) if sharded else nullcontext():
            if keep:
                yield name, parameter.detach().clone() if sharded else parameter.detach().contiguous()


TRAINED = ("weight", "exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter: the weight in fp32, and the first and second moment of its gradient."""


def training_state(engine: Any, named: Iterable[tuple[str, Any]], keep: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """``exp_avg.NAME`` and so on with fp32 tensors, whole whatever the sharding, after at least one update; a collective."""
    for name, parameter in named:
        for kind in TRAINED:
            tensor = _whole(engine, parameter, kind)
            if keep:
                yield f"{kind}.{name}", tensor.detach().float().cpu().clone()


def restore_training_state(engine: Any, named: Iterable[tuple[str, Any]], state: Mapping[str, torch.Tensor],
                           updates: int) -> None:
    """Put back what `training_state` gave, on any number of workers.

    The engine must have made one update, with gradients and rate 0, because DeepSpeed makes the moments at the first.
    """
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    for name, parameter in named:
        for kind in TRAINED:
            value = state[f"{kind}.{name}"].to(engine.device)
            if engine.zero_optimization_stage() == 0:
                _whole(engine, parameter, kind).copy_(value)
            elif kind == "weight":
                safe_set_full_fp32_param(parameter, value)
            else:
                safe_set_full_optimizer_state(parameter, value, kind)
    for own in getattr(engine.optimizer, "optimizer", engine.optimizer).state.values():
        own["step"].fill_(updates)


def _whole(engine: Any, parameter: Any, kind: str) -> torch.Tensor:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if engine.zero_optimization_stage() == 0:
        return parameter.detach() if kind == "weight" else engine.optimizer.state[parameter][kind]
    return safe_get_full_fp32_param(parameter) if kind == "weight" else safe_get_full_optimizer_state(parameter, kind)


class ZeroDescent:
    """`Descent` of a masked autoencoder whose optimiser, and with stage 2 whose gradients, are divided over the workers.

    Losses are sums over all workers, where DeepSpeed takes means, and weights stay float32.
    """

    def __init__(self, stage: int, offload: bool, module: torch.nn.Module, optimiser: torch.optim.Optimizer,
                 config: AdamWConfig, share: Share, name: str) -> None:
        import deepspeed

        _join_workers()
        self.module, self.config, self.share, self.name = module, config, share, name
        settings = OptimiserConfig(zero_stage=stage, offload_optimiser=offload, max_grad_norm=config.max_grad_norm)
        engine_config = {key: value for key, value in _engine_config(settings, "float32").items() if key != "optimizer"}
        self.engine, *_ = deepspeed.initialize(model=module, optimizer=optimiser, config=engine_config)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self.share.workers)
        if not last:
            self.engine.step()

    def step(self, update: int, updates: int) -> float:
        from squall.algorithms.masked_video.gradients import check_norm

        set_learning_rate(self.engine, learning_rate_at(self.config, update, updates))
        self.engine.step()
        return check_norm(float(self.engine.get_global_grad_norm()), self.name, update)

    def state(self, keep: bool) -> Iterator[tuple[str, torch.Tensor]]:
        self._link()
        for name, tensor in training_state(self.engine, self.module.named_parameters(), keep):
            kind, _, parameter = name.partition(".")
            yield f"{kind}/{parameter}", tensor

    def restore(self, state: Mapping[str, torch.Tensor], updates: int) -> None:
        from squall.algorithms.masked_video.gradients import check_state

        check_state(self.module, state)
        set_learning_rate(self.engine, 0.0)
        self.backward(sum(weight.sum() for weight in self.module.parameters()) * 0.0, last=True)  # which makes the moments
        self.engine.step()
        self._link()
        named = {name.replace("/", ".", 1): value for name, value in state.items()}
        restore_training_state(self.engine, self.module.named_parameters(), named, updates)
        for name, weight in self.module.named_parameters():  # DeepSpeed brings them in line at the next step alone
            weight.data.copy_(state[f"weight/{name}"])

    def _link(self) -> None:
        """Let DeepSpeed find the moments of all parameters: by itself it looks once, after the first step of the first of the
        optimiser's groups, when the others have none yet."""
        self.engine.optimizer._hp_optimizer_states_linked = False
        self.engine.optimizer._lazy_init_hp_params_optimizer_state()
