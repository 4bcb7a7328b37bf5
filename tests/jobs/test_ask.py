"""`squall ask`: what it is told, what it refuses before anything starts, and answers of the clean and the corrupted clip."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from squall.algorithms.corruption import KINDS, STANDARD_KINDS, make_spec
from squall.jobs import ask as ask_job
from squall.jobs import question as question_job
from squall.jobs.arguments import name_arguments, split_arguments
from squall.jobs.ask import AskConfig, View, ask, to_asked
from squall.jobs.question import check_solution, choose_engine, prepare
from squall.jobs.registry import find_job
from squall.platform.config import load_config
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.errors import ConfigError, SquallError
from squall.platform.manifest import load_manifest
from squall.platform.models import EMBEDDED_POLICY
from squall.platform.prompts import letter_options, prompt_template
from squall.platform.records import (
    Branch,
    MediaType,
    ProblemType,
    Rollout,
    SamplingSpec,
    VideoSample,
    make_clip,
)
from squall.platform.report.asked import print_asked
from squall.platform.shapes import PUBLISHED
from squall.platform.video import FrameSampling

COLOURS = "options=[blue, white]"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of four held-out embedded clips."""
    folder = tmp_path_factory.mktemp("embedded")
    return build_dataset(EmbeddedDataConfig(directory=folder, train_clips=4, validation_clips=4, test_clips=4))["test"]


@pytest.fixture
def clip(dataset: Path) -> str:
    return load_manifest(dataset).samples[0].media


def config(*words: str) -> AskConfig:
    """What the command line makes of its words."""
    job = find_job("ask")
    source, overrides = split_arguments(name_arguments(words, job, AskConfig), AskConfig)
    assert source is None
    return load_config(AskConfig, None, overrides)


def plan(*words: str) -> ask_job.Question:
    return prepare(config(*words))


def test_a_question_with_options_is_multiple_choice_and_gets_letters(clip: str) -> None:
    question = plan(clip, "What colour?", COLOURS, "solution=White")
    sample = question.sample
    assert (sample.problem_type, sample.options, sample.solution) == (
        ProblemType.MULTIPLE_CHOICE, ("A. blue", "B. white"), "B")
    assert (sample.media_type, sample.problem) == (MediaType.VIDEO, "What colour?")
    assert [dict(p.branches) for p in question.plans] == [{Branch.CLEAN: 1}]
    assert question.plans[0].sampling == SamplingSpec(temperature=0.0, max_tokens=32, seed=0)


def test_without_options_it_is_free_form_and_every_type_can_be_asked(clip: str) -> None:
    assert plan(clip, "Why?").sample.problem_type is ProblemType.FREE_FORM
    for kind in ProblemType:
        words = [COLOURS] if kind is ProblemType.MULTIPLE_CHOICE else []
        question = plan(clip, "How many?", f"problem_type={kind}", "prompt_template=video_r1", *words)
        assert question.sample.problem_type is kind
        text = prompt_template(question.sampler.prompt_template).render(question.sample)
        assert prompt_template("video_r1").instructions[kind] in text


def test_each_corruption_kind_is_a_plan_and_the_seed_decides(clip: str) -> None:
    def specs(*words: str) -> list:
        return [p.corruption for p in plan(clip, "What?", *words).plans]

    both = specs("corruption=[heavy_rain, night]", "severity=0.4")
    assert both[0] is None and [(s.kind, s.severity) for s in both[1:]] == [("heavy_rain", 0.4), ("night", 0.4)]
    assert specs("corruption=heavy_rain,night", "severity=0.4") == both
    assert specs("corruption=heavy_rain", "seed=1")[1].seed != both[1].seed == specs("corruption=heavy_rain")[1].seed
    assert len(specs("corruption=all")) == 1 + len(KINDS) and len(specs("corruption=standard")) == 1 + len(STANDARD_KINDS)
    mixed = specs("corruption=night 0.2 + fog", "severity=0.4")[1]
    assert (mixed.name, mixed.severity, mixed.then[0].severity) == ("night+fog", 0.2, 0.4)


