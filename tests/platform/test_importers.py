"""Importers on small folders of exactly the shape that is published, with real videos."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from squall.algorithms.accuracy import accuracy, canonical_answer
from squall.platform.errors import DataError
from squall.platform.importers import IMPORTERS, Rejected, choose, find_questions, finish
from squall.platform.importers.common import Request
from squall.platform.manifest import load_manifest
from squall.platform.prompts import WHOLE_OPTION, prompt_template
from squall.platform.records import ProblemType, VideoSample
from squall.platform.video import FrameSampling, encode_video, load_clip

MEANING = partial(canonical_answer, problem_type=ProblemType.MULTIPLE_CHOICE)
NATIVE = FrameSampling(max_frames=1000, resize=(56, 84))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of 3 s at 10 frames a second, whose brightness, 20 + 6 t, tells a frame's number."""
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    frames = np.stack([np.full((56, 84, 3), 20 + 6 * t, np.uint8) for t in range(30)])
    encode_video(path, frames, fps=10, crf=10)
    return path.read_bytes()


@pytest.fixture
def put(tmp_path: Path, clip: bytes):
    """Write files below the folder of a data set: text, JSON, Parquet rows, or the clip where nothing is given."""
    root = tmp_path / "set"

    def write(*names: str, content: Any = None) -> Path:
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.write_bytes(clip)
            elif name.endswith(".parquet"):
                pq.write_table(pa.Table.from_pylist(content), path)
            else:
                path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
        return root

    return write


def read(name: str, source: Path, **request: Any) -> tuple[list[VideoSample], dict[str, Rejected]]:
    """Import everything and load the manifest that comes of it; rejected entries by id."""
    importer = IMPORTERS[name]
    found, rejected = find_questions(
        importer, Request(source, **({"split": importer.default_split} | request)), MEANING)
    output = source.parent / "out.jsonl"
    results = [finish(one, output, source.parent / "out.clips") for one in found]
    rejected += [result for result in results if isinstance(result, Rejected)]
    records = [result for result in results if not isinstance(result, Rejected)]
    output.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return list(load_manifest(output).samples) if records else [], {one.id: one for one in rejected}


def numbers(sample: VideoSample) -> list[int]:
    """Which frames of the clip a sample shows."""
    frames = load_clip(sample.media, NATIVE, sample_id=sample.id).frames
    return ((frames.mean(axis=(1, 2, 3)) - 20) / 6).round().astype(int).tolist()


