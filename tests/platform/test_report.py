from __future__ import annotations

import base64
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pages import Tags
from PIL import Image
from rich.console import Console

from squall.platform.progress import JobProgress, clock, print_results
from squall.platform.records import MediaType, ProblemType, VideoSample
from squall.platform.report import (
    ClipPair,
    ExampleAnswer,
    ExampleClip,
    TrainingAnswer,
    TrainingExample,
    write_report,
)
from squall.platform.report.balance import bound
from squall.platform.report.breakdown import breakdowns
from squall.platform.report.charts import running_mean, training_charts
from squall.platform.report.images import animate
from squall.platform.report.losses import losses
from squall.platform.report.page import duration, signed
from squall.platform.report.status import RunStatus, run_status
from squall.platform.runs import RunDirectory


def effect(before: float, diff: float, half: float) -> dict:
    return {"before": before, "after": before + diff, "diff": diff, "ci95": [diff - half, diff + half]}


RESULTS = {
    "clean": effect(0.7, 0.01, 0.02), "corrupted": effect(0.55, 0.06, 0.02), "n": 1500, "seed": 7,
    "by_kind": {"low_light": effect(0.5, 0.1, 0.03) | {"n": 300}, "rain": effect(0.6, -0.05, 0.03) | {"n": 300}},
    "by_question_type": {"numerical": {"clean": effect(0.7, 0.0, 0.02), "corrupted": effect(0.5, 0.1, 0.02)}},
    "relative_drop": {"before": 0.214, "after": 0.141},
    "dropped": {"zero_variance": 12}, "seconds": {"rollout": 75.0, "learn": 25.0, "total": 130.0},
}
METRICS = [{"step": step, "reward/mean": step / 100, "accuracy/clean": 0.5, "kl": None if step == 3 else 0.1,
            "time/rollout": 2.0, "time/learn": 1.0, "groups/sampled": 5, "dropped/zero_variance": 1}
           for step in range(1, 31)]


def frames(count: int = 4, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def example(problem: str = "What colour?", text: str = "<answer>B</answer>") -> ExampleClip:
    options = ("A. red", "B. blue")
    sample = VideoSample("film-1", "f.mp4", MediaType.VIDEO, problem, ProblemType.MULTIPLE_CHOICE, "B", options)
    right, wrong = ExampleAnswer(text, True), ExampleAnswer("<answer>A</answer>", False)
    return ExampleClip(sample, "low_light", 0.5, ClipPair(frames(), frames(), 4.0), right, right, wrong, right)


def training_example(*answers: TrainingAnswer, clips: ClipPair | None = None) -> TrainingExample:
    return TrainingExample(example().sample, 7, 0.4, "rain", 0.25, clips or ClipPair(frames(), frames(), 4.0), answers)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path, "demo", "demo-1")


def page_text(run: RunDirectory, **changes: object) -> str:
    values = {"title": "T-GRPO", "results": RESULTS, "metrics": METRICS, "examples": [example()]} | changes
    return write_report(run, **values).read_text(encoding="utf-8")


def test_page_is_well_formed_and_fetches_nothing(run: RunDirectory) -> None:
    run.write_config("seed: 7\n")
    run.write_provenance(7)
    page, tags = page_text(run), Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.fetched) == 5 and all(link.startswith("data:") for link in tags.fetched)
    assert not re.search(r"https?://|@import|url\(", page)


def test_headline_says_plainly_whether_the_interval_includes_zero(run: RunDirectory) -> None:
    page = page_text(run)
    corrupted, clean = page.split('<article class="card corrupted">')[1].split('<article class="card clean">')
    assert "+6.0 points" in corrupted and "[+4.0, +8.0]" in corrupted and "lies above 0" in corrupted
    assert "+1.0 points" in clean and "[−1.0, +3.0]" in clean and "includes 0" in clean
    assert "1\u202f500 held-out questions" in page and "seed 7" in page


def test_a_loss_is_called_a_loss(run: RunDirectory) -> None:
    page = page_text(run, results=RESULTS | {"clean": effect(0.7, -0.05, 0.02)})
    assert "The whole interval lies below 0: training lowered it." in page


