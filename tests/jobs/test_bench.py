"""`squall bench`: what is drawn, what is written, that pairs stay paired, and that every change is found."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from processes import Command

from squall.algorithms.corruption import parse_spec, render
from squall.jobs import bench, bench_verify
from squall.jobs.arguments import load_job_config
from squall.jobs.bench_plan import PVR_KINDS, BenchWork, plan_bench
from squall.jobs.evaluate_output import answer_rows
from squall.jobs.evaluate_plan import EvaluateConfig
from squall.jobs.evaluate_plan import prepare as prepare_evaluation
from squall.jobs.registry import find_job
from squall.platform.bench_card import load_conditions, read_bench
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import Branch
from squall.platform.report_card import read_answers, read_card
from squall.platform.streaming import FrameHash, VideoFile, hash_file
from squall.platform.video import encode_video

FPS = 10.0
KINDS = 'kinds={weather: [fog, snow], blind: ["night 0.4 + noise 0.2", "dusk 0.5 frames=0:8"]}'
BASE = {"problem": "What moves?", "problem_type": "free-form", "data_type": "video", "solution": "<answer>a patch</answer>"}


def build(*words: object) -> int:
    return bench.run(load_job_config(find_job("bench build"), [str(word) for word in words]))


def plan(*words: object) -> BenchWork:
    return plan_bench(load_job_config(find_job("bench build"), [str(word) for word in words]))


def verify(*words: object) -> int:
    return bench_verify.run(load_job_config(find_job("bench verify"), [str(word) for word in words]))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_questions(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(BASE | record) + "\n" for record in records))
    return path


def frame_hash(frames: np.ndarray, fps: float) -> str:
    digest = FrameHash(fps)
    digest.update(frames)
    return digest.hexdigest()


def decoded(path: Path) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in VideoFile(path, sample_id="a").chunks()])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest: two questions on one clip, one on another, one on an image, one on a text that is no video, one on a clip
    that is too short for one of the kinds, and one whose media is missing."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "clips").mkdir()
    y, x = np.mgrid[0:48, 0:64]
    ground = np.stack([x * 3, y * 4, x + y], axis=-1).astype(np.uint8)
    for name, frames in (("a", 12), ("b", 10), ("short", 4)):
        encode_video(folder / "clips" / f"{name}.mp4", np.stack([np.roll(ground, 3 * t, 1) for t in range(frames)]), FPS)
    cv2.imwrite(str(folder / "clips" / "still.png"), ground)
    (folder / "clips" / "text.mp4").write_text("no video\n" * 50)
    return write_questions(folder / "test.jsonl", [
        {"id": "q1", "path": "clips/a.mp4", "fps": "as filmed"}, {"problem_id": 2, "path": "./clips/a.mp4"},
        {"id": "q3", "path": "clips/b.mp4"}, {"id": "q4", "path": "clips/still.png", "data_type": "image"},
        {"id": "q5", "path": "clips/text.mp4"}, {"id": "q6", "path": "clips/short.mp4"},
        {"id": "q7", "path": "clips/gone.mp4"}])


@pytest.mark.parametrize(("words", "says"), [
    ([], "MANIFEST is missing; usage: squall bench build MANIFEST OUTPUT"),
    (["{source}"], "OUTPUT is missing"),
    (["none.jsonl", "{out}"], "none.jsonl: no such manifest file"),
    (["{empty}", "{out}"], "empty.jsonl: no records; write at least one"),
    (["{source}", "{out}", "kinds={weather: [fogg]}"], "unknown corruption kind 'fogg'. Did you mean 'fog'?"),
    (["{source}", "{out}", "kinds={clean: [fog]}"], "a name of small letters, digits, - and _, and not 'clean'"),
    (["{source}", "{out}", "kinds={../x: [fog]}"], "family '../x': a name of small letters"),
    (["{source}", "{out}", "kinds={weather: [fog, fog]}"], "family 'weather': one or more kinds, each once"),
    (["{source}", "{out}", "kinds={}"], "no families; give one or more"),
    (["{source}", "{out}", "severity=0"], "severity = 0.0: expected numbers above 0 and up to 1, the lower first"),
    (["{source}", "{out}", "severity=[0.8, 0.2]"], "the lower first"),
    (["{source}", "{out}", "per_family=3"], "per_family = 3: family 'occlusion' has 2 kinds to draw different ones from"),
    (["{source}", "{full}"], "is not empty (it holds test.jsonl)"),
    (["{source}", "{full}", "--resume"], "was not begun by squall bench build (it has no config.yaml)"),
])
def test_what_cannot_be_built_is_refused_before_anything_starts(
        source: Path, tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "test.jsonl").touch()
    places = {"source": source, "out": tmp_path / "out", "empty": tmp_path / "empty.jsonl", "full": tmp_path / "full"}
    with pytest.raises((ConfigError, DataError)) as caught:
        build(*(word.format(**places) if "kinds" not in word else word for word in words))
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def many_clips(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.mp4").touch()
    return write_questions(folder / "many.jsonl", [{"path": f"{name}.mp4"} for name in names])


def drawn(work: BenchWork) -> dict[tuple[str, str], str | None]:
    return {(task.sample_id, work.work.of(task.number)[0].folder): task.spec for task in work.work.tasks}


def test_every_clip_draws_one_kind_of_each_family_by_its_path_and_the_seed_alone(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(120)]
    first = drawn(plan(many_clips(tmp_path / "one", names), "out"))
    assert list(dict.fromkeys(condition for _, condition in first)) == ["clean", *PVR_KINDS]
    assert all(first[f"{name}.mp4", "clean"] is None for name in names)
    for family, kinds in PVR_KINDS.items():
        specs = [parse_spec(first[f"{name}.mp4", family]) for name in names]
        counts = Counter(spec.kind for spec in specs)
        assert set(counts) == set(kinds) and min(counts.values()) > 0.5 * 120 / len(kinds)
        assert {spec.severity for spec in specs} == {0.7} and len({spec.seed for spec in specs}) == 120
    kinds = [tuple(parse_spec(first[f"{name}.mp4", family]).kind for family in PVR_KINDS) for name in names]
    assert len(set(kinds)) > 40  # of 72: families are drawn independently
    half = drawn(plan(many_clips(tmp_path / "two", names[::-2]), "elsewhere"))
    assert half == {key: spec for key, spec in first.items() if key in half} and len(half) == 5 * 60
    assert drawn(plan(tmp_path / "one" / "many.jsonl", "out", "seed=1")) != first


def test_several_of_a_family_are_different_kinds_and_severities_lie_in_their_range(tmp_path: Path) -> None:
    manifest = many_clips(tmp_path, [f"{number}" for number in range(30)])
    specs = drawn(plan(manifest, "out", "kinds={weather: [fog, snow, storm 0.9]}", "per_family=2", "severity=[0.2, 0.5]"))
    assert {condition for _, condition in specs} == {"clean", "weather-1", "weather-2"}
    for number in range(30):
        pair = [parse_spec(specs[f"{number}.mp4", f"weather-{place}"]) for place in (1, 2)]
        assert pair[0].kind != pair[1].kind
        assert all(spec.severity == 0.9 if spec.kind == "storm" else 0.2 <= spec.severity <= 0.5 for spec in pair)


@pytest.fixture(scope="module")
def built(source: Path, ray_cluster: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "outdoor"
    assert build(source, out, KINDS, "preset=ultrafast", "workers=2", "seed=3", "licence=CC0, of | nobody") == 1
    return out


@pytest.mark.cluster
def test_a_benchmark_is_the_same_questions_in_every_condition(built: Path, source: Path) -> None:
    card = read_bench(built)
    conditions = load_conditions(built, card)
    assert list(conditions) == ["clean", "weather", "blind"]
    for name, manifest in conditions.items():
        ids = [sample.id for sample in manifest.samples]
        assert ids[:4] == ["q1", "2", "q3", "q4"] and len(ids) == card.questions in (4, 5)
        assert manifest.samples[0].media == manifest.samples[1].media == str(built / name / "clips" / "a.mp4")
        assert rows(built / f"{name}.jsonl")[0]["before"] == {"fps": "as filmed"}
    assert card.source_sha256 == hash_file(source) and (card.seed, card.licence) == (3, "CC0, of | nobody")
    names = ("README.md", "clean.jsonl", "weather.jsonl", "blind.jsonl")
    assert card.files == {name: hash_file(built / name) for name in names}
    kinds = {condition.name: condition.kinds for condition in card.conditions}
    assert kinds["clean"] == {} and set(kinds["weather"]) <= {"fog", "snow"}
    assert sum(kinds["weather"].values()) == sum(kinds["blind"].values()) == card.clips == card.questions - 1


@pytest.mark.cluster
def test_a_record_s_hashes_are_those_of_its_pixels_and_its_spec_says_them_whole(built: Path, source: Path) -> None:
    for name in ("clean", "weather", "blind"):
        for row in rows(built / f"{name}.jsonl"):
            file, original = built / row["path"], source.parent / row["source"]
            assert (row["condition"], row["sha256"], row["source_sha256"]) == (name, hash_file(file), hash_file(original))
            if file.suffix == ".mp4":
                frames = decoded(original)
                spec = parse_spec(row["corruption"]) if name != "clean" else None
                expected = render(frames, spec, fps=FPS) if spec else frames
                assert row["content_hash"] == frame_hash(expected, FPS)
                assert row["decoded_hash"] == frame_hash(decoded(file), row["fps"]) != row["content_hash"]
            else:
                assert row["decoded_hash"] == row["content_hash"]
    assert {row["corruption"] for row in rows(built / "clean.jsonl")} == {None}


@pytest.mark.cluster
def test_a_question_whose_clip_fails_in_one_condition_is_in_none(built: Path, source: Path, tmp_path: Path) -> None:
    lost = {one.sample_id: one for one in read_bench(built).lost}
    assert (lost["q7"].reason, lost["q7"].conditions) == ("missing_media", ())
    assert (lost["q5"].reason, lost["q5"].conditions) == ("decode_error", ("clean", "weather", "blind"))
    only = write_questions(source.parent / "short.jsonl", [
        {"id": "q1", "path": "clips/a.mp4"}, {"id": "q6", "path": "clips/short.mp4"}])
    out = tmp_path / "out"
    assert build(only, out, "kinds={blind: [dusk 0.5 frames=0:8]}", "preset=ultrafast") == 1
    (one,) = read_bench(out).lost
    assert (one.sample_id, one.conditions) == ("q6", ("blind",)) and "reaches beyond the clip's 4 frames" in one.message
    assert [row["id"] for name in ("clean", "blind") for row in rows(out / f"{name}.jsonl")] == ["q1", "q1"]
    assert not (out / "clean" / "clips" / "short.mp4").exists() and verify(out) == 0
    with pytest.raises(DataError, match="no clip could be made in every condition: .*text.mp4: not a readable video"):
        build(write_questions(source.parent / "bad.jsonl", [{"path": "clips/text.mp4"}]), tmp_path / "none", KINDS)


@pytest.mark.cluster
def test_the_page_says_how_it_was_made(built: Path, source: Path) -> None:
    page, card = (built / "README.md").read_text(), read_bench(built)
    for text in (f"# {built.name}\n", "| clean | [clean.jsonl](clean.jsonl) | none |", f"`{card.command}`", "seed | 3 |",
                 "calibration 1", f"sha256 `{hash_file(source)}`", "CC0, of \\| nobody", "| q5 | decode_error | "):
        assert text in page, text
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables) and "\n\n\n" not in page


@pytest.mark.cluster
def test_an_evaluation_shows_the_copies_as_they_are_and_knows_what_was_done_to_them(built: Path) -> None:
    work = prepare_evaluation(EvaluateConfig(bench=built))
    assert [(one.name, one.family, one.severity) for one in work.conditions] == [
        ("clean", None, None), ("weather", "weather", 0.7), ("blind", "blind", None)]
    assert work.case_count == 3 * len(work.samples) and work.data["videos"] == read_bench(built).clips
    weather = work.conditions[1]
    plan = work.plan(0, weather)
    assert plan.sample.media == str(built / "weather" / "clips" / "a.mp4") and plan.corruption is None
    assert dict(plan.branches) == {Branch.CORRUPTED: 1} and dict(work.plan(0, work.conditions[0]).branches) == {Branch.CLEAN: 1}
    given = {"index": 0, "text": "<answer>A</answer>", "score": 1.0, "finish_reason": "stop", "token_ids": [1], "logprobs": [0]}
    entry = {"question": 0, "condition": "weather", "clip_hash": "h", "corruption": None, "answers": [given]}
    (row,) = answer_rows(work, weather, entry, lambda sample, given: {})
    assert (row["media"], row["file"]) == ("clean/clips/a.mp4", "weather/clips/a.mp4")
    assert row["corruption"] == plan.sample.metadata["corruption"] and parse_spec(row["corruption"]).family == "weather"


BRIGHTNESS = """
import numpy as np