def test_ucf101_follows_its_class_list_and_its_folds(put) -> None:
    put("ucfTrainTestlist/classInd.txt", content="1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n3 Archery\r\n")
    put("ucfTrainTestlist/testlist02.txt",
        content="Archery/v_Archery_g01_c01.avi\nApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n")
    put("ucfTrainTestlist/trainlist02.txt", content="Archery/v_Archery_g08_c01.avi 3\nArchery/v_Archery_g09_c01.avi 2\n")
    source = put("UCF-101/Archery/v_Archery_g01_c01.avi", "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
                 "UCF-101/Archery/v_Archery_g08_c01.avi", "UCF-101/Archery/v_Archery_g09_c01.avi")
    samples, rejected = read("ucf101", source, fold=2)
    assert [sample.id for sample in samples] == ["Archery/v_Archery_g01_c01.avi", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"]
    assert samples[0].options == ("ApplyEyeMakeup", "ApplyLipstick", "Archery") and samples[0].options is samples[1].options
    assert [(sample.solution, sample.metadata["class_index"]) for sample in samples] == [("Archery", 2), ("ApplyEyeMakeup", 0)]
    assert samples[0].media == str(source / "UCF-101/Archery/v_Archery_g01_c01.avi") and not rejected
    (trained,), rejected = read("ucf101", source, fold=2, split="train")
    assert trained.id == "Archery/v_Archery_g08_c01.avi"
    (mismatch,) = rejected.values()
    assert mismatch.reason == "label_mismatch" and mismatch.where.endswith("trainlist02.txt:2")
    assert "folder is Archery, the list gives the number of ApplyLipstick" in mismatch.message


def test_options_without_letters_are_asked_and_compared_word_for_word(put) -> None:
    put("classInd.txt", content="1 Basketball\n2 BasketballDunk\n")
    put("testlist01.txt", content="BasketballDunk/v.avi\n")
    (sample,), _ = read("ucf101", put("BasketballDunk/v.avi"))
    right = {answer: accuracy(answer, sample.solution, sample.problem_type)
             for answer in ("BasketballDunk", " basketballdunk ", "Basketball", "B", "2")}
    assert right == {"BasketballDunk": 1.0, " basketballdunk ": 1.0, "Basketball": 0.0, "B": 0.0, "2": 0.0}
    text = prompt_template("video_r1").render(sample)
    assert "Basketball\nBasketballDunk\n" in text and text.endswith(WHOLE_OPTION) and "letter" not in text


@pytest.mark.parametrize(("classes", "alike"), [
    ("1 Run\n2 run\n", "'Run' and 'run'"), ("1 A: run\n2 A: walk\n", "'A: run' and 'A: walk'")])
def test_classes_that_answers_cannot_tell_apart_are_refused(put, classes: str, alike: str) -> None:
    put("classInd.txt", content=classes)
    name = classes.split("\n")[0][2:]
    put("testlist01.txt", content=f"{name}/v.avi\n")
    samples, rejected = read("ucf101", put(f"{name}/v.avi"))
    assert not samples and [one.reason for one in rejected.values()] == ["options_alike"]
    assert alike in next(iter(rejected.values())).message


def test_each_bad_line_of_a_list_is_rejected_with_its_place(put) -> None:
    put("classInd.txt", content="1 Archery\n2 Bowling\n")
    source = put("testlist01.txt", content="Archery/a.avi\nArchrey/a.avi\nArchery/b.avi\n\n../secret.avi\n"
                                           "Archery/../../secret.avi\n/etc/passwd\nArchery/a.avi\n")
    put("Archery/a.avi", "../secret.avi", "Archrey/a.avi")
    samples, rejected = read("ucf101", source)
    assert [sample.id for sample in samples] == ["Archery/a.avi"]
    reasons = {one.where.rpartition(":")[2]: one.reason for one in rejected.values()}
    assert reasons == {"2": "unknown_class", "3": "missing_media", "5": "unknown_class", "6": "path_outside",
                       "7": "unknown_class", "8": "duplicate_id"}
    assert "label 'Archrey' is none of the 2 classes. Did you mean 'Archery'?" in rejected["Archrey/a.avi"].message
    assert f"no clip UCF-101/Archery/b.avi in {source}" in rejected["Archery/b.avi"].message
    assert "leaves the folder" in rejected["Archery/../../secret.avi"].message


def test_hmdb51_has_a_list_for_each_class_and_leaves_zeros_out(put) -> None:
    splits = "testTrainMulti_7030_splits"
    put(f"{splits}/brush_hair_test_split1.txt", content="a b (1).avi 2 \nc.avi 1 \nd.avi 0 \n")
    source = put(f"{splits}/wave_test_split1.txt", content="c.avi 2 \ne.avi 3 \n")
    put(f"{splits}/wave_test_split2.txt", content="c.avi 1 \n")
    put("brush_hair/a b (1).avi", "brush_hair/c.avi", "wave/c.avi")
    samples, rejected = read("hmdb51", source)
    assert [(sample.id, sample.solution) for sample in samples] == [
        ("brush_hair/a b (1).avi", "brush_hair"), ("wave/c.avi", "wave")]
    assert samples[0].options == ("brush_hair", "wave")
    assert {key: one.reason for key, one in rejected.items()} == {"wave/e.avi": "bad_field"}
    assert [sample.id for sample in read("hmdb51", source, split="train")[0]] == ["brush_hair/c.avi"]


def test_kinetics_lists_of_its_authors(put) -> None:
    source = put("annotations/val.csv", content="label,youtube_id,time_start,time_end,split,is_cc\n"
                 "air drumming,_dbcJuKJQNs,40,50,val,0\n\"abseiling\",-3B32lodo2M,59,69,val,0\nzumba,none00000aa,x,2,val,0\n"
                 "zumba,none00000ab,1,2,val,0\n")
    put("val/air_drumming/_dbcJuKJQNs_000040_000050.mp4", "val/-3B32lodo2M_000059_000069.mp4")
    samples, rejected = read("kinetics", source, split="val")
    assert [(sample.id, sample.solution, sample.metadata["class_index"]) for sample in samples] == [
        ("_dbcJuKJQNs_000040_000050", "air drumming", 1), ("-3B32lodo2M_000059_000069", "abseiling", 0)]
    assert samples[0].options == ("abseiling", "air drumming", "zumba")
    assert {key: one.reason for key, one in rejected.items()} == {
        "val:4": "bad_field", "none00000ab_000001_000002": "missing_media"}
    put("labels.json", content={'"air drumming"': 0, "abseiling": 1})
    samples, rejected = read("kinetics", source, split="val", classes=source / "labels.json")
    assert samples[0].options == ("air drumming", "abseiling")
    assert rejected["none00000ab_000001_000002"].reason == "unknown_class"
    put("test.csv", content="youtube_id,time_start,time_end,split\n_dbcJuKJQNs,40,50,test\n")
    with pytest.raises(DataError, match="no column 'label'"):
        read("kinetics", source, split="test")


def test_kinetics_lists_of_paths_and_class_folders(put) -> None:
    source = put("val.csv", content="val/a clip.mp4 1\nval/b.webm,air drumming\nval/c.mp4 7\n")
    put("val/a clip.mp4", "val/b.mp4", "val/c.mp4")
    put("classes.txt", content="abseiling\nair drumming\n")
    samples, rejected = read("kinetics", source, split="val", classes=source / "classes.txt")
    assert [(sample.solution, Path(sample.media).name) for sample in samples] == [
        ("air drumming", "a clip.mp4"), ("air drumming", "b.mp4")]
    assert "label 7: there are 2 classes, from 0 to 1" in rejected["val/c.mp4"].message
    put("indices.txt", content="val/a clip.mp4 1\n")
    with pytest.raises(DataError, match="labels are indices; name the file of classes"):
        read("kinetics", source, list_file=Path("indices.txt"))
    with pytest.raises(DataError, match="leaves the folder"):
        read("kinetics", source, list_file=Path("../val.csv"))
    put("train/air_drumming/x.mp4", "train/abseiling/y.mkv")
    put("train/abseiling/notes.txt", content="-")
    samples, _ = read("kinetics", source, split="train", classes=source / "classes.txt")
    assert [(sample.id, sample.solution) for sample in samples] == [
        ("train/abseiling/y.mkv", "abseiling"), ("train/air_drumming/x.mp4", "air drumming")]
    with pytest.raises(DataError, match="it holds splits; say which one: split=train or val or test"):
        read("kinetics", source)
    samples, _ = read("kinetics", source / "train")
    assert samples[0].options == ("abseiling", "air_drumming")


def test_something_something(put) -> None:
    source = put("something-something-v2-labels.json", content={
        "Holding something next to something": "1", "Approaching something with your camera": "0"})
    put("something-something-v2-validation.json", content=[
        {"id": "78687", "label": "holding potato next to vicks vaporub bottle",
         "template": "Holding [something] next to [something]", "placeholders": ["potato", "vicks vaporub bottle"]},
        {"id": "4", "label": "eating", "template": "Eating [something]", "placeholders": ["x"]}, {"id": "5"}, [6]])
    put("20bn-something-something-v2/78687.webm")
    (sample,), rejected = read("somethingsomething", source)
    assert sample.solution == "Holding something next to something" and sample.metadata["class_index"] == 1
    assert sample.options == ("Approaching something with your camera", "Holding something next to something")
    assert sample.metadata["caption"] == "holding potato next to vicks vaporub bottle"
    assert [one.reason for one in rejected.values()] == ["unknown_class", "missing_field", "not_json"]
    with pytest.raises(DataError, match="no something-something-v2-train.json or train.json"):
        read("somethingsomething", source, split="train")


@pytest.mark.parametrize(("name", "files", "message"), [
    ("ucf101", {}, "no classInd.txt in it or its ucfTrainTestlist/"),
    ("ucf101", {"classInd.txt": "1 Archery\n"}, "no testlist01.txt"),
    ("ucf101", {"classInd.txt": "Archery\n"}, "classInd.txt:1: 'Archery' is not a number and a class"),
    ("ucf101", {"classInd.txt": "1 Archery\n", "testlist01.txt": "\n"}, "the list of the split 'test' has no entry"),
    ("hmdb51", {"wave_test_split2.txt": "a.avi 2\n"}, r"no \*_test_split1.txt"),
    ("hmdb51", {"wave_test_split1.txt": "a.avi 1\n"}, "the list of the split 'test' has no entry"),
    ("somethingsomething", {"labels.json": "[5]"}, "expected an object from class names to their index"),
    ("mvbench", {}, "no unexpected_action.json in it or its json/"),
    ("tempcompass", {}, r"no test-\*.parquet in it or its caption_matching/"),
    ("videomme", {}, r"no test-\*.parquet"),
    ("mmvu", {"validation.json": "{}"}, "is a list of records"),
])
def test_missing_broken_and_empty_lists(put, name: str, files: dict[str, str], message: str) -> None:
    source = put("README.md", content="-")
    for file, text in files.items():
        put(file, content=text)
    with pytest.raises(DataError, match=message):
        read(name, source)


QUESTION = {"question": "What happened?", "candidates": ["Opened it.", "Closed it."], "answer": "Closed it."}


def test_mvbench_cuts_whole_videos_and_takes_ready_clips(put) -> None:
    source = put("json/action_sequence.json", content=[
        QUESTION | {"video": "ZS9XR.mp4", "start": 1.0, "end": 1.55},
        QUESTION | {"video": "USNP1.mp4", "start": 0.3, "end": 15.4},
        QUESTION | {"video": "ZS9XR.mp4", "start": 7.0, "end": 9.0},
        QUESTION | {"video": "ZS9XR.mp4", "start": 2.0, "end": 1.0},
        QUESTION | {"video": "ZS9XR.mp4", "start": 1.0, "end": 2.0, "answer": "Left."},
        QUESTION | {"video": "ZS9XR.mp4", "start": 1.0, "end": 2.0, "candidates": ["Closed it.", "Closed it."]},
        QUESTION | {"video": "../../../x.mp4", "start": 1.0, "end": 2.0}])
    put("video/star/Charades_v1_480/ZS9XR.mp4", "video/star/Charades_segment/USNP1_0.3_15.4.mp4")
    samples, rejected = read("mvbench", source, split="action_sequence")
    assert [(sample.id, sample.solution) for sample in samples] == [("action_sequence/1", "B"), ("action_sequence/2", "B")]
    cut, ready = samples
    assert cut.options == ("A. Opened it.", "B. Closed it.") and cut.metadata["question_type"] == "action_sequence"
    assert cut.media == str(source.parent / "out.clips/star/Charades_v1_480/ZS9XR_1_1.55.mp4")
    assert cut.metadata["source_span_s"] == [1.0, 1.55]
    assert numbers(cut) == [10, 11, 12, 13, 14, 15]
    assert load_clip(cut.media, NATIVE, sample_id="x").fps == pytest.approx(10)
    with av.open(cut.media) as container:
        assert [round(float(frame.time), 3) for frame in container.decode(video=0)] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert ready.media == str(source / "video/star/Charades_segment/USNP1_0.3_15.4.mp4") and len(numbers(ready)) == 30
    assert [one.reason for one in rejected.values()] == [
        "bad_span", "unknown_answer", "options_alike", "path_outside", "empty_span"]
    assert not list((source.parent / "out.clips").rglob(".*")) and not (source.parent / "out.clips/star/ZS9XR_7_9.mp4").exists()
    before = Path(cut.media).stat().st_mtime_ns
    assert read("mvbench", source, split="action_sequence")[0] == samples and Path(cut.media).stat().st_mtime_ns == before


def test_mvbench_makes_clips_of_folders_of_frames_and_counts_tasks_without_a_list(put) -> None:
    entry = QUESTION | {"video": "castle_s01", "fps": 3, "start": 1.0, "end": 2.0}
    source = put("json/episodic_reasoning.json", content=[entry])
    folder = source / "video/tvqa/frames_fps3_hq/castle_s01"
    folder.mkdir(parents=True)
    for number in range(1, 10):
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), np.full((57, 84, 3), 20 + 6 * number, np.uint8))
    put("json/action_antonym.json", content=[QUESTION | {"video": "166583.webm"}])
    put("ssv2_video_mp4/166583.mp4")
    samples, rejected = read("mvbench", source)
    assert [sample.id for sample in samples] == ["action_antonym/1", "episodic_reasoning/1"]
    assert samples[0].media == str(source / "ssv2_video_mp4/166583.mp4")
    assert numbers(samples[1]) == [3, 4, 5, 6]
    assert len(rejected) == 18 and {one.reason for one in rejected.values()} == {"missing_list"}
    assert "no moving_count.json" in rejected["moving_count"].message


