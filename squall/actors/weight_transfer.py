"""New weights for running engines through vLLM's own weight-transfer interface, driven by the learner.

Three back ends: shared memory (Squall's: safetensors in memory that learner and engines of one machine share, and in pieces
through Ray's object store to engines of others), NCCL and CUDA IPC (vLLM's). The learner's rank 0 sends; `EngineFleet` carries
the control messages to the engine actors. vLLM loads `register` in every process through the ``vllm.general_plugins`` entry
point; vLLM itself is imported when that runs and when a back end of its own is opened, never when this module is.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import uuid4

import ray
from ray.exceptions import RayActorError, RayError

from squall.platform.errors import SquallError, cause

if TYPE_CHECKING:
    import torch

Backend = Literal["shared_memory", "nccl", "ipc"]
VLLM_NAMES: Mapping[str, str] = {"shared_memory": "squall_shared_memory", "nccl": "nccl", "ipc": "ipc"}
"""What vLLM knows each back end as."""
SHARED_MEMORY = Path("/dev/shm")
PREFIX = "squall-weights-"
PIECE_BYTES = 256 << 20


class WeightSource(Protocol):
    """The learner's weights, whole, in one order on every rank; vLLM's protocol of the same name."""

    def metadata(self) -> Sequence[Any]:
        """Objects with `name`, `dtype` and `shape` (tuple), one for each tensor of the iteration."""

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor; a collective, so every rank iterates. Ranks that do not send may yield nothing."""


class Sender(Protocol):
    """The sending side of a back end, open on every learner rank."""

    def send_weights(self) -> None:
        """Give every engine the current weights; a collective."""

    def shutdown(self) -> None:
        """Close the connection."""


