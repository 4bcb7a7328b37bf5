"""Card and page of attacks on clips, from their rows: when they are all in, again without a victim, and of several runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from squall.jobs.attack_files import holds_attacks, read_card, read_rows, write_rows
from squall.jobs.video_attack_card import build_video_attack_card, facts_of
from squall.platform.errors import DataError
from squall.platform.report.video_attack_comparison import write_video_attack_comparison
from squall.platform.report.video_attack_examples import read_clips
from squall.platform.report.video_attack_export import export_video_attacks
from squall.platform.report.video_attacks import write_video_attack_report
from squall.platform.runs import RunDirectory, from_here
from squall.platform.video_attack_card import CARD_FILE, ROWS_FILE, VIDEO_ATTACKS, VideoAttackCard

JOB = "attack video"


def write_video_attacks(folder: RunDirectory, table: pa.Table) -> None:
    """Write ``video_attacks.parquet`` in one piece."""
    write_rows(folder.path / ROWS_FILE, table)


def write_video_attack_card(folder: RunDirectory, card: VideoAttackCard, table: pa.Table) -> None:
    """Write a card, its page and its figures; `table` holds the rows that it was computed from."""
    folder.write_json(CARD_FILE, card.model_dump(mode="json"))
    command = shlex.join(["squall", "report", str(from_here(folder.path))])
    write_video_attack_report(folder.path, card, table, read_clips(folder.path), command=command)
    export_video_attacks(card, folder.path / "figures")


def remake_video_attack(folder: RunDirectory) -> VideoAttackCard:
    """Compute card and page again from the rows, without a victim.

    Raises:
        DataError: not all is attacked yet.
    """
    known = read_video_attack_card(folder.path)
    table = read_video_attacks(folder.path)
    card = build_video_attack_card(table, facts_of(known))
    write_video_attack_card(folder, card, table)
    return card


def compare_video_attacks(folders: Sequence[RunDirectory], page: Path) -> None:
    """Write one page that shows the results of several runs side by side.

    Raises:
        DataError: one of them has no card, or they did not attack the same clips (reason ``different_data``).
    """
    cards = [read_video_attack_card(folder.path) for folder in folders]
    _check_same_data(cards)
    command = shlex.join(["squall", "report", *(str(from_here(folder.path)) for folder in folders), f"output={page}"])
    write_video_attack_comparison(page, cards, command=command)


def _check_same_data(cards: Sequence[VideoAttackCard]) -> None:
    hashes = [card.data.get("hash") for card in cards]
    for card, hash_ in zip(cards, hashes, strict=True):
        if hash_ != hashes[0]:
            raise DataError(f"{cards[0].name} and {card.name} attacked different clips (data hashes {hashes[0]} and {hash_}): "
                            "their figures do not stand side by side; give runs over the same data, or each run alone",
                            reason="different_data")


def read_video_attack_card(folder: Path) -> VideoAttackCard:
    """The card in a run directory. Raises DataError where there is none or it is not one."""
    return read_card(folder, VideoAttackCard, JOB)


def read_video_attacks(folder: Path) -> pa.Table:
    """The rows in a run directory. Raises DataError where there are none, or not as this version writes them."""
    return read_rows(folder / ROWS_FILE, VIDEO_ATTACKS, JOB)


def is_video_attack(folder: RunDirectory) -> bool:
    """Whether a run directory holds attacks on clips."""
    return holds_attacks(folder, ROWS_FILE, "video_attack")
