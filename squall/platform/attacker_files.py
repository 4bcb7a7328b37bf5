"""Trained attackers on disk: ``attackers.safetensors`` holds their weights, ``attackers.json`` everything else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squall.platform.errors import DataError, SquallError
from squall.platform.runs import to_json, write_text
from squall.platform.video import replacing

if TYPE_CHECKING:
    import torch

WEIGHTS, DESCRIPTION = "attackers.safetensors", "attackers.json"
VERSION = 1


def write_attackers(folder: Path, description: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write attackers into a folder, which is made if missing; each file is replaced in one piece."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    facts = {"version": VERSION, "weights": _digest(folder / WEIGHTS), **description}
    write_text(folder / DESCRIPTION, to_json(facts, indent=2) + "\n")


def read_attackers(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The description and the weights of `write_attackers`. Nothing is unpickled.

    Raises:
        SquallError: there are no attackers in this folder.
        DataError: the files are damaged, of two different trainings or of another version (reason ``damaged_attacker``).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / DESCRIPTION).is_file() or not (folder / WEIGHTS).is_file():
        raise SquallError(f"{folder}: no trained attackers here; give the folder that holds {DESCRIPTION} and {WEIGHTS}, such "
                          "as runs/NAME/attackers")
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        version, digest = description.pop("version"), description.pop("weights")
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        problem = " ".join(str(error).split())[:200]
        raise DataError(f"{folder}: damaged attackers ({problem})", reason="damaged_attacker") from None
    if version != VERSION:
        raise DataError(f"{folder}: attackers of version {version}, and this Squall reads {VERSION}", reason="damaged_attacker")
    if digest != _digest(folder / WEIGHTS):
        raise DataError(f"{folder}: damaged attackers ({WEIGHTS} is not the file that {DESCRIPTION} describes)",
                        reason="damaged_attacker")
    return description, tensors


def attackers_hash(folder: Path) -> str:
    """32 hex digits over weights and description: the same attackers have the same hash wherever they lie."""
    return hashlib.blake2b((folder / DESCRIPTION).read_bytes() + (folder / WEIGHTS).read_bytes(), digest_size=16).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
