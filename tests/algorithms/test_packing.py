"""Answers packed behind one prompt score, and push the weights, as they do each behind a prompt of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from squall.algorithms.packing import PackedRow, attention_mask, collate, deal, pack_rows, plan_microbatches
from squall.algorithms.policy import EncodedPrompt, encode_prompt
from squall.algorithms.scoring import BAN_BIAS, AnswerScorer, token_scores
from squall.platform.models import banned_token_ids, load_policy, load_processor, render_prompt
from squall.platform.records import Clip, MediaType, make_clip

QUESTION = "How does the camera move?\nA. pan\nB. tilt\nC. zoom\nD. still"
ANSWERS = [(40, 41, 42, 43, 44, 45, 46), (50,), (60, 61, 62), (40, 41, 42, 9), (70, 71, 72, 73, 74)]


def random_clip(seed: int, frames: int = 8, fps: float = 2.0, media_type: MediaType = MediaType.VIDEO) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 56, 56, 3), dtype=np.uint8)
    return make_clip(pixels, fps, media_type=media_type)


def prompt_for(processor, clip: Clip) -> str:
    content = [{"type": str(clip.media_type)}, {"type": "text", "text": QUESTION}]
    return render_prompt(processor, [{"role": "user", "content": content}])


@pytest.fixture(scope="module")
def processor(policy_dir: Path):
    return load_processor(str(policy_dir))


@pytest.fixture
def policy(policy_dir: Path):
    return load_policy(str(policy_dir))


@pytest.fixture
def prompts(processor, policy) -> list[EncodedPrompt]:
    """Two clips, long and short in time."""
    clips = [random_clip(1), random_clip(2, frames=4, fps=0.5)]
    return [encode_prompt(processor, policy, prompt_for(processor, clip), clip) for clip in clips]


def plain_logprobs(policy, processor, prompt: EncodedPrompt, answer: tuple[int, ...]) -> torch.Tensor:
    """The model's own logits over prompt and answer alone, and torch's own log-softmax."""
    ids = torch.cat([prompt.input_ids, torch.tensor(answer)])[None]
    tail = torch.arange(1, len(answer) + 1) + int(prompt.positions_3S.max())
    positions = torch.cat([prompt.positions_3S, tail.expand(3, -1)], dim=1)[:, None]
    types = torch.cat([prompt.token_types, torch.zeros(len(answer), dtype=torch.long)])[None]
    logits = policy(input_ids=ids, mm_token_type_ids=types, position_ids=positions, **prompt.vision).logits[0].float()
    logits[:, banned_token_ids(processor)] += BAN_BIAS
    scores = torch.log_softmax(logits, -1)[len(prompt.input_ids) - 1:-1]
    return scores.gather(1, torch.tensor(answer)[:, None])[:, 0]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("room", [10_000, 10])
def test_packed_scores_and_gradients_are_those_of_the_plain_model(policy_dir: Path, policy, processor, prompts,
                                                                  room: int) -> None:
    budget = len(prompts[0].input_ids) + room
    weights = torch.linspace(-1, 1, 10)
    owners = [prompts[0]] * 5 + [prompts[1]] * 5
    expected = [plain_logprobs(policy, processor, prompt, answer) for prompt, answer in zip(owners, ANSWERS * 2, strict=True)]
    loss = sum(weight * scores.sum() for weight, scores in zip(weights, expected, strict=True))
    loss.backward()
    plain = gradients(policy)

    scorer = AnswerScorer(load_policy(str(policy_dir)), banned_token_ids(processor))
    rows = pack_rows(owners, ANSWERS * 2, budget)
    assert len(rows) == (2 if room == 10_000 else 4), [row.length for row in rows]
    total, seen = 0.0, []
    for microbatch in plan_microbatches(rows, budget):
        batch = collate(microbatch, pad_id=0)
        logprobs_AL, _ = scorer(batch)
        for place, row, mask in zip(batch.places_A, logprobs_AL, batch.mask_AL, strict=True):
            torch.testing.assert_close(row[mask.bool()], expected[place], rtol=1e-5, atol=1e-5)
            seen.append(place)
        part = (weights[list(batch.places_A)] * logprobs_AL.sum(1)).sum()
        part.backward()
        total += float(part.detach())
    assert sorted(seen) == list(range(10))
    assert total == pytest.approx(float(loss.detach()), rel=1e-5)
    packed = gradients(scorer.policy)
    assert packed.keys() == plain.keys()
    off = {name: float((packed[name] - gradient).norm()) for name, gradient in plain.items()}
    whole = torch.cat([gradient.flatten() for gradient in plain.values()])
    assert sum(value ** 2 for value in off.values()) ** 0.5 <= 1e-5 * float(whole.norm())
    for name, gradient in plain.items():  # a key's bias hardly moves a softmax: rounding weighs more in it
        assert off[name] <= 1e-4 * float(gradient.norm()) + 1e-7, name


def test_images_and_videos_share_a_batch_and_a_frozen_tower_runs_once_per_clip(policy_dir: Path, processor, policy,
                                                                               prompts) -> None:
    image = random_clip(3, frames=1, media_type=MediaType.IMAGE)
    pictured = encode_prompt(processor, policy, prompt_for(processor, image), image)
    owners = [prompts[0], prompts[0], pictured, pictured, prompts[1]]
    scorer = AnswerScorer(load_policy(str(policy_dir)), banned_token_ids(processor), vision_cache_bytes=1 << 30)
    batch = collate(pack_rows(owners, ANSWERS, 10_000), pad_id=0)
    with torch.no_grad():
        first, _ = scorer(batch)
        second, _ = scorer(batch)
        assert scorer.vision_cache.computed == 3
        assert torch.equal(first, second)
        for place, row, mask in zip(batch.places_A, first, batch.mask_AL, strict=True):
            expected = plain_logprobs(policy, processor, owners[place], ANSWERS[place])
            torch.testing.assert_close(row[mask.bool()], expected, rtol=1e-5, atol=1e-5)
        scorer.vision_cache._capacity = 1  # room for one clip: every pass computes again, and nothing else changes
        assert torch.equal(scorer(batch)[0], first) and torch.equal(scorer(batch)[0], first)
        assert scorer.vision_cache.computed > 5


def test_a_mixed_batch_moves_the_weights_as_its_answers_do_alone_and_no_prompt_token_is_a_target(
        policy_dir: Path, processor, policy, prompts) -> None:
    image = random_clip(3, frames=1, media_type=MediaType.IMAGE)
    owners = [prompts[0], encode_prompt(processor, policy, prompt_for(processor, image), image), prompts[1]]
    answers = ANSWERS[:1] + ANSWERS[2:4]
    expected = [plain_logprobs(policy, processor, prompt, answer) for prompt, answer in zip(owners, answers, strict=True)]
    (-sum(scores.sum() for scores in expected)).backward()
    plain = gradients(policy)

    scorer = AnswerScorer(load_policy(str(policy_dir)), banned_token_ids(processor))
    states: list[torch.Tensor] = []
    scorer.model.model.language_model.register_forward_hook(
        lambda _, inputs, output: (output.last_hidden_state.retain_grad(), states.append(output.last_hidden_state))[1])
    (microbatch,) = plan_microbatches(pack_rows(owners, answers, 10_000), 10_000)
    assert [row.length for row in microbatch] == sorted((row.length for row in microbatch), reverse=True)
    batch = collate(microbatch, pad_id=0)
    logprobs_AL, _ = scorer(batch)
    for place, row, mask in zip(batch.places_A, logprobs_AL, batch.mask_AL, strict=True):
        torch.testing.assert_close(row[mask.bool()], expected[place], rtol=1e-5, atol=1e-5)
    (-logprobs_AL.sum()).backward()
    packed = gradients(scorer.policy)
    assert packed.keys() == plain.keys()
    off = torch.cat([(packed[name] - gradient).flatten() for name, gradient in plain.items()]).norm()
    assert float(off) <= 1e-5 * float(torch.cat([gradient.flatten() for gradient in plain.values()]).norm())

    learned_RS = states[0].grad.abs().sum(-1) > 0
    for r, row in enumerate(microbatch):
        end = len(row.prompt.input_ids)
        predicting = torch.arange(learned_RS.shape[1])
        assert torch.equal(learned_RS[r], (predicting >= end - 1) & (predicting < row.length))
    assert int(batch.mask_AL.sum()) == int(learned_RS.sum()) == sum(map(len, answers))


def test_token_scores_do_not_depend_on_the_chunk_and_match_torch() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets, bias = torch.randint(0, 50, (7,)), torch.zeros(50)
    bias[[3, 30]] = BAN_BIAS
    slope = torch.linspace(-1, 1, 7)
    expected = torch.log_softmax((hidden @ weight.T + bias) / 0.7, -1)
    (expected.gather(1, targets[:, None])[:, 0] * slope).sum().backward()
    wanted = hidden.grad.clone(), weight.grad.clone()
    for chunk in (50, 7, 1):
        hidden.grad = weight.grad = None
        logprobs, entropy = token_scores(hidden, weight, targets, bias, 0.7, chunk)
        torch.testing.assert_close(logprobs, expected.gather(1, targets[:, None])[:, 0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(-1), rtol=1e-4, atol=1e-5)
        (logprobs * slope).sum().backward()
        torch.testing.assert_close((hidden.grad, weight.grad), wanted, rtol=1e-4, atol=1e-5)
        assert not entropy.requires_grad


def test_the_mask_shows_an_answer_the_prompt_and_itself_alone() -> None:
    mask = attention_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0]
    assert mask.int().tolist() == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0],
                                   [1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]


def test_answers_are_dealt_evenly_and_rows_keep_to_the_budget(prompts: list[EncodedPrompt]) -> None:
    assert deal({0: 5, 1: 1, 2: 4, 3: 2}, 2) == [[0, 1], [2, 3]]
    length = len(prompts[0].input_ids)
    answers = [(1,) * size for size in (30, 5, 25, 10, 20)]
    rows = pack_rows([prompts[0]] * 5, answers, length + 45)
    assert [[place for place, _ in row.answers] for row in rows] == [[0, 1, 3], [2, 4]]
    assert len(pack_rows([prompts[0]] * 5, answers, 10)) == 5  # a prompt beyond the budget: one answer a row, none lost
    assert len(pack_rows([prompts[0]] * 5, answers, 10_000, shared=False)) == 5


def test_microbatches_hold_rows_of_like_length(prompts: list[EncodedPrompt]) -> None:
    rows = [PackedRow(prompts[0], ((place, (1,) * size),)) for place, size in enumerate((5, 90, 6, 88, 4))]
    batches = plan_microbatches(rows, 3 * rows[0].length + 20)
    assert [[row.answers[0][0] for row in batch] for batch in batches] == [[1], [3], [2, 0, 4]]