class EngineFleet:
    """vLLM's weight-sync client over engine actors. An engine that dies on the way is noted and left out."""

    def __init__(self, engines: Sequence[Any], ranks_per_engine: int, vision_changed: bool, timeout_s: float) -> None:
        self.engines, self.ranks_per_engine = list(engines), ranks_per_engine
        self.version = 0
        """Version under which the next weights go out."""
        self.members = list(range(len(self.engines)))
        """Numbers of the engines that they go to: those that were not given up."""
        self.lost: dict[int, str] = {}
        """Engines that were lost during the last update, by number, and why."""
        self._vision_changed, self._timeout_s = vision_changed, timeout_s

    def aim(self, version: int, members: Sequence[int] | None = None) -> None:
        """Set the version of the next weights and which engines receive them, by default all."""
        self.version = version
        self.members = list(range(len(self.engines)) if members is None else members)

    @property
    def ranks(self) -> int:
        """Processes of all members together."""
        return len(self.members) * self.ranks_per_engine

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Connect the members; in a process group each takes the ranks after the sender's and its predecessors'."""
        ranks, self.lost = self.ranks_per_engine, {}
        self._call("connect", {number: init_info | ({"rank_offset": 1 + place * ranks} if "rank_offset" in init_info else {})
                               for place, number in enumerate(self.members)})

    def all_see(self, path: Path) -> bool:
        """Whether a file of this node is there for every member that answers."""
        self.lost = {}
        return all(self._call("sees", dict.fromkeys(self.members, path)).values())

    def start_weight_update(self) -> None:
        """Let running requests end and hold new ones back."""
        self.lost = {}
        self._call("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive weights."""
        self._call("update_weights", dict.fromkeys(self.members, update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Stamp the version, forget what was computed from older weights, go on."""
        version = self.version if weight_version is None else int(weight_version)
        changed = dict.fromkeys(self.members, self._vision_changed)
        self._call("finish_weight_update", dict.fromkeys(self.members, version), changed)

    def _call(self, method: str, *arguments: Mapping[int, Any]) -> dict[int, Any]:
        """What the members return that live."""
        alive = [number for number in self.members if number not in self.lost]
        calls = {number: getattr(self.engines[number], method).remote(*(values[number] for values in arguments))
                 for number in alive}
        results = {}
        for number, reference in calls.items():
            try:
                results[number] = ray.get(reference, timeout=self._timeout_s)
            except SquallError:
                raise  # nothing that a restart would mend
            except RayError as error:
                if not isinstance(error, RayActorError):  # it hangs, or what it wraps is dead
                    ray.kill(self.engines[number], no_restart=False)
                self.lost[number] = f"{method}: {cause(error)}"
        return results


def open_sender(backend: Backend, rank: int, fleet: EngineFleet, source: WeightSource) -> Sender:
    """Connect learner and engines. Called on every learner rank; returns when the engines are connected."""
    if backend == "shared_memory":
        return SharedMemorySender(rank, fleet, source)
    from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

    return WeightTransferTrainerFactory.trainer_init(_init_info(backend, rank, fleet), client=fleet, source=source)


def _init_info(backend: Backend, rank: int, fleet: EngineFleet) -> Any:
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo(rank=rank, packed=True)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return NCCLTrainerInitInfo(ray.util.get_node_ip_address(), port, 1 + fleet.ranks, rank=rank)


class SharedMemorySender:
    """Writes weights where engines of this machine map them, and frees them when all have. Those of others fetch pieces."""

    def __init__(self, rank: int, fleet: EngineFleet, source: WeightSource) -> None:
        self._rank, self._fleet, self._source = rank, fleet, source
        if rank == 0:
            fleet.init_weight_transfer_engine({})

    def send_weights(self) -> None:
        """Give every engine the current weights; a collective."""
        weights = {name: tensor.cpu() for name, tensor in self._source}
        if self._rank:
            return
        path = write_weights(weights, self._fleet.version)
        try:
            pieces = {} if self._fleet.all_see(path) else {"pieces": cut(path)}
            self._fleet.start_weight_update()
            self._fleet.update_weights({"path": str(path), **pieces})
            self._fleet.finish_weight_update()
        finally:
            path.unlink(missing_ok=True)

    def shutdown(self) -> None:
        """There is no connection to close."""


def write_weights(weights: Mapping[str, torch.Tensor], version: int) -> Path:
    """Write weights to shared memory, after freeing those of learners that were killed before they could."""
    from safetensors.torch import save_file

    path = _own_file(f"{uuid4().hex}-v{version}.safetensors")
    save_file(dict(weights), str(path))
    path.chmod(0o600)
    return path


def cut(path: Path) -> list[ray.ObjectRef]:
    """A file's bytes in the object store, in order; what the store has no room for Ray spills to the disk."""
    import numpy as np

    content = np.memmap(path, np.uint8, "r")
    return [ray.put(np.array(content[start:start + PIECE_BYTES])) for start in range(0, len(content), PIECE_BYTES)]


def fetch(path: Path, pieces: Sequence[ray.ObjectRef]) -> Path:
    """Bring weights that another node's learner has written under `path` into this node's shared memory; the caller removes
    the file. Engines of one node fetch them once: each has a name of its own for the same bytes."""
    token = path.name.split("-", 4)[-1]
    own = _own_file(token)
    with (own.parent / f".{PREFIX}{os.getuid()}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any(_linked(other, own) for other in own.parent.glob(f"{PREFIX}{os.getuid()}-*-{token}")):
            _put_together(pieces, own)
    return own


def _linked(other: Path, own: Path) -> bool:
    """Whether `own` names the same file now; its first engine may be through with it and have removed it."""
    with suppress(FileNotFoundError):
        os.link(other, own)
        return True
    return False


def _put_together(pieces: Sequence[ray.ObjectRef], path: Path) -> None:
    arriving = path.with_suffix(".part")
    try:
        with open(arriving, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            for piece in pieces:
                file.write(memoryview(ray.get(piece)))
        arriving.rename(path)
    finally:
        arriving.unlink(missing_ok=True)


def _own_file(token: str) -> Path:
    """A file of this process in memory; those of processes that were killed before they could remove theirs are freed."""
    folder = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(os.environ.get("TMPDIR", "/tmp"))
    _remove_orphans(folder)
    return folder / f"{PREFIX}{os.getuid()}-{os.getpid()}-{token}"


def _remove_orphans(folder: Path) -> None:
    for path in folder.glob(f"{PREFIX}{os.getuid()}-*"):
        owner = path.name.removeprefix(PREFIX).split("-")[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            path.unlink(missing_ok=True)


def register() -> None:
    """Make the shared-memory back end known to vLLM. Called by vLLM in each of its processes."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    name = VLLM_NAMES["shared_memory"]
    if name not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(name, "squall.actors.shared_memory_transfer",
                                                    "SharedMemoryWeightTransferEngine")
