"""`squall demo`: the T-GRPO job on the embedded data, from the shipped policy, on whatever machine this is."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from squall.jobs import embedded_data, sft, tgrpo
from squall.platform.config import Config, load_config
from squall.platform.embedded.build import EmbeddedDataConfig


class DemoConfig(Config):
    """The demo's few switches; everything else is in the configurations it runs."""

    config: str = "@demo"
    """T-GRPO configuration to run."""
    overrides: tuple[str, ...] = ()
    """Overrides for it, such as ["steps=10"]."""
    from_scratch: bool = False
    """First train the starting policy from random weights with @sft, instead of taking the shipped one."""
    data: EmbeddedDataConfig = EmbeddedDataConfig()
    """Embedded data set."""


def run(config: DemoConfig) -> int:
    """Write the embedded clips, then train on them."""
    console = Console()
    embedded_data.run(config.data)
    overrides = [f"data.train={config.data.directory / 'train.jsonl'}",
                 f"evaluation.manifest={config.data.directory / 'test.jsonl'}", *config.overrides]
    if config.from_scratch:
        overrides.append(f"model.path={warm_up(config, console)}")
    else:
        console.print("starting from the policy that ships with Squall, warmed up on clean clips; "
                      "`squall demo --from-scratch` trains one first", soft_wrap=True)
    return tgrpo.run(load_config(tgrpo.TGRPOJobConfig, config.config, overrides))


def warm_up(config: DemoConfig, console: Console) -> Path:
    """Train the starting policy from random weights; returns its checkpoint."""
    initial = embedded_data.new_policy(config.data, config.data.directory / "initial-policy")
    console.print(f"training the starting policy from random weights in {initial}", soft_wrap=True)
    settings = load_config(sft.SFTJobConfig, "@sft", [f"model.path={initial}",
                                                     f"data.train={config.data.directory / 'train.jsonl'}"])
    return sft.train(settings)
