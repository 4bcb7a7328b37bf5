"""Rows and card of attacks in a run directory: written in one piece, and read with a word on what mends them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from squall.platform.attack_card import CARD_FILE
from squall.platform.config import Config, validate
from squall.platform.errors import DataError
from squall.platform.runs import RunDirectory, read_json
from squall.platform.video import replacing

Card = TypeVar("Card", bound=Config)


def write_rows(path: Path, table: pa.Table) -> None:
    """Write rows as Parquet, in one piece."""
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_rows(path: Path, schema: pa.Schema, job: str) -> pa.Table:
    """The rows that a `job`, such as ``attack image``, wrote.

    Raises:
        DataError: there are none (reason ``damaged_attacks``), or not as this version writes them (``old_attacks``).
    """
    advice = f"`{_resume(job, path.parent)}` writes it again from what is finished"
    try:
        table = pq.read_table(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: cannot be read ({problem}); {advice}", reason="damaged_attacks") from None
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise DataError(f"{path}: has no column {missing[0]}, so another version of Squall wrote it; {advice}",
                        reason="old_attacks")
    return table


def read_card(folder: Path, kind: type[Card], job: str, file: str = CARD_FILE, when: str = "all is attacked") -> Card:
    """The card that a `job` wrote into a run directory. Raises DataError where there is none or it is not one."""
    path = folder / file
    if not path.is_file():
        raise DataError(f"{folder}: no {file}; it is written when {when}: {_resume(job, folder)}", reason="no_card")
    return validate(kind, read_json(path), where=str(path))


def holds_attacks(folder: RunDirectory, rows_file: str, kind: str) -> bool:
    """Whether a run directory has such rows, or a card of that kind."""
    card = folder.path / CARD_FILE
    return (folder.path / rows_file).is_file() or (card.is_file() and read_json(card).get("kind") == kind)


def _resume(job: str, folder: Path) -> str:
    return f"squall {job} {folder / 'config.yaml'} --resume"
