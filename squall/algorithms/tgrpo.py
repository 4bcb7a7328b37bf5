"""T-GRPO: group-relative policy optimisation with a contrast between ordered and shuffled frames.

Video-R1 (arXiv 2503.21776) introduced the contrast, ROVA (arXiv 2603.10652) the corrupted branch. What their code does
otherwise than they say, and what is done here instead, is in docs/tgrpo.md.
Shapes: G answers of one branch, B sequences, L answer tokens (padded).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from squall.algorithms.accuracy import PUBLISHED_CORRECT_ABOVE
from squall.algorithms.alignment import AlignmentConfig
from squall.algorithms.difficulty import DifficultyConfig
from squall.algorithms.rewards import LEARNER_REWARDS, RewardConfig
from squall.platform.config import Config
from squall.platform.errors import ConfigError, DataError, nearest
from squall.platform.records import Branch, ScoredGroup, TrainGroup

Contrast = Literal["post_norm", "unnormalised", "video_r1", "off"]

STD_EPSILON = 1e-4
"""Added to the sample standard deviation, as Video-R1 and ROVA do."""
NO_SIGNAL = 1e-6
"""Advantages and standard deviations below this are rounding, not signal."""
MAX_LOG_RATIO = 20.0
"""exp() of a larger difference of log-probabilities would overflow; far outside any clip range."""


class TGRPOConfig(Config):
    """Groups, advantages and loss of T-GRPO."""

    optimise: Literal["perturbed", "clean", "both"] = "perturbed"
    """Train answers about corrupted clips, against shuffled corrupted ones; about clean clips, against shuffled ones; or about
    corrupted clips and, normalised within themselves and without contrast, the clean answers too."""
    samples_per_group: int = Field(8, ge=2)
    """G: answers of the trained branch."""
    clean_samples: int = Field(2, ge=0)
    """Answers about the clean clip beside a trained corrupted branch: what alignment holds corrupted answers against."""
    corrupted_samples: int = Field(0, ge=0)
    """Answers about the corrupted clip beside a trained clean branch, for optimise: clean; what ROVA's published code holds
    clean answers against, with rewards.alignment.anchor: corrupted."""
    shuffled_samples: int = Field(4, ge=0)
    """Answers about the shuffled clip; scored, never trained."""
    normalise: Literal["std", "none"] = "std"
    """Divide centred rewards by their sample standard deviation + 1e-4, or leave them on the scale of the rewards."""
    contrast: Contrast = "post_norm"
    """Where the temporal bonus enters: after normalisation; in rewards that are not divided by their std; in rewards
    that are, as published, where it cancels for 0/1 rewards; nowhere."""
    contrast_weight: float = Field(0.3, ge=0.0)
    """alpha: bonus of a correct answer, in units of the advantage (post_norm) or of the reward."""
    contrast_threshold: float = Field(1.0, ge=0.0)
    """mu: the bonus is given when p > mu * p~ (video_r1: p >= mu * p~), mean accuracies on ordered and shuffled."""
    correct_above: float = Field(0.5, ge=0.0, lt=1.0)
    """An answer is correct when its accuracy is above this."""
    clip_low: float = Field(0.2, ge=0.0, lt=1.0)
    """The ratio to the sampling policy is clipped from below at 1 - clip_low."""
    clip_high: float = Field(0.2, ge=0.0)
    """And from above at 1 + clip_high; 0.28 leaves more room for unlikely tokens."""
    kl_beta: float = Field(0.01, ge=0.0)
    """Weight of the k3 estimate of the KL divergence to the reference policy."""
    importance_cap: float | None = Field(2.0, gt=0.0)
    """Upper bound of the engine-learner importance weight (truncated importance sampling); null switches it off."""
    loss_aggregation: Literal["token", "sequence"] = "token"
    """Mean over all tokens of the global batch, or mean over sequences of each one's token mean."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        needed = {"post_norm": "std", "video_r1": "std", "unnormalised": "none"}.get(self.contrast, self.normalise)
        if self.normalise != needed:
            raise ValueError(
                f"contrast: {self.contrast} needs normalise: {needed}, not {self.normalise}."
                " With normalise: none use contrast: unnormalised or off"
            )
        if self.contrast != "off" and not self.shuffled_samples:
            raise ValueError(f"contrast: {self.contrast} needs shuffled_samples >= 1; set it, or contrast: off")
        if self.optimise == "both" and self.clean_samples < 2:
            raise ValueError("optimise: both trains the clean answers too and needs clean_samples >= 2, not "
                             f"{self.clean_samples}")
        if self.corrupted_samples and self.optimise != "clean":
            raise ValueError("corrupted_samples go beside a trained clean branch (optimise: clean); the size of a trained "
                             "corrupted branch is samples_per_group")
        return self

    @property
    def trained_branch(self) -> Branch:
        """The branch that the contrast and the group's statistics are about."""
        return Branch.CLEAN if self.optimise == "clean" else Branch.CORRUPTED

    @property
    def corrupts(self) -> bool:
        """Whether a corrupted clip is asked about."""
        return self.optimise != "clean" or self.corrupted_samples > 0

    def branch_sizes(self) -> dict[Branch, int]:
        """Answers to sample per branch of a video; an image has no frames to shuffle, its shuffled branch is empty."""
        if self.optimise == "clean":
            return {
                Branch.CLEAN: self.samples_per_group,
                Branch.CORRUPTED: self.corrupted_samples,
                Branch.SHUFFLED: self.shuffled_samples,
            }
        return {
            Branch.CLEAN: self.clean_samples,
            Branch.CORRUPTED: self.samples_per_group,
            Branch.SHUFFLED: self.shuffled_samples,
        }


