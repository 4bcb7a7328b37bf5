"""What a classifier is trained on: supervised losses, REINFORCE on one-step episodes, and its expectation in closed form.

An image is a state, a class an action, the reward 1 for the image's label and 0 otherwise (Zou et al., arXiv 2606.12251, as
their published code has it). All randomness comes in as numbers (`draw_chance`), so that a batch gets the same actions on any
number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field, model_validator

from squall.algorithms.schedules import Shape, anneal
from squall.platform.config import Config

if TYPE_CHECKING:
    import torch

Kind = Literal["ce", "label_smoothing", "mae", "pg", "pg_expected"]
FLOOR = 1e-6
"""Added to every probability by the published code, before it samples and again inside the logarithm."""
USES: Mapping[Kind, frozenset[str]] = {
    "ce": frozenset(), "label_smoothing": frozenset({"smoothing"}), "mae": frozenset(),
    "pg": frozenset({"exploration", "importance", "baseline", "entropy_bonus", "supervised_first"}),
    "pg_expected": frozenset({"exploration", "supervised_first"})}
"""Keys that an objective reads beside its kind."""


class ExplorationConfig(Config):
    """Epsilon-greedy exploration."""

    rate: float = Field(0.1, ge=0, le=1)
    """Probability that an action is drawn uniformly over the classes instead of from the policy."""
    final_rate: float = Field(0.0, ge=0, le=1)
    """Rate at the end of training, for a schedule that is not constant."""
    schedule: Shape = "constant"
    """How the rate goes from `rate` to `final_rate` over training."""
    per: Literal["batch", "sample"] = "batch"
    """Whether one draw decides for all images of a batch, as in the published code, or each image has its own."""

    def at(self, progress: float) -> float:
        """The rate at a progress of training in [0, 1]."""
        return anneal(self.rate, self.final_rate, self.schedule, progress)


class ObjectiveConfig(Config):
    """What is learned from an image and its label."""

    kind: Kind = "ce"
    """`ce` cross-entropy; `label_smoothing`; `mae` 2 (1 - p(label)); `pg` REINFORCE; `pg_expected` the expectation of pg's
    gradient."""
    smoothing: float = Field(0.1, gt=0, lt=1)
    """label_smoothing: share of the target that is spread over all classes."""
    exploration: ExplorationConfig = ExplorationConfig()
    """pg and pg_expected: how often actions are drawn at random."""
    importance: bool = False
    """pg: weigh actions by policy over behaviour probability, which takes the exploration's bias out."""
    baseline: Literal["none", "batch_mean"] = "none"
    """pg: subtract the batch's mean reward, so that wrong actions count too."""
    entropy_bonus: float = Field(0.0, ge=0)
    """pg: how much of the policy's entropy (nats) is subtracted from the loss."""
    supervised_first: float = Field(0.0, ge=0, le=1)
    """pg and pg_expected: fraction of training that learns by cross-entropy before the objective takes over."""

    @model_validator(mode="after")
    def _used(self) -> ObjectiveConfig:
        unused = [name for name in self.model_fields_set - {"kind"} - USES[self.kind]
                  if getattr(self, name) != type(self).model_fields[name].default]
        if unused:
            kinds = ", ".join(kind for kind, names in USES.items() if unused[0] in names)
            raise ValueError(f"{min(unused)} means nothing to kind {self.kind}; it belongs to {kinds}")
        return self

    def at(self, progress: float) -> ObjectiveConfig:
        """What is learned at a progress of training in [0, 1]: cross-entropy first, where the schedule is a hybrid."""
        return CROSS_ENTROPY if progress < self.supervised_first else self

    @property
    def samples(self) -> bool:
        """Whether actions are drawn."""
        return self.kind == "pg"

    @property
    def rewards(self) -> bool:
        """Whether there is a reward, drawn or expected."""
        return self.kind in ("pg", "pg_expected")


CROSS_ENTROPY = ObjectiveConfig()


