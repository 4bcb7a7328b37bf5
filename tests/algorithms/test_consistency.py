"""The divergence between two clips' next-token distributions, without their logits, is that of whole softmaxes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from squall.algorithms.consistency import token_divergence
from squall.algorithms.packing import collate, pack_rows
from squall.algorithms.policy import EncodedPrompt, encode_prompt
from squall.algorithms.rewards import KLConsistencyConfig, RewardConfig, kl_consistency, load_rewards
from squall.algorithms.scoring import BAN_BIAS, AnswerScorer
from squall.platform.config import validate
from squall.platform.errors import ConfigError
from squall.platform.models import banned_token_ids, load_policy, load_processor, render_prompt

VOCABULARY = 50
ANSWERS = [(40, 41, 42, 43, 44), (50,), (60, 61, 62)]


@pytest.fixture
def states() -> tuple[torch.Tensor, ...]:
    """Anchor and trained hidden states, weight and bans of a head; scaled so that distributions are far from uniform."""
    torch.manual_seed(0)
    bias = torch.zeros(VOCABULARY)
    bias[[3, 30]] = BAN_BIAS
    return torch.randn(7, 16), torch.randn(7, 16, requires_grad=True), torch.randn(VOCABULARY, 16, requires_grad=True), bias


def whole(anchor: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, temperature: float,
          top_k: int | None = None) -> torch.Tensor:
    """The same from whole softmaxes, with torch's own gradients."""
    p = torch.log_softmax((anchor @ weight.detach().T + bias) / temperature, -1)
    q = torch.log_softmax((hidden @ weight.T + bias) / temperature, -1)
    if top_k is not None:
        kept = p.topk(top_k, -1).indices
        p, q = (torch.cat([d.gather(1, kept), d.scatter(1, kept, -torch.inf).logsumexp(1, True)], dim=1) for d in (p, q))
    return (p.exp() * (p - q)).sum(1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("top_k", [None, 1, 8])
def test_divergence_and_gradients_match_whole_softmaxes_at_any_chunk(states, temperature: float, top_k: int | None) -> None:
    anchor, hidden, weight, bias = states
    slope = torch.linspace(-1, 1, 7)
    expected = whole(*states, temperature, top_k)
    (expected * slope).sum().backward()
    wanted = hidden.grad.clone(), weight.grad.clone()
    assert expected.max() > 1.0 and wanted[0].abs().max() > 0.1
    anchor.requires_grad_()
    for chunk in (VOCABULARY, 7, 1):
        hidden.grad = weight.grad = None
        found = token_divergence(anchor, hidden, weight, bias, temperature, top_k, chunk)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        (found * slope).sum().backward()
        torch.testing.assert_close((hidden.grad, weight.grad), wanted, rtol=1e-4, atol=1e-5)
    assert anchor.grad is None


def test_the_best_tokens_give_a_bound_that_closes_on_the_whole_divergence(states) -> None:
    exact = token_divergence(*states)
    bounds = torch.stack([token_divergence(*states, top_k=k, chunk=9) for k in range(1, VOCABULARY)])
    assert (bounds.diff(dim=0) > -1e-4).all() and (bounds <= exact + 1e-4).all() and (bounds[0] < exact - 0.05).any()
    assert torch.equal(token_divergence(*states, top_k=VOCABULARY), exact)
    torch.testing.assert_close(bounds[-1], exact, rtol=1e-5, atol=1e-5)


def test_a_rest_below_the_rounding_of_the_kept_tokens_is_not_lost() -> None:
    anchor, hidden = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[40.0, 0.0, 0.0]])
    weight, bias = torch.eye(3), torch.zeros(3)
    exact = token_divergence(anchor, hidden, weight, bias)
    assert float(token_divergence(anchor, hidden, weight, bias, top_k=1)) == pytest.approx(
        float(whole(anchor.double(), hidden.double(), weight.double(), bias.double(), 1.0, 1)), rel=1e-5)
    assert float(exact) == pytest.approx(2 / 3 * 40 - 1.0986, rel=1e-4)


def test_equal_states_diverge_by_nothing(states) -> None:
    _, hidden, weight, bias = states
    for top_k in (None, 5):
        divergence = token_divergence(hidden.detach().clone(), hidden, weight, bias, 1.0, top_k, 7).tolist()
        assert divergence == [0.0] * 7 and kl_consistency(divergence[0], 3.0) == 1.0
    assert kl_consistency(0.5, 3.0) == pytest.approx(0.22313, abs=1e-5)


