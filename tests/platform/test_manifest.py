import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from squall.platform.errors import DataError
from squall.platform.manifest import epoch_order, load_manifest, write_manifest
from squall.platform.records import MediaType, ProblemType


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.mp4").write_bytes(b"x")
    (tmp_path / "outside.mp4").write_bytes(b"x")
    return data


def record(**changes):
    fields = {
        "problem": "Which colour?", "options": ["A. red", "B. blue"], "problem_type": "multiple choice",
        "data_type": "video", "path": "./a.mp4", "solution": "<answer> B </answer>",
    } | changes
    return {key: value for key, value in fields.items() if value is not ...}


def save(folder, *records, name="train.jsonl"):
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(list(records)), path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(list(records), indent=1), encoding="utf-8")
    else:
        write_manifest(path, records)
    return path


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.parquet"])
def test_every_format_gives_the_same_samples(folder, name):
    path = save(folder, record(id="q7", process="<think>blue sky</think>", source="film"),
                record(problem_type="free-form", options=None, process="", source=None), name=name)
    first, second = load_manifest(path).samples
    assert (first.id, first.solution, first.process) == ("q7", "B", "blue sky")
    assert (first.problem_type, first.media_type) == (ProblemType.MULTIPLE_CHOICE, MediaType.VIDEO)
    assert first.options == ("A. red", "B. blue")
    assert first.media == str(folder / "a.mp4")
    assert first.metadata["source"] == "film"
    assert (second.options, second.process) == ((), None)
    assert second.id.startswith("train:")


def test_problem_id_is_the_id_where_there_is_no_id(folder):
    first, second = load_manifest(save(folder, record(problem_id=3), record(problem_id=4, id="x"))).samples
    assert (first.id, first.metadata) == ("3", {})
    assert (second.id, second.metadata) == ("x", {"problem_id": 4})


@pytest.mark.parametrize(("bad", "reason", "words"), [
    (record(problem=...), "missing_field", ["missing field 'problem'", "needed: problem, problem_type"]),
    (record(problem=5), "bad_field", ["field 'problem' is int"]),
    (record(problem_type="multiple-choice"), "unknown_problem_type",
     ["'multiple-choice'", "Did you mean 'multiple choice'?", "regression"]),
    (record(problem_type="ocr"), "unknown_problem_type", ["Did you mean 'OCR'?"]),
    (record(data_type="vidio"), "unknown_data_type", ["Did you mean 'video'?", "Allowed: video, image"]),
    (record(solution="B"), "no_answer_tag", ["'B' holds no answer tag", "<answer>B</answer>"]),
    (record(solution="<answer> </answer>"), "no_answer_tag", ["holds no answer tag"]),
    (record(options=[]), "no_options", ["has no options", "'options'"]),
    (record(options="A. red"), "bad_field", ["must be a list of texts"]),
    (record(process="because"), "no_think_tag", ["<think>...</think>"]),
    (record(path="b.mp4"), "missing_media", ["b.mp4 does not exist", "check 'path'"]),
    (record(path="."), "missing_media", ["is a folder", "name a file"]),
    (record(path="../outside.mp4"), "path_outside", ["'../outside.mp4' leaves the folder", "media_root"]),
    (record(path="s3://bucket/a.mp4"), "unknown_uri", ["'s3://bucket/a.mp4'", "file:///"]),
    ([1, 2], "not_json", ["expected an object with fields, got list"]),
])
def test_each_bad_record_is_one_clear_line(folder, bad, reason, words):
    path = save(folder, record(id="ok"), bad if isinstance(bad, list) else bad | {"id": "q2"})
    with pytest.raises(DataError) as caught:
        load_manifest(path)
    sample_id = "train:2" if isinstance(bad, list) else "q2"
    message = str(caught.value)
    assert message.startswith(f"{path}:2: sample {sample_id}: ")
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert (caught.value.reason, caught.value.sample_id) == (reason, sample_id)
    manifest = load_manifest(path, on_error="collect")
    assert [sample.id for sample in manifest.samples] == ["ok"]
    (rejection,) = manifest.rejected
    assert (rejection.line, rejection.sample_id, rejection.reason, rejection.message) == (2, sample_id, reason, message)


def test_first_error_counts_the_others(folder):
    path = save(folder, record(solution="B"), record(), record(path="no.mp4"), record(problem_type="?"))
    with pytest.raises(DataError, match=r"train.jsonl:1: .*\(2 more bad records\)$"):
        load_manifest(path)
    assert [rejection.line for rejection in load_manifest(path, on_error="collect").rejected] == [1, 3, 4]


