"""Report cards as other programs take them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import yaml
from evaluations import make_card

from squall.algorithms.accuracy import accuracy
from squall.platform.errors import ConfigError, DataError
from squall.platform.manifest import load_manifest, write_manifest
from squall.platform.prompts import TEMPLATES
from squall.platform.records import ProblemType
from squall.platform.report.export import FIGURES, export, to_markdown
from squall.platform.report.lmms_eval import MAX_SEVERITIES, export_lmms_eval
from squall.platform.video import encode_video

CARDS = [make_card(), make_card("t-grpo", 2, 1.5)]


def test_tables_hold_every_condition_and_read_back(tmp_path: Path) -> None:
    figures_csv, figures_parquet, card = export(CARDS, tmp_path / "out")
    table = pq.read_table(figures_parquet)
    assert table.schema == FIGURES and table.num_rows == 2 * 73
    rows = table.to_pylist()
    result = CARDS[1].conditions[40]
    row = next(row for row in rows if (row["run"], row["condition"]) == ("t-grpo", result.condition))
    columns = ("accuracy", "accuracy_low", "change_high", "flip_rate", "consistency_n", "p_holm")
    assert tuple(row[name] for name in columns) == (
        result.accuracy.value, result.accuracy.low, result.change.high, result.flip_rate.value, 200, result.p_holm)
    assert (rows[0]["condition"], rows[0]["kind"], rows[0]["severity"], rows[0]["p_value"]) == ("clean", None, None, None)
    read = csv.read_csv(figures_csv)
    assert read.column_names == table.column_names and read["accuracy"].to_pylist() == table["accuracy"].to_pylist()
    assert card.read_text(encoding="utf-8") == to_markdown(CARDS)


def test_markdown_is_tables_with_intervals_and_warns_below_them() -> None:
    text = to_markdown([CARDS[0].model_copy(update={"model": {"label": "a|b <i>"}, "unreliable": ("Too few questions.",)})])
    lines = text.splitlines()
    assert lines[0] == "|  | a\\|b &lt;i> | a\\|b &lt;i>, reported |" and lines[1] == "| --- | ---: | ---: |"
    assert "| Clean accuracy | 74.5 [68.4, 80.6] | 51.0 |" in lines
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == 4 for line in tables[:12])
    assert sum(line.startswith("| light rain |") for line in lines) == 1
    assert lines[-1] == "**Do not rely on the figures of a\\|b &lt;i>:** Too few questions."
    assert "reported" not in to_markdown([CARDS[0].model_copy(update={"reported": {}})])


def record(number: int, spec: str | None, **changes: Any) -> dict[str, Any]:
    """As `squall corrupt` writes it."""
    kind = None if spec is None else spec.split()[0]
    return {
        "problem_id": f"q{number} {spec}", "problem": f"What colour is shape {number}?", "options": ["A. red", "B. blue"],
        "problem_type": "multiple choice", "data_type": "video", "path": "./clip.mp4", "solution": "<answer>B</answer>",
        "corruption": spec, "corruption_spec": None if spec is None else {"kind": kind, "parameters": {"wind": 1.0}},
        "source": f"/films/{number}.mp4", "source_sha256": "ab", "sha256": "cd", "fps": 4.0, "frames": 8} | changes


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of corrupted copies."""
    folder = tmp_path_factory.mktemp("bench")
    encode_video(folder / "clip.mp4", np.zeros((8, 56, 56, 3), np.uint8), 4.0)
    return folder


def write(bench: Path, records: list[dict[str, Any]], name: str = "manifest.jsonl") -> Path:
    write_manifest(bench / name, records)
    return bench / name


class _Loader(yaml.FullLoader):
    """Reads a task file as lmms-eval does, with the functions themselves."""


def exported(manifest: Path, *arguments: Any) -> list[str]:
    samples = load_manifest(manifest).samples if manifest.exists() else ()
    return export_lmms_eval(samples, manifest, *arguments)


