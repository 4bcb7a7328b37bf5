"""What a checkpoint holds beside the model's own files, and how a damaged one is told from a good one.

``step-000123/`` is a Hugging Face directory that loads anywhere. In it, ``trainer/`` holds fp32 weights and moments of every
trained parameter as safetensors, and ``state.json``, written last, the run's cursor and the size of every file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squall.platform.errors import SquallError
from squall.platform.runs import write_text

if TYPE_CHECKING:
    import torch

STATE, TRAINER, INDEX = "state.json", "trainer", "index.json"
SHARD_BYTES = 4 << 30


def write_tensors(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], metadata: Mapping[str, Any]) -> None:
    """Write tensors as they come into safetensors files of about 4 GiB, and ``index.json`` with `metadata`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    size = 0

    def flush() -> None:
        name = f"{len(set(places.values())):05d}.safetensors"
        save_file(shard, str(folder / name))
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, tensor in tensors:
        shard[name] = tensor.contiguous()
        size += tensor.numel() * tensor.element_size()
        if size >= SHARD_BYTES:
            flush()
            size = 0
    if shard:
        flush()
    write_text(folder / INDEX, json.dumps({"tensors": places, **metadata}))


class StoredTensors(Mapping[str, "torch.Tensor"]):
    """Tensors of `write_tensors`, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.metadata: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        self._places: dict[str, str] = self.metadata.pop("tensors")

    def __getitem__(self, name: str) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(str(self._folder / self._places[name]), framework="pt") as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def seal(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Write ``state.json``: the run's state, and every file's size, by which `read_state` knows a damaged checkpoint."""
    if not (checkpoint / TRAINER / INDEX).is_file():
        raise SquallError(f"{checkpoint}: the learner's files are not here; `output` must be a folder that all nodes share")
    files = {str(path.relative_to(checkpoint)): path.stat().st_size for path in sorted(checkpoint.rglob("*")) if path.is_file()}
    write_text(checkpoint / STATE, json.dumps({**state, "files": files}, indent=2) + "\n")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state that `seal` wrote.

    Raises:
        SquallError: there is none, or a file is missing or cut short.
    """
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
        files = state.pop("files")
    except (OSError, json.JSONDecodeError, KeyError) as error:
        reason = type(error).__name__
        raise SquallError(f"{checkpoint}: a damaged checkpoint: {STATE} is missing or unreadable ({reason})") from None
    for name, size in files.items():
        found = (checkpoint / name).stat().st_size if (checkpoint / name).is_file() else None
        if found != size:
            problem = "is missing" if found is None else f"has {found} bytes in place of {size}"
            raise SquallError(f"{checkpoint}: a damaged checkpoint: {name} {problem}")
    return state
