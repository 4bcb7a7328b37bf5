"""`squall corrupt`: what it refuses, what it writes, that it goes on where it stopped, and the preview."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from blind_attackers import save_blind_attackers
from PIL import Image
from processes import Command, rows

import squall
from squall.algorithms.corruption import KINDS, frame_map, parse_spec, render
from squall.jobs import corrupt
from squall.jobs.arguments import load_job_config
from squall.jobs.corrupt_config import CorruptConfig
from squall.jobs.corrupt_plan import Work, plan_work
from squall.jobs.registry import find_job
from squall.platform.errors import ConfigError, DataError, SquallError
from squall.platform.manifest import load_manifest
from squall.platform.streaming import FrameHash, VideoFile, hash_file
from squall.platform.video import encode_video

FOOTAGE = Path(squall.__file__).parent / "platform" / "embedded" / "footage"
FPS = 25.0


def config(*words: object) -> CorruptConfig:
    """What the command line makes of its words."""
    return load_job_config(find_job("corrupt"), [str(word) for word in words])


def run(*words: object) -> int:
    return corrupt.run(config(*words))


def plan(*words: object) -> Work:
    return plan_work(config(*words))


def small_clip(seed: int, frames: int = 20) -> np.ndarray:
    """A patch of colour that moves over a gradient."""
    y, x = np.mgrid[0:48, 0:64]
    ground = np.stack([x * 3, y * 4, x + y], axis=-1)
    clip = np.repeat(ground[None], frames, axis=0).astype(np.uint8)
    for t in range(frames):
        clip[t, 10:30, (t * 2 + seed * 5) % 44 : (t * 2 + seed * 5) % 44 + 20] = (255 - 30 * seed, 60, 30 * seed)
    return clip


def pixels_of(folder: Path) -> list[dict]:
    """A manifest without the hashes of files: x264's bytes are not always the same for the same pixels."""
    return [{key: value for key, value in row.items() if key != "sha256"} for row in rows(folder / "manifest.jsonl")]


