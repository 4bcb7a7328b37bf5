"""The reward and the loss that the learner takes from two clips, against the bare model's own logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from squall.actors.clip_comparison import ClipComparison
from squall.actors.deepspeed_backend import OptimiserConfig
from squall.actors.learner import Learner, LearnerConfig
from squall.actors.rollout_buffer import TrainBatch, TrainSequence, Twin
from squall.algorithms.policy import encode_prompt
from squall.algorithms.rewards import KLConsistencyConfig, RewardConfig
from squall.algorithms.scoring import BAN_BIAS
from squall.algorithms.tgrpo import TGRPOConfig, contrast_advantages
from squall.platform.models import ModelConfig, banned_token_ids, load_policy, load_processor, render_prompt
from squall.platform.records import Clip

WORDS = ("red", "it is quite blue", "the red thing moves left", "no")
REWARDS = RewardConfig(weights={"accuracy": 1.0, "kl_consistency": 0.7},
                       kl_consistency=KLConsistencyConfig(alpha=2.0, loss_weight=0.5))
TGRPO = TGRPOConfig(loss_aggregation="sequence")


def question(processor) -> str:
    content = [{"type": "video"}, {"type": "text", "text": "What colour is the moving shape?"}]
    return render_prompt(processor, [{"role": "user", "content": content}])


def answers(processor, prompt: str, clips: list[tuple[str, str]]) -> Iterator[TrainSequence]:
    """Four answers about the first clip of each pair; the first is right, and gets the bonus."""
    for group, (seen, other) in enumerate(clips):
        for i, words in enumerate(WORDS):
            text = f"<think>{words}</think><answer>{'ABCD'[i]}</answer><|im_end|>"
            ids = tuple(processor.tokenizer(text)["input_ids"])
            twin = Twin(other, 4 * group + i, group, float(i == 0), 0.3 * (i == 0))
            yield TrainSequence(prompt, seen, ids, 0.0, tuple([-0.5] * len(ids)), twin)


@pytest.fixture(scope="module")
def clips() -> dict[str, Clip]:
    from squall.platform.records import make_clip

    made = [make_clip(np.random.default_rng(seed).integers(0, 256, (8, 56, 56, 3), dtype=np.uint8), 2.0) for seed in range(5)]
    return {clip.content_hash: clip for clip in made}


@pytest.fixture(scope="module")
def batch(ray_cluster: object, policy_dir: Path, clips: dict[str, Clip]) -> TrainBatch:
    """Three groups; the first one's clips are the same."""
    processor, names = load_processor(str(policy_dir)), list(clips)
    pairs = [(names[0], names[0]), (names[1], names[2]), (names[3], names[4])]
    return TrainBatch(0, tuple(answers(processor, question(processor), pairs)),
                      {name: ray.put(clip) for name, clip in clips.items()})


def learn(batch: TrainBatch, path: Path, **layout) -> dict:
    zero_stage = layout.pop("zero_stage")
    config = LearnerConfig(cpus=0.5, optimiser=OptimiserConfig(learning_rate=1e-3, zero_stage=zero_stage), **layout)
    learner = Learner(config, ModelConfig(), "tgrpo", path, total_steps=1, tgrpo=TGRPO, rewards=REWARDS)
    learner.start()
    try:
        return learner.step(batch)
    finally:
        learner.stop()


@torch.no_grad()
def plain(batch: TrainBatch, clips: dict[str, Clip], policy_dir: Path) -> tuple[list[float], list[torch.Tensor]]:
    """Mean divergence, and log-probabilities of the tokens, of every answer: one whole softmax each."""
    processor, policy = load_processor(str(policy_dir)), load_policy(str(policy_dir))
    banned = list(banned_token_ids(processor))
    encoded = {name: encode_prompt(processor, policy, batch.sequences[0].prompt, clip) for name, clip in clips.items()}

    def scores(name: str, tokens: tuple[int, ...]) -> torch.Tensor:
        prompt = encoded[name]
        ids = torch.cat([prompt.input_ids, torch.tensor(tokens)])[None]
        tail = torch.arange(1, len(tokens) + 1) + int(prompt.positions_3S.max())
        positions = torch.cat([prompt.positions_3S, tail.expand(3, -1)], dim=1)[:, None]
        types = torch.cat([prompt.token_types, torch.zeros(len(tokens), dtype=torch.long)])[None]
        logits = policy(input_ids=ids, mm_token_type_ids=types, position_ids=positions, **prompt.vision).logits[0].float()
        logits[:, banned] += BAN_BIAS
        return torch.log_softmax(logits, -1)[len(prompt.input_ids) - 1:-1]

    divergences, logprobs = [], []
    for answer in batch.sequences:
        p, q = scores(answer.twin.clip_hash, answer.token_ids), scores(answer.clip_hash, answer.token_ids)
        divergences.append(float((p.exp() * (p - q)).sum(-1).mean()))
        logprobs.append(q.gather(1, torch.tensor(answer.token_ids)[:, None])[:, 0])
    return divergences, logprobs


