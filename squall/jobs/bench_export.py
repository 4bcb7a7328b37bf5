"""`squall bench export SOURCE OUTPUT`: task files with which lmms-eval asks its own models about corrupted copies."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from squall.jobs.console import counted, say
from squall.platform.bench_card import load_conditions, read_bench
from squall.platform.config import Config
from squall.platform.manifest import load_manifest
from squall.platform.prompts import prompt_template
from squall.platform.report.lmms_eval import export_lmms_eval


class BenchExportConfig(Config):
    """Corrupted copies for lmms-eval."""

    source: Path
    """SOURCE: the folder of a benchmark, or the manifest that `squall corrupt` wrote."""
    output: Path
    """OUTPUT: folder for the task files, which refer to the clips where they are."""
    name: str = "squall_bench"
    """Of the group of tasks: small letters, digits and underscores."""
    prompt_template: str = "video_r1"
    """As `squall evaluate` would ask: `video_r1`, `compact`, or a text with {question}."""
    max_tokens: int = 1024
    """Longest answer in tokens."""


def run(config: BenchExportConfig) -> int:
    """Write the tasks and say how to run them."""
    if config.source.is_dir():
        manifests = load_conditions(config.source, read_bench(config.source))
        samples = [sample for manifest in manifests.values() for sample in manifest.samples]
    else:
        samples = list(load_manifest(config.source).samples)
    tasks = export_lmms_eval(samples, config.source, config.output, config.name, prompt_template(config.prompt_template),
                             config.max_tokens)
    console = Console()
    say(console, f"{counted(len(tasks), 'task')}: {', '.join(tasks)}")
    say(console, f"how to run them: {config.output / 'README.md'}")
    return 0
