"""New weights for running engines through vLLM's own weight-transfer interface: safetensors in shared memory.

vLLM loads `register` in every process through the ``vllm.general_plugins`` entry point. vLLM itself is imported when that
runs, never when this module is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    import torch

BACKEND = "squall_shared_memory"
SHARED_MEMORY = Path("/dev/shm")
PREFIX = "squall-weights-"


def publish_weights(weights: Mapping[str, torch.Tensor], version: int) -> Path:
    """Write weights where engines of this machine can map them; the caller removes the file after the update.

    Files of learners that are gone, killed before anyone removed them, are freed first.
    """
    from safetensors.torch import save_file

    folder = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(os.environ.get("TMPDIR", "/tmp"))
    _remove_orphans(folder)
    path = folder / f"{PREFIX}{os.getuid()}-{os.getpid()}-{uuid4().hex}-v{version}.safetensors"
    save_file(dict(weights), str(path))
    path.chmod(0o600)
    return path


def remove_weights(path: str | Path) -> None:
    """Free the memory of published weights. Files that this module did not write are left alone."""
    file = Path(path)
    if file.name.startswith(PREFIX):
        file.unlink(missing_ok=True)


def _remove_orphans(folder: Path) -> None:
    for path in folder.glob(f"{PREFIX}{os.getuid()}-*"):
        owner = path.name.removeprefix(PREFIX).split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            path.unlink(missing_ok=True)


def register() -> None:
    """Make the back end known to vLLM. Called by vLLM in each of its processes."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, "squall.actors.shared_memory_transfer",
                                                    "SharedMemoryWeightTransferEngine")
