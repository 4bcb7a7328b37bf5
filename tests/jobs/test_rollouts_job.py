"""`squall rollouts`: which answers are found, what is printed and written, and what bad input says."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from squall import cli
from squall.jobs.rollouts import RolloutsConfig
from squall.jobs.rollouts import run as show_rollouts
from squall.platform.answers import AnswerFilter, Scoring, fetch, figures, ordered, scan
from squall.platform.config import load_config
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import Branch, TrainGroup
from squall.platform.runs import RunDirectory
from squall.platform.store import RolloutStore

WEIGHTS = {"accuracy": 1.0, "format": 0.2}
SCORING = Scoring(WEIGHTS)


def found(run: RunDirectory, scoring: Scoring = SCORING, **wanted: object) -> list[tuple]:
    """(step, row) of the answers that match."""
    table = scan(RolloutStore(run.rollouts), AnswerFilter(**wanted), scoring).table
    return list(zip(table["step"].to_pylist(), table["row"].to_pylist(), strict=True))


def printed(run: RunDirectory, capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    capsys.readouterr()
    assert show_rollouts(load_config(RolloutsConfig, None, [f"run={run.path}", *overrides])) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("wanted", "rows"), [
    ({}, range(9)),
    ({"branch": "corrupted"}, (1, 2, 4, 5, 7, 8)),
    ({"kind": "heavy_rain"}, (3, 4, 5)),
    ({"severity": (0.3, 0.5)}, range(6)),
    ({"severity": (0.0, 0.2), "branch": "clean"}, (6,)),
    ({"correct": True}, (0, 1, 2, 3, 4, 6)),
    ({"correct": False, "dropped": False}, (5,)),
    ({"dropped": True}, (6, 7, 8)),
    ({"dropped": "zero_variance", "correct": True}, (6,)),
    ({"reward": (0.05, 0.15)}, (5, 7, 8)),
    ({"reward": (1.1, 1.1), "kind": "heavy_rain"}, (3, 4)),
    ({"text": "ANSWER>a<"}, (5, 7, 8)),
    ({"text": "nowhere"}, ()),
])
def test_every_filter_finds_its_rows_in_every_step(stored_run: RunDirectory, wanted: dict, rows: tuple) -> None:
    assert found(stored_run, **wanted) == [(step, row) for step in range(5) for row in rows]


def test_step_sample_and_one_reward_by_name(stored_run: RunDirectory) -> None:
    assert found(stored_run, steps=(1, 2), branch="clean", kind="fog") == [(1, 6), (2, 6)]
    assert found(stored_run, sample="clip-31") == [(3, 3), (3, 4), (3, 5)]
    assert found(stored_run, Scoring(WEIGHTS, "format"), reward=(0.6, 1.0)) == []
    assert found(stored_run, Scoring(WEIGHTS, "accuracy"), reward=(1.0, 1.0), steps=(0, 0)) == [
        (0, row) for row in (0, 1, 2, 3, 4, 6)]
    assert found(stored_run, Scoring(WEIGHTS, correct_above=1.0), correct=True) == []


def test_order_limit_and_the_stored_columns_of_what_was_chosen(stored_run: RunDirectory) -> None:
    store = RolloutStore(stored_run.rollouts)
    table = scan(store, AnswerFilter(branch="corrupted"), SCORING).table
    low = ordered(table, "reward_low", 4)
    assert list(zip(low["step"].to_pylist(), low["row"].to_pylist(), strict=True)) == [(0, 5), (0, 7), (0, 8), (1, 5)]
    assert [row["sample_id"] for row in fetch(store, low, ["sample_id"])] == ["clip-1", "clip-2", "clip-2", "clip-11"]
    shuffled = table.take([17, 0, 9])
    assert [row["sample_id"] for row in fetch(store, shuffled, ["sample_id"])] == ["clip-22", "clip-0", "clip-11"]
    assert ordered(table, "reward_high", 1)["reward"].to_pylist() == [pytest.approx(1.1)]


def test_figures_are_means_by_branch_and_kind(stored_run: RunDirectory) -> None:
    table = scan(RolloutStore(stored_run.rollouts), AnswerFilter(), SCORING).table
    assert [(f.label, f.count, f.accuracy) for f in figures(table, "branch")] == [("corrupted", 30, 0.5), ("clean", 15, 1.0)]
    by_kind = {f.label: (f.count, f.accuracy, round(f.reward, 6)) for f in figures(table, "kind", Branch.CORRUPTED)}
    assert by_kind == {"night": (10, 1.0, 1.1), "heavy_rain": (10, 0.5, 0.6), "fog": (10, 0.0, 0.1)}


def test_rewards_that_were_not_computed_are_neither_high_nor_right(tmp_path: Path, make_group) -> None:
    from dataclasses import replace

    group = make_group(1, "heavy_rain", 0.5, 1)
    RolloutStore(tmp_path).write(0, [TrainGroup(replace(group, rewards=({"format": 1.0}, {}, {"accuracy": 1.0})), (None,) * 3)])
    store = RolloutStore(tmp_path)
    table = scan(store, AnswerFilter(), Scoring(WEIGHTS, "format")).table
    assert table["reward"].to_pylist() == [1.0, None, None] and table["correct"].to_pylist() == [None, None, True]
    assert ordered(table, "reward_low")["row"].to_pylist() == [0, 1, 2]
    assert scan(store, AnswerFilter(), SCORING).table["reward"].to_pylist() == [pytest.approx(0.2), 0.0, 1.0]
    assert scan(store, AnswerFilter(), Scoring()).table["reward"].to_pylist() == [1.0, 0.0, 1.0]


def test_a_step_without_groups_and_groups_without_a_corruption_are_no_obstacle(tmp_path: Path, make_group) -> None:
    store = RolloutStore(tmp_path)
    store.write(0, [])
    store.write(1, [TrainGroup(make_group(1, None, 0.0, 0), (None,))])
    answers = scan(store, AnswerFilter(), SCORING)
    assert (answers.total, answers.table["kind"].to_pylist()) == (1, [None]) and figures(answers.table, "kind") == []
    assert len(scan(store, AnswerFilter(severity=(0.0, 1.0)), SCORING).table) == 0


def test_the_table_fits_and_says_how_many_match(stored_run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(stored_run, capsys, "limit=4", "kind=heavy_rain")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[2].split() == ["0", "clip-1", "clean", "heavy_rain", "0.30", "B", "clean", "B", "✓", "1.10", "0.50"]
    assert lines[4].split() == ["0", "clip-1", "corrupted", "heavy_rain", "0.30", "A", "corrupted", "B", "✗", "0.10", "0.50"]
    assert "15 of 45 answers match, 4 shown (limit=0 shows all); mean reward 0.767, accuracy 66.7%." in lines
    assert [line.split() for line in lines if line.startswith("  heavy_rain")] == [["heavy_rain", "10", "0.60", "50.0%"]]
    assert "zero_variance" in printed(stored_run, capsys, "kind=fog") and "zero_variance" not in out
    assert "0 of 45 answers match." in printed(stored_run, capsys, "text=nowhere")


def test_long_answers_are_cut_unless_asked_for_in_full(tmp_path: Path, make_group, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory.create(tmp_path, "tgrpo", "run")
    text = "first line\nsecond line \x1b[2J" + 30 * " more words"
    RolloutStore(run.rollouts).write(0, [TrainGroup(make_group(1, "heavy_rain", 0.5, 1, text=text), (None,) * 3)])
    short, full = printed(run, capsys), printed(run, capsys, "full=true")
    assert "first line" in short and "\x1b" not in short and max(map(len, short.splitlines())) <= 100
    assert "\x1b" not in full and "<think>first line\nsecond line " in full and full.count(" more words") == 90
    assert "asked   What colour? / A. red / B. blue" in full and "accuracy 1  format 0.5  total 1.50" in full


def test_files_hold_everything_that_matches(stored_run: RunDirectory, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    rows = {}
    for ending in ("csv", "json", "jsonl"):
        path = tmp_path / "out" / f"answers.{ending}"
        assert printed(stored_run, capsys, f"output={path}", "branch=corrupted").startswith("30 of 45 answers written to ")
        rows[ending] = path.read_text()
    listed = json.loads(rows["json"])
    assert listed == [json.loads(line) for line in rows["jsonl"].splitlines()] and len(listed) == 30
    assert listed[3]["rewards"] == {"accuracy": 0.0, "format": 0.5} and listed[3]["correct"] is False
    table = list(csv.DictReader(rows["csv"].splitlines()))
    assert [row["text"] for row in table] == [row["text"] for row in listed]
    assert table[3]["reward/accuracy"] == "0.0" and json.loads(table[3]["options"]) == ["A. red", "B. blue"]


def test_a_reward_that_only_trained_answers_have_gets_its_column(tmp_path: Path, make_group: Callable,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    run, scored = RunDirectory.create(tmp_path, "tgrpo", "run"), make_group(1, "fog", 0.5, 1)
    rewards = (*scored.rewards[:2], {**scored.rewards[2], "kl_consistency": 0.9})
    RolloutStore(run.rollouts).write(0, [TrainGroup(replace(scored, rewards=rewards), (None, 0.5, -0.5))])
    printed(run, capsys, f"output={tmp_path / 'answers.csv'}")
    table = list(csv.DictReader((tmp_path / "answers.csv").read_text().splitlines()))
    assert [row["reward/kl_consistency"] for row in table] == ["", "", "0.9"]
    assert [row["index"] for row in map(json.loads, printed(run, capsys, "reward_name=kl_consistency", "reward=[0.5,1]",
                                                            "format=json").splitlines())] == [1]


def test_json_on_the_terminal_is_nothing_but_lines(stored_run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(stored_run, capsys, "format=json", "order=reward_high", "limit=2").splitlines()
    assert [json.loads(line)["sample_id"] for line in lines] == ["clip-0", "clip-0"]
    assert len(printed(stored_run, capsys, "format=json").splitlines()) == 45


def test_a_reader_that_has_enough_is_no_error(stored_run: RunDirectory) -> None:
    script = f"set -o pipefail; {sys.executable} -m squall rollouts {stored_run.path} format=json | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=Path(cli.__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "")


def test_numbers_are_looked_for_as_text() -> None:
    config = load_config(RolloutsConfig, None, ["run=x", "text=42", "sample=7", "step=3"])
    assert (config.text, config.sample, config.step) == ("42", "7", (3, 3))


def test_answers_about_attackers_are_found_by_a_relative_path_though_they_are_gone() -> None:
    config = load_config(RolloutsConfig, None, ["run=x", "kind=learned:runs/a/attackers+fog"])
    assert config.kind == f"learned:{Path.cwd() / 'runs/a/attackers'}+fog"


@pytest.mark.parametrize(("override", "message"), [
    ("branch=corupted", "Did you mean 'corrupted'"),
    ("kind=hevy_rain", "Did you mean 'heavy_rain'"),
    ("severity=[0.9,0.1]", "the low end is above the high end"),
    ("step=[3,1]", "the low end is above the high end"),
    ("limit=-1", "0 stands for all"),
    ("output=answers.txt", "allowed"),
    ("order=high", "reward_high"),
])
def test_bad_values_name_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("allowed", r"\.csv, \.json, \.jsonl")):
        load_config(RolloutsConfig, None, ["run=x", override])


@pytest.mark.parametrize(("overrides", "message"), [
    (["dropped=zero_varience"], "reason for dropping 'zero_varience'. Did you mean 'zero_variance'"),
    (["reward_name=acuracy"], "reward 'acuracy'. Did you mean 'accuracy'"),
    (["step=9"], "no rollouts of steps 9 to 9; stored steps are 0 to 4"),
    (["heldout=true"], "heldout: no rollouts are stored here"),
])
def test_what_the_run_does_not_hold_is_said(stored_run: RunDirectory, overrides: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        show_rollouts(load_config(RolloutsConfig, None, [f"run={stored_run.path}", *overrides]))


def test_a_missing_run_names_the_nearest(stored_run: RunDirectory) -> None:
    command = [sys.executable, "-m", "squall", "rollouts", str(stored_run.path.with_name("runn"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(cli.__file__).parents[1])
    assert done.returncode == 2 and done.stderr.endswith("runn: no such run directory. Did you mean 'run'?\n")
    assert done.stderr.count("\n") == 1


def test_a_file_cut_short_is_named_and_can_be_left_out(stored_run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = RolloutStore(stored_run.rollouts).path(2)
    damaged.write_bytes(damaged.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"step-000002\.parquet: cannot be read .* skip_damaged=true"):
        printed(stored_run, capsys)
    show_rollouts(load_config(RolloutsConfig, None, [f"run={stored_run.path}", "skip_damaged=true"]))
    streams = capsys.readouterr()
    assert "36 of 36 answers match" in streams.out and streams.err.endswith("step-000002.parquet\n")
    for path in stored_run.rollouts.iterdir():
        path.write_bytes(b"")
    assert "0 of 0 answers match" in printed(stored_run, capsys, "skip_damaged=true")
