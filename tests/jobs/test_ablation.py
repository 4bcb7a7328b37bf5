"""The table of an ablation, from held-out answers on disk whose differences are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from squall.jobs import heldout
from squall.jobs.ablation import HEAD, Row, entries, measure, row_values, show_rows, table_rows
from squall.jobs.registry import find_job
from squall.jobs.tune import TuneConfig
from squall.platform.config import load_config
from squall.platform.errors import ConfigError, SquallError
from squall.platform.records import (
    Branch,
    CorruptionSpec,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    ScoredGroup,
    VideoSample,
)
from squall.platform.runs import RunDirectory

ROWS = {"GRPO": Row(config="@rova/grpo", seeds=(1, 2, 3)), "ROVA": Row(config="@rova", seeds=(1, 2, 3)),
        "ROVA without memory": Row(config="@rova/no-memory", seeds=(1,))}
JOB, QUESTIONS = find_job("train tgrpo"), 40


def answers(right: dict[Branch, int]) -> heldout.HeldOutAnswers:
    """The first `right` questions of each branch are right."""
    groups = []
    for i in range(QUESTIONS):
        sample = VideoSample(f"q{i}", f"{i}.mp4", MediaType.VIDEO, "?", ProblemType.MULTIPLE_CHOICE, "A")
        rollouts = tuple(Rollout(sample.id, "a", branch, "h", 0, SamplingSpec(), (1,),
                                 "<answer>A</answer>" if i < count else "<answer>B</answer>",
                                 (0.0,), 0, "stop") for branch, count in right.items())
        sampled = SampledGroup(f"g{i}", sample, "", CorruptionSpec("weather", "fog", 0.7, i), {}, rollouts)
        groups.append(ScoredGroup(sampled, ({"accuracy": 0.0},) * 2))
    return heldout.HeldOutAnswers.of(groups)


def write_run(folder: Path, corrupted: int, calls: int) -> None:
    run = RunDirectory(folder)
    heldout.save(answers({Branch.CLEAN: 36, Branch.CORRUPTED: 20}), run.heldout, 0)
    heldout.save(answers({Branch.CLEAN: 34, Branch.CORRUPTED: corrupted}), run.heldout, 24)
    row = {"judge/calls": calls, "time/rollout": 15.0, "time/learn": 10.0, "time/evaluate": 99.0}
    run.metrics.write_text("".join(json.dumps({"step": step} | row) + "\n" for step in (1, 2)))


@pytest.fixture
def trials(tmp_path: Path) -> list[dict]:
    """Runs of every row and seed; the third seed of ROVA failed."""
    found = []
    for number, (label, (name, seed)) in enumerate(entries(ROWS).items()):
        failed = (name, seed) == ("ROVA", 3)
        if not failed:
            write_run(tmp_path / "trials" / f"t-{number}", 22 + seed if name == "GRPO" else 26, 0 if name == "GRPO" else 8)
        found.append({"name": f"t-{number}", "run": f"t-{number}", "values": {"row": label},
                      "state": "failed" if failed else "finished", "error": "lost" if failed else None})
    return found


def test_the_table_has_means_intervals_and_what_it_does_not_claim(tmp_path: Path, trials: list[dict]) -> None:
    lines = [dict(zip(HEAD, line, strict=True)) for line in table_rows(measure(ROWS, trials, tmp_path, JOB, {}))]
    grpo, rova, without = lines
    assert [line["row"] for line in lines] == list(ROWS)
    assert (grpo["seeds"], rova["seeds"], without["seeds"]) == ("3", "2 of 3", "1")
    assert grpo["corrupted, %"] == "60.0"
    assert grpo["gain, points"].startswith("+10.0 [") and grpo["gain, points"].endswith("] (+7.5 to +12.5)")
    assert rova["gain, points"].startswith("+15.0 [") and rova["against the first"].startswith("+5.0 [")
    assert grpo["against the first"] == "" and grpo["clean gain, points"].startswith("-5.0 [")
    assert (grpo[""], rova[""], without[""]) == ("", "no claim", "no claim")
    assert rova["judge calls"] == "16" and float(rova["seconds"]) == pytest.approx(50 * 1.75, abs=1)


def test_runs_that_did_not_finish_are_said_and_the_table_written(tmp_path: Path, trials: list[dict],
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    assert show_rows(ROWS, trials, tmp_path, JOB, {}) == 1
    printed = capsys.readouterr().out
    assert "1 of 7 runs did not finish; go on with: squall tune" in printed and "Before training: corrupted 50.0%" in printed
    table = (tmp_path / "ablation.md").read_text()
    assert table.startswith("| row | seeds |") and "| ROVA without memory | 1 |" in table
    for trial in trials:
        trial["state"] = "failed"
    with pytest.raises(SquallError, match="no row finished: lost"):
        show_rows(ROWS, trials, tmp_path, JOB, {})


def test_a_row_is_its_file_under_the_ablations_own_keys() -> None:
    values = row_values(ROWS, "ROVA without memory, seed 1", {"steps": 3, "evaluation": {"questions": 5}}, "train tgrpo")
    assert values["seed"] == 1 and values["steps"] == 3 and values["difficulty"]["memory"]["size"] == 0
    assert values["difficulty"]["reading"] == "answers", "from @rova, the base of the row's file"
    assert values["evaluation"]["questions"] == 5 and values["evaluation"]["severity"] == 0.7, "from @demo, the base of that"
    with pytest.raises(ConfigError, match="@sft is a configuration of 'squall train sft'"):
        row_values({"x": Row(config="@sft")}, "x, seed 0", {}, "train tgrpo")


def test_the_packaged_ablation_is_valid_in_every_row_and_differs_in_each() -> None:
    config = load_config(TuneConfig, "@rova_ablation")
    seen = [config.trial_values({"row": label}) for label in entries(config.rows)]
    assert len(seen) >= 16 and len({json.dumps(values, sort_keys=True) for values in seen}) == len(seen)
    assert all(values["steps"] == 24 and values["evaluation"]["questions"] == 1000 for values in seen)
    seeds = {name: row.seeds for name, row in config.rows.items()}
    assert all(len(seeds[name]) == 3 for name in ("GRPO", "naive dual branch", "ROVA"))


def test_rows_go_with_neither_space_nor_scheduler() -> None:
    for words in (["space={seed: [0]}"], ["sweep.scheduler=asha"]):
        with pytest.raises(ConfigError, match="rows are all run to the end"):
            load_config(TuneConfig, "@rova_ablation", words)