class Preset(NamedTuple):
    """A published method as configuration."""

    tgrpo: TGRPOConfig
    rewards: RewardConfig
    difficulty: DifficultyConfig = DifficultyConfig()


def preset(name: str) -> Preset:
    """Configuration of a published method: ``video_r1``, ``rova``, ``rova_code``. Raises ConfigError for another name."""
    if name not in _PRESETS:
        raise ConfigError(f"unknown preset '{name}'.{nearest(name, _PRESETS)} Allowed: {', '.join(_PRESETS)}")
    return _PRESETS[name]


_PRESETS: Mapping[str, Preset] = {
    "video_r1": Preset(
        TGRPOConfig(
            optimise="clean",
            contrast="video_r1",
            contrast_threshold=0.8,
            correct_above=PUBLISHED_CORRECT_ABOVE,
            kl_beta=0.04,
            importance_cap=None,
            loss_aggregation="sequence",
        ),
        RewardConfig(weights={"accuracy": 1.0, "format": 1.0, "length": 0.2}, published_quirks=True),
    ),
    # The paper as it means itself: corrupted answers trained against clean anchors, easy ones left out, difficult ones put off.
    "rova": Preset(
        TGRPOConfig(samples_per_group=8, clean_samples=8, shuffled_samples=4, kl_beta=0.01),
        RewardConfig(weights={"accuracy": 1.0, "format": 1.0, "alignment": 1.0}),
        DifficultyConfig(reading="answers"),
    ),
    # What its trainers run: clean answers trained, each held against the corrupted one of the same index, the temporal bonus
    # lost on the way, nothing left out.
    "rova_code": Preset(
        TGRPOConfig(
            optimise="clean",
            samples_per_group=8,
            corrupted_samples=8,
            shuffled_samples=4,
            normalise="std",
            contrast="off",
            kl_beta=0.04,
            importance_cap=None,
            loss_aggregation="sequence",
        ),
        RewardConfig(
            weights={"accuracy": 1.0, "format": 1.0, "alignment": 1.0},
            alignment=AlignmentConfig(anchor=Branch.CORRUPTED, reference="paired"),
            published_quirks=True,
        ),
    ),
}


# --- advantages ---


