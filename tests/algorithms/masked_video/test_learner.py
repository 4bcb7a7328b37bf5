"""The sampler's learner: the ratio is 1 at first, good actions become likelier, bandits are solved."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.learner import Experience, SamplerLearner
from squall.algorithms.masked_video.ppo import SamplerTrainingConfig
from squall.algorithms.masked_video.samplers.config import SamplerConfig, build_sampler
from squall.algorithms.masked_video.samplers.plans import MaskPlan
from squall.algorithms.masked_video.subsets import entropy, gumbel_noise

GRID = TokenGrid(4, 16, 16, 2, 4)
CLIPS, VISIBLE = 16, 4
OPTIMISER = {"learning_rate": 5e-3, "schedule": "constant", "weight_decay": 0.0}


def learner_of(kind: str = "tats", microbatch: int = 0, credit: dict[str, str] | None = None, **keys: Any) -> SamplerLearner:
    torch.manual_seed(0)
    config = SamplerConfig(kind=kind, network={"width": 12, "heads": 2}, credit=credit)
    sampler = build_sampler(config, GRID, 6)
    training = SamplerTrainingConfig(**{"optimiser": OPTIMISER} | keys)
    return SamplerLearner(sampler, config, training, CLIPS, 100, microbatch_clips=microbatch)


def acted(learner: SamplerLearner, step: int = 0) -> tuple[MaskPlan, torch.Tensor, torch.Tensor]:
    """A plan for clips in which a third of the tokens are marked in their first number, and what is marked."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randn(CLIPS, 32, 6, generator=generator)
    marked = torch.rand(CLIPS, 32, generator=generator) < 0.33
    tokens[..., 0] = 3.0 * marked
    with torch.no_grad():
        plan = learner.sampler.plan(torch.zeros(CLIPS, 1), tokens, VISIBLE, gumbel_noise(CLIPS, 32, generator))
    return plan, tokens, marked


def losses_of(plan: MaskPlan, marked: torch.Tensor) -> torch.Tensor:
    """(B, M): a masked token's loss is 1 where it is marked, else 0, less for each marked token that is visible."""
    seen = marked.gather(1, plan.visible).float().mean(1, keepdim=True)
    return marked.gather(1, plan.masked).float() - 0.2 * seen + 0.2


def remember(learner: SamplerLearner, step: int = 0) -> None:
    plan, tokens, marked = acted(learner, step)
    learner.remember([Experience.of(tokens, plan, losses_of(plan, marked))])


@pytest.mark.parametrize("ratio", ["draw", "action"])
def test_the_ratio_is_1_on_the_first_epoch_and_not_after(ratio: str) -> None:
    learner = learner_of(epochs=3, ratio=ratio, buffer_steps=2)
    for step in range(2):
        assert not learner.full
        remember(learner, step)
    assert learner.full
    told = learner.update()
    assert told["first_ratio_deviation"] < 1e-5 and told["first_kl"] < 1e-8 and told["ratio_deviation"] > 1e-4
    assert learner.updates == 3 and not learner.buffer and not learner.full


def test_microbatches_make_no_difference() -> None:
    weights = []
    for microbatch in (0, 5):
        learner = learner_of(microbatch=microbatch, epochs=2)
        remember(learner)
        told = learner.update()
        weights.append(torch.cat([weight.detach().flatten() for weight in learner.sampler.parameters()]))
        assert told["epochs"] == 2
    start = torch.cat([weight.detach().flatten() for weight in learner_of().sampler.parameters()])
    assert (weights[0] - start).abs().max() > 1e-3 and torch.allclose(*weights, atol=1e-5)


@pytest.mark.parametrize(("kind", "credit"), [
    ("tats", None), ("tats", {"chooses": "masked", "per": "clip", "reward": "loss"}), ("reinforce", None), ("adamae", None)])
def test_informative_tokens_come_to_be_drawn(kind: str, credit: dict[str, str] | None) -> None:
    learner = learner_of(kind, credit=credit, epochs=3)
    for step in range(40):
        remember(learner, step)
        learner.update()
    plan, _, marked = acted(learner, 1000)
    share, chance = marked.gather(1, plan.action).float().mean().item(), marked.float().mean().item()
    assert share > (1.08 if credit else 1.6) * chance  # 28 of 32 tokens are masked, so that their share is 1.14 at most


@pytest.mark.parametrize("kind", ["tats", "reinforce"])
def test_a_group_takes_off_what_differs_between_clips(kind: str) -> None:
    """Clips' own losses are a hundred times what masks make of them, and nothing beside the clip's other masks."""
    shares = {}
    for baseline in ("critic", "group"):
        learner = learner_of(kind, baseline=baseline, epochs=2)
        for step in range(20):
            generator = torch.Generator().manual_seed(step)
            tokens = torch.randn(CLIPS, 32, 6, generator=generator)
            marked = torch.rand(CLIPS, 32, generator=generator) < 0.33
            tokens[..., 0] = 3.0 * marked
            with torch.no_grad():
                plan = learner.sampler.plan(torch.zeros(CLIPS, 1), tokens, VISIBLE, gumbel_noise(CLIPS * 4, 32, generator))
            every = marked.repeat_interleave(4, 0)
            hard = 20 * torch.rand(CLIPS, 1, generator=generator).repeat_interleave(4, 0)
            learner.remember([Experience.of(tokens, plan, losses_of(plan, every) + hard)])
            learner.update()
        shares[baseline] = every.gather(1, plan.visible).float().mean().item()
    assert shares["group"] > 0.55 and shares["critic"] < 0.45


@pytest.mark.parametrize("kind", ["tats", "reinforce"])
def test_a_floor_keeps_a_sampler_wide_that_is_sure(kind: str) -> None:
    shares, found = {}, {}
    for floor in (0.0, 0.8):
        learner = learner_of(kind, epochs=3, entropy_coefficient=0.0, entropy_floor=floor)
        for step in range(60):
            remember(learner, step)
            learner.update()
        plan, _, marked = acted(learner, 1000)
        shares[floor] = (entropy(plan.proposal.logits) / math.log(32)).mean().item()
        found[floor] = marked.gather(1, plan.action).float().mean().item() / marked.float().mean().item()
    assert shares[0.0] < 0.7 and 0.75 < shares[0.8] < 0.9
    assert found[0.8] > 1.3


def test_experience_has_no_graph() -> None:
    learner = learner_of()
    plan, tokens, marked = acted(learner)
    losses = losses_of(plan, marked).requires_grad_()
    experience = Experience.of(tokens.requires_grad_(), plan, losses * 2)
    assert not any(getattr(experience, name).requires_grad for name in ("tokens", "log_probs", "values", "token_losses"))
    assert len(experience[2:5]) == 3 and torch.equal(experience[2:5].action[:, 0], plan.action[2:5])