@dataclass(frozen=True)
class Judged:
    """What an objective makes of B images."""

    loss: torch.Tensor
    """(B,), with a gradient."""
    actions: torch.Tensor | None = None
    """int64 (B,), where actions were drawn."""
    rewards: torch.Tensor | None = None
    """(B,): 1 for the label, else 0; the expected reward for `pg_expected`; None for supervised losses."""


Mean: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
"""The mean over the whole batch, of which a worker may hold only a part."""


def judge(config: ObjectiveConfig, logits: torch.Tensor, labels: torch.Tensor, *, rate: float = 0.0,
          chance: torch.Tensor | None = None, mean: Mean | None = None) -> Judged:
    """Loss of each image under an objective.

    Args:
        logits: (B, K).
        labels: int64 (B,).
        rate: exploration rate at this moment.
        chance: `draw_chance` of these images; `pg` alone needs it.
        mean: mean over the whole batch; by default that of these images.
    """
    if config.kind == "pg":
        assert chance is not None
        return _reinforce(config, logits, labels, rate, chance, mean or (lambda values: values.mean()))
    if config.kind == "pg_expected":
        weight = expected_weight(logits, labels, rate)
        return Judged(weight * _cross_entropy(logits, labels), rewards=weight)
    if config.kind == "mae":
        return Judged(2 * (1 - _of(logits.softmax(-1), labels)))
    return Judged(_cross_entropy(logits, labels, config.smoothing if config.kind == "label_smoothing" else 0.0))


def draw_chance(config: ObjectiveConfig, generator: torch.Generator, count: int) -> torch.Tensor:
    """Uniform numbers (count, 3) on the CPU, an image of a whole batch a row: coin, random action, policy's action."""
    import torch

    chance = torch.rand(count, 3, generator=generator)
    if config.exploration.per == "batch":
        chance[:, 0] = chance[0, 0].item()
    return chance


def action_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The policy (B, K) that actions are drawn from: softmax with a floor, as in the published code."""
    probabilities = logits.softmax(-1) + FLOOR
    return probabilities / probabilities.sum(-1, keepdim=True)


def expected_weight(logits: torch.Tensor, labels: torch.Tensor, rate: float) -> torch.Tensor:
    """How often the label is drawn, (B,): ``(1 - rate) p(label) + rate / K``, without a gradient.

    The expected gradient of published REINFORCE is that of cross-entropy times this weight: what the policy is sure of counts
    most, and what it gets wrong hardly at all.
    """
    right = _of(logits.detach().softmax(-1), labels)
    return (1 - rate) * right + rate / logits.shape[-1]


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy (B,) of the softmax, in nats."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def _reinforce(config: ObjectiveConfig, logits: torch.Tensor, labels: torch.Tensor, rate: float, chance: torch.Tensor,
               mean: Mean) -> Judged:
    policy = action_probabilities(logits)
    actions = _draw(policy.detach(), rate, chance.to(logits.device))
    rewards = (actions == labels).to(logits.dtype)
    advantages = rewards - mean(rewards) if config.baseline == "batch_mean" else rewards
    chosen = _of(policy, actions)
    if config.importance:
        behaviour = (1 - rate) * chosen.detach() + rate / logits.shape[-1]
        advantages = advantages * chosen.detach() / behaviour
    loss = -advantages * (chosen + FLOOR).log()
    if config.entropy_bonus:
        loss = loss - config.entropy_bonus * entropy(logits)
    return Judged(loss, actions, rewards)


def _draw(policy: torch.Tensor, rate: float, chance: torch.Tensor) -> torch.Tensor:
    classes = policy.shape[-1]
    at_random = (chance[:, 1] * classes).long()
    of_policy = (policy.cumsum(-1) < chance[:, 2:3]).sum(-1)
    return at_random.where(chance[:, 0] < rate, of_policy).clamp(max=classes - 1)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def _of(values: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The value of one class in each row."""
    return values.gather(-1, classes.unsqueeze(-1)).squeeze(-1)