def test_several_answers_are_sampled_and_one_is_greedy(clip: str) -> None:
    several = plan(clip, "What?", "answers=4", "corruption=heavy_rain").plans
    assert [(dict(p.branches), p.sampling.temperature) for p in several] == [
        ({Branch.CLEAN: 4}, 1.0), ({Branch.CORRUPTED: 4}, 1.0)]
    assert plan(clip, "What?", "temperature=0.3").plans[0].sampling.temperature == 0.3


def test_the_embedded_policy_gets_its_own_frames_and_template_and_so_does_a_copy(clip: str, tmp_path: Path) -> None:
    copy = shutil.copytree(EMBEDDED_POLICY, tmp_path / "step-5")
    for words in ((), (f"model.path={copy}",)):
        question = plan(clip, "What?", *words)
        sampler = question.sampler
        assert sampler.prompt_template == "compact" and sampler.model.dtype == "float32"
        assert (sampler.frames.max_frames, sampler.frames.max_pixels) == (8, 3136)
        assert question.clip_tokens == 16  # 4 pairs of frames, 2 x 2 blocks
        assert sampler.engine.max_model_len == 64 and sampler.engine.count == 1
    assert plan(clip, "What?", "frames.max_frames=4").clip_tokens == 8
    large = question_job.choose_frames(FrameSampling(), PUBLISHED["Qwen/Qwen3-VL-4B-Instruct"], False)
    assert (large.max_frames, large.size_multiple) == (16, 32)


def test_an_image_is_known_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "sign.png"
    Image.new("RGB", (80, 60), "red").save(path)
    question = plan(str(path), "What does it say?", "problem_type=OCR", "solution=STOP")
    assert question.sample.media_type is MediaType.IMAGE and question.sample.solution == "STOP"
    assert question.clip_tokens == 2  # 28 x 56 pixels


def test_a_question_of_a_manifest_brings_its_own_fields(dataset: Path) -> None:
    stored = load_manifest(dataset).samples[2]
    assert plan(f"manifest={dataset}", f"sample={stored.id}").sample == stored


def test_words_that_yaml_reads_as_numbers_stay_words(clip: str) -> None:
    sample = plan(clip, "How many?", "options=[2, 1, 3]", "solution=3").sample
    assert (sample.options, sample.solution) == (("A. 2", "B. 1", "C. 3"), "C")
    assert config(clip, "Is it?", "options=[true, false]").options == ("true", "false")


def test_options_that_have_letters_keep_them() -> None:
    assert letter_options(["A. red", "(B) blue"]) == ("A. red", "(B) blue")
    assert letter_options(["A. red", "blue"]) == ("A. A. red", "B. blue")
    assert letter_options([]) == ()


def test_a_solution_may_be_given_as_letter_as_words_or_in_its_tag() -> None:
    options = ("A. blue", "B. dark red")
    for text in ("B", "b", "(B)", "dark red", "B. dark red", "<answer>B</answer>"):
        assert check_solution(text, ProblemType.MULTIPLE_CHOICE, options) == "B", text
    assert check_solution(None, ProblemType.MULTIPLE_CHOICE, options) == ""