def group_advantages(scored: ScoredGroup, config: TGRPOConfig, weights: Mapping[str, float]) -> TrainGroup:
    """Turn rewards into advantages; rollouts that are not trained get None.

    Args:
        weights: weight per reward name. Rewards without a weight do not count.

    The statistics hold, besides ``accuracy_<branch>``: ``reward_mean`` and ``reward_std`` of the trained branch
    (without bonus), ``zero_variance`` (0 or 1), ``contrast_gap`` = p - p~, ``contrast_active`` (an answer got the
    bonus), ``contrast_effective`` = the largest change of an advantage that the contrast made, and
    ``temporal_hit`` (p > p~). A statistic that is not defined is absent: those of the contrast without
    shuffled answers, ``temporal_hit`` when all answers are wrong.

    Raises:
        ConfigError: a weighted reward was not computed.
        DataError: the trained branch has no rollout.
    """
    branches, accuracies = _branches(scored), _accuracies(scored)
    trained = branches == config.trained_branch.value
    if not trained.any():
        raise DataError(
            f"group {scored.sampled.group_id}: no rollout of the trained branch '{config.trained_branch}'",
            sample_id=scored.sampled.sample.id,
            reason="empty_branch",
        )

    rewards = _total_rewards(scored, weights)
    bonus_G = contrast_bonuses(scored, config)[trained]
    advantages = np.full(len(branches), np.nan)
    plain_G = contrast_advantages(rewards[trained], np.zeros_like(bonus_G), config)
    advantages[trained] = contrast_advantages(rewards[trained], bonus_G, config)
    statistics = _statistics(rewards[trained], accuracies, branches, config) | {
        "contrast_effective": float(np.abs(advantages[trained] - plain_G).max()),
        "contrast_active": float(bonus_G.any()),
    }
    clean = branches == Branch.CLEAN.value
    if config.optimise == "both" and clean.any():
        advantages[clean] = contrast_advantages(rewards[clean], np.zeros(clean.sum()), config)
    return TrainGroup(scored, tuple(None if np.isnan(a) else float(a) for a in advantages), statistics)


def contrast_bonuses(scored: ScoredGroup, config: TGRPOConfig) -> np.ndarray:
    """Temporal bonus of each rollout, in the order of ``scored.sampled.rollouts``; 0 outside the trained branch."""
    branches, accuracies = _branches(scored), _accuracies(scored)
    trained, shuffled = branches == config.trained_branch.value, branches == Branch.SHUFFLED.value
    active = shuffled.any() and _contrast_active(accuracies[trained].mean(), accuracies[shuffled].mean(), config)
    return config.contrast_weight * active * (trained & (accuracies > config.correct_above))


def contrast_advantages(rewards_G: np.ndarray, bonus_G: np.ndarray, config: TGRPOConfig) -> np.ndarray:
    """Group-relative advantages (G,) of one branch, with sum 0; `bonus_G` is the temporal bonus of each answer.

    post_norm: (R - mean R) / (std R + 1e-4) + (bonus - mean bonus), which no division can cancel.
    """
    if config.contrast == "post_norm":
        return _normalise(rewards_G, config) + (bonus_G - bonus_G.mean())
    return _normalise(rewards_G + bonus_G, config)


def has_signal(group: TrainGroup) -> bool:
    """Whether any rollout of the group has a gradient; a group whose rewards are all equal has none."""
    return any(advantage is not None and abs(advantage) > NO_SIGNAL for advantage in group.advantages)


def _normalise(rewards_G: np.ndarray, config: TGRPOConfig) -> np.ndarray:
    centred_G = rewards_G - rewards_G.mean()
    return centred_G if config.normalise == "none" else centred_G / (_sample_std(rewards_G) + STD_EPSILON)


def _sample_std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _contrast_active(ordered_mean: float, shuffled_mean: float, config: TGRPOConfig) -> bool:
    if config.contrast == "off":
        return False
    threshold = config.contrast_threshold * shuffled_mean
    return bool(ordered_mean >= threshold if config.contrast == "video_r1" else ordered_mean > threshold)