def decoded(path: Path) -> np.ndarray:
    return np.concatenate([chunk.frames for chunk in VideoFile(path, sample_id="a").chunks()])


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good videos, one of them deeper, an image with odd sides, and files that are no videos."""
    folder = tmp_path_factory.mktemp("source") / "clips"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.mp4", "b.mp4", "c.mp4", "deep/d.mp4")):
        encode_video(folder / name, small_clip(number), FPS)
    cv2.imwrite(str(folder / "still.png"), small_clip(7)[0, :47, :63])
    (folder / "text.mp4").write_text("not a video\n" * 50)
    (folder / "empty.mp4").touch()
    (folder / "folder.mp4").mkdir()
    (folder / ".hidden.mp4").write_text("not looked at")
    data = (FOOTAGE / "city.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    return folder


@pytest.fixture(scope="module")
def manifest(clips: Path) -> Path:
    """Questions on the clips: two on the same one, fields of their own, and records that cannot be used."""
    base = {"problem": "What moves?", "problem_type": "free-form", "data_type": "video", "solution": "<answer>a patch</answer>"}
    records = [
        base | {"id": "q1", "path": "./clips/a.mp4", "difficulty": 3, "fps": "as filmed"},
        base | {"problem_id": 2, "path": "clips/b.mp4", "process": "<think>I look.</think>"},
        base | {"path": "clips/a.mp4", "options": ["A. red", "B. blue"], "problem_type": "multiple choice",
                "solution": "<answer>A</answer>"},
        base | {"id": "still", "path": "clips/still.png", "data_type": "image"},
        base | {"id": "outside", "path": "../elsewhere.mp4"},
        base | {"id": "absolute", "path": str(FOOTAGE / "birds.mp4")},
    ]
    path = clips.parent / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(("words", "says"), [
    (["{clips}"], "SRC and OUT are missing"),
    (["{clips}", "{out}"], "how to corrupt is missing: give spec=\"fog 0.5\", kinds=standard or mixture"),
    (["{clips}", "{out}", "spec=fog"], "'fog' needs a severity, such as 'fog 0.5'"),
    (["{clips}", "{out}", "spec=fogg 0.5"], "Did you mean 'fog'?"),
    (["{clips}", "{out}", "spec=fog 1.5"], "severity = 1.5: expected a number from 0 to 1"),
    (["{clips}", "{out}", "spec=fog 0.5 drif=1"], "unknown key 'drif'. Did you mean 'drift'?"),
    (["{clips}", "{out}", "spec=fog 0.5", "kinds=night"], "spec and kinds are given; give one of spec, kinds, mixture"),
    (["{clips}", "{out}", "kinds=fog", "severities=[0.2, 1.2]"], "expected one or more numbers from 0 to 1"),
    (["{clips}", "{out}", "kinds=fog", "severities=[0.2, 0.2]"], "one is there twice"),
    (["{clips}", "{out}", "mixture={fog: 0.7, night: 0.5}"], "probabilities sum to 1.2: at most 1 is allowed"),
    (["{clips}", "{out}", "spec=absent_module:f 0.5"], "No module named 'absent_module'"),
    (["{clips}/none", "{out}", "spec=fog 0.5"], "no such file or folder"),
    (["{clips}/deep/..", "{clips}", "spec=fog 0.5"], "is not empty (it holds .hidden.mp4, a.mp4, b.mp4 ...)"),
    (["{clips}", "{out}.mp4", "spec=fog 0.5"], "OUT is a folder where SRC"),
    (["{clips}/a.mp4", "{out}.avi", "spec=fog 0.5"], "what is written is .mp4; name it out.mp4, or a folder"),
    (["{clips}/a.mp4", "{out}.mp4", "kinds=fog"], "a preview or a sweep writes several files"),
    (["{clips}/a.mp4", "{clips}/b.mp4", "spec=fog 0.5"], "exists already; choose another name or delete it"),
    (["{clips}", "{out}", "spec=fog 0.5", "--resume"], "holds nothing to resume"),
    (["{clips}/folder.mp4", "{out}", "spec=fog 0.5"], "no video or image in it"),
    (["{clips}", "{out}", "kinds=fog", "kidns=night"], "unknown key 'kidns'. Did you mean 'kinds'?"),
])
def test_what_cannot_be_done_is_refused_before_anything_starts(
        clips: Path, tmp_path: Path, words: list[str], says: str) -> None:
    given = [word.replace("{clips}", str(clips)).replace("{out}", str(tmp_path / "out")) for word in words]
    with pytest.raises((ConfigError, DataError)) as caught:
        run(*given)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_kind_that_fails_is_found_before_anything_starts(
        clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_kind.py").write_text("def lens(frames, timeline, *, severity):\n    raise ValueError('no lens')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="'failing_kind:lens' failed on frames .*: ValueError: no lens"):
        run(clips, tmp_path / "out", "kinds=[fog, failing_kind:lens]")
    assert not (tmp_path / "out").exists()


def test_a_sweep_is_every_kind_at_every_severity_with_a_seed_for_each_clip(clips: Path, tmp_path: Path) -> None:
    work = plan(clips, tmp_path / "out", "kinds=[fog, night 0.3 + light_rain, noise 0.2]", "severities=[0.2, 1]", "seed=5")
    assert [variant.folder for variant in work.variants] == [
        "fog/0.2", "fog/1", "night_0.3+light_rain/0.2", "night_0.3+light_rain/1", "noise_0.2/0.2"]
    names = [clip.relative for clip in work.clips]
    assert names == ["a.mp4", "b.mp4", "c.mp4", "cut.mp4", "deep/d.mp4", "empty.mp4", "still.png", "text.mp4"]
    assert [rejection.sample_id for rejection in work.rejected] == ["folder.mp4"]
    assert len(work.tasks) == 5 * 8
    specs = [parse_spec(task.spec) for task in work.tasks if task.sample_id in ("a.mp4", "b.mp4")]
    mild, strong = specs[0], specs[2]
    assert (mild.severity, strong.severity) == (0.2, 1) and mild.seed == strong.seed != specs[1].seed
    assert [str(spec) for spec in specs] == [task.spec for task in work.tasks if task.sample_id in ("a.mp4", "b.mp4")]
    assert plan(clips, tmp_path / "out", "kinds=standard").variants[0].folder == "dusk/0.2"
    assert len(plan(clips, tmp_path / "out", "kinds=all", "severities=0.5").variants) == len(KINDS)


def test_a_mixture_draws_by_id_and_leaves_the_rest_clean(clips: Path, tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number}.mp4").touch()
    drawn = [task.spec for task in plan(tmp_path, "out", "mixture={fog: 0.3, night: 0.2}", "severity=[0.1, 0.4]").tasks]
    kinds = [None if spec is None else parse_spec(spec).kind for spec in drawn]
    assert 20 < kinds.count(None) < 40 and 8 < kinds.count("fog") < 28 and 4 < kinds.count("night") < 22
    assert all(0.1 <= parse_spec(spec).severity <= 0.4 for spec in drawn if spec)
    (tmp_path / "0.mp4").unlink()
    assert [task.spec for task in plan(tmp_path, "out", "mixture={fog: 0.3, night: 0.2}", "severity=[0.1, 0.4]").tasks] == [
        spec for spec, task in zip(drawn, sorted(f"{i}.mp4" for i in range(60)), strict=True) if task != "0.mp4"]


def test_outputs_stay_below_out_and_no_two_share_a_name(manifest: Path, clips: Path, tmp_path: Path) -> None:
    work = plan(manifest, tmp_path / "out", "spec=fog 0.5")
    assert [(clip.id, clip.relative) for clip in work.clips] == [
        ("q1", "clips/a.mp4"), ("2", "clips/b.mp4"), ("train:3", "clips/a-train.3.mp4"), ("still", "clips/still.png"),
        ("absolute", "birds.mp4")]
    assert [(rejection.sample_id, rejection.reason) for rejection in work.rejected] == [("outside", "path_outside")]
    assert all(Path(task.output).is_relative_to(tmp_path / "out") for task in work.tasks)
    (tmp_path / "x").mkdir()
    for name in ("clip.avi", "clip.mp4", "clip.mkv"):
        (tmp_path / "x" / name).touch()
    assert len({clip.relative for clip in plan(tmp_path / "x", "out", "spec=fog 0.5").clips}) == 3


def test_one_file_is_rendered_as_its_line_says(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "rain.mp4"
    assert run(clips / "a.mp4", out, "spec=heavy_rain 0.6 + night 0.3", "seed=3", "crf=0") == 0
    said = capsys.readouterr().out
    line = re.search(r"20 frames, (heavy_rain 0\.6 seed=\d+ calibration=\d+ \+ night 0\.3 seed=\d+ calibration=\d+)", said)
    assert line and re.search(r"decode \d+\.\d s, corrupt \d+\.\d s \(\d+%\), encode \d+\.\d s", said)
    expected = render(decoded(clips / "a.mp4"), parse_spec(line[1]), fps=FPS)
    difference = np.abs(decoded(out).astype(int) - expected)
    assert np.median(difference) <= 3 and difference.mean() < 8  # colour is halved in yuv420p, and rain is thin
    assert [file.name for file in out.parent.iterdir()] == ["rain.mp4"]


def test_what_attackers_choose_is_rendered_as_its_line_says_from_any_folder(
        clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(save_blind_attackers(tmp_path / "attackers").parent)
    assert run(clips / "a.mp4", "b.mp4", "spec=learned:attackers 0.5 + fog 0.3", "crf=0") == 0
    line = re.search(r"20 frames, (learned:\S+ 0\.5 seed=\d+ .*checkpoint=\w+ \+ fog [^\n]*)", capsys.readouterr().out)
    monkeypatch.chdir("/")
    expected = render(decoded(clips / "a.mp4"), parse_spec(line[1]), fps=FPS)
    assert line[1].startswith(f"learned:{tmp_path / 'attackers'} ")
    assert np.abs(decoded(tmp_path / "b.mp4").astype(int) - expected).mean() < 8


def test_frames_that_were_cut_out_leave_the_times_of_the_others_alone(clips: Path, tmp_path: Path) -> None:
    spec = "random_drop_cut 0.5 seed=4 fraction=0.45"
    run(clips / "a.mp4", tmp_path / "cut.mp4", f"spec={spec}")
    run(clips / "a.mp4", tmp_path / "spliced.mp4", f"spec={spec.replace('cut', 'splice')}")
    kept = frame_map(parse_spec(spec), 20).source
    for name, expected in (("cut.mp4", (kept - kept[0]) / FPS), ("spliced.mp4", np.arange(len(kept)) / FPS)):
        with av.open(str(tmp_path / name)) as container:
            times = np.array([float(frame.pts * frame.time_base) for frame in container.decode(video=0)])
        assert np.allclose(times - times[0], expected, atol=1e-9)
    assert 5 < len(kept) < 15


def test_a_film_of_a_model_s_frames(clips: Path, tmp_path: Path) -> None:
    run(clips / "a.mp4", tmp_path / "small.mp4", "spec=fog 0.4", "frames.max_frames=4", "frames.resize=[28, 56]")
    source = VideoFile(tmp_path / "small.mp4", sample_id="a")
    assert [chunk.frames.shape for chunk in source.chunks()] == [(4, 28, 56, 3)] and source.fps == pytest.approx(5.0)


def test_what_cannot_be_made_alone_is_an_error(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(SquallError, match="text.mp4: sample text.mp4: not a readable video .*; nothing was written"):
        run(clips / "text.mp4", tmp_path / "x.mp4", "spec=fog 0.5")
    with pytest.raises(SquallError, match="span .* reaches beyond the clip's 20 frames"):
        run(clips / "a.mp4", tmp_path / "x.mp4", "spec=fog 0.5 frames=5:30")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def swept(clips: Path, ray_cluster: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over the folder by one worker."""
    out = tmp_path_factory.mktemp("swept") / "out"
    assert run(clips, out, *SWEEP, "workers=1") == 1  # four files are no videos
    return out


