"""Learner time of one group, every answer behind its own copy of clip and prompt (naive) over all behind one (shared).

    python benchmarks/shared_prefix.py

Both score the same G = 8 answers of 64 tokens under the same random weights, with loss and gradients, alternating in one run.
The naive learner is `learner.shared_prefix=false`: what learners for video-language models do, the clip through the vision
tower once per answer. The model is large enough on a CPU that arithmetic outweighs overhead; sizes are printed.

Results to expect on two CPU cores: about 3 times at 300 prompt tokens and 5 times at 1,200; losses and gradients equal to
some 1e-6.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import dataclass

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from squall.algorithms.packing import AnswerBatch, collate, pack_rows
from squall.algorithms.policy import EncodedPrompt, rotary_positions
from squall.algorithms.scoring import AnswerScorer
from squall.algorithms.tgrpo import TGRPOConfig, token_loss

VIDEO_TOKEN, IMAGE_TOKEN, VISION_START, VISION_END = 4, 5, 6, 7
GROUP, ANSWER_TOKENS, REPEATS = 8, 64, 5


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2.5-VL policy."""

    hidden: int = 512
    intermediate: int = 1536
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    vocabulary: int = 16_384
    vision_hidden: int = 128
    vision_intermediate: int = 384
    vision_layers: int = 4
    vision_heads: int = 4


def random_policy(shape: Shape, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Qwen2_5_VLForConditionalGeneration:
    """A policy of a shape with random weights."""
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
            max_position_embeddings=32_768, tie_word_embeddings=False, bos_token_id=None, eos_token_id=0, pad_token_id=0,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6,
                             "mrope_section": [n * shape.hidden // shape.heads // 128 for n in (16, 24, 24)]}),
        vision_config=dict(
            depth=shape.vision_layers, hidden_size=shape.vision_hidden, intermediate_size=shape.vision_intermediate,
            num_heads=shape.vision_heads, out_hidden_size=shape.hidden, patch_size=14, spatial_merge_size=2,
            temporal_patch_size=2, window_size=112, fullatt_block_indexes=[shape.vision_layers - 1], tokens_per_second=2),
        video_token_id=VIDEO_TOKEN, image_token_id=IMAGE_TOKEN, vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END, tie_word_embeddings=False)
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return Qwen2_5_VLForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(before)


def random_prompt(grid: tuple[int, int, int], text_tokens: int, vocabulary: int, dtype: torch.dtype = torch.float32
                  ) -> EncodedPrompt:
    """A prompt of one clip, `grid` patches in time, height and width, and `text_tokens` of text after it."""
    generator = torch.Generator().manual_seed(1)
    vision_tokens = grid[0] * grid[1] * grid[2] // 4
    text = torch.randint(10, vocabulary, (text_tokens - 2,), generator=generator)
    ids = torch.cat([torch.tensor([VISION_START]), torch.full((vision_tokens,), VIDEO_TOKEN), torch.tensor([VISION_END]), text])
    types = 2 * (ids == VIDEO_TOKEN).long()
    pixels = torch.randn((grid[0] * grid[1] * grid[2], 3 * 2 * 14 * 14), generator=generator).to(dtype)
    vision = {"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([grid])}
    return EncodedPrompt("clip", ids, types, vision, rotary_positions(types, grid, 2, 2.0))


def microbatch(prompt: EncodedPrompt, vocabulary: int, answer_tokens: int, shared: bool) -> AnswerBatch:
    """The group's answers, all behind one prompt or each behind its own."""
    generator = torch.Generator().manual_seed(2)
    answers = torch.randint(10, vocabulary, (GROUP, answer_tokens), generator=generator).tolist()
    return collate(pack_rows([prompt] * GROUP, answers, 1 << 30, shared), pad_id=0)


def group_loss(scorer: AnswerScorer, batch: AnswerBatch) -> torch.Tensor:
    """T-GRPO's loss of one group, advantages of both signs, after an old policy and against a reference that are uniform."""
    logprobs_AL, _ = scorer(batch)
    advantages_A = torch.linspace(-1.0, 1.3, GROUP, device=logprobs_AL.device)[list(batch.places_A)]
    uniform_AL = torch.full_like(logprobs_AL, -math.log(len(scorer.model.lm_head.weight)))
    terms = token_loss(logprobs_AL, uniform_AL, None, uniform_AL, advantages_A, batch.mask_AL, TGRPOConfig(kl_beta=0.1))
    return terms.loss_sum / terms.tokens


def seconds(scorer: AnswerScorer, batch: AnswerBatch) -> tuple[float, float]:
    """Wall time of forward and backward pass, and the loss."""
    scorer.zero_grad(set_to_none=True)
    started = time.perf_counter()
    loss = group_loss(scorer, batch)
    loss.backward()
    return time.perf_counter() - started, float(loss.detach())


def gradient(scorer: AnswerScorer) -> torch.Tensor:
    """The gradient of all parameters as one vector."""
    return torch.cat([parameter.grad.flatten() for parameter in scorer.parameters()])


def compare(scorer: AnswerScorer, prompt: EncodedPrompt, vocabulary: int) -> tuple[float, float, float]:
    """Median time naive over shared, and the relative differences of loss and gradient."""
    batches = {shared: microbatch(prompt, vocabulary, ANSWER_TOKENS, shared) for shared in (False, True)}
    times: dict[bool, list[float]] = {False: [], True: []}
    losses, gradients = {}, {}
    for repeat in range(REPEATS + 1):
        for shared, batch in batches.items():
            taken, losses[shared] = seconds(scorer, batch)
            if repeat:
                times[shared].append(taken)
            else:  # the first round warms up
                gradients[shared] = gradient(scorer)
    naive, packed = statistics.median(times[False]), statistics.median(times[True])
    difference = abs(losses[True] - losses[False]) / abs(losses[False])
    turned = float((gradients[True] - gradients[False]).norm() / gradients[False].norm())
    print(f"{len(prompt.input_ids):,} prompt tokens: naive {naive:.2f} s, shared {packed:.2f} s, {naive / packed:.2f} times; "
          f"loss {losses[False]:.8f} and {losses[True]:.8f}, gradients differ by {turned:.1e} of their norm")
    return naive / packed, difference, turned


def main() -> None:
    shape = Shape()
    scorer = AnswerScorer(random_policy(shape), banned_ids=[VIDEO_TOKEN, IMAGE_TOKEN])
    size = sum(parameter.numel() for parameter in scorer.parameters())
    print(f"{size / 1e6:.0f} M parameters, {torch.get_num_threads()} threads, G = {GROUP} answers of {ANSWER_TOKENS} tokens, "
          f"median of {REPEATS}")
    short, *off_short = compare(scorer, random_prompt((4, 16, 16), 44, shape.vocabulary), shape.vocabulary)
    long, *off_long = compare(scorer, random_prompt((8, 24, 24), 48, shape.vocabulary), shape.vocabulary)
    print(json.dumps({"speedup_300": round(short, 3), "speedup_1200": round(long, 3),
                      "loss_difference": max(off_short[0], off_long[0]),
                      "gradient_difference": max(off_short[1], off_long[1])}))


if __name__ == "__main__":
    main()
