"""What a video-language policy is given: prompt tokens, its clip's patches, and positions with the engine's view of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from squall.platform.records import Clip, MediaType


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt and its clip after the model's processor: token ids (S,), token types (S,), pixel patches and grid."""

    clip_hash: str
    input_ids: torch.Tensor
    token_types: torch.Tensor
    vision: dict[str, torch.Tensor]
    positions_3S: torch.Tensor
    """Rotary positions (time, height, width)."""


def encode_prompt(processor: Any, model: Any, prompt: str, clip: Clip) -> EncodedPrompt:
    """Run the model's processor on a rendered prompt and a clip, giving it the clip's own frame rate.

    Without the frame rate transformers assumes 24 fps, and the temporal rotary positions differ from the engine's.

    Args:
        model: the bare Hugging Face model; only its configuration and its rule for positions are used.
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
    ids, types = encoded["input_ids"][0], encoded["mm_token_type_ids"][0]
    positions_3S = _positions(processor, model, ids, types, vision)
    vision.pop("second_per_grid_ts", None)  # positions are all that it is for
    return EncodedPrompt(clip.content_hash, ids, types, vision, positions_3S)


def _positions(processor: Any, model: Any, ids_S: torch.Tensor, types_S: torch.Tensor,
               vision: dict[str, torch.Tensor]) -> torch.Tensor:
    """Qwen2.5-VL places a video's frames by time; images, and Qwen3-VL with its timestamps, follow the model's own rule."""
    rate = getattr(model.config.vision_config, "tokens_per_second", None)
    if rate is not None and "second_per_grid_ts" in vision:
        grid = [int(value) for value in vision["video_grid_thw"][0]]
        spacing = float(vision["second_per_grid_ts"][0]) * rate
        return rotary_positions(types_S, grid, processor.video_processor.merge_size, spacing)
    grids = {key: value for key, value in vision.items() if key.endswith("_grid_thw")}
    positions_31S, _ = model.model.get_rope_index(ids_S[None], types_S[None], **grids)
    return positions_31S[:, 0]


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


def _to_tensor(clip: Clip) -> torch.Tensor:
    frames = clip.frames if clip.frames.flags.writeable else clip.frames.copy()
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
