"""`squall train warm-up`: make the small policy that ships with Squall, from new weights.

Supervised fine-tuning on clean embedded clips in two stages, each clip seen once. Camera motion comes first: beside colour and
count, which single frames show, the small policy is slow to begin to see it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from rich.console import Console

from squall.jobs import embedded_data, sft
from squall.platform.config import Config, load_config
from squall.platform.embedded.build import EmbeddedDataConfig


class WarmUpConfig(Config):
    """Stages of the warm-up and where its clips go."""

    directory: Path = Path("data/warm-up")
    """Folder for the clips of each stage and for the initial policy."""
    output: Path = Path("runs")
    """Folder that run directories go into."""
    seed: int = 1
    """Seed of clips, weights and order. It is not the embedded data set's, so reinforcement learning sees other clips."""
    camera_steps: int = Field(900, ge=1)
    """Steps of the first stage, on camera motion alone."""
    steps: int = Field(1800, ge=1)
    """Steps of the second stage, on all question types."""
    config: str = "@sft"
    """Supervised configuration of both stages."""


def run(config: WarmUpConfig) -> int:
    """Train both stages and say where the policy is."""
    Console().print(f"warmed-up policy: {make_policy(config)}", soft_wrap=True)
    return 0


def make_policy(config: WarmUpConfig) -> Path:
    """Train a policy from new weights; returns its checkpoint."""
    types = EmbeddedDataConfig().question_types
    everything = EmbeddedDataConfig(directory=config.directory / "all", question_types=types, seed=config.seed)
    policy = embedded_data.new_policy(everything, config.directory / "initial-policy")
    for stage, kinds, steps in (("camera", ("camera",), config.camera_steps), ("all", types, config.steps)):
        policy = _train_stage(config, stage, kinds, steps, policy)
    return policy


def _train_stage(config: WarmUpConfig, stage: str, kinds: tuple[str, ...], steps: int, policy: Path) -> Path:
    folder = config.directory / stage
    settings = load_config(sft.SFTJobConfig, config.config, [
        f"model.path={policy}", f"steps={steps}", f"data.train={folder / 'train.jsonl'}", f"output={config.output}",
        f"seed={config.seed}", f"evaluation.manifest={folder / 'validation.jsonl'}"])
    embedded_data.run(EmbeddedDataConfig(
        directory=folder, question_types=kinds, seed=config.seed, train_clips=steps * settings.samples_per_step,
        validation_clips=settings.evaluation.questions, test_clips=4))
    return sft.train(settings)