def test_lines_that_are_not_json_or_not_utf8(folder):
    path = folder / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(record()).encode() + b"\n\n{\"problem\": \n\xff\xfe\n")
    manifest = load_manifest(path, on_error="collect")
    assert [sample.id for sample in manifest.samples] == ["m:1"]
    assert [(rejection.line, rejection.reason) for rejection in manifest.rejected] == [(3, "not_json"), (4, "not_json")]
    assert "not UTF-8" in manifest.rejected[1].message


def test_json_list_names_the_line_of_the_record(folder):
    path = folder / "m.json"
    path.write_text("[\n" + json.dumps(record()) + ",\n\n" + json.dumps(record(solution="B")) + "]")
    with pytest.raises(DataError, match=r"m.json:4: sample m:4: solution 'B'"):
        load_manifest(path)


@pytest.mark.parametrize(("text", "message"), [
    ("[{}, {", r"m.json:1: not JSON"), ("[{} {}]", r"Expecting ',' or '\]'"), ("[{}", "Expecting ',' or"),
    ("[1,", "not JSON"), ("{}", "is a list of records"), ("", "is a list of records"),
])
def test_broken_json_list_is_refused_even_when_collecting(folder, text, message):
    path = folder / "m.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_manifest(path, on_error="collect")


@pytest.mark.parametrize("name", ["m.jsonl", "m.json", "m.parquet"])
def test_empty_manifest_is_an_error(folder, name):
    with pytest.raises(DataError, match="no records"):
        load_manifest(save(folder, name=name), on_error="collect")


def test_manifest_without_one_usable_record_is_an_error_when_collecting(folder):
    with pytest.raises(DataError, match=r"solution 'B'.*\(1 more bad record\)"):
        load_manifest(save(folder, record(solution="B"), record(solution="C")), on_error="collect")


def test_missing_unknown_and_broken_files(folder):
    with pytest.raises(DataError, match="no such manifest file"):
        load_manifest(folder / "no.jsonl")
    with pytest.raises(DataError, match=r"'.csv'; allowed: .json, .jsonl, .parquet"):
        load_manifest(folder / "no.csv")
    (folder / "m.parquet").write_text("PAR")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load_manifest(folder / "m.parquet")


def test_duplicate_ids_name_the_first_line(folder):
    with pytest.raises(DataError, match=r":2: sample q: id already used on line 1"):
        load_manifest(save(folder, record(id="q"), record(id="q")))


def test_absolute_path_file_uri_and_media_root(folder):
    outside = folder.parent / "out side.mp4"
    outside.write_bytes(b"x")
    first, second = load_manifest(save(folder, record(path=str(outside)), record(path=outside.as_uri()))).samples
    assert first.media == second.media == str(outside)
    path = save(folder, record(path="outside.mp4"), name="root.jsonl")
    assert load_manifest(path, media_root=folder.parent).samples[0].media == str(folder.parent / "outside.mp4")
    with pytest.raises(DataError, match="does not exist"):
        load_manifest(path)


def test_write_manifest_wants_jsonl_and_leaves_no_temporary_file(folder):
    with pytest.raises(DataError, match=".jsonl"):
        write_manifest(folder / "m.json", [record()])
    path = save(folder, record(problem="¿Qué?"))
    assert load_manifest(path).samples[0].problem == "¿Qué?"
    assert sorted(file.name for file in folder.iterdir()) == ["a.mp4", "train.jsonl"]


def test_epoch_order_is_a_permutation_that_depends_on_seed_epoch_and_ids_alone(folder):
    samples = load_manifest(save(folder, *(record(id=f"s{i}") for i in range(50)))).samples
    order = epoch_order(samples, 3, 0)
    assert sorted(order) == list(range(50)) and order != list(range(50))
    assert order == epoch_order(samples, 3, 0)
    assert order != epoch_order(samples, 3, 1) and order != epoch_order(samples, 4, 0)
    names = [samples[i].id for i in order]
    backwards = samples[::-1]
    assert [backwards[i].id for i in epoch_order(backwards, 3, 0)] == names
    fewer = samples[:40]
    assert [fewer[i].id for i in epoch_order(fewer, 3, 0)] == [name for name in names if int(name[1:]) < 40]