def test_text_from_data_and_model_is_escaped(run: RunDirectory) -> None:
    run.write_config("x: '</pre><script>alert(3)</script>'\n")
    attack = "<script>alert(1)</script>"
    page = page_text(run, title=attack, examples=[example(attack, f"<think>{attack}</think><answer>{attack}</answer>")],
                     notes=[attack], results=RESULTS | {"dropped": {attack: 1}, "by_kind": {attack: effect(0, 0, 0)}})
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in page and "&lt;script&gt;alert(3)" in page


def test_answers_are_marked_in_words_and_the_solution_is_named(run: RunDirectory) -> None:
    page = page_text(run)
    assert page.count("✓ right") == 3 and page.count("✗ wrong") == 1
    assert re.search(r'<li class="solution">B\. blue', page)
    assert "severity 0.5" in page and "low light" in page


def test_time_and_dropped_tables(run: RunDirectory) -> None:
    page = page_text(run)
    assert re.search(r"rollout</th><td class=\"num\">1 min 15 s</td><td class=\"num\">75 %", page)
    row = r"dropped: zero variance<small>every answer earned the same, [^<]*</small></th><td class=\"num\">{}<"
    assert re.search(row.format(12), page) and re.search(row.format(30), page_text(run, results={}))


def test_losses_are_named_in_words_and_retries_stand_beside_drops() -> None:
    rows = [{"step": 1, "dropped/too_long": 2, "retried/stale_weights": 3},
            {"step": 2, "dropped/odd_one": 5, "retried/x": None}]
    found = [(loss.fate, loss.reason, loss.count) for loss in losses({}, rows)]
    assert found == [("dropped", "odd one", 5), ("dropped", "too long", 2), ("retried", "stale weights", 3)]
    assert "engine.max_model_len" in losses({}, rows)[1].meaning and losses({}, rows)[0].meaning == ""
    held = losses({"dropped": {"heldout_missing_media": 4}}, rows)
    assert (held[0].reason, held[0].meaning, held[0].count) == (
        "missing media", "held-out question: the media file is not there", 4)


def idle(trainer: float, rollout: float) -> list[dict]:
    return [{"step": step, "idle/trainer": trainer, "idle/rollout": rollout} for step in range(4)]


@pytest.mark.parametrize(("trainer", "rollout", "staleness", "start", "advice"), [
    (0.6, 0.05, 1, "Rollouts bound the step: the learner waits for 60% of a step, the engines for 5%", "engine.count"),
    (0.05, 0.6, 1, "Learning bounds the step", "learner.workers"),
    (0.6, 0.35, 0, "Sampling and learning take turns", "max_staleness=1"),
    (0.6, 0.35, 1, "Rollouts bound the step", "engine.count"),
    (0.1, 0.05, 0, "Neither side bounds the step", "engine.count and learner.workers"),
])
def test_idle_shares_say_what_bounds_the_step_and_what_to_change(
        run: RunDirectory, trainer: float, rollout: float, staleness: int, start: str, advice: str) -> None:
    sentence = bound(idle(trainer, rollout), {"max_staleness": staleness})
    assert sentence.startswith(start) and advice in sentence
    assert sentence in page_text(run, metrics=idle(trainer, rollout), settings={"max_staleness": staleness})


def test_turn_taking_says_how_much_overlap_would_save_and_the_first_half_does_not_count() -> None:
    assert "by up to 35%" in bound([*idle(0.0, 0.0), *idle(0.6, 0.35)], {})
    assert bound(METRICS, {}) == ""


def test_idle_and_staleness_charts_appear_when_logged() -> None:
    rows = [row | {"staleness/mean": 0.5, "staleness/max": 1.0} for row in idle(0.6, 0.2)]
    charts = {chart.title: chart for chart in training_charts(rows)}
    assert charts.keys() == {"Idle", "Staleness"} and {chart.section for chart in charts.values()} == {"time"}
    assert [(entry.label, entry.value) for entry in charts["Idle"].legend] == [("learner", "0.60"), ("engines", "0.20")]


NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def write_signs(run: RunDirectory, *events: dict, last_step: str = "2026-01-02T11:59:00.000Z") -> None:
    run.write_config("steps: 50\n")
    run.events.write_text("".join(json.dumps({"time": "2026-01-02T11:00:00.000Z"} | event) + "\n" for event in events))
    run.metrics.write_text(json.dumps({"step": 20, "time": last_step, "time/rollout": 400.0}) + "\n")


@pytest.mark.parametrize(("events", "last_step", "state", "sentence"), [
    ([{"kind": "started"}], "2026-01-02T11:59:00.000Z", "running",
     "Running: step 20 of 50, last sign of life 2026-01-02 11:59:00 UTC."),
    ([{"kind": "started"}], "2026-01-02T11:41:00.000Z", "running", "11:41:00 UTC."),
    ([{"kind": "started"}], "2026-01-02T11:39:00.000Z", "silent", "Stopped at step 20 of 50 without a word"),
    ([{"kind": "stopped", "error": "DataError: bad"}], "2026-01-02T11:59:00.000Z", "stopped",
     "Stopped at step 20 of 50: DataError: bad"),
    ([{"kind": "stopped", "error": "x"}, {"kind": "started"}], "2026-01-02T11:59:00.000Z", "running", "Running"),
    ([{"kind": "checkpoint", "step": 20}, {"kind": "finished"}], "2026-01-01T00:00:00.000Z", "finished", "Finished"),
])
def test_the_state_of_a_run_follows_from_its_events_and_how_long_it_has_been_quiet(
        run: RunDirectory, events: list[dict], last_step: str, state: str, sentence: str) -> None:
    write_signs(run, *events, last_step=last_step)
    status = run_status(run, NOW)
    assert status.state == state and sentence in status.sentence


def test_a_run_without_a_sign_is_silent(run: RunDirectory) -> None:
    assert run_status(run, NOW).state == "silent"


def test_a_page_of_a_run_that_goes_on_says_so_and_promises_no_figures(run: RunDirectory) -> None:
    write_signs(run, {"kind": "checkpoint", "step": 20, "path": "checkpoints/step-000020"})
    page = page_text(run, results={}, examples=[], status=run_status(run, NOW))
    assert "Running: step 20 of 50" in page and "Held-out figures come with the last step" in page
    assert "Last event: checkpoint (step 20, path checkpoints/step-000020), 2026-01-02 11:00:00 UTC" in page
    assert '<section class="cards"' not in page
    stopped = page_text(run, results={}, examples=[], status=RunStatus("stopped", "Stopped at step 20: <b>"))
    assert "Stopped at step 20: &lt;b&gt;" in stopped and "There are no held-out figures" in stopped


def test_training_answers_are_counted_by_branch_with_what_they_earned(run: RunDirectory) -> None:
    answers = [TrainingAnswer("clean", "<answer>B</answer>", 1.4, True),
               *[TrainingAnswer("corrupted", f"<think>{i}</think><answer>A</answer>", 0.2, False) for i in range(3)],
               TrainingAnswer("corrupted", "no tag", None, None)]
    page = page_text(run, examples=[], best=[training_example(*answers)])
    card = page.split("<h3>Earned most</h3>")[1].split("</article>")[0]
    rows = [re.sub(r"<[^>]+>| +", " ", row) for row in re.findall(r"<tr>(.*?)</tr>", card, re.DOTALL)[1:]]
    assert [" ".join(row.split()) for row in rows] == [
        "clean 1 × right ✓ B text &lt;answer&gt;B&lt;/answer&gt; 1.40",
        "corrupted 3 × wrong ✗ A text &lt;think&gt;0&lt;/think&gt;&lt;answer&gt;A&lt;/answer&gt; 0.20",
        "1 × no tag"]
    assert "step 7 · film-1 · mean reward 0.40" in card and "severity 0.25" in card and card.count("<img") == 2
    assert page.count('id="pause"') == 1 and "Earned least" not in page


