from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from squall.platform.progress import JobProgress, clock, print_results
from squall.platform.records import MediaType, ProblemType, VideoSample
from squall.platform.report import ExampleAnswer, ExampleClip, write_report
from squall.platform.report.charts import running_mean, training_charts
from squall.platform.report.images import animate
from squall.platform.report.page import duration, signed
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
    return ExampleClip(sample, "low_light", 0.5, frames(), frames(), 4.0, right, right, wrong, right)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path, "demo", "demo-1")


class Tags(HTMLParser):
    """Collects what a page would fetch, and checks that tags close in order."""

    VOID = {"meta", "link", "img", "source", "br", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open, self.fetched = [], []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


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
    assert re.search(r"dropped: zero variance</th><td class=\"num\">12<", page)
    assert re.search(r"dropped: zero variance</th><td class=\"num\">30<", page_text(run, results={}))


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
