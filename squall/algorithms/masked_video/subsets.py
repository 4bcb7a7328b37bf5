"""Drawing tokens without replacement: Plackett-Luce, its log-probabilities and entropies.

The first token is drawn from the softmax of all logits, the next from that of those left, and so on (Plackett 1975). Adding
Gumbel noise and taking the largest draws the same in one go (Kool et al., arXiv 1903.06059, section 2.2).
Shapes: B clips, N tokens, K of them drawn, in the order in which they were drawn.
"""

from __future__ import annotations

import math

import torch


def gumbel_noise(count: int, tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Standard Gumbel numbers float64 (count, tokens) on the CPU."""
    return -torch.empty(count, tokens, dtype=torch.float64).exponential_(generator=generator).log()


def draw(logits: torch.Tensor, noise: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` of a Plackett-Luce order, int64 (B, K).

    Args:
        logits: (B, N).
        noise: `gumbel_noise` (B, N).
        count: K, from 1 to N - 1.
    """
    return (logits.detach().double() + noise.to(logits.device)).topk(count, dim=1).indices


def draw_log_probs(logits: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Log-probability (B, K) of each draw of an action given those before it; their sum is that of the action.

    Args:
        logits: (B, N), float32 or float64.
        action: int64 (B, K), K below N, in the order of drawing.
    """
    left = logits.scatter(1, action, -math.inf).logsumexp(1, keepdim=True)
    chosen = logits.gather(1, action)
    pools = torch.cat([left, chosen.flip(1)], dim=1).logcumsumexp(1).flip(1)[:, :-1]
    return chosen - pools


def categorical_log_probs(logits: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """The shortcut (B, K): each token's log-probability as if it alone had been drawn. Not the action's: it is too low."""
    return logits.log_softmax(1).gather(1, action)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy (B,) of the first draw, in nats; log N at most."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def sequence_entropy(logits: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """The entropies of an action's draws, each given those before it, summed: (B,), in nats.

    Its mean over actions is the entropy of the Plackett-Luce distribution (chain rule); it is computed in float64.
    """
    centred = logits.double() - logits.double().amax(1, keepdim=True)
    weights = centred.exp()
    pools = _left_before(weights, action).log()
    means = _left_before(weights * centred, action) / pools.exp()
    return (pools - means).sum(1).to(logits.dtype)


def most_sequence_entropy(tokens: int, count: int) -> float:
    """Log of the number of orders of `count` of `tokens`: what `sequence_entropy` is for equal logits."""
    return math.lgamma(tokens + 1) - math.lgamma(tokens - count + 1)


def _left_before(values: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Sum (B, K) of values (B, N) over the tokens that are left before each draw."""
    left = values.scatter(1, action, 0.0).sum(1, keepdim=True)
    return torch.cat([left, values.gather(1, action).flip(1)], dim=1).cumsum(1).flip(1)[:, :-1]