def _load_function(loader: yaml.Loader, node: yaml.Node) -> Any:
    module, _, function = loader.construct_scalar(node).partition(".")
    spec = importlib.util.spec_from_file_location(module, Path(loader.name).parent / f"{module}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, function)


_Loader.add_constructor("!function", _load_function)


def load_task(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as stream:
        values = yaml.load(stream, _Loader)
    return (load_task(path.parent / values.pop("include")) if "include" in values else {}) | values


def test_lmms_eval_gets_a_task_for_each_condition_and_a_group(bench: Path) -> None:
    specs = [None, "heavy_rain 0.3 seed=7 calibration=1", "heavy_rain 0.7 seed=8", "night 0.4 seed=1 + light_rain 0.7 seed=2"]
    folder = bench / "tasks"
    names = exported(write(bench, [record(i, spec) for spec in specs for i in range(2)]), folder, "outdoor_c",
                             TEMPLATES["compact"], 64)
    assert names == [f"outdoor_c_{end}" for end in ("clean", "heavy_rain_0_3", "heavy_rain_0_7", "night_light_rain_0_4")]
    group = load_task(folder / "outdoor_c.yaml")
    assert (group["group"], group["task"]) == ("outdoor_c", names[1:])
    assert group["aggregate_metric_list"] == [{"metric": "squall_score", "aggregation": "mean", "weight_by_size": False}]
    task = load_task(folder / f"{names[2]}.yaml")
    assert (task["task"], task["dataset_path"], task["test_split"], task["output_type"]) == (
        names[2], "json", "test", "generate_until")
    assert task["generation_kwargs"]["max_new_tokens"] == 64 and task["generation_kwargs"]["until"] == []
    docs = [json.loads(line) for line in Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()]
    assert [doc["id"] for doc in docs] == [f"q{i} {specs[2]}" for i in range(2)] and len({tuple(doc) for doc in docs}) == 1
    words = task["lmms_eval_specific_kwargs"]["default"]
    assert task["doc_to_visual"](docs[0]) == [str((bench / "clip.mp4").resolve())]
    assert task["doc_to_text"](docs[1], words) == "What colour is shape 1?\nA. red\nB. blue"
    assert task["doc_to_text"](docs[1], {"pre_prompt": "Look. ", "post_prompt": " One letter."}).endswith("B. blue One letter.")
    results = [task["process_results"](doc, [text])["squall_score"]
               for doc, text in zip(docs, ("<think>A?</think><answer>b</answer>", "(A)"), strict=True)]
    assert [(one["score"], one[task["cluster_key"]]) for one in results] == [(1.0, "/films/0.mp4"), (0.0, "/films/1.mp4")]
    assert task["metric_list"][0]["aggregation"](results) == 0.5 and task["metric_list"][0]["metric"] == "squall_score"
    assert "--tasks outdoor_c,outdoor_c_clean" in (folder / "README.md").read_text()


CASES = [
    ("multiple choice", "B", ("B", "b", "(b)", "B.", "B. blue", "B) blue", "blue", "A", "", "Both")),
    ("multiple choice", "blue", ("Blue", "B", "  blue ")),
    ("numerical", "3", ("3", "3.00", "3.001", "3.01", "1,000", "three", "nan", "", "3e0", "-3")),
    ("numerical", "1,000", ("1000", "1,000", "10,00")),
    ("regression", "10", ("12", "10", "0", "-10", "1e1", "about 9", "")),
    ("regression", "0", ("0", "0.1", "-0.0")),
    ("OCR", "stop here now", ("stop here now", "Stop here", "stop", "now here stop", "", "a b c d e f", "stop  here now")),
    ("OCR", "", ("", "stop")),
    ("free-form", "a red car turns left", ("a red car turns left", "A  red car turns LEFT", "the red car", "cars turned left",
                                           "nothing", "", "левый")),
]


def test_lmms_eval_scores_as_squall_does(bench: Path) -> None:
    from squall.platform.report.lmms_eval_utils import squall_process_results, squall_score

    for problem_type, solution, answers in CASES:
        for answer in answers:
            expected = accuracy(answer, solution, ProblemType(problem_type))
            case = (problem_type, solution, answer)
            assert squall_score(answer.strip(), solution, problem_type) == pytest.approx(expected, abs=1e-12), case
            doc = {"id": "q", "video": "v", "solution": solution, "problem_type": problem_type}
            tagged = squall_process_results(doc, [f"<think>so <b></think>\n<answer>\n{answer} </answer> done"])
            assert tagged["squall_score"]["score"] == pytest.approx(expected, abs=1e-12), case


def test_a_mixture_is_grouped_by_kind(bench: Path) -> None:
    records = [record(i, f"{kind} {0.4 + 0.01 * i:g} seed={i}") for i in range(MAX_SEVERITIES + 1) for kind in ("fog", "snow")]
    names = exported(write(bench, records), bench / "mixed", "mix", TEMPLATES["video_r1"])
    assert names == ["mix_fog", "mix_snow"]


def test_what_lmms_eval_could_not_take_is_refused(bench: Path) -> None:
    with pytest.raises(ConfigError, match="task name 'My Bench': expected small letters"):
        exported(bench / "none.jsonl", bench / "x", "My Bench", TEMPLATES["compact"])
    with pytest.raises(DataError, match="clean.jsonl: no record says how its clip was corrupted"):
        exported(write(bench, [record(0, None)], "clean.jsonl"), bench / "x", "b", TEMPLATES["compact"])
    with pytest.raises(ConfigError, match="two conditions would get the same task name"):
        exported(write(bench, [record(0, "own:rain 0.5 seed=1"), record(1, "own_rain 0.5 seed=1")], "twice.jsonl"),
                         bench / "x", "b", TEMPLATES["compact"])
    assert not (bench / "x").exists()