TEMPCOMPASS = {
    "multi-choice": ("What is the man doing?\nA. dunking a ball\nB. passing a ball", "B. passing a ball"),
    "yes_no": ("Is the man dunking?", "no"),
    "caption_matching": ("Which caption matches better?\nCaption A: A man dunks.\nCaption B: A man passes.",
                         "Caption B: A man passes."),
    "captioning": ("Choose what fits and write a caption.\nInformation A: {}\nGenerated Caption:", "B. passing a ball"),
}


@pytest.mark.parametrize("layout", ["github", "huggingface"])
def test_tempcompass_is_the_same_from_either_place(put, layout: str) -> None:
    source = put("videos/1034419625.mp4")
    for task, (question, answer) in TEMPCOMPASS.items():
        if layout == "github":
            entries = [{"question": question, "answer": answer}, {"question": "No options.", "answer": "maybe"}]
            put(f"questions/{task}.json", content={"1034419625": {"action": entries}, "none": {"action": entries[:1]}})
        else:
            rows = [{"video_id": "1034419625", "dim": "action", "question": question, "answer": answer},
                    {"video_id": "1034419625", "dim": "action", "question": "No options.", "answer": "maybe"},
                    {"video_id": "none", "dim": "action", "question": question, "answer": answer}]
            put(f"{task}/test-00000-of-00001.parquet", content=rows)
    samples, rejected = read("tempcompass", source)
    assert [(sample.id, sample.problem, sample.options, sample.solution) for sample in samples] == [
        ("multi-choice/1034419625/action/1", "What is the man doing?", ("A. dunking a ball", "B. passing a ball"), "B"),
        ("yes_no/1034419625/action/1", "Is the man dunking?", ("A. yes", "B. no"), "B"),
        ("caption_matching/1034419625/action/1", "Which caption matches better?", ("A. A man dunks.", "B. A man passes."), "B")]
    assert samples[0].metadata == {"question_type": "action", "task": "multi-choice"}
    assert {key: one.reason for key, one in rejected.items()} == {
        "multi-choice/1034419625/action/2": "no_options", "multi-choice/none/action/1": "missing_media",
        "yes_no/1034419625/action/2": "unknown_answer", "yes_no/none/action/1": "missing_media",
        "caption_matching/1034419625/action/2": "no_options", "caption_matching/none/action/1": "missing_media"}
    if layout == "github":
        assert rejected["yes_no/1034419625/action/2"].where.endswith("questions/yes_no.json: 1034419625/action/2")
    first, _ = read("tempcompass", source, split="captioning")[0]
    assert (first.problem_type, first.solution) == (ProblemType.FREE_FORM, "passing a ball")