def test_clips_that_cannot_be_shown_are_a_sentence(run: RunDirectory) -> None:
    gone = training_example(TrainingAnswer("clean", "B", 1.0, True), clips=ClipPair(problem="The clips cannot be shown: gone"))
    page = page_text(run, examples=[], worst=[gone])
    assert "The clips cannot be shown: gone. The corruption was rain, severity 0.25." in page and "<img" not in page


def answers_table(steps: int = 10) -> pa.Table:
    """Accuracy 0 in the first half of the steps and 1 in the second for corrupted rain, 1 for clean, 0.5 for fog."""
    rows = []
    for step in range(steps):
        late = float(step >= steps // 2)
        for kind, branch, severity, accuracy in (("rain", "corrupted", 0.1, late), ("rain", "clean", 0.1, 1.0),
                                                 ("heavy_fog", "corrupted", 1.0, 0.5), ("heavy_fog", "shuffled", 1.0, 0.0)):
            rows.append({"step": step, "kind": kind, "branch": branch, "severity": severity, "accuracy": accuracy})
    return pa.Table.from_pylist(rows)


def test_breakdown_gives_each_kind_and_severity_its_own_course() -> None:
    kinds, severities = breakdowns(answers_table())
    assert [(c.label, c.first, c.last, c.answers) for c in kinds.curves] == [
        ("heavy fog", 50.0, 50.0, 10), ("rain", 0.0, 100.0, 10)]
    assert (kinds.low, kinds.high, kinds.steps, kinds.reach) == (0, 100, (1, 10), 1)
    paths = dict(kinds.curves[1].paths)
    assert paths["corrupted"].startswith("M0.0 64.0") and paths["corrupted"].endswith("L200.0 0.0")
    assert paths["clean"].count("0.0") >= 10 and dict(kinds.curves[0].paths)["clean"] == ""
    assert [(c.label, c.last) for c in severities.curves] == [("0 to 0.2", 100.0), ("0.8 to 1", 50.0)]


def test_no_breakdown_where_it_would_say_nothing(run: RunDirectory) -> None:
    clean = answers_table().filter(pc.equal(answers_table()["branch"], "clean"))
    assert breakdowns(None) == breakdowns(clean) == breakdowns(answers_table(3)) == []
    page = page_text(run, answers=answers_table())
    assert "By corruption kind, hardest first" in page and "rain: accuracy on corrupted clips from 0 to 100 percent" in page


def test_a_kind_that_the_last_steps_did_not_meet_keeps_its_curve(run: RunDirectory) -> None:
    table = answers_table()
    table = table.filter(pc.or_(pc.equal(table["kind"], "rain"), pc.less(table["step"], 5)))
    page = page_text(run, answers=table)
    assert [curve.label for curve in breakdowns(table)[0].curves] == ["rain", "heavy fog"]
    assert "heavy fog: accuracy on corrupted clips from 50 to – percent, 5 answers" in page


def test_long_runs_keep_the_small_curves_small() -> None:
    kinds, _ = breakdowns(answers_table(2_000))
    assert all(path.count("L") <= 101 for curve in kinds.curves for _, path in curve.paths)


def test_a_run_without_sampled_answers_shows_its_learner_at_once(run: RunDirectory) -> None:
    page = page_text(run, metrics=[{"step": step, "loss": 1.0 / step} for step in range(1, 5)])
    assert "<h2>Training</h2>" not in page and '<details open><summary class="h2">Inside the learner' in page
    assert '<details><summary class="h2">' in page_text(run)


def test_page_without_any_numbers_still_stands(run: RunDirectory) -> None:
    page = page_text(run, results={}, metrics=[], examples=[])
    assert "This run has no held-out evaluation." in page
    assert "<h2>Training</h2>" not in page


def decoded(uri: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))))
    picture.load()  # Pillow knows a frame's duration once it has decoded it
    return picture


def test_clip_comes_back_from_the_page_pixel_for_pixel() -> None:
    clip = frames(5, 8)
    picture = decoded(animate(clip, fps=4.0).moving)
    assert (picture.n_frames, picture.info["loop"], picture.info["duration"]) == (5, 0, 250)
    for index, frame in enumerate(clip):
        picture.seek(index)
        assert np.array_equal(np.asarray(picture.convert("RGB")), frame)