def dark_or_bright(clips):
    bright = clips.mean(axis=(1, 2, 3, 4)) > 60
    return np.stack([1 - bright, bright], axis=1) * 0.8 + 0.1
"""


@pytest.mark.cluster
def test_a_model_is_asked_about_every_copy_and_the_report_counts_what_it_saw(built: Path, tmp_path: Path) -> None:
    (tmp_path / "brightness.py").write_text(BRIGHTNESS)
    words = [f"bench={built}", f"output={tmp_path}", "name=run", "model.path=brightness:dark_or_bright",
             'classifier={kind: callable, classes: [nothing, "a patch"]}']
    command = Command(tmp_path, "evaluate", *words)
    assert command.wait() == 0, command.printed
    card, answers = read_card(tmp_path / "run"), read_answers(tmp_path / "run").to_pylist()
    assert Counter(row["condition"] for row in answers) == {"clean": 5, "weather": 5, "blind": 5}
    for row in answers:
        shown = built / (row["file"] or row["media"])
        frames = cv2.imread(str(shown))[None] if shown.suffix == ".png" else decoded(shown)
        assert (row["score"] == 1.0) == (frames.mean() > 60), row
    by_kind = {result.condition: result.accuracy.value for result in card.conditions}
    assert by_kind["clean"] == 1.0 > by_kind["blind"]
    assert "outdoor" in (tmp_path / "run" / "report.html").read_text()


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


@pytest.mark.cluster
def test_a_whole_benchmark_is_verified_wherever_it_lies(
        copy: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.yaml", "finished.jsonl", "summary.json"):
        (copy / name).unlink()  # not part of what is published
    assert verify(copy, "--render", "render_files=null") == 0
    count = 3 * read_bench(copy).clips
    assert f"{count} files, {count} of them rendered again: all as it was made" in capsys.readouterr().out
    moved = Path(shutil.copytree(source.parent, tmp_path / "moved"))
    (moved / "clips" / "b.mp4").write_bytes((moved / "clips" / "a.mp4").read_bytes())
    assert verify(copy, "--render", "render_files=null", f"media_root={moved}") == 1
    said = capsys.readouterr().out
    assert f"not rendered: weather/clips/b.mp4: its source {moved}/clips/b.mp4 is another file than when it was built" in said
    assert "3 problems" in said
    assert verify(copy, "--render", "render_files=2", f"media_root={tmp_path}") == 1
    assert "is not there; say where the sources are with media_root=" in capsys.readouterr().out


def flip_byte(folder: Path) -> None:
    file = folder / "weather" / "clips" / "a.mp4"
    file.write_bytes(file.read_bytes()[:-1] + b"\7")


def edit_row(key: str, value: Any, place: int = 0) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        found = rows(folder / "weather.jsonl")
        found[place][key] = value
        (folder / "weather.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return edit


def drop_row(folder: Path) -> None:
    path = folder / "blind.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.cluster
@pytest.mark.parametrize(("change", "says"), [
    (flip_byte, "changed: weather/clips/a.mp4 has sha256 "),
    (lambda folder: (folder / "clean" / "clips" / "b.mp4").unlink(), "missing: clean/clips/b.mp4"),
    (lambda folder: (folder / "clean" / "more.mp4").touch(), "extra: clean/more.mp4"),
    (lambda folder: (folder / "README.md").write_text("# mine\n"), "changed: README.md is not the file that bench.json was"),
    (lambda folder: (folder / "blind.jsonl").unlink(), "missing: blind.jsonl"),
    (drop_row, "unpaired: question q1 is in clean.jsonl or blind.jsonl alone"),
    (edit_row("decoded_hash", "0" * 32), "weather.jsonl:2: ./weather/clips/a.mp4 has other hashes here than in a line before"),
    (edit_row("decoded_hash", "0" * 32, 2), "decodes differently: weather/clips/b.mp4 has the right bytes, but other pixels"),
    (edit_row("path", "../../etc/passwd"), "weather.jsonl:1: path ../../etc/passwd leaves the folder"),
    (edit_row("sha256", None), "weather.jsonl:1: field sha256 is missing or not text"),
    (edit_row("corruption", "fog 0.2 seed=4"), "renders differently: weather/clips/a.mp4: fog 0.2 seed=4 of "),
])
def test_every_change_is_a_line(
        copy: Path, change: Callable[[Path], None], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    change(copy)
    assert verify(copy, "--render", "render_files=null") == 1
    assert says in capsys.readouterr().out


def test_a_folder_without_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no bench.json; `squall bench build` writes it"):
        verify(tmp_path)
    (tmp_path / "bench.json").write_text('{"version": 1, "name": "x"')
    with pytest.raises(DataError, match="bench.json: not JSON .*; build the benchmark again"):
        verify(tmp_path)


@pytest.mark.cluster
def test_a_build_that_was_interrupted_goes_on_and_ends_the_same(copy: Path, built: Path, source: Path) -> None:
    for name in ("bench.json", "clean.jsonl", "weather.jsonl", "weather/clips/b.mp4"):
        (copy / name).unlink()
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*.mp4")}
    words = (KINDS, "preset=ultrafast", "workers=2", "seed=3", "licence=CC0, of | nobody")
    assert build(source, copy, *words, "--resume") == 1
    assert {file: file.stat().st_mtime_ns for file in before} == before and (copy / "weather/clips/b.mp4").is_file()
    for name in ("clean", "weather", "blind"):
        own, other = (rows(folder / f"{name}.jsonl") for folder in (copy, built))
        assert [row | {"sha256": "", "decoded_hash": ""} for row in own] == [
            row | {"sha256": "", "decoded_hash": ""} for row in other]
    assert verify(copy) == 0
    with pytest.raises(ConfigError, match="was begun with seed = 3, and now it is 4"):
        build(source, copy, *words[:3], "seed=4", "--resume")
