"""The receiving side of the shared-memory weight transfer. vLLM's worker processes import it, nothing else does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)


@dataclass
class SharedMemoryInitInfo(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class SharedMemoryUpdateInfo(WeightTransferUpdateInfo):
    """One update."""

    path: str
    """safetensors file with all weights, named as in the Hugging Face state dictionary."""


class SharedMemoryWeightTransferEngine(WeightTransferEngine[SharedMemoryInitInfo, SharedMemoryUpdateInfo]):
    """Loads a safetensors file into the running model, layer by layer."""

    init_info_cls = SharedMemoryInitInfo
    update_info_cls = SharedMemoryUpdateInfo

    def init_transfer_engine(self, init_info: SharedMemoryInitInfo) -> None:
        """There is no connection to open."""

    def start_weight_update(self) -> None:
        """Give the parameters back the shape that checkpoints have."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As the base class, without its accelerator synchronisation: a CPU has none, and loading from a file waits."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: SharedMemoryUpdateInfo) -> None:
        """Read every tensor of the file into the model."""
        from safetensors import safe_open

        with safe_open(update_info.path, framework="pt") as weights:
            self.model.load_weights((name, weights.get_tensor(name)) for name in weights.keys())

    def finish_weight_update(self) -> None:
        """Turn the parameters into the form that the kernels want."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """There is no connection to close."""
