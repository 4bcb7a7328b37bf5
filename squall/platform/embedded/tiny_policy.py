"""The small policy that ships with Squall: the Qwen2.5-VL architecture at about one million parameters.

Random weights drawn with fan-in scaling, and a patch embedding that whitens the data's own patches; `squall demo
--from-scratch` teaches it to look. With the library's default initialisation (standard deviation 0.02) a model of this size
stays at chance level, and without whitening it does not come to see motion: nine tenths of a patch's variance is its
brightness, next to which the difference of two frames is lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 448
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def create_policy(directory: Path, corpus: list[str], clips: list[np.ndarray], seed: int) -> Path:
    """Write a Hugging Face directory with a new policy and a tokenizer trained on `corpus`.

    Args:
        directory: where to write; made if missing.
        corpus: prompts and answers of the task; the byte-level BPE learns its merges from them.
        clips: clips of the task, uint8 (T, H, W, 3); the patch embedding is made from their patches.
        seed: of the initial weights.
    """
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # for the second that writing four megabytes takes
    processor = _processor(corpus)
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_model_config(processor.tokenizer)).to(torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                fan_in = weight[0].numel()
                weight.normal_(0, 0.5 if "embed_tokens" in name else fan_in**-0.5)
        embedding = model.model.visual.patch_embed.proj.weight
        embedding.copy_(whitening_filters(_patches(processor, clips), len(embedding)).view_as(embedding))
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def whitening_filters(patches_ND: Any, count: int, damping: float = 1e-3) -> Any:
    """The `count` strongest principal components (count, D) of patches, each scaled to unit variance of its response.

    The initialisation of the first layer in Jordan 2024 (arXiv 2404.00498, section 3.2).
    """
    import torch

    moments_DD = patches_ND.double().T @ patches_ND.double() / len(patches_ND)
    variances_D, components_DD = torch.linalg.eigh(moments_DD)
    return (components_DD / (variances_D.clamp(min=0) + damping).sqrt()).T.flip(0)[:count].float()


def _patches(processor: Any, clips: list[np.ndarray]) -> Any:
    """Patches (N, D) of clips as the vision tower receives them."""
    import torch

    videos = [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in clips]
    return processor.video_processor(videos=videos, do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]


def _model_config(tokenizer):  # type: ignore[no-untyped-def]
    from transformers import Qwen2_5_VLConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=(len(tokenizer) + 63) // 64 * 64, hidden_size=128, intermediate_size=256, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=False,
            bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"],
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[4, 6, 6]),
        ),
        vision_config=dict(
            depth=3, hidden_size=64, intermediate_size=128, num_heads=4, out_hidden_size=128, patch_size=14,
            spatial_merge_size=2, temporal_patch_size=2, window_size=112, fullatt_block_indexes=[2],
            tokens_per_second=2,
        ),
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    return config


def _processor(corpus: list[str]):  # type: ignore[no-untyped-def]
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2_5_VLProcessor, Qwen2TokenizerFast, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    fast = Qwen2TokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                              additional_special_tokens=list(SPECIAL))
    pixels = dict(min_pixels=28 * 28, max_pixels=64 * 28 * 28)
    video = Qwen2VLVideoProcessor(**pixels, cap_pixels_per_frame=False)
    return Qwen2_5_VLProcessor(Qwen2VLImageProcessor(**pixels), fast, video, chat_template=CHAT_TEMPLATE)
