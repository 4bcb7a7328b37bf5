"""A run of masked video trainings told again from its files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tats_runs import ARMS, facts, mask_example, measures, rows, table_of

from squall.jobs.report import ReportConfig
from squall.jobs.report import run as report
from squall.jobs.tats_card import build_tats_card
from squall.jobs.tats_report import is_tats, read_measures, remake_tats, write_tats_card, write_tats_rows
from squall.platform.errors import ConfigError, DataError
from squall.platform.report.tats_masks import write_masks
from squall.platform.runs import RunDirectory
from squall.platform.tats_card import CARD_FILE, MASKS_FOLDER, MEASURES_FILE, ROWS_FILE


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    folder = RunDirectory.create(tmp_path, "tats", "first")
    table, measured = table_of(rows(ARMS)), measures(ARMS)
    write_tats_rows(folder, table, measured)
    write_masks(folder.path / MASKS_FOLDER, [mask_example(arm) for arm in ARMS])
    write_tats_card(folder, build_tats_card(table, measured, facts(ARMS, name="first")))
    return folder


def test_a_run_is_made_again_from_its_files_byte_for_byte(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    def files() -> dict[str, bytes]:
        return {str(path.relative_to(run.path)): path.read_bytes() for path in sorted(run.path.rglob("*")) if path.is_file()}

    before = files()
    assert {CARD_FILE, ROWS_FILE, MEASURES_FILE, "masks/masks.safetensors", "report.html", "figures/card.md"} <= set(before)
    assert report(ReportConfig(runs=(run.path,))) == 0
    assert files() == before
    out = capsys.readouterr().out
    assert "80 held-out clips" in out and "beats random" in out and f"report: {run.report}" in out
    assert b"Masks over held-out clips" in before["report.html"] and read_measures(run) == measures(ARMS)


def test_what_is_missing_or_damaged_is_named_with_what_mends_it(run: RunDirectory, tmp_path: Path) -> None:
    assert is_tats(run) and not is_tats(RunDirectory.create(tmp_path, "tats", "empty"))
    table = pq.read_table(run.path / ROWS_FILE)
    pq.write_table(table.drop_columns(["loss_random"]), run.path / ROWS_FILE)
    with pytest.raises(DataError, match=r"clips.parquet: has no column loss_random.*squall train tats .*config.yaml --resume"):
        remake_tats(run)
    (run.path / ROWS_FILE).write_bytes(b"none")
    with pytest.raises(DataError, match=r"clips.parquet: cannot be read"):
        remake_tats(run)
    pq.write_table(pa.table(table), run.path / ROWS_FILE)
    (run.path / MEASURES_FILE).write_text('{"arm": "tats"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"measures.jsonl"):
        remake_tats(run)
    (run.path / CARD_FILE).unlink()
    with pytest.raises(DataError, match=r"no tats_card.json; it is written when all is measured: squall train tats"):
        remake_tats(run)