def test_videomme(put) -> None:
    row = {"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Humanity & History",
           "url": "https://www.youtube.com/watch?v=fFjv93ACGo8", "videoID": "fFjv93ACGo8", "question_id": "001-1",
           "task_type": "Counting Problem", "question": "How many?", "answer": "C",
           "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. Same."]}
    source = put("videomme/test-00000-of-00001.parquet", content=[
        row, row | {"question_id": "001-2", "answer": "E"},
        row | {"question_id": "301-1", "duration": "medium", "videoID": "gone"}])
    put("data/fFjv93ACGo8.mkv")
    (sample,), rejected = read("videomme", source)
    assert (sample.id, sample.solution, sample.options[2]) == ("001-1", "C", "C. Berries.")
    assert sample.metadata == {"question_type": "Counting Problem", "duration": "short", "domain": "Knowledge"}
    assert {key: one.reason for key, one in rejected.items()} == {"001-2": "unknown_answer", "301-1": "missing_media"}
    assert rejected["301-1"].where.endswith("test-00000-of-00001.parquet:3")
    assert list(read("videomme", source, split="short")[1]) == ["001-2"]


def test_videommmu_goes_by_options_and_not_by_its_question_type(put) -> None:
    def row(name: str, kind: str, options: list[str], answer: str) -> dict[str, Any]:
        return {"id": name, "question": "<image 1> What?", "options": options, "answer": answer, "link_selected": "https://youtu.be/x",
                "image": {"bytes": b"png", "path": "x.png"}, "question_type": kind, "qa_type": "Case Study Analysis"}

    adaptation = [row("validation_Accounting_13", "None", ["$1", "$2", "$3"], "C"), row("test_Math_2", "open", [], "24.5"),
                  row("dev_Art_Theory_1", "open", [], "Baroque"), row("validation_Math_15", "open", [], "['24/7', '3.429']")]
    for track, rows in {"Perception": adaptation[:1], "Comprehension": adaptation[:1], "Adaptation": adaptation}.items():
        put(f"{track}/test-00000-of-00001.parquet", content=rows)
    source = put("Business/validation_Accounting_13.mp4", "Science/test_Math_2.mp4", "Art/dev_Art_Theory_1.mp4",
                 "Science/validation_Math_15.mp4", "question_only/validation_Accounting_13_image.mp4")
    samples, rejected = read("videommmu", source)
    assert [(sample.id, sample.problem_type.value, sample.solution) for sample in samples] == [
        ("Perception/validation_Accounting_13", "multiple choice", "C"),
        ("Comprehension/validation_Accounting_13", "multiple choice", "C"),
        ("Adaptation/validation_Accounting_13", "multiple choice", "C"),
        ("Adaptation/test_Math_2", "numerical", "24.5"), ("Adaptation/dev_Art_Theory_1", "free-form", "Baroque")]
    assert samples[0].problem.endswith("ignore the quiz question in the last frame of the video.")
    assert "image is at the end of the video.\n<image 1> What?" in samples[2].problem
    assert samples[4].metadata == {"question_type": "Adaptation", "subject": "Art_Theory"}
    assert {key: one.reason for key, one in rejected.items()} == {"Adaptation/validation_Math_15": "several_answers"}