def plain_logits(policy, prompt: EncodedPrompt, answer: tuple[int, ...], banned: list[int]) -> torch.Tensor:
    """The bare model's own logits (L, V) of the answer's tokens alone."""
    ids = torch.cat([prompt.input_ids, torch.tensor(answer)])[None]
    tail = torch.arange(1, len(answer) + 1) + int(prompt.positions_3S.max())
    positions = torch.cat([prompt.positions_3S, tail.expand(3, -1)], dim=1)[:, None]
    types = torch.cat([prompt.token_types, torch.zeros(len(answer), dtype=torch.long)])[None]
    logits = policy(input_ids=ids, mm_token_type_ids=types, position_ids=positions, **prompt.vision).logits[0].float()
    logits[:, banned] += BAN_BIAS
    return logits[len(prompt.input_ids) - 1:-1]


def test_a_policy_compares_answer_tokens_alone_behind_prompts_of_any_length(policy_dir: Path, random_clip) -> None:
    """The published code's logits covered prompt and answer, its mask the answer: the shapes never met."""
    processor, policy = load_processor(str(policy_dir)), load_policy(str(policy_dir))
    banned = list(banned_token_ids(processor))
    content = [{"type": "video"}, {"type": "text", "text": "What colour?"}]
    text = render_prompt(processor, [{"role": "user", "content": content}])
    seen, other = (encode_prompt(processor, policy, text, clip) for clip in (random_clip(1), random_clip(2, frames=4)))
    assert len(seen.input_ids) > len(other.input_ids)

    p, q = ([torch.log_softmax(plain_logits(policy, prompt, answer, banned), -1) for answer in ANSWERS]
            for prompt in (other, seen))
    expected = [(a.detach().exp() * (a.detach() - b)).sum(-1) for a, b in zip(p, q, strict=True)]
    sum(tokens.mean() for tokens in expected).backward()
    wanted = {name: value.grad.clone() for name, value in policy.named_parameters() if value.grad is not None}

    scorer = AnswerScorer(load_policy(str(policy_dir)), banned, consistency=KLConsistencyConfig(loss_weight=0.5))
    batch, anchor = (collate(pack_rows([prompt] * 3, ANSWERS, 10_000), pad_id=0) for prompt in (seen, other))
    logprobs, _, divergence = scorer(batch, anchor)
    for row, mask, tokens in zip(divergence, batch.mask_AL.bool(), expected, strict=True):
        torch.testing.assert_close(row[mask], tokens.detach(), rtol=1e-4, atol=1e-5)
        assert not row[~mask].any()
    (divergence.sum(1) / batch.mask_AL.sum(1)).sum().backward()
    found = {name: value.grad for name, value in scorer.policy.named_parameters() if value.grad is not None}
    assert found.keys() == wanted.keys()
    off = sum(float((found[name] - value).square().sum()) for name, value in wanted.items()) ** 0.5
    assert off <= 1e-4 * sum(float(value.square().sum()) for value in wanted.values()) ** 0.5

    scorer.model.lm_head.consistency = KLConsistencyConfig()
    again = scorer(batch, anchor)
    assert torch.equal(again[0], logprobs) and torch.equal(again[2], divergence) and not again[2].requires_grad


def test_the_learners_reward_is_left_to_the_learner() -> None:
    config = RewardConfig(weights={"format": 0.5, "kl_consistency": 1.0})
    assert list(load_rewards(config)) == ["accuracy", "format"] and config.compares_clips
    assert not RewardConfig().compares_clips
    assert RewardConfig(kl_consistency=KLConsistencyConfig(loss_weight=0.1)).compares_clips


@pytest.mark.parametrize(("values", "message"), [
    ({"weights": {"kl_consistency": 1.0}}, "kl_consistency alone trains nothing.*name another reward too"),
    ({"weights": {"kl_consistenci": 1.0}}, "Did you mean 'kl_consistency'"),
    ({"kl_consistency": {"alpha": 0.0}}, "kl_consistency.alpha.*greater than 0"),
    ({"kl_consistency": {"top_k": 0}}, "kl_consistency.top_k.*greater than or equal to 1"),
])
def test_bad_values_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(RewardConfig, values, where="rewards")
