"""Log-probabilities of answers under a video-language policy, without ever holding the logits of the whole vocabulary.

Shapes: N predicted tokens, D hidden size, V vocabulary; A answers, L answer tokens (padded).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import nn

from squall.algorithms.consistency import token_divergence
from squall.algorithms.packing import AnswerBatch
from squall.algorithms.rewards import KLConsistencyConfig
from squall.algorithms.vocabulary import VOCABULARY_CHUNK, part_of_logits, through_logits

BAN_BIAS = -100.0
"""Added to the logits of banned tokens, in the engine and in the learner alike."""


class AnswerScorer(nn.Module):
    """A policy whose forward pass scores answers; what DeepSpeed wraps, so that all weights are used inside it."""

    def __init__(self, policy: nn.Module, banned_ids: Sequence[int], temperature: float = 1.0,
                 vision_cache_bytes: int = 0, consistency: KLConsistencyConfig | None = None) -> None:
        """`policy` is a Hugging Face Qwen2.5-VL or Qwen3-VL for conditional generation, bare or inside PEFT's wrapper.

        Args:
            banned_ids: carry the same bias as in the engine, so that both normalise over the same tokens.
            vision_cache_bytes: room for the outputs of a frozen vision tower, by clip; 0 always computes them.
            consistency: how the divergence from an anchor is measured; by default exactly, and without gradient.
        """
        super().__init__()
        self.policy = policy
        base = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
        base.lm_head = TokenScoringHead(base.lm_head, banned_ids, temperature, consistency or KLConsistencyConfig())
        self._base = (base,)  # in a tuple, so that its weights are not registered twice
        self.vision_cache = VisionCache(base.model.visual, vision_cache_bytes) if vision_cache_bytes else None

    @property
    def model(self) -> nn.Module:
        """The bare Hugging Face model."""
        return self._base[0]

    def forward(self, batch: AnswerBatch, anchor: AnswerBatch | None = None) -> tuple[torch.Tensor, ...]:
        """Log-probability of every answer token, and the entropy of the distribution it was drawn from.

        Args:
            anchor: the same answers in the same order behind other clips. Their distributions are computed without gradient.

        Returns:
            (logprobs_AL, entropy_AL), natural logarithms in fp32; entries outside `mask_AL` are zero. The entropy is
            detached: it is a measurement, not a term of the loss. With an anchor also divergence_AL, the KL divergence of
            each token's distribution from the anchor's, which has a gradient when `consistency.loss_weight` is above 0.
        """
        inside_AL, anchor_ND = batch.mask_AL.bool(), None
        if anchor is not None:
            with torch.no_grad():
                anchor_ND = self._states(anchor, inside_AL)
        hidden_ND = self._states(batch, inside_AL)
        scores = self.model.lm_head(hidden_ND, batch.answers_AL[inside_AL], anchor_ND)
        empty_AL = torch.zeros_like(batch.mask_AL)
        return tuple(empty_AL.masked_scatter(inside_AL, values_N) for values_N in scores)

    def _states(self, batch: AnswerBatch, inside_AL: torch.Tensor) -> torch.Tensor:
        """The hidden state that predicts each answer token, (N, D)."""
        if self.vision_cache is not None:
            self.vision_cache.upcoming = list(batch.clips)
        hidden_RSD = self.model.model(**batch.inputs, use_cache=False).last_hidden_state
        return hidden_RSD.flatten(0, 1)[batch.sources_AL[inside_AL]]


class TokenScoringHead(nn.Module):
    """A language-model head that returns the scores of given tokens in place of logits. Its weight keeps its name."""

    def __init__(self, head: nn.Linear, banned_ids: Sequence[int], temperature: float,
                 consistency: KLConsistencyConfig) -> None:
        super().__init__()
        self.weight, self.temperature, self.consistency = head.weight, temperature, consistency
        bias_V = torch.zeros(head.out_features, device=head.weight.device)
        bias_V[list(banned_ids)] = BAN_BIAS
        self.register_buffer("bans_V", bias_V, persistent=False)

    def forward(self, hidden_ND: torch.Tensor, targets_N: torch.Tensor,
                anchor_ND: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """(log-probability of each target, entropy), and with an anchor's states the divergence from it, fp32 (N,)."""
        scores = token_scores(hidden_ND, self.weight, targets_N, self.bans_V, self.temperature)
        if anchor_ND is None:
            return scores
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.consistency.loss_weight > 0):
            return *scores, token_divergence(anchor_ND, hidden_ND, self.weight, self.bans_V, self.temperature,
                                             self.consistency.top_k)