def test_vsibench_amounts_are_regressions(put) -> None:
    row = {"id": 0, "dataset": "arkitscenes", "scene_name": "41069025", "question_type": "object_counting",
           "question": "How many tables are in this room?", "ground_truth": "4", "options": None}
    choice = row | {"id": 1, "question_type": "object_rel_distance", "options": ["A. chair", "B. table"], "ground_truth": "B"}
    lines = [row, choice, row | {"id": 2, "ground_truth": "four"}]
    source = put("test.jsonl", content="".join(json.dumps(line) + "\n" for line in lines) + "{oops\n")
    put("arkitscenes/41069025.mp4")
    samples, rejected = read("vsibench", source)
    assert [(sample.id, sample.problem_type.value, sample.solution) for sample in samples] == [
        ("0", "regression", "4"), ("1", "multiple choice", "B")]
    assert {key: one.reason for key, one in rejected.items()} == {"2": "unknown_answer", "test:4": "not_json"}


def test_mmvu_from_either_place(put) -> None:
    base = {"id": "validation_0", "video": "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/Art/0.mp4",
            "youtube_url": "", "question_type": "open-ended", "metadata": {"subject": "Art", "textbook": "", "knowledge": []},
            "question": "Which technique is shown?", "choices": dict.fromkeys("ABCDE", ""), "answer": "Dolly Zoom"}
    choices = {"A": "10.0", "B": "5.0", "C": "12.0", "D": "15.0", "E": "20.0"}
    entries = [base, base | {"id": "validation_1", "question_type": "multiple-choice", "choices": choices, "answer": "E"},
               base | {"id": "validation_2", "video": "https://huggingface.co/x/resolve/main/../../secret.mp4"},
               base | {"id": "validation_3", "question_type": "essay"}]
    source = put("validation.json", content=entries)
    put("videos/Art/0.mp4", "../secret.mp4")
    samples, rejected = read("mmvu", source)
    assert [(sample.id, sample.problem_type.value, sample.solution) for sample in samples] == [
        ("validation_0", "free-form", "Dolly Zoom"), ("validation_1", "multiple choice", "E")]
    assert samples[1].options[4] == "E. 20.0" and samples[1].metadata == {"question_type": "multiple-choice", "subject": "Art"}
    assert {key: one.reason for key, one in rejected.items()} == {"validation_2": "path_outside", "validation_3": "bad_field"}
    (source / "validation.json").unlink()
    published = [{key: value for key, value in entry.items() if key != "video"} | {"video_path": "videos/Art/0.mp4"}
                 for entry in entries[:2]]
    put("data/validation-00000-of-00001.parquet", content=published)
    assert [sample.id for sample in read("mmvu", source)[0]] == ["validation_0", "validation_1"]