@pytest.mark.cluster
def test_reward_advantages_and_loss_are_those_of_whole_softmaxes_however_the_groups_lie(
        batch: TrainBatch, clips: dict[str, Clip], policy_dir: Path, tmp_path: Path) -> None:
    divergences, logprobs = plain(batch, clips, policy_dir)
    rewards = np.array([a.twin.reward + 0.7 * np.exp(-2.0 * d) for a, d in zip(batch.sequences, divergences, strict=True)])
    bonus = np.array([a.twin.bonus for a in batch.sequences])
    advantages = np.concatenate([contrast_advantages(rewards[i:i + 4], bonus[i:i + 4], TGRPO) for i in (0, 4, 8)])
    policy_loss = -np.mean([float((lp + 0.5).exp().clamp(max=2.0).mean()) * a for lp, a in
                            zip(logprobs, advantages, strict=True)])

    whole = learn(batch, tmp_path / "whole", workers=1, zero_stage=0)
    # One answer in a micro-batch: every group is parted, and one rank repeats its last while the other has two groups.
    parted = learn(batch, tmp_path / "parted", workers=2, zero_stage=3, tokens_per_microbatch=1)
    for result in (whole, parted):
        assert result["divergences"] == pytest.approx(divergences, abs=1e-4)
        assert result["divergences"][:4] == pytest.approx([0.0] * 4, abs=1e-6) and min(result["divergences"][4:]) > 1e-4
        assert result["advantages"] == pytest.approx(advantages, abs=1e-4)
        assert result["loss"] == pytest.approx(policy_loss + 0.5 * np.mean(divergences), abs=1e-4)
        assert result["kl_consistency/kl"] == pytest.approx(np.mean(divergences), abs=1e-4)
        assert result["kl_consistency/mean"] == pytest.approx(np.mean(np.exp(-2.0 * np.array(divergences))), abs=1e-4)
    assert parted["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)
    assert {name for name, *_ in parted["spans"]} - {name for name, *_ in whole["spans"]} == {"compare"}


def sequence(place: int, group: int, reward: float) -> TrainSequence:
    return TrainSequence("?", f"clip-{group}", (1, 2), 9.0, (-0.5, -0.5), Twin("other", place, group, reward, 0.0))


def test_advantages_are_taken_over_whole_groups_from_the_first_divergence_of_each_answer() -> None:
    four = [sequence(place, place // 2, float(place % 2)) for place in range(4)]
    comparison = ClipComparison(REWARDS, TGRPO)
    assert comparison.begin([four[1::2], four[::2]]) and not comparison.begin([four[:2], four[2:]])
    comparison.note(four, [0.0, 0.5, 0.1, 0.2])
    comparison.note(four[:1], [7.0])
    expected = contrast_advantages(np.array([0.7, 1.0 + 0.7 * np.exp(-1.0)]), np.zeros(2), TGRPO)
    assert comparison.advantages([four[1]]) == pytest.approx([expected[1]], abs=1e-12)
    assert comparison.advantages([four[0]]) == pytest.approx([expected[0]], abs=1e-12)
    unrewarded = ClipComparison(RewardConfig(kl_consistency=KLConsistencyConfig(loss_weight=0.5)), TGRPO)
    unrewarded.begin([four])
    unrewarded.note(four, [0.0] * 4)
    assert unrewarded.advantages(four) == [9.0] * 4
