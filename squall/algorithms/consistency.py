"""How far the next-token distributions about two clips of one question lie apart along an answer (ROVA, KL-consistency).

ROVA's published code takes the logits of prompt and answer against a mask of the answer alone, so that its reward is never
computed. Here there are hidden states of answer tokens only, and one divergence for each.
Shapes: N predicted tokens, D hidden size, V vocabulary, C entries of it at a time, K kept ones.
"""

from __future__ import annotations

from typing import Any

import torch

from squall.algorithms.vocabulary import VOCABULARY_CHUNK, part_of_logits, through_logits


def token_divergence(anchor_ND: torch.Tensor, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor,
                     temperature: float = 1.0, top_k: int | None = None, chunk: int = VOCABULARY_CHUNK) -> torch.Tensor:
    """KL(p || q) of each token, nats in fp32 (N,), at least 0; p follows from the anchor's states, q from the trained ones.

    Both are softmax of ``(states W^T + bias) / temperature``. Logits exist for `chunk` vocabulary entries at a time, in the
    forward and in the backward pass. The anchor is detached: gradients flow through q alone, to `hidden_ND` and `weight_VD`.

    Args:
        top_k: compare the K most probable tokens of p one by one and all others as one event. By the log-sum inequality
            that is never above the exact divergence. None is exact.
    """
    states = anchor_ND.detach(), hidden_ND, weight_VD, bias_V
    if top_k is None or top_k >= len(weight_VD):
        return _Divergence.apply(*states, temperature, chunk)
    return _TopDivergence.apply(*states, temperature, top_k, chunk)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor_ND: torch.Tensor, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor,
                temperature: float, chunk: int) -> torch.Tensor:
        head = weight_VD, bias_V, temperature
        anchor_total_N, own_total_N = (_nothing_yet(hidden_ND) for _ in range(2))
        gap_N = torch.zeros_like(own_total_N)  # expected difference of the logits under p
        for start in range(0, len(weight_VD), chunk):
            anchor_NC, own_NC = (part_of_logits(states, *head, start, chunk) for states in (anchor_ND, hidden_ND))
            grown_N = _add(anchor_total_N, anchor_NC)
            share_NC = torch.exp(anchor_NC - grown_N[:, None])
            gap_N = gap_N * torch.exp(anchor_total_N - grown_N) + (share_NC * (anchor_NC - own_NC)).sum(1)
            anchor_total_N, own_total_N = grown_N, _add(own_total_N, own_NC)
        ctx.save_for_backward(anchor_ND, hidden_ND, weight_VD, bias_V, anchor_total_N, own_total_N)
        ctx.temperature, ctx.chunk = temperature, chunk
        return (gap_N - anchor_total_N + own_total_N).clamp(min=0.0)

    @staticmethod
    def backward(ctx: Any, gradient_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        anchor_ND, hidden_ND, weight_VD, bias_V, anchor_total_N, own_total_N = ctx.saved_tensors
        head = weight_VD, bias_V, ctx.temperature

        def slope(start: int, own_NC: torch.Tensor) -> torch.Tensor:
            anchor_NC = part_of_logits(anchor_ND, *head, start, ctx.chunk)
            difference_NC = torch.exp(own_NC - own_total_N[:, None]) - torch.exp(anchor_NC - anchor_total_N[:, None])
            return difference_NC * gradient_N[:, None]

        return None, *through_logits(slope, hidden_ND, *head, ctx.chunk, ctx.needs_input_grad[2]), None, None, None


class _TopDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor_ND: torch.Tensor, hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor,
                temperature: float, top_k: int, chunk: int) -> torch.Tensor:
        head = weight_VD, bias_V, temperature
        anchor_rest_N, own_rest_N = (_nothing_yet(hidden_ND) for _ in range(2))
        anchor_NK, own_NK = (hidden_ND.new_empty((len(hidden_ND), 0), dtype=torch.float32) for _ in range(2))
        ids_NK = torch.empty_like(anchor_NK, dtype=torch.long)
        for start in range(0, len(weight_VD), chunk):
            anchor_NC, own_NC = (part_of_logits(states, *head, start, chunk) for states in (anchor_ND, hidden_ND))
            ids_NC = torch.arange(start, start + anchor_NC.shape[1], device=ids_NK.device).expand_as(anchor_NC)
            anchor_NC, own_NC, ids_NC = (torch.cat(pair, dim=1) for pair in
                                         ((anchor_NK, anchor_NC), (own_NK, own_NC), (ids_NK, ids_NC)))
            places_NK = anchor_NC.topk(min(top_k, anchor_NC.shape[1]), dim=1).indices
            anchor_NK, own_NK, ids_NK = (values.gather(1, places_NK) for values in (anchor_NC, own_NC, ids_NC))
            # The rest is summed and not 1 minus the kept ones, whose rounding would be larger than a small rest.
            anchor_rest_N, own_rest_N = (_add(rest_N, values.scatter(1, places_NK, -torch.inf)) for rest_N, values in
                                         ((anchor_rest_N, anchor_NC), (own_rest_N, own_NC)))
        anchor_total_N, own_total_N = _add(anchor_rest_N, anchor_NK), _add(own_rest_N, own_NK)
        anchor_NK, own_NK = anchor_NK - anchor_total_N[:, None], own_NK - own_total_N[:, None]
        anchor_rest_N, own_rest_N = anchor_rest_N - anchor_total_N, own_rest_N - own_total_N
        shares_NK, rest_N = anchor_NK.exp(), anchor_rest_N.exp()
        ratio_N = (anchor_rest_N - own_rest_N).exp()
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, own_total_N, ids_NK, shares_NK, ratio_N)
        ctx.temperature, ctx.chunk = temperature, chunk
        kept_N = (shares_NK * (anchor_NK - own_NK)).sum(1)
        return (kept_N + rest_N * (anchor_rest_N - own_rest_N)).clamp(min=0.0)

    @staticmethod
    def backward(ctx: Any, gradient_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, own_total_N, ids_NK, shares_NK, ratio_N = ctx.saved_tensors

        def slope(start: int, own_NC: torch.Tensor) -> torch.Tensor:
            own_NC = torch.exp(own_NC - own_total_N[:, None])
            slope_NC = own_NC * (1.0 - ratio_N[:, None])
            here_NK = (ids_NK >= start) & (ids_NK < start + own_NC.shape[1])
            row, entry = here_NK.nonzero()[:, 0], ids_NK[here_NK] - start
            slope_NC[row, entry] = own_NC[row, entry] - shares_NK[here_NK]
            return slope_NC * gradient_N[:, None]

        gradients = through_logits(slope, hidden_ND, weight_VD, bias_V, ctx.temperature, ctx.chunk, ctx.needs_input_grad[2])
        return None, *gradients, None, None, None, None


def _nothing_yet(hidden_ND: torch.Tensor) -> torch.Tensor:
    return torch.full((len(hidden_ND),), -torch.inf, device=hidden_ND.device)


def _add(total_N: torch.Tensor, logits_NC: torch.Tensor) -> torch.Tensor:
    return torch.logaddexp(total_N, logits_NC.logsumexp(1))
