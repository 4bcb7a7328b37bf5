"""`squall report`: the page follows from the run directory alone, whatever state it is in."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from squall.jobs import heldout
from squall.jobs.report import ReportConfig, build_report
from squall.jobs.report import run as write_report
from squall.platform.errors import DataError, SquallError
from squall.platform.records import Branch, TrainGroup
from squall.platform.runs import RunDirectory
from squall.platform.store import RolloutStore
from squall.platform.video import encode_video


def finish(run: RunDirectory, make_group) -> None:
    """Add what the end of a run adds: held-out answers before and after, results, events."""
    run.event("started", job="train tgrpo", steps=5, notes=["Held-out questions are <these>."])
    plans = [("night", 0, 2), ("heavy_rain", 2, 0), ("fog", 1, 1)]
    for step, column in ((0, 1), (5, 2)):
        groups = [make_group(900 + i, plan[0], 0.7, plan[column]) for i, plan in enumerate(plans)]
        heldout.save(heldout.HeldOutAnswers.of(groups), run.heldout, step)
    first, last = heldout.load(run.heldout, 0), heldout.load(run.heldout, 5)
    run.write_json("results.json", heldout.compare(first, last, seed=0))
    run.event("finished", seconds=1.0)


def page_of(run: RunDirectory) -> str:
    return build_report(run).read_text(encoding="utf-8")


def cards(page: str, heading: str) -> list[str]:
    """The example cards under a heading."""
    return page.split(f"{heading}</h")[1].split("</section>")[0].split("<h3>")[0].split('<article class="panel example">')[1:]


def test_held_out_answers_come_back_from_disk_with_their_scores(tmp_path: Path, make_group) -> None:
    answers = heldout.HeldOutAnswers.of([make_group(1, "heavy_rain", 0.5, 1), make_group(2, "fog", 0.5, 0)])
    heldout.save(answers, tmp_path, 3)
    loaded = heldout.load(tmp_path, 3)
    assert loaded.groups == answers.groups and loaded.kinds == ("heavy_rain", "fog") and loaded.texts == answers.texts
    assert loaded.scores[Branch.CORRUPTED].tolist() == [1.0, 0.0] and loaded.scores[Branch.CLEAN].tolist() == [1.0, 1.0]


def test_a_finished_run_is_reported_from_a_copy_of_its_directory(stored_run: RunDirectory, make_group, tmp_path: Path) -> None:
    finish(stored_run, make_group)
    copy = RunDirectory.open(Path(shutil.copytree(stored_run.path, tmp_path / "copy")))
    page = page_of(copy)
    assert "<h1>T-GRPO: copy</h1>" in page and "Held-out questions are &lt;these&gt;." in page
    assert '<article class="card corrupted">' in page and "<b>Running" not in page
    held = {re.search(r"clip-9\d\d", card)[0]: card for card in cards(page, "Held-out clips and answers")}
    assert set(held) == {"clip-900", "clip-901", "clip-902"}
    before, after = re.findall(r"✓ right|✗ wrong", held["clip-900"])[2:]
    assert (before, after) == ("✗ wrong", "✓ right") and held["clip-900"].count("data:image/webp") == 6
    assert not (stored_run.path / "report.html").exists()


def test_best_and_worst_training_groups_are_of_different_kinds_and_play(stored_run: RunDirectory) -> None:
    page = page_of(stored_run)
    best, worst = cards(page, "Earned most"), cards(page, "Earned least")
    assert [re.search(r"step (\d) · (clip-\d+) · mean reward ([\d.]+)", card).groups() for card in best] == [
        ("5", "clip-40", "1.10"), ("5", "clip-41", "0.60"), ("5", "clip-42", "0.10")]
    assert [re.search(r"clip-\d+ · mean reward ([\d.]+)", card)[1] for card in worst] == ["0.10", "0.60", "1.10"]
    assert all(card.count("<img") == 2 for card in (*best, *worst)) and "severity 0.5" in best[0]
    assert "cannot be shown" not in page and "not exactly the pixels" not in page


def test_a_run_on_clean_clips_shows_its_groups_by_their_clean_answers(stored_run: RunDirectory, make_group) -> None:
    for step in range(5):
        RolloutStore(stored_run.rollouts).write(step, [TrainGroup(make_group(step, None, 0.0, 0), (None,))])
    page = page_of(stored_run)
    best = cards(page, "Earned most")
    assert len(best) == 3 and all(card.count("<img") == 1 for card in best) and "By corruption kind" not in page
    assert "Training questions whose answers earned most and least." in page


def test_media_that_is_gone_or_changed_is_said_in_words(stored_run: RunDirectory, media: Path) -> None:
    original = media.read_bytes()
    try:
        encode_video(media, np.zeros((8, 56, 56, 3), np.uint8), 8.0)
        assert page_of(stored_run).count("these are not exactly the pixels that the model saw") == 6
        media.unlink()
        page = page_of(stored_run)
        assert page.count("The clips cannot be shown") == 6 and "<img" not in page
        assert "The corruption was night, severity 0.5." in page
    finally:
        media.write_bytes(original)


def test_a_dead_run_says_where_it_stopped_and_shows_no_held_out_figures(
        stored_run: RunDirectory, make_group, capsys: pytest.CaptureFixture[str]) -> None:
    finish(stored_run, make_group)
    stored_run.metrics.write_text('{"step": 2, "time": "2026-01-01T00:00:00.000Z", "reward/mean": 0.1}\n{"step": 3, "rewa')
    stored_run.event("stopped", error="RayError: an engine died")
    assert write_report(ReportConfig(runs=(stored_run.path,))) == 0
    page = stored_run.report.read_text(encoding="utf-8")
    assert "Stopped at step 2 of 5: RayError: an engine died" in page
    assert '<article class="card' not in page and "Held-out clips and answers" not in page
    out = capsys.readouterr().out
    assert "run: Stopped at step 2 of 5: RayError: an engine died\n" in out and f"report: {stored_run.report}\n" in out


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path, stored_run: RunDirectory) -> None:
    fresh = RunDirectory.create(tmp_path, "tgrpo", "fresh")
    shutil.copy(stored_run.config, fresh.config)
    fresh.event("started", job="train tgrpo", steps=5, notes=[])
    page = page_of(fresh)
    assert "Running: step 0 of 5" in page and "Last event: started (job train tgrpo, steps 5)" in page
    assert "<h2>Training</h2>" not in page


def test_damaged_files_are_left_out_and_named(stored_run: RunDirectory, make_group) -> None:
    finish(stored_run, make_group)
    for path in (RolloutStore(stored_run.rollouts).path(4), RolloutStore(stored_run.heldout).path(5)):
        path.write_bytes(path.read_bytes()[:-100])
    page = page_of(stored_run)
    assert "<li>rollouts/step-000004.parquet is damaged and left out.</li>" in page
    assert "Held-out answers are not shown: " in page and "step 4 · clip-30" in page
    for path in stored_run.rollouts.iterdir():
        path.write_bytes(b"PAR1")
    assert page_of(stored_run).count("is damaged and left out") == 5


def test_curves_by_kind_come_from_the_stored_answers(stored_run: RunDirectory) -> None:
    label = r'aria-label="([^"]*): accuracy on corrupted clips from (\d+) to (\d+) percent, (\d+)'
    labels = re.findall(label, page_of(stored_run))
    assert labels == [("fog", "0", "0", "10"), ("heavy rain", "50", "50", "10"), ("night", "100", "100", "10"),
                      ("0 to 0.2", "0", "0", "10"), ("0.2 to 0.4", "50", "50", "10"), ("0.4 to 0.6", "100", "100", "10")]


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no config.yaml, so this is not a run directory"):
        write_report(ReportConfig(runs=(tmp_path,)))
    with pytest.raises(SquallError, match="no such run directory"):
        write_report(ReportConfig(runs=(tmp_path / "nothing",)))


@pytest.mark.parametrize(("name", "text", "message"), [
    ("results.json", '{"clean": ', r"results\.json: not valid JSON"),
    ("config.yaml", "data: {frames: {max_frame: 4}}", "unknown key 'max_frame'. Did you mean 'max_frames'"),
    ("config.yaml", "data: [", r"config\.yaml: not valid YAML"),
])
def test_damaged_files_that_the_page_rests_on_are_named(stored_run: RunDirectory, make_group, name: str, text: str,
                                                        message: str) -> None:
    finish(stored_run, make_group)
    (stored_run.path / name).write_text(text)
    with pytest.raises(SquallError, match=message):
        build_report(stored_run)


def test_a_run_of_an_unknown_job_goes_by_its_name(stored_run: RunDirectory) -> None:
    stored_run.event("started", job="train other")
    assert "<h1>run</h1>" in page_of(stored_run)


def test_results_stay_as_they_were_written(stored_run: RunDirectory, make_group) -> None:
    finish(stored_run, make_group)
    before = json.loads(stored_run.results.read_text())
    page_of(stored_run)
    assert json.loads(stored_run.results.read_text()) == before and before["by_kind"]["night"]["diff"] == 1.0
