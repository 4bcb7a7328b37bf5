"""Log-probabilities of answers under a video-language policy, with the engine's view of time and of banned tokens.

Shapes: B sequences, L answer tokens (padded), S prompt and answer tokens (padded), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from squall.platform.records import Clip, MediaType

BAN_BIAS = -100.0
"""Added to the logits of banned tokens, in the engine and in the learner alike."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt and its clip after the model's processor: token ids (S,), token types (S,), pixel patches and grid."""

    input_ids: torch.Tensor
    token_types: torch.Tensor
    vision: dict[str, torch.Tensor] = field(default_factory=dict)
    positions_3S: torch.Tensor | None = None
    """Rotary positions (time, height, width); None leaves them to the model."""


@dataclass(frozen=True)
class AnswerBatch:
    """Right-padded sequences: `inputs` go to the model, `answers_BL` and `mask_BL` say which tokens count."""

    inputs: dict[str, torch.Tensor]
    answers_BL: torch.Tensor
    mask_BL: torch.Tensor
    starts_B: torch.Tensor

    def to(self, device: torch.device) -> AnswerBatch:
        """Move every tensor to a device."""
        return AnswerBatch({key: value.to(device) for key, value in self.inputs.items()},
                           self.answers_BL.to(device), self.mask_BL.to(device), self.starts_B.to(device))


def encode_prompt(processor: Any, prompt: str, clip: Clip, tokens_per_second: float | None) -> EncodedPrompt:
    """Run the model's processor on a rendered prompt and a clip, giving it the clip's own frame rate.

    Without the frame rate transformers assumes 24 fps, and the temporal rotary positions differ from the engine's.

    Args:
        tokens_per_second: the vision configuration's value for models that place frames by time (Qwen2.5-VL); None for
            those that write timestamps into the prompt (Qwen3-VL).
    """
    if clip.media_type is MediaType.IMAGE:
        encoded = processor(text=[prompt], images=[_to_tensor(clip)[0]], return_tensors="pt")
        keys = ("pixel_values", "image_grid_thw")
    else:
        metadata = clip.video_metadata()
        sample = metadata.pop("do_sample_frames")  # the engine reads it as metadata, the processor as an argument
        encoded = processor(text=[prompt], videos=[_to_tensor(clip)], video_metadata=[metadata],
                            do_sample_frames=sample, return_tensors="pt")
        keys = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
    vision = {key: torch.as_tensor(encoded[key]) for key in keys if key in encoded}
    ids, types, positions = encoded["input_ids"][0], encoded["mm_token_type_ids"][0], None
    if tokens_per_second is not None and "second_per_grid_ts" in vision:
        spacing = float(vision["second_per_grid_ts"][0]) * tokens_per_second
        grid = [int(value) for value in vision["video_grid_thw"][0]]
        positions = rotary_positions(types, grid, processor.video_processor.merge_size, spacing)
    return EncodedPrompt(ids, types, vision, positions)


