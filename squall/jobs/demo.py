"""`squall demo`: the T-GRPO job on the embedded data, from the shipped policy, on whatever machine this is."""

from __future__ import annotations

from rich.console import Console

from squall.jobs import embedded_data, tgrpo
from squall.jobs.warm_up import WarmUpConfig, make_policy
from squall.platform.config import Config, load_config
from squall.platform.embedded.build import EmbeddedDataConfig


class DemoConfig(Config):
    """The demo's few switches; everything else is in the configurations it runs."""

    config: str = "@demo"
    """T-GRPO configuration to run."""
    overrides: tuple[str, ...] = ()
    """Overrides for it, such as ["steps=10"]."""
    from_scratch: bool = False
    """First make the starting policy with `squall train warm-up`, instead of taking the shipped one."""
    warm_up: WarmUpConfig = WarmUpConfig()
    """That warm-up."""
    data: EmbeddedDataConfig = EmbeddedDataConfig()
    """Embedded data set."""


def run(config: DemoConfig) -> int:
    """Write the embedded clips, then train on them."""
    console = Console()
    embedded_data.run(config.data)
    overrides = [f"data.train={config.data.directory / 'train.jsonl'}",
                 f"evaluation.manifest={config.data.directory / 'test.jsonl'}", *config.overrides]
    if config.from_scratch:
        overrides.append(f"model.path={make_policy(config.warm_up)}")
    else:
        console.print("starting from the policy that ships with Squall, as `squall train warm-up` makes it on clean clips; "
                      "`squall demo --from-scratch` makes one first", soft_wrap=True)
    return tgrpo.run(load_config(tgrpo.TGRPOJobConfig, config.config, overrides))