def test_large_and_long_clips_are_bounded_and_keep_their_duration() -> None:
    brightness = np.arange(64, dtype=np.uint8)[:, None, None, None] * 3
    animation = animate(np.zeros((64, 400, 640, 3), np.uint8) + brightness, 8.0)
    picture = decoded(animation.moving)
    assert (animation.width, animation.height, animation.pixelated) == (320, 200, False)
    assert (picture.n_frames, picture.info["duration"]) == (32, 250)


@pytest.mark.parametrize("side", [100, 400])
def test_clips_that_compress_badly_lose_quality_before_the_page_grows(side: int) -> None:
    animation = animate(frames(16, side), 8.0, max_bytes=150_000)
    assert len(base64.b64decode(animation.moving.partition(",")[2])) <= 150_000 and decoded(animation.moving).n_frames == 16


def test_charts_appear_for_what_was_logged_and_gaps_break_the_line() -> None:
    charts = {chart.title: chart for chart in training_charts(METRICS)}
    expected = {"Reward", "Accuracy while training", "KL to the reference", "Groups per step", "Time per step"}
    assert charts.keys() == expected
    assert [path.count("M") for _, _, path in charts["KL to the reference"].lines] == [2, 2]
    assert len(charts["Time per step"].bars) == 2 * len(METRICS)
    assert [entry.value for entry in charts["Time per step"].legend] == ["2.00", "1.00"]
    assert [text for _, text in charts["Accuracy while training"].x_ticks] == ["1", "16", "30"]


def test_long_runs_keep_the_page_small() -> None:
    rows = [{"step": step, "loss": float(step), "time/learn": 1.0} for step in range(20_000)]
    loss, times = training_charts(rows)
    assert loss.lines[0][2].count("L") < 300 and len(times.bars) <= 48


def test_running_mean_and_number_forms() -> None:
    assert running_mean([1.0, 5.0], 1) == [1.0, 5.0]
    assert running_mean([0.0, 3.0] * 10, 1)[1:3] == [1.0, 2.0]
    assert [signed(x) for x in (5.64, -0.41, -0.04)] == ["+5.6", "−0.4", "0.0"]
    assert [duration(x) for x in (4.2, 185, 7800)] == ["4.2 s", "3 min 5 s", "2 h 10 min"]
    assert [clock(x) for x in (75, 3700)] == ["1:15", "1:01:40"]


def test_progress_in_a_log_is_plain_and_sparse() -> None:
    stream = io.StringIO()
    with JobProgress("tgrpo", 50, console=Console(file=stream, force_terminal=False), window=2) as progress:
        progress.drop("zero_variance", 3)
        progress.note("[bold] stays as it is")
        for step in range(1, 51):
            with progress.phase("rollout"):
                pass
            progress.step(step, {"reward/mean": step / 100, "loss": 1.0})
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue() and lines[0] == "[bold] stays as it is"
    assert len(lines) == 3
    assert lines[-1].startswith("tgrpo: step 50/50 | ") and "reward 0.495 | dropped zero_variance 3" in lines[-1]
    assert progress.time_left_s() == 0


def test_progress_on_a_terminal_shows_the_figures() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    with JobProgress("tgrpo", 4, console=console) as progress:
        progress.drop("decode_error")
        progress.step(1, {"accuracy/clean": 0.625})
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "0.625" in shown and "1/4" in shown and "decode_error 1" in shown and "done" in shown


def test_printed_results_fit_a_terminal() -> None:
    stream = io.StringIO()
    print_results(RESULTS, Console(file=stream, width=80))
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert "corrupted 55.0% 61.0% +6.0 [+4.0, +8.0] gain" in lines
    assert "clean 70.0% 71.0% +1.0 [-1.0, +3.0] includes 0" in lines
    assert "rain 60.0% 55.0% -5.0 [-8.0, -2.0] loss" in lines
    assert "Relative drop under corruption: 21.4% before, 14.1% after" in lines
