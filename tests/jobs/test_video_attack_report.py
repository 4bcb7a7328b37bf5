"""A run of attacks on clips told again from its files, and several side by side."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from attacked_clip_cards import BUDGET, make_card, make_rows
from pages import Tags

from squall.jobs.report import ReportConfig
from squall.jobs.report import run as report
from squall.jobs.video_attack_card import FACTS, build_video_attack_card
from squall.jobs.video_attack_report import (
    is_video_attack,
    read_video_attack_card,
    read_video_attacks,
    remake_video_attack,
    write_video_attack_card,
    write_video_attacks,
)
from squall.platform.errors import ConfigError, DataError
from squall.platform.report.export import escape
from squall.platform.runs import RunDirectory

ATTACKS = ("pair", "random", "greedy")


def make_run(folder: Path, name: str, data_hash: str = "d1", **asked: object) -> RunDirectory:
    run = RunDirectory.create(folder, "attack-video", name)
    known, table = make_card(ATTACKS, 30), make_rows(ATTACKS, 30)
    facts = {one: getattr(known, one) for one in FACTS} | {
        "name": name, "budget": BUDGET, "data": known.data | {"hash": data_hash}, "asked": known.asked | asked,
        "victim": known.victim | {"name": f"{name}-net"},
        "descriptions": {one.attack: (one.kind, one.description) for one in known.results}}
    write_video_attacks(run, table)
    write_video_attack_card(run, build_video_attack_card(table, facts), table)
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path, "first")


def files_of(run: RunDirectory) -> dict[str, bytes]:
    return {str(path.relative_to(run.path)): path.read_bytes() for path in sorted(run.path.rglob("*")) if path.is_file()}


def test_a_run_is_made_again_from_its_files_byte_for_byte(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(run)
    assert {"card.json", "video_attacks.parquet", "report.html", "figures/figures.csv", "figures/figures.parquet",
            "figures/contrasts.csv", "figures/curves.csv", "figures/card.md"} <= set(before)
    assert report(ReportConfig(runs=(run.path,))) == 0
    assert files_of(run) == before
    out = capsys.readouterr().out
    assert "30 clips attacked" in out and "pair beats random" in out and f"report: {run.report}" in out


def test_rows_that_are_taken_away_change_the_card(run: RunDirectory) -> None:
    table = read_video_attacks(run.path)
    write_video_attacks(run, table.slice(1))
    card = remake_video_attack(run)
    assert card.results[0].attacked == 29 and any("attacks on 1 of 30 clips are lost" in one for one in card.unreliable)
    assert read_video_attack_card(run.path) == card


def test_runs_over_the_same_clips_stand_side_by_side(run: RunDirectory, tmp_path: Path) -> None:
    other = make_run(tmp_path, "second", seeds=[0, 1], note="<b>")
    assert report(ReportConfig(runs=(run.path, other.path))) == 0
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "<td>first-net</td>" in page and "<td>second-net</td>" in page and '<th scope="row">greedy</th>' in page
    assert '<th scope="row">seeds</th><td>[0, 1, 2]</td><td>[0, 1]</td>' in page, "what differs is named"
    assert page.count('<th scope="row">attack.max_queries</th>') == 0, "and what does not is not"
    tags = Tags()
    tags.feed(page)
    assert not tags.open and set(tags.fetched) == {"data:,"} and "&lt;b&gt;" in page


def test_runs_over_other_clips_or_of_other_jobs_do_not(run: RunDirectory, tmp_path: Path) -> None:
    other = make_run(tmp_path, "other", data_hash="d2")
    with pytest.raises(DataError, match=r"first and other attacked different clips \(data hashes d1 and d2\)"):
        report(ReportConfig(runs=(run.path, other.path)))
    (trained := tmp_path / "trained").mkdir()
    with pytest.raises(DataError, match="no evaluation, and what stands side by side is evaluations alone, or attacks"):
        report(ReportConfig(runs=(run.path, trained)))
    with pytest.raises(ConfigError, match=r"give it a name that ends in \.html"):
        report(ReportConfig(runs=(run.path, run.path), output=tmp_path / "page.txt"))
    assert not (tmp_path / "comparison.html").exists()


def test_what_cannot_be_read_is_named_with_the_command_that_mends_it(run: RunDirectory, tmp_path: Path) -> None:
    rows = run.path / "video_attacks.parquet"
    pq.write_table(read_video_attacks(run.path).drop_columns("flicker"), rows)
    with pytest.raises(DataError, match="has no column flicker, so another version of Squall wrote it"):
        remake_video_attack(run)
    rows.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"cannot be read .*squall attack video .*config\.yaml --resume"):
        remake_video_attack(run)
    (run.path / "card.json").unlink()
    assert is_video_attack(run)
    with pytest.raises(DataError, match=r"no card\.json; it is written when all is attacked: squall attack video"):
        remake_video_attack(run)
    rows.unlink()
    assert not is_video_attack(run)


def test_figures_for_other_programs_say_what_the_card_says(run: RunDirectory) -> None:
    card, folder = read_video_attack_card(run.path), run.path / "figures"
    table = csv.read_csv(folder / "figures.csv")
    assert table["attack"].to_pylist() == list(ATTACKS)
    assert table.column_names == pq.read_schema(folder / "figures.parquet").names
    pair = table.to_pylist()[0]
    assert (pair["run"], pair["victim"], pair["data_hash"], pair["seeds"]) == ("first", "first-net", "d1", 3)
    assert pair["queries_low"] == card.results[0].queries.low and pair["ssim"] == card.results[0].ssim.mean
    assert pair["amortised_queries"] == pytest.approx(card.results[0].queries.mean + card.results[0].training_queries / 30)
    contrasts: pa.Table = csv.read_csv(folder / "contrasts.csv")
    assert contrasts["second"].to_pylist() == ["random", "greedy"]
    assert contrasts["p_queries"].to_pylist() == [one.p_queries for one in card.contrasts]
    curves = csv.read_csv(folder / "curves.csv").to_pylist()
    greedy = [(row["queries"], row["success"]) for row in curves if row["attack"] == "greedy"]
    assert greedy == [point[:2] for point in card.results[2].curve]
    text = (folder / "card.md").read_text(encoding="utf-8")
    assert "| attack | fooled, % | queries a clip |" in text and "| pair − random |" in text
    assert "30 clips attacked, victim first-net, data d1" in text and f"- {escape(card.notes[0])}" in text