def token_scores(hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, bias_V: torch.Tensor,
                 temperature: float = 1.0, chunk: int = VOCABULARY_CHUNK) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-softmax of ``(hidden W^T + bias) / temperature`` at the targets, and its entropy, nats in fp32 (N,).

    Logits exist for `chunk` vocabulary entries at a time, in the forward and in the backward pass. No gradient flows
    through the entropy.
    """
    return _TokenScores.apply(hidden_ND, weight_VD, targets_N, bias_V, temperature, chunk)


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, bias_V: torch.Tensor,
                temperature: float, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
        top_N = torch.full(targets_N.shape, -torch.inf, device=hidden_ND.device)
        mass_N, moment_N, picked_N = (torch.zeros_like(top_N) for _ in range(3))
        for start in range(0, len(weight_VD), chunk):
            logits_NC = part_of_logits(hidden_ND, weight_VD, bias_V, temperature, start, chunk)
            higher_N = torch.maximum(top_N, logits_NC.amax(1))
            shrink_N, mass_NC = torch.exp(top_N - higher_N), torch.exp(logits_NC - higher_N[:, None])
            mass_N = mass_N * shrink_N + mass_NC.sum(1)
            moment_N = moment_N * shrink_N + (mass_NC * logits_NC).sum(1)
            top_N = higher_N
            here_N = (targets_N >= start) & (targets_N < start + logits_NC.shape[1])
            picked_N[here_N] = logits_NC[here_N, targets_N[here_N] - start]
        total_N = top_N + mass_N.log()
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, bias_V, total_N)
        ctx.temperature, ctx.chunk = temperature, chunk
        entropy_N = total_N - moment_N / mass_N
        ctx.mark_non_differentiable(entropy_N)
        return picked_N - total_N, entropy_N

    @staticmethod
    def backward(ctx: Any, gradient_N: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N, bias_V, total_N = ctx.saved_tensors

        def slope(start: int, logits_NC: torch.Tensor) -> torch.Tensor:
            slope_NC = -torch.exp(logits_NC - total_N[:, None]) * gradient_N[:, None]
            here_N = (targets_N >= start) & (targets_N < start + logits_NC.shape[1])
            slope_NC[here_N, targets_N[here_N] - start] += gradient_N[here_N]
            return slope_NC

        gradients = through_logits(slope, hidden_ND, weight_VD, bias_V, ctx.temperature, ctx.chunk, ctx.needs_input_grad[1])
        return *gradients, None, None, None, None


class VisionCache:
    """Keeps a frozen vision tower's outputs by clip, least recently used ones out first.

    It stands in for the tower's forward method. Set `upcoming` to the content hashes of the clips of the next pass.
    """

    def __init__(self, tower: nn.Module, capacity_bytes: int) -> None:
        self.upcoming: list[str] = []
        self.computed = 0
        """Clips that went through the tower so far."""
        self._compute, self._capacity, self._size = tower.forward, capacity_bytes, 0
        self._kept: OrderedDict[str, Any] = OrderedDict()
        tower.forward = self._forward

    @torch.no_grad()
    def _forward(self, pixels: torch.Tensor, grid_thw: torch.Tensor, **options: Any) -> Any:
        clips, self.upcoming = self.upcoming[:len(grid_thw)], self.upcoming[len(grid_thw):]
        outputs = [self._output(clip, part, grid[None], options) for clip, part, grid in
                   zip(clips, pixels.split(grid_thw.prod(-1).tolist()), grid_thw, strict=True)]
        joined = copy(outputs[0])
        joined.pooler_output = torch.cat([output.pooler_output for output in outputs])
        if "deepstack_features" in joined:
            levels = zip(*(output.deepstack_features for output in outputs), strict=True)
            joined.deepstack_features = [torch.cat(level) for level in levels]
        return joined

    def _output(self, clip: str, pixels: torch.Tensor, grid: torch.Tensor, options: dict[str, Any]) -> Any:
        if clip not in self._kept:
            self.computed += 1
            output = self._compute(pixels, grid_thw=grid, **options)
            output.last_hidden_state = None  # before merging; the language model reads the merged states alone
            self._kept[clip] = output
            self._size += _bytes(output)
        self._kept.move_to_end(clip)
        output = self._kept[clip]
        while self._size > self._capacity and len(self._kept) > 1:
            self._size -= _bytes(self._kept.popitem(last=False)[1])
        return output


def _bytes(output: Any) -> int:
    tensors = [output.pooler_output, *(output.get("deepstack_features") or ())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