def test_a_limit_is_a_fixed_choice_from_the_whole_list_in_its_order(put) -> None:
    put("classInd.txt", content="1 A\n2 B\n")
    names = [f"{'A' if i < 20 else 'B'}/{i:02}.avi" for i in range(40)]
    put("testlist01.txt", content="\n".join(names))
    source = put(*names)
    found, _ = find_questions(IMPORTERS["ucf101"], Request(source, "test"), MEANING)
    ids = [one.row.id for one in choose(found, 12)]
    assert len(ids) == 12 and ids == sorted(ids) and {name[0] for name in ids} == {"A", "B"}
    assert set(ids) <= {one.row.id for one in choose(found, 20)} and ids == [one.row.id for one in choose(found, 12)]
    assert choose(found, None) == choose(found, 100) == found


def test_a_record_of_video_r1s_own_evaluation_files_is_read_as_it_is(tmp_path: Path, clip: bytes) -> None:
    """ROVA's evaluation reads ``eval_mvbench.json`` and its five neighbours; paths start from the folder of Evaluation/."""
    (tmp_path / "Evaluation/MVBench/perception/videos").mkdir(parents=True)
    (tmp_path / "Evaluation/MVBench/perception/videos/video_1.mp4").write_bytes(clip)
    record = {"problem_id": 0, "problem": "How many times?", "data_type": "video", "problem_type": "multiple choice",
              "options": ["A. 3", "B. 2"], "process": "", "solution": "<answer>A</answer>",
              "path": "./Evaluation/MVBench/perception/videos/video_1.mp4", "data_source": "MVBench"}
    amount = record | {"problem_id": 1, "problem_type": "regression", "options": [], "solution": "<answer>2.5</answer>"}
    (tmp_path / "eval_mvbench.json").write_text(json.dumps([record, amount]))
    samples = load_manifest(tmp_path / "eval_mvbench.json").samples
    assert [(sample.id, sample.solution, sample.problem_type.value) for sample in samples] == [
        ("0", "A", "multiple choice"), ("1", "2.5", "regression")]
    assert samples[0].media == str(tmp_path / "Evaluation/MVBench/perception/videos/video_1.mp4")