def sampling_rewards(scored: ScoredGroup, weights: Mapping[str, float]) -> np.ndarray:
    """Weighted sum of each rollout's rewards but the learner's. Raises ConfigError when one was not computed."""
    own = {name: weight for name, weight in weights.items() if name not in LEARNER_REWARDS}
    missing = [name for name in own if any(name not in row for row in scored.rewards)]
    if missing:
        raise ConfigError(
            f"group {scored.sampled.group_id}: reward '{missing[0]}' has a weight but was not computed."
            f" Computed: {', '.join(scored.rewards[0])}"
        )
    return np.array([sum(weight * row[name] for name, weight in own.items()) for row in scored.rewards])


def _total_rewards(scored: ScoredGroup, weights: Mapping[str, float]) -> np.ndarray:
    """The learner's rewards come last, as in the learner itself: the same sum to the last bit. Absent, they add nothing."""
    total = sampling_rewards(scored, weights)
    for name in LEARNER_REWARDS:
        total = total + np.array([weights.get(name, 0.0) * row.get(name, 0.0) for row in scored.rewards])
    return total


def _branches(scored: ScoredGroup) -> np.ndarray:
    return np.array([rollout.branch.value for rollout in scored.sampled.rollouts])


def _accuracies(scored: ScoredGroup) -> np.ndarray:
    return np.array([row["accuracy"] for row in scored.rewards])


def _statistics(
    trained_rewards: np.ndarray, accuracies: np.ndarray, branches: np.ndarray, config: TGRPOConfig
) -> dict[str, float]:
    accuracy = {
        branch: float(accuracies[branches == branch.value].mean())
        for branch in Branch
        if (branches == branch.value).any()
    }
    std = _sample_std(trained_rewards)
    statistics = {f"accuracy_{branch.value}": value for branch, value in accuracy.items()}
    statistics |= {
        "reward_mean": float(trained_rewards.mean()),
        "reward_std": std,
        "zero_variance": float(std < NO_SIGNAL),
    }
    if Branch.SHUFFLED not in accuracy:
        return statistics
    ordered, shuffled = accuracy[config.trained_branch], accuracy[Branch.SHUFFLED]
    statistics["contrast_gap"] = ordered - shuffled
    if ordered > 0.0 or shuffled > 0.0:
        statistics["temporal_hit"] = float(ordered > shuffled)
    return statistics


# --- loss ---


@dataclass(frozen=True, slots=True)
class LossTerms:
    """Sums, never means, so that the caller divides by totals over all workers and micro-batches."""

    loss_sum: torch.Tensor
    """Scalar with gradient. Divide by the global `tokens` or `sequences`, as `loss_aggregation` says."""
    tokens: torch.Tensor
    sequences: torch.Tensor
    """Sequences with at least one token."""
    kl_sum: torch.Tensor
    """k3 estimate over tokens, nats."""
    ratio_sum: torch.Tensor
    clipped_tokens: torch.Tensor
    """Tokens whose gradient the clip range removed."""
    importance_sum: torch.Tensor
    """Truncated engine-learner weights over tokens."""
    importance_capped_tokens: torch.Tensor
    mismatch_sum: torch.Tensor
    """|learner - engine| log-probability over tokens, nats; both under the sampling weights."""
    mismatch_kl_sum: torch.Tensor
    """k3 estimate of KL(engine || learner) over tokens, nats; both under the sampling weights."""
    entropy_sum: torch.Tensor
    """-log-probability of the sampled tokens: its mean estimates the entropy on policy."""
    importance_max: torch.Tensor
    """Largest weight before truncation: the one term to reduce by max."""

    def sums(self) -> dict[str, torch.Tensor]:
        """The detached terms that add up over workers and micro-batches, scalars by name."""
        names = [f.name for f in fields(self) if f.name != "importance_max"]
        return {name: getattr(self, name).detach() for name in names}


