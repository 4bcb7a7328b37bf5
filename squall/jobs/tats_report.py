"""Rows, card and page of masked video trainings: when all are measured, and again without a model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pyarrow as pa

from squall.jobs.attack_files import read_card, read_rows, write_rows
from squall.jobs.tats_card import build_tats_card, facts_of
from squall.platform.config import validate
from squall.platform.report.tats import write_tats_report
from squall.platform.report.tats_export import export_tats
from squall.platform.report.tats_masks import read_masks
from squall.platform.runs import RunDirectory, from_here, read_lines, to_json, write_text
from squall.platform.tats_card import CARD_FILE, MASKS_FOLDER, MEASURES_FILE, ROWS_FILE, TATS_CLIPS, TatsCard, TatsMeasure

JOB = "train tats"


def write_tats_rows(folder: RunDirectory, table: pa.Table, measures: Sequence[TatsMeasure]) -> None:
    """Write ``clips.parquet`` and ``measures.jsonl``, each in one piece."""
    write_rows(folder.path / ROWS_FILE, table)
    write_text(folder.path / MEASURES_FILE, (to_json(one.model_dump(mode="json")) + "\n" for one in measures))


def write_tats_card(folder: RunDirectory, card: TatsCard) -> None:
    """Write a card, its page and its figures; the page shows the masks that the run directory keeps."""
    folder.write_json(CARD_FILE, card.model_dump(mode="json"))
    command = shlex.join(["squall", "report", str(from_here(folder.path))])
    write_tats_report(folder.path, card, read_masks(folder.path / MASKS_FOLDER), command=command)
    export_tats(card, folder.path / "figures")


def remake_tats(folder: RunDirectory) -> TatsCard:
    """Compute card and page again from rows and measures, without a model.

    Raises:
        DataError: not all is measured yet, or the files are not as this version writes them.
    """
    known = read_card(folder.path, TatsCard, JOB, CARD_FILE, "all is measured")
    table = read_rows(folder.path / ROWS_FILE, TATS_CLIPS, JOB)
    card = build_tats_card(table, read_measures(folder), facts_of(known))
    write_tats_card(folder, card)
    return card


def read_measures(folder: RunDirectory) -> list[TatsMeasure]:
    """What each training cost, from ``measures.jsonl``. Raises ConfigError, with the file, where one is not such a record."""
    path = folder.path / MEASURES_FILE
    return [validate(TatsMeasure, one, where=str(path)) for one in read_lines(path)]


def is_tats(folder: RunDirectory) -> bool:
    """Whether a run directory holds measured trainings of masked autoencoders."""
    return (folder.path / MEASURES_FILE).is_file() or (folder.path / CARD_FILE).is_file()
