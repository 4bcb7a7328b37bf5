"""Which sampler, its network, and what it learns from; and how it is built."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import model_validator

from squall.algorithms.masked_video.credit import CreditConfig
from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.samplers.fixed import RandomSampler, TubeSampler
from squall.algorithms.masked_video.samplers.flow import FlowConfig, FlowSampler
from squall.algorithms.masked_video.samplers.learned import LearnedSampler, NetworkKind, SamplerNetworkConfig
from squall.algorithms.masked_video.samplers.plans import Sampler
from squall.platform.config import Config

SamplerKind = Literal["random", "tube", "flow", "adamae", "tats", "reinforce"]
Rule = Literal["ppo", "reinforce", "token"]
LogProbability = Literal["plackett_luce", "categorical"]
RULES: Mapping[str, Rule] = MappingProxyType({"tats": "ppo", "reinforce": "reinforce", "adamae": "token"})
"""How each kind learns; the other kinds do not."""


class SamplerConfig(Config):
    """Who decides what is visible."""

    kind: SamplerKind = "tats"
    """`random` and `tube` know nothing of a clip; `flow` follows optical flow; `adamae` learns by policy gradient from every
    masked token; `tats` learns by PPO, and `reinforce`, its control, by REINFORCE with a learned baseline, from a clip's
    reward."""
    network: SamplerNetworkConfig = SamplerNetworkConfig()
    """Sizes of a learned sampler."""
    attention: NetworkKind | None = None
    """Blocks of a learned sampler: `attention` is AdaMAE's own, `trajectory` that of the others."""
    credit: CreditConfig | None = None
    """What a learned sampler is rewarded for. By default adamae's is visible, token, loss; the others' visible, clip,
    minus_loss."""
    log_probability: LogProbability = "plackett_luce"
    """reinforce: exact, or the categorical shortcut, which is biased. tats takes the exact one alone: a ratio of anything else
    is not one of actions."""
    flow: FlowConfig = FlowConfig()
    """flow: how it becomes probabilities."""

    @model_validator(mode="after")
    def _learnable(self) -> SamplerConfig:
        rule, credit = RULES.get(self.kind), self.credit
        for key, given in (("credit", credit), ("attention", self.attention)):
            if given is not None and rule is None:
                raise ValueError(f"{key} means nothing to kind {self.kind}, which does not learn")
        if credit is not None and (credit.per == "token") != (rule == "token"):
            fitting = "token" if rule == "token" else "clip"
            why = "" if rule == "token" else ": the masked tokens are not the action, whose log-probability it needs"
            raise ValueError(f"kind {self.kind} learns from {fitting} credit, not from {credit.per} credit{why}")
        if self.log_probability == "categorical" and self.kind != "reinforce":
            raise ValueError(f"log_probability categorical belongs to kind reinforce, not to {self.kind}: a PPO ratio exists "
                             "only where the log-probability is that of the action taken")
        return self

    @property
    def rule(self) -> Rule | None:
        """How it learns."""
        return RULES.get(self.kind)

    @property
    def credits(self) -> CreditConfig:
        """What it is rewarded for, given or by default."""
        if self.credit is not None:
            return self.credit
        return CreditConfig(per="token", reward="loss") if self.rule == "token" else CreditConfig()


def build_sampler(config: SamplerConfig, grid: TokenGrid, token_width: int) -> Sampler:
    """The sampler, its weights from torch's global generator.

    Args:
        token_width: numbers of a token of the autoencoder.
    """
    if config.kind == "random":
        return RandomSampler(grid)
    if config.kind == "tube":
        return TubeSampler(grid)
    if config.kind == "flow":
        return FlowSampler(grid, config.flow)
    attention = config.attention or ("attention" if config.rule == "token" else "trajectory")
    return LearnedSampler(grid, token_width, config.network, attention, config.rule != "token", config.credits.chooses)
