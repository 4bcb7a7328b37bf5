"""Task files with which lmms-eval asks its own models about clips that Squall corrupted."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from squall.platform.errors import ConfigError, DataError
from squall.platform.manifest import write_manifest
from squall.platform.prompts import PromptTemplate
from squall.platform.records import VideoSample
from squall.platform.report_card import CLEAN
from squall.platform.runs import write_text

MAX_SEVERITIES = 12
"""A mixture draws more; its conditions are kinds, whatever the severity."""
TEMPLATE = "_default_template_yaml"
FUNCTIONS = Path(__file__).parent / "lmms_eval_utils.py"
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


class _Function(str):
    """A function of utils.py, which YAML marks ``!function``."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def export_lmms_eval(samples: Sequence[VideoSample], source: Path, folder: Path, name: str, template: PromptTemplate,
                     max_tokens: int = 1024) -> list[str]:
    """Write a task for each condition, a group over the corrupted ones, their functions and a README; returns the tasks.

    Questions are in a file of their own for each task, by which lmms-eval finds them at the place where they are written
    now; clips are found from the folder. The mean of the group is that over its conditions, each of which counts the same.

    Args:
        samples: about corrupted copies, as `squall corrupt` and `squall bench build` describe them; those without a corruption
            become the clean task.
        source: the manifest or benchmark they come from, for messages.
        name: of the group, of small letters, digits and underscores; tasks are called NAME_KIND_SEVERITY.
        template: the prompt, which is written out for every question.

    Raises:
        ConfigError: a name that lmms-eval could not take.
        DataError: no sample says how its clip was corrupted.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"task name '{name}': expected small letters, digits and underscores, such as outdoor_c")
    conditions = _by_condition(samples)
    if not conditions.keys() - {CLEAN}:
        raise DataError(f"{source}: no record says how its clip was corrupted; `squall corrupt` writes such manifests",
                        reason="no_corruption")
    names = {condition: f"{name}_{_slug(condition)}" for condition in conditions}
    if len(set(names.values())) < len(names):
        raise ConfigError(f"{source}: two conditions would get the same task name: {', '.join(sorted(names.values()))}")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for condition, samples in conditions.items():
        data = folder / "data" / f"{names[condition]}.jsonl"
        write_manifest(data, (_doc(sample, condition, folder, template) for sample in samples))
        _write_yaml(folder / f"{names[condition]}.yaml", {
            "include": TEMPLATE, "task": names[condition], "dataset_kwargs": {"data_files": {"test": str(data.absolute())}}})
    corrupted = [task for condition, task in names.items() if condition != CLEAN]
    _write_yaml(folder / TEMPLATE, _shared(max_tokens))
    _write_yaml(folder / f"{name}.yaml", {
        "group": name, "task": corrupted,
        "aggregate_metric_list": [{"metric": "squall_score", "aggregation": "mean", "weight_by_size": False}],
        "metadata": {"version": 1.0}})
    shutil.copyfile(FUNCTIONS, folder / "utils.py")
    tasks = f"{name},{names[CLEAN]}" if CLEAN in names else name
    write_text(folder / "README.md", _README.format(tasks=tasks, folder=folder.absolute(), name=name))
    return [*names.values()]


def _by_condition(samples: Sequence[VideoSample]) -> dict[str, list[VideoSample]]:
    """Samples by condition, clean first, the others in the order of the manifest."""
    parsed = [_parse(sample.metadata.get("corruption")) for sample in samples]
    by_kind = len({severity for _, severity in parsed}) > MAX_SEVERITIES
    grouped: dict[str, list[VideoSample]] = {CLEAN: []}
    for sample, (kind, severity) in zip(samples, parsed, strict=True):
        condition = kind if by_kind or severity is None else f"{kind} {severity}"
        condition = str(sample.metadata.get("condition", condition))  # a benchmark names its own
        grouped.setdefault(condition, []).append(sample)
    return {condition: own for condition, own in grouped.items() if own}


def _parse(spec: str | None) -> tuple[str, str | None]:
    """Kinds and the first one's severity of a spec as it prints itself."""
    if not spec:
        return CLEAN, None
    members = [member.split() for member in spec.split(" + ")]
    return "+".join(member[0] for member in members), members[0][1]


def _slug(condition: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", condition.lower()).strip("_")


def _doc(sample: VideoSample, condition: str, folder: Path, template: PromptTemplate) -> dict[str, Any]:
    """One question as utils.py reads it: the same fields in every line, since the loader infers their types."""
    return {
        "id": sample.id, "path": Path(os.path.relpath(sample.media, folder.absolute())).as_posix(),
        "video": str(sample.metadata.get("source") or sample.media), "media_type": str(sample.media_type),
        "problem": sample.problem, "options": list(sample.options), "problem_type": str(sample.problem_type),
        "solution": sample.solution, "prompt": template.render(sample), "condition": condition,
        "corruption": str(sample.metadata.get("corruption") or "")}


def _shared(max_tokens: int) -> dict[str, Any]:
    """What all tasks have in common. Without ``until`` lmms-eval would cut reasoning at its first empty line."""
    return {
        "dataset_path": "json", "test_split": "test", "output_type": "generate_until",
        "doc_to_visual": _Function("utils.squall_doc_to_visual"), "doc_to_text": _Function("utils.squall_doc_to_text"),
        "doc_to_target": "solution", "process_results": _Function("utils.squall_process_results"),
        "generation_kwargs": {"max_new_tokens": max_tokens, "temperature": 0, "do_sample": False, "until": []},
        "metric_list": [{"metric": "squall_score", "aggregation": _Function("utils.squall_mean"), "higher_is_better": True}],
        "cluster_key": "video", "score_key": "score",
        "lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": ""}},
        "metadata": [{"version": 1.0}]}


def _write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000))


_README = """# {name}: corrupted clips for lmms-eval

```bash
python -m lmms_eval --include_path "{folder}" --tasks {tasks} --batch_size 1 \\
    --model qwen2_5_vl --model_args pretrained=Qwen/Qwen2.5-VL-7B-Instruct
```

`{name}` is a group with a task for each condition; its mean counts every condition the same. The task files name the data by
its absolute path: after a move, export again. Needs lmms-eval 0.6 or later (`cluster_key`), and rouge-score for free-form
questions. A text without an answer tag counts as the answer as a whole.
"""