@pytest.mark.parametrize(("words", "message"), [
    (["nope.mp4", "What?"], "nope.mp4: no such file"),
    (["CLIP"], "give VIDEO and QUESTION, or manifest=FILE and sample=ID"),
    (["CLIP", " "], "QUESTION is empty"),
    (["TEXT", "What?"], "not a readable video"),
    (["FOLDER", "What?"], "a folder; VIDEO is a video or an image file"),
    (["CLIP", "What?", "corruption=rian"], "unknown corruption kind 'rian'. Allowed: "),
    (["CLIP", "What?", "problem_type=multiple"], "unknown problem type. Did you mean 'multiple choice'?"),
    (["CLIP", "What?", "problem_type=multiple choice"], "multiple choice needs options"),
    (["CLIP", "What?", "options=[a, b]", "solution=c"], "solution = c: none of the options A. a, B. b"),
    (["CLIP", "What?", "problem_type=numerical", "solution=few"], "a numerical question needs a number"),
    (["CLIP", "What?", "prompt_template=compcat"], "Did you mean 'compact'"),
    (["CLIP", "What?", "max_tokens=5000"], "max_tokens 5,000 exceed the model's longest sequence, 4,096"),
    (["CLIP", "What?", "engine.max_model_len=40"], "exceed engine.max_model_len, 40; lower max_tokens"),
    (["CLIP", "What?", "answers=3", "temperature=0"], "3 answers at temperature 0 would all be the same"),
    (["CLIP", "What?", "model.path=./nope"], "model.path = ./nope: no such directory"),
    (["CLIP", "What?", "page=answer.png"], "give it a name that ends in .html"),
    (["manifest=MANIFEST", "sample=test-00001"], "no usable question with the id 'test-00001'. Did you mean 'test-00"),
    (["manifest=MANIFEST", "sample=test-000001", "solution=B"], "has options, solution and types of its own"),
])
def test_what_cannot_be_asked_is_one_line_before_anything_starts(
        words: list[str], message: str, clip: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask_job, "start_ray", lambda *_: pytest.fail("Ray was started"))
    (tmp_path / "text.mp4").write_text("not a video")
    places = {"CLIP": clip, "TEXT": str(tmp_path / "text.mp4"), "FOLDER": str(tmp_path), "MANIFEST": str(dataset)}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    with pytest.raises(SquallError) as raised:
        ask_job.run(config(*words))
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_processor_that_cannot_be_loaded_is_one_line(clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError("We couldn't connect to the hub\nto load the files")

    monkeypatch.setattr(question_job, "load_processor", refuse)
    with pytest.raises(ConfigError, match="some/model: its processor cannot be loaded .We couldn't connect to the hub.;"):
        plan(clip, "What?", "model.path=some/model")


def test_the_engine_is_as_long_as_the_question_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = AskConfig(video="v.mp4", question="?").engine
    assert choose_engine(engine, 1000, 768, None).max_model_len == 1792
    assert choose_engine(engine, 1000, 768, 1780).max_model_len == 1780
    assert choose_engine(engine, 10, 10, None).gpus == 0
    monkeypatch.setattr(question_job, "find_gpus", lambda: ("a GPU",))
    assert choose_engine(engine, 10, 10, None).gpus == 1
    given = type(engine)(gpus=0.5, max_model_len=500, startup_timeout_s=20, count=3)
    chosen = choose_engine(given, 10, 10, None)
    assert (chosen.gpus, chosen.max_model_len, chosen.startup_timeout_s, chosen.count) == (0.5, 500, 20, 1)


def view(texts: list[str], scores: list[float] | None, corrupted: bool, finish: str = "stop") -> View:
    spec = make_spec("heavy_rain", 0.5, 1) if corrupted else None
    branch = Branch.CORRUPTED if corrupted else Branch.CLEAN
    rollouts = tuple(Rollout("s", "a", branch, "h", i, SamplingSpec(max_tokens=9), (1, 2), text, (-1.0, -1.0), 0, finish)
                     for i, text in enumerate(texts))
    return View(spec, make_clip(np.zeros((2, 28, 28, 3), np.uint8), 2.0), rollouts, tuple(scores) if scores else None)


QUESTION = VideoSample("s", "v.mp4", MediaType.VIDEO, "What [bold]colour[/bold]?", ProblemType.MULTIPLE_CHOICE, "B",
                       ("A. blue", "B. white"))


def test_answers_that_mean_the_same_are_counted_together() -> None:
    texts = ["<think>x</think><answer>B</answer>", "<think>y</think><answer>(b)</answer>", "<answer>A. blue</answer>"]
    shown = to_asked(view(texts, [1.0, 1.0, 0.0], False), QUESTION, view(texts, None, False))
    assert [(a.final, a.count, a.verdict, a.good, a.reasoning) for a in shown.answers] == [
        ("B. white", 2, "right", True, "x"), ("A. blue", 1, "wrong", False, None)]


def test_without_a_solution_corrupted_answers_are_set_beside_the_clean_ones() -> None:
    clean = view(["<answer>B</answer>"], None, False)
    assert to_asked(clean, QUESTION, clean).answers[0].verdict is None
    same, other = (to_asked(view([f"<answer>{a}</answer>"], None, True), QUESTION, clean).answers[0] for a in "BA")
    assert (same.verdict, same.good, other.verdict, other.good) == ("as clean", True, "changed", False)


def test_odd_answers_say_what_is_odd() -> None:
    graded = replace(QUESTION, problem_type=ProblemType.OCR, options=())
    plain = to_asked(view(["white"], [0.5], False), graded, view(["white"], None, False)).answers[0]
    assert (plain.final, plain.note, plain.verdict) == ("white", "no answer tag: the whole text counts as none", "wrong, 0.50")
    cut = to_asked(view(["<think>so"], None, False, "length"), graded, view(["x"], None, False)).answers[0]
    assert cut.note == "cut off after max_tokens 9"
    fifth, second = (to_asked(view([f"<answer>{a}</answer>"], None, False), QUESTION, view(["x"], None, False)).answers[0]
                     for a in "EB")
    assert (fifth.final, fifth.note, second.note) == ("E", "none of the options", None)


def test_the_table_shows_question_inputs_answers_and_verdicts() -> None:
    clean, rain = (view([f"<think>{a}</think><answer>{a}</answer>"] * 2, [float(a == "B")] * 2, a == "A") for a in "BA")
    console = Console(file=io.StringIO(), width=100)
    print_asked(QUESTION, [to_asked(v, QUESTION, clean) for v in (clean, rain)], console)
    lines = console.file.getvalue().splitlines()
    assert lines[1:3] == ["What [bold]colour[/bold]?", "A. blue   B. white"]
    rows = [" ".join(line.split()) for line in lines]
    assert "clean B. white 2/2 ✓ right B" in rows and "heavy_rain 0.5 A. blue 2/2 ✗ wrong A" in rows


@pytest.mark.cluster
def test_clean_and_corrupted_answers_end_to_end(ray_cluster: object, policy_dir: Path, dataset: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stored = load_manifest(dataset).samples[0]
    page = tmp_path / "pages" / "answer.html"
    words = [f"manifest={dataset}", f"sample={stored.id}", "corruption=[heavy_rain, blocks_static]", "severity=0.8",
             f"model.path={policy_dir}", f"page={page}"]
    kept: list[View] = []

    def keep(*arguments: object) -> list[View]:
        kept.extend(ask(*arguments))
        return kept

    monkeypatch.setattr(ask_job, "ask", keep)
    assert ask_job.run(config(*words)) == 0

    assert [v.name for v in kept] == ["clean", "heavy_rain", "blocks_static"]
    assert {rollout.weight_version for v in kept for rollout in v.rollouts} == {0}
    assert [rollout.branch for v in kept for rollout in v.rollouts] == [Branch.CLEAN, Branch.CORRUPTED, Branch.CORRUPTED]
    assert all(rollout.clip_hash == v.clip.content_hash for v in kept for rollout in v.rollouts)
    assert len({v.clip.content_hash for v in kept}) == 3 and kept[0].clip.frames.shape == (8, 56, 56, 3)
    assert kept[0].scores == (1.0,) and all(score in (0.0, 1.0) for v in kept for score in v.scores)

    printed, html = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert stored.problem in printed and "✓ right" in printed and f"page: {page}" in printed
    assert "3 answers," in printed and "16 of them the clip's" in printed
    assert html.count("data:image/webp;base64,") >= 6 and "http" not in html.replace("http-equiv", "")
    assert "blocks static" in html and "version 0" in html