SWEEP = ("kinds=[heavy_rain, random_drop_cut]", "severities=[0.3, 0.8]", "preset=ultrafast")
GOOD = ("a.mp4", "b.mp4", "c.mp4", "deep/d.mp4", "still.png")


@pytest.mark.cluster
def test_a_sweep_writes_every_file_and_what_is_known_of_it(swept: Path, clips: Path) -> None:
    found = rows(swept / "manifest.jsonl")
    expected = [f"./{kind}/{severity}/{name}" for kind in ("heavy_rain", "random_drop_cut") for severity in ("0.3", "0.8")
                for name in GOOD]
    assert [row["path"] for row in found] == expected
    assert len({row["id"] for row in found}) == 20 and found[0]["source_id"] == "a.mp4"
    for row in found:
        file, spec = swept / row["path"], parse_spec(row["corruption"])
        assert (row["sha256"], row["source_sha256"]) == (hash_file(file), hash_file(Path(row["source"])))
        assert str(spec) == row["corruption"] and row["corruption_spec"]["kind"] == spec.kind == row["path"].split("/")[1]
        if file.suffix == ".mp4":
            source = decoded(Path(row["source"]))
            digest = FrameHash(row["fps"])
            digest.update(render(source, spec, fps=FPS))
            assert digest.hexdigest() == row["content_hash"]
            assert len(decoded(file)) == row["frames"] and (row["width"], row["height"]) == (64, 48)
        else:
            image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
            clean = cv2.cvtColor(cv2.imread(str(clips / "still.png")), cv2.COLOR_BGR2RGB)
            assert np.array_equal(image, render(clean[None], spec, fps=1.0)[0])