def token_loss(
    logprobs_BL: torch.Tensor,
    old_logprobs_BL: torch.Tensor,
    engine_logprobs_BL: torch.Tensor | None,
    reference_logprobs_BL: torch.Tensor | None,
    advantages_B: torch.Tensor,
    mask_BL: torch.Tensor,
    config: TGRPOConfig,
) -> LossTerms:
    """Clipped surrogate with truncated importance sampling and k3 KL to the reference, summed (ROVA, section 3).

    Per token: -w min(rho A, clip(rho, 1 - low, 1 + high) A) + beta (e^x - x - 1), with rho = exp(lp - old),
    w = min(cap, exp(old - engine)) without gradient, x = clamp(reference - lp, -10, 10).

    Args:
        logprobs_BL: of the answer tokens under the policy in training, with gradient, nats, shape (B, L).
        old_logprobs_BL: under the weights that sampled them, computed by the learner; pass ``logprobs.detach()``
            when the policy has not moved since.
        engine_logprobs_BL: as the engine reported them; None leaves out the mismatch correction.
        reference_logprobs_BL: under the reference policy; None only when `kl_beta` is 0.
        mask_BL: true on answer tokens; what lies outside, even NaN, does not count.

    Raises:
        ValueError: no reference is given although `kl_beta` is above 0.
    """
    if config.kl_beta and reference_logprobs_BL is None:
        raise ValueError(f"token_loss: kl_beta = {config.kl_beta} needs reference log-probabilities, or set it to 0")
    mask_BL = mask_BL.bool()
    lp_BL = _masked(logprobs_BL, mask_BL)
    old_BL = _masked(old_logprobs_BL, mask_BL).detach()
    engine_BL = old_BL if engine_logprobs_BL is None else _masked(engine_logprobs_BL, mask_BL).detach()
    reference_BL = lp_BL if reference_logprobs_BL is None else _masked(reference_logprobs_BL, mask_BL).detach()

    ratio_BL = torch.exp((lp_BL - old_BL).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    advantages_B1 = advantages_B.to(ratio_BL)[:, None]
    free_BL = ratio_BL * advantages_B1
    clipped_BL = ratio_BL.clamp(1.0 - config.clip_low, 1.0 + config.clip_high) * advantages_B1
    gap_BL = (old_BL - engine_BL).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    raw_weight_BL = torch.exp(gap_BL)
    cap = config.importance_cap
    weight_BL = torch.ones_like(raw_weight_BL) if cap is None else raw_weight_BL.clamp(max=cap)
    x_BL = (reference_BL - lp_BL).clamp(-10.0, 10.0)
    kl_BL = torch.exp(x_BL) - x_BL - 1.0
    loss_BL = -weight_BL * torch.minimum(free_BL, clipped_BL) + config.kl_beta * kl_BL

    def total(values_BL: torch.Tensor) -> torch.Tensor:
        return values_BL.detach().masked_fill(~mask_BL, 0.0).sum()

    tokens_B = mask_BL.sum(dim=1)
    return LossTerms(
        loss_sum=_aggregate(loss_BL.masked_fill(~mask_BL, 0.0), tokens_B, config),
        tokens=tokens_B.sum(),
        sequences=(tokens_B > 0).sum(),
        kl_sum=total(kl_BL),
        ratio_sum=total(ratio_BL),
        clipped_tokens=(mask_BL & (clipped_BL < free_BL)).sum(),
        importance_sum=total(weight_BL),
        importance_capped_tokens=(mask_BL & (weight_BL < raw_weight_BL)).sum(),
        mismatch_sum=total((old_BL - engine_BL).abs()),
        mismatch_kl_sum=total(raw_weight_BL - gap_BL - 1.0),
        entropy_sum=total(-lp_BL),
        importance_max=raw_weight_BL.masked_fill(~mask_BL, 0.0).max(),
    )


def _masked(values_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """float32, with padding at 0: padding may hold -inf or NaN, which no later multiplication by 0 would remove."""
    return values_BL.float().masked_fill(~mask_BL, 0.0)


def _aggregate(loss_BL: torch.Tensor, tokens_B: torch.Tensor, config: TGRPOConfig) -> torch.Tensor:
    """Terms about 1 cancel to sums near 0, so they are added in float64; the gradient is the same."""
    if config.loss_aggregation == "token":
        return loss_BL.sum(dtype=torch.float64).float()
    return (loss_BL.sum(dim=1, dtype=torch.float64) / tokens_B.clamp(min=1)).sum().float()