def rotary_positions(token_types_S: torch.Tensor, grid_thw: Sequence[int], merge: int, spacing: float) -> torch.Tensor:
    """Positions (3, S) of a prompt with one video, as Qwen2.5-VL defines them and the engine computes them.

    Text after the video goes on after the *largest* position of the video. transformers 5.19 goes on after the largest
    spatial one instead, which differs as soon as a clip is long in time: at 2 fps from 4 temporal patches on.

    Args:
        grid_thw: patches of the video in time, height and width, before spatial merging.
        merge: spatial merge size.
        spacing: temporal positions between two grid steps, second_per_grid_ts x tokens_per_second.
    """
    start = int((token_types_S > 0).nonzero()[0])
    frames, height, width = grid_thw[0], grid_thw[1] // merge, grid_thw[2] // merge
    steps = torch.stack(torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij"))
    steps[0] = (steps[0] * spacing).long()
    video = steps.reshape(3, -1) + start
    before = torch.arange(start).expand(3, -1)
    rest = len(token_types_S) - start - video.shape[1]
    after = torch.arange(rest).expand(3, -1) + int(video.max()) + 1
    return torch.cat([before, video, after], dim=1)


def _with_answer(positions_3S: torch.Tensor, length: int) -> torch.Tensor:
    """Continue a prompt's positions over its answer, up to `length` tokens in all."""
    tail = torch.arange(1, length - positions_3S.shape[1] + 1) + int(positions_3S.max())
    return torch.cat([positions_3S, tail.expand(3, -1)], dim=1)


def _to_tensor(clip: Clip) -> torch.Tensor:
    frames = clip.frames if clip.frames.flags.writeable else clip.frames.copy()
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def collate(prompts: Sequence[EncodedPrompt], answers: Sequence[Sequence[int]], pad_id: int) -> AnswerBatch:
    """Put each prompt before its answer and pad on the right. `prompts` and `answers` have one entry per sequence."""
    lengths = [len(prompt.input_ids) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    width, longest = max(lengths), max(len(answer) for answer in answers)
    ids_BS = torch.full((len(prompts), width), pad_id)
    attention_BS = torch.zeros((len(prompts), width), dtype=torch.long)
    types_BS = torch.zeros((len(prompts), width), dtype=torch.long)
    answers_BL = torch.full((len(prompts), longest), pad_id)
    mask_BL = torch.zeros((len(prompts), longest))
    for row, (prompt, answer, length) in enumerate(zip(prompts, answers, lengths, strict=True)):
        start, tokens = len(prompt.input_ids), torch.tensor(answer, dtype=torch.long)
        ids_BS[row, :start], ids_BS[row, start:length] = prompt.input_ids, tokens
        types_BS[row, :start] = prompt.token_types
        attention_BS[row, :length] = 1
        answers_BL[row, :len(answer)], mask_BL[row, :len(answer)] = tokens, 1.0
    inputs = {"input_ids": ids_BS, "attention_mask": attention_BS, "mm_token_type_ids": types_BS}
    for key in sorted({key for prompt in prompts for key in prompt.vision}):
        inputs[key] = torch.cat([prompt.vision[key] for prompt in prompts if key in prompt.vision])
    if all(prompt.positions_3S is not None for prompt in prompts):
        inputs["position_ids"] = torch.stack([_with_answer(prompt.positions_3S, width) for prompt in prompts], dim=1)
    starts_B = torch.tensor([len(prompt.input_ids) for prompt in prompts])
    return AnswerBatch(inputs, answers_BL, mask_BL, starts_B)


def answer_logprobs(model: torch.nn.Module, batch: AnswerBatch, banned_ids: Sequence[int],
                    temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every answer token, and the entropy of the distribution it was drawn from.

    Banned ids carry the same bias as in the engine, so both normalise over the same tokens.

    Returns:
        (logprobs_BL, entropy_BL), natural logarithms in fp32; entries outside `mask_BL` are zero. The entropy is
        detached: it is a measurement, not a term of the loss.
    """
    logits_BLV = answer_logits(model, batch, banned_ids) / temperature
    flat = logits_BLV.reshape(-1, logits_BLV.shape[-1])
    logprobs_BL = -cross_entropy(flat, batch.answers_BL.reshape(-1), reduction="none").view(batch.answers_BL.shape)
    with torch.no_grad():
        full = torch.log_softmax(logits_BLV.detach(), dim=-1)
        entropy_BL = -(full.exp() * full).sum(-1)
    return logprobs_BL * batch.mask_BL, entropy_BL * batch.mask_BL


def answer_logits(model: torch.nn.Module, batch: AnswerBatch, banned_ids: Sequence[int]) -> torch.Tensor:
    """Logits (B, L, V) in fp32 that predict each answer token, bans applied."""
    length = batch.answers_BL.shape[1]
    columns_BL = (batch.starts_B[:, None] - 1 + torch.arange(length, device=batch.starts_B.device)).clamp(
        max=batch.inputs["input_ids"].shape[1] - 1)
    first = int(columns_BL.min())  # logits are only computed from the first answer token on
    keep = batch.inputs["input_ids"].shape[1] - first
    logits_BSV = model(**batch.inputs, use_cache=False, logits_to_keep=keep).logits.float()
    index = (columns_BL - first)[..., None].expand(-1, -1, logits_BSV.shape[-1])
    logits_BLV = logits_BSV.gather(1, index)
    if banned_ids:
        bias_V = torch.zeros(logits_BLV.shape[-1], device=logits_BLV.device)
        bias_V[list(banned_ids)] = BAN_BIAS
        logits_BLV = logits_BLV + bias_V
    return logits_BLV