@pytest.mark.cluster
def test_files_that_are_no_videos_are_listed_and_the_others_made(swept: Path, clips: Path) -> None:
    summary = json.loads((swept / "summary.json").read_text())
    assert {(Path(failure["message"].split(": ")[0]).name, failure["reason"], failure["files"])
            for failure in summary["failures"]} == {
        ("folder.mp4", "missing_media", 1), ("text.mp4", "decode_error", 4), ("empty.mp4", "decode_error", 4),
        ("cut.mp4", "decode_error", 4)}
    assert (summary["files"], summary["workers"]) == (20, 1) and 0 < summary["corrupt_share"] < 1
    assert summary["frames"] == sum(row["frames"] for row in rows(swept / "manifest.jsonl"))


@pytest.mark.cluster
def test_two_workers_write_the_same_manifest_and_a_second_run_is_refused(
        swept: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(clips, tmp_path / "out", *SWEEP, "workers=2")
    assert pixels_of(tmp_path / "out") == pixels_of(swept)
    said = capsys.readouterr().out
    assert "8 clips x 4 corruptions with 2 workers" in said and "20 files, " in said and "could not be made" in said
    assert f"not done, 4 files: {clips / 'text.mp4'}: sample text.mp4: not a readable video" in said
    with pytest.raises(ConfigError, match="is not empty .*go on with what was begun there: --resume"):
        run(clips, tmp_path / "out", *SWEEP)
    with pytest.raises(ConfigError, match=r"was begun with severities = \[0.3, 0.8\], and now it is \[0.3, 0.9\]"):
        run(clips, tmp_path / "out", SWEEP[0], "severities=[0.3, 0.9]", SWEEP[2], "--resume")


@pytest.mark.cluster
def test_resuming_makes_again_what_is_missing_or_was_changed_and_nothing_else(
        swept: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for file in swept.rglob("*"):
        (out / file.relative_to(swept)).parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            (out / file.relative_to(swept)).write_bytes(file.read_bytes())
    (out / "manifest.jsonl").unlink()
    (out / "heavy_rain/0.3/a.mp4").unlink()
    damaged = out / "heavy_rain/0.8/b.mp4"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    (out / "heavy_rain/0.8/.c.mp4.0a1b2c3d").write_text("left behind by a worker that was killed")
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.mp4")}
    run(clips, out, *SWEEP, "--resume")
    assert "18 of 32 files are there" in capsys.readouterr().out
    assert pixels_of(out) == pixels_of(swept)
    changed = [file for file, stamp in before.items() if file.exists() and file.stat().st_mtime_ns != stamp]
    assert changed == [damaged] and not list(out.rglob(".*.mp4.*"))


@pytest.mark.cluster
def test_a_mixture_of_a_manifest_can_be_trained_on(
        manifest: Path, ray_cluster: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(manifest, tmp_path / "out", "mixture={fog: 0.5, noise: 0.3}", "preset=ultrafast") == 1
    assert "path '../elsewhere.mp4' leaves the folder" in capsys.readouterr().out
    loaded = load_manifest(tmp_path / "out" / "manifest.jsonl")
    before = load_manifest(manifest, on_error="collect")
    assert [sample.id for sample in loaded.samples] == [sample.id for sample in before.samples]
    for new, old in zip(loaded.samples, before.samples, strict=True):
        assert (new.problem, new.options, new.solution, new.process, new.problem_type, new.media_type) == (
            old.problem, old.options, old.solution, old.process, old.problem_type, old.media_type)
        assert Path(new.media).is_relative_to(tmp_path / "out") and new.metadata["source"] == old.media
    first = loaded.samples[0].metadata
    assert first["difficulty"] == 3 and first["fps"] == FPS and first["before"] == {"fps": "as filmed"}
    assert any(sample.metadata["corruption"] is None for sample in loaded.samples)
    assert any(sample.metadata["corruption"] for sample in loaded.samples)


SLOW_KIND = """
import os, resource, time
import numpy as np

def slow(frames, timeline, *, severity):
    time.sleep(0.4)
    frames[:] = (frames * (1 - severity / 2)).astype(np.uint8)

def fills_the_disk(frames, timeline, *, severity):
    '''A quota, as a full disk has it: the worker can write no more after a few clips.'''
    done = len([name for name in os.listdir("out") if name.endswith(".mp4")]) if os.path.isdir("out") else 0
    if done >= 2 and not os.path.exists("room_again"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    frames[:] = (frames * (1 - severity / 2)).astype(np.uint8)
"""


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of kinds and eight clips in it."""
    (tmp_path / "kinds_here.py").write_text(SLOW_KIND)
    (tmp_path / "in").mkdir()
    for number in range(8):
        encode_video(tmp_path / "in" / f"{number}.mp4", small_clip(number), FPS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("kinds_here", None)


@pytest.mark.cluster
def test_a_killed_run_is_gone_on_with_and_ends_as_if_it_had_not_been_killed(users_folder: Path, ray_cluster: object) -> None:
    words = ("in", "out", "spec=kinds_here:slow 0.5 + light_rain 0.3", "workers=1")
    command = Command(users_folder, "corrupt", *words)
    assert command.stop_after(users_folder / "out" / "finished.jsonl", 2, signal.SIGKILL) == -signal.SIGKILL, command.printed
    there = sorted((users_folder / "out").glob("*.mp4"))
    assert 2 <= len(there) < 8 and not (users_folder / "out" / "manifest.jsonl").exists()
    assert all(len(decoded(file)) == 20 for file in there)
    before = {file: file.stat().st_mtime_ns for file in there[:2]}
    assert run(*words[:3], "workers=2", "--resume") == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert run("in", "whole", words[2]) == 0
    assert pixels_of(users_folder / "out") == pixels_of(users_folder / "whole")
    assert not list((users_folder / "out").rglob(".*.mp4.*"))


@pytest.mark.cluster
def test_a_full_disk_is_one_line_and_leaves_what_is_finished(users_folder: Path, ray_cluster: object) -> None:
    words = ("in", "out", "spec=kinds_here:fills_the_disk 0.5", "workers=1")
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}  # with a cluster of its own
    ended = subprocess.run([sys.executable, "-m", "squall", "corrupt", *words], capture_output=True, text=True, env=alone,
                           timeout=200)
    assert ended.returncode == 2
    assert re.fullmatch(rf"error: no room on the disk for {users_folder}/out/2\.mp4 \(File too large\); the 2 files in "
                        rf"{users_folder}/out that were finished before are good\. Make room, then go on with --resume\n",
                        ended.stderr)
    assert sorted(file.name for file in (users_folder / "out").iterdir() if file.suffix == ".mp4") == ["0.mp4", "1.mp4"]
    assert not list((users_folder / "out").glob(".*.mp4.*"))
    (users_folder / "room_again").touch()
    assert run(*words, "--resume") == 0
    assert len(rows(users_folder / "out" / "manifest.jsonl")) == 8


@pytest.mark.cluster
def test_the_preview_alone_is_a_sheet_and_a_page_that_needs_nothing_else(
        clips: Path, ray_cluster: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = (clips, out, "kinds=[fog, freeze]", "severities=[0.3, 0.8]", "--preview-only", "--preview-clips", "8")
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == {".lock", "preview.png", "gallery.html"}
    assert "not shown: " in said and "text.mp4" in said and f"preview: {out / 'gallery.html'}" in said
    sheet = Image.open(out / "preview.png").convert("RGB")
    assert sheet.width > 1000 and len(np.unique(np.asarray(sheet.resize((60, 40))).reshape(-1, 3), axis=0)) > 100
    page = (out / "gallery.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert [clip["name"] for clip in data["clips"]] == ["a.mp4", "b.mp4", "c.mp4", "deep/d.mp4", "still.png"]
    assert len(data["items"]) == 5 * 4 and {item["kind"] for item in data["items"]} == {"fog", "freeze"}
    assert not re.search(r'(src|href)="(?!data:)', page) and "http" not in page
    clean = data["clips"][0]
    frames = {}
    for owner in (clean, *(item for item in data["items"] if item["clip"] == 0)):
        with av.open(io.BytesIO(base64.b64decode(owner["video"]))) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            frames[owner.get("spec", "clean")] = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert {len(shown) for shown in frames.values()} == {20}
    worst = [spec for spec in frames if spec.startswith("fog 0.8")][0]
    assert np.abs(frames[worst][10].astype(int) - frames["clean"][10]).mean() > 20
    assert run(*words) == 0  # a preview may be made again


@pytest.mark.cluster
def test_the_preview_of_what_was_written_shows_the_files(clips: Path, ray_cluster: object, tmp_path: Path) -> None:
    assert run(clips / "deep", tmp_path / "out", "spec=overexposure 0.9", "--preview") == 0
    page = (tmp_path / "out" / "gallery.html").read_text()
    (item,) = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])["items"]
    assert item["file"] == "d.mp4" and (tmp_path / "out" / "d.mp4").is_file()
    assert item["spec"] == rows(tmp_path / "out" / "manifest.jsonl")[0]["corruption"]
    with av.open(io.BytesIO(base64.b64decode(item["video"]))) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.abs(shown.astype(int) - decoded(tmp_path / "out" / "d.mp4")).mean() < 6


def test_every_kind_is_listed_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    said = capsys.readouterr().out
    assert all(re.search(rf"^[* ] {kind}\s", said, re.M) for kind in KINDS)
    assert re.search(r"\* fog .*Beer and Lambert", re.sub(r"\s+", " ", said)) and "optical_depth [0..20] = " in said


def test_the_check_prints_a_line_for_each_property_and_its_status(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "kinds_to_check.py").write_text(
        "def half(frames, timeline, *, severity):\n    frames[:] = frames // 2\n\n"
        "def dim(frames, timeline, *, severity):\n    frames[:] = (frames * (1 - severity)).astype(frames.dtype)\n")
    assert run("--check", "kinds_to_check:dim") == 0
    assert "kinds_to_check:dim: can be used: no check failed" in capsys.readouterr().out
    assert run("--check", "kinds_to_check:half") == 1
    said = capsys.readouterr().out
    assert "severity 0        ✗" in said and "kinds_to_check:half: 2 of 12 checks failed" in said
    assert run("--check", "fogg") == 1
    assert "the others could not be tried" in capsys.readouterr().out
