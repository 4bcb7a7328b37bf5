"""Plans: what is drawn becomes visible or masked, and every number is of the action taken."""

from __future__ import annotations

import pytest
import torch

from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.samplers.plans import Proposal, Sampler, plan_of
from squall.algorithms.masked_video.subsets import draw_log_probs, gumbel_noise
from squall.platform.errors import SquallError

GRID = TokenGrid(4, 12, 12, 2, 4)  # 2 times of 9 places


class Given(Sampler):
    def __init__(self, logits: torch.Tensor, chooses: str) -> None:
        super().__init__(GRID, chooses)
        self.logits = logits

    def propose(self, clips: torch.Tensor, tokens: torch.Tensor) -> Proposal:
        return Proposal(self.logits)


def planned(chooses: str, logits: torch.Tensor, visible: int = 5):  # type: ignore[no-untyped-def]
    noise = gumbel_noise(2, 18, torch.Generator().manual_seed(0))
    return Given(logits, chooses).plan(torch.zeros(2, 3, 4, 12, 12), torch.zeros(2, 18, 1), visible, noise)


@pytest.mark.parametrize("chooses", ["visible", "masked"])
def test_visible_and_masked_are_all_tokens_in_order_and_the_action_is_one_of_them(chooses: str) -> None:
    plan = planned(chooses, torch.randn(2, 18, generator=torch.Generator().manual_seed(1)))
    assert plan.visible.shape == (2, 5) and plan.masked.shape == (2, 13)
    for part in (plan.visible, plan.masked):
        assert (part.diff(dim=1) > 0).all()
    assert torch.equal(torch.cat([plan.visible, plan.masked], 1).sort(1).values, torch.arange(18).expand(2, 18))
    assert torch.equal(plan.action.sort(1).values, getattr(plan, chooses))


def test_numbers_are_those_of_the_action_taken() -> None:
    logits = torch.randn(2, 18, generator=torch.Generator().manual_seed(1))
    plan = planned("masked", logits)
    assert torch.allclose(plan.log_probability, draw_log_probs(logits, plan.action).sum(1))
    assert torch.allclose(plan.probabilities.sum(1), torch.ones(2))
    assert torch.allclose(plan.entropy, -(plan.probabilities * plan.probabilities.log()).sum(1))


def test_what_was_not_drawn_from_its_logits_has_no_log_probability() -> None:
    assert plan_of(Proposal(torch.zeros(1, 18)), torch.tensor([[3, 1]]), exact=False).log_probability is None


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(SquallError, match="logits are not finite: the clips hold such values, or sampler_training"):
        planned("visible", torch.full((2, 18), torch.nan))
