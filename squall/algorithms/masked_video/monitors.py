"""What tells whether a sampler still chooses, whether it looks at clips, and whether it finds motion."""

from __future__ import annotations

import math

import torch
from pydantic import Field

from squall.algorithms.classifier_training import Share
from squall.algorithms.masked_video.autoencoder import Reconstruction
from squall.algorithms.masked_video.samplers.plans import MaskPlan
from squall.algorithms.masked_video.subsets import most_sequence_entropy, sequence_entropy
from squall.platform.config import Config

SUMS = ("loss", "entropy", "sequence_entropy", "top_mass")
MOTION_SUMS = ("sampled", "sampled_moving", "visible", "visible_moving", "tokens", "tokens_moving", "moving_loss",
               "moving_masked", "still_loss", "still_masked")


class CollapseConfig(Config):
    """When a sampler counts as collapsed."""

    least_entropy: float = Field(0.3, ge=0, le=1)
    """Entropy of whole actions over that of drawing at random; below this it always draws the same."""
    most_overlap: float = Field(0.9, gt=0, le=1)
    """Mean share of drawn tokens that two clips have in common, chance taken off: (overlap - K / N) / (1 - K / N). Above this
    it does not look at clips."""


class MaskMonitor:
    """Adds up what the plans of one training step are like, a microbatch at a time."""

    def __init__(self, tokens: int, device: torch.device, masks: int = 1) -> None:
        """`masks` of each clip follow one another in plans."""
        self.tokens, self.masks = tokens, masks
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        self.motion = torch.zeros(len(MOTION_SUMS), dtype=torch.float64, device=device)
        self.counts = torch.zeros(tokens, dtype=torch.float64, device=device)
        self.own_pairs = torch.zeros(1, dtype=torch.float64, device=device)
        self.drawn = 0

    def add(self, plan: MaskPlan, made: Reconstruction, motion: torch.Tensor | None = None) -> None:
        """Take in a microbatch; `motion` is bool (B, N), one row a mask, true where tokens are on true motion."""
        self.drawn = plan.action.shape[1]
        logits = plan.proposal.logits.detach()
        figures = (made.losses, plan.entropy, sequence_entropy(logits, plan.action),
                   logits.softmax(1).topk(self.drawn, dim=1).values.sum(1))
        self.sums += torch.stack([each.detach().double().sum() for each in figures])
        drawn = torch.zeros(len(logits), self.tokens, device=logits.device).scatter(1, plan.action, 1.0)
        by_clip = drawn.unflatten(0, (-1, self.masks)).sum(1).double()
        self.counts += by_clip.sum(0)
        self.own_pairs += by_clip.square().sum()
        if motion is not None:
            self.motion += _motion_sums(plan, made, motion)

    def figures(self, clips: int, share: Share, collapse: CollapseConfig, moving: bool) -> dict[str, float]:
        """Of `clips` clips and all masks of theirs, over all workers, which all call this.

        `entropy_share` and `sequence_entropy_share` are 1 for drawing at random, and `overlap` 0; `top_mass` is the probability
        of the K likeliest tokens, K / N at random.

        Args:
            moving: whether every `add` had true motion.
        """
        joined = torch.cat([self.sums, self.motion, self.own_pairs, self.counts])
        share.add(joined)
        sums, motion, own_pairs, counts = joined.split([len(SUMS), len(MOTION_SUMS), 1, self.tokens])
        loss, spread, whole, top = (sums / (clips * self.masks)).tolist()
        figures = {"loss": loss, "entropy": spread, "entropy_share": spread / math.log(self.tokens),
                   "sequence_entropy_share": whole / most_sequence_entropy(self.tokens, self.drawn), "top_mass": top,
                   "overlap": self._overlap(float(counts.square().sum() - own_pairs), clips)}
        figures["collapsed"] = float(figures["sequence_entropy_share"] < collapse.least_entropy
                                     or figures["overlap"] > collapse.most_overlap)
        return figures | (_motion_figures(motion) if moving else {})

    def _overlap(self, pairs: float, clips: int) -> float:
        """`pairs` of draws are of the same token in two clips."""
        if clips < 2:
            return 0.0
        overlap, chance = pairs / (clips * (clips - 1) * self.masks**2 * self.drawn), self.drawn / self.tokens
        return (overlap - chance) / (1 - chance)


def _motion_sums(plan: MaskPlan, made: Reconstruction, motion: torch.Tensor) -> torch.Tensor:
    sampled, visible, masked = (motion.gather(1, places) for places in (plan.action, plan.visible, plan.masked))
    losses = made.token_losses.detach()
    parts = [torch.tensor(each.numel()) for each in (sampled, visible, motion)]
    found = [each.sum() for each in (sampled, visible, motion)]
    ends = [(losses * masked).sum(), masked.sum(), (losses * ~masked).sum(), (~masked).sum()]
    pairs = [figure for pair in zip(parts, found, strict=True) for figure in pair]
    return torch.stack([each.to(motion.device, torch.float64) for each in (*pairs, *ends)])


def _motion_figures(sums: torch.Tensor) -> dict[str, float]:
    named = dict(zip(MOTION_SUMS, sums.tolist(), strict=True))
    pairs = {"motion/sampled": ("sampled_moving", "sampled"), "motion/visible": ("visible_moving", "visible"),
             "motion/chance": ("tokens_moving", "tokens"), "loss/moving": ("moving_loss", "moving_masked"),
             "loss/still": ("still_loss", "still_masked")}
    return {name: named[part] / named[whole] for name, (part, whole) in pairs.items() if named[whole]}
