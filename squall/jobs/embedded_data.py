"""`squall data embedded`: write the embedded data set as H.264 files and Video-R1 manifests."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset, corpus, footage_clips
from squall.platform.embedded.tiny_policy import create_policy

__all__ = ["EmbeddedDataConfig", "new_policy", "run"]


def run(config: EmbeddedDataConfig) -> int:
    """Write the data set, or keep the one that is there with the same settings."""
    console = Console()
    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("clips", total=None)
        manifests = build_dataset(config, lambda done, total: bar.update(task, completed=done, total=total))
    counts = f"{config.train_clips} training, {config.validation_clips} validation, {config.test_clips} held-out clips"
    console.print(f"{manifests['train'].parent}: {counts} of {', '.join(config.question_types)}", soft_wrap=True)
    return 0


def new_policy(config: EmbeddedDataConfig, directory: Path) -> Path:
    """An untrained policy whose tokenizer and patch embedding know the data set."""
    return create_policy(directory, corpus(config, count=600), footage_clips(config, count=200), config.seed)
