"""Loading video-language models: Hugging Face directories or ids of Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from squall.platform.config import Config
from squall.platform.errors import ConfigError
from squall.platform.records import Clip, MediaType

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

EMBEDDED_POLICY = Path(__file__).parent / "embedded" / "policy"
SUPPORTED = ("qwen2_5_vl", "qwen3_vl")
BANNED_TOKENS = (
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<|im_start|>",
)


class LoraConfig(Config):
    """Low-rank adapters on the language model's linear layers (Hu et al. 2021)."""

    rank: int = Field(16, ge=1)
    """Rank of each adapter."""
    alpha: float = Field(32.0, gt=0)
    """Scale; the adapter's output is multiplied by alpha / rank."""


class ModelConfig(Config):
    """Which policy, and how it is held in the learner."""

    path: str = "@embedded"
    """Hugging Face directory or id; `@embedded` is the 1 M-parameter policy that ships with Squall."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in learner and engine."""
    train_vision: bool = True
    """Whether the vision tower learns; if not, the engine keeps its encoder cache across weight updates."""
    lora: LoraConfig | None = None
    """Train adapters instead of all weights; what engines and checkpoints get are whole weights, adapters merged."""


def resolve_model_path(path: str) -> str:
    """Turn `@embedded` into the shipped directory and check that a local directory has what a policy needs.

    Raises:
        ConfigError: the directory has no config.json, no processor, or an architecture that Squall does not train.
    """
    import json

    resolved = str(EMBEDDED_POLICY) if path == "@embedded" else path
    folder = Path(resolved)
    if not folder.exists():
        if resolved.startswith((".", "/", "~")):
            raise ConfigError(f"model.path = {resolved}: no such directory; give a Hugging Face directory or id")
        return resolved
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ConfigError(f"model.path = {resolved}: no config.json; expected a Hugging Face model directory")
    architecture = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
    if architecture not in SUPPORTED:
        raise ConfigError(f"model.path = {resolved}: model_type '{architecture}'; supported: {', '.join(SUPPORTED)}")
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        raise ConfigError(f"model.path = {resolved}: a model directory without a processor; copy "
                          "preprocessor_config.json and the tokenizer files from the original model")
    return str(folder.resolve())


def load_processor(path: str) -> ProcessorMixin:
    """The processor (tokenizer, image and video processors, chat template) of a model directory or id.

    Of a model that knows texts alone it is the tokenizer.
    """
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(path)


def load_policy(path: str, dtype: str = "float32") -> PreTrainedModel:
    """The policy's weights in a given torch dtype ('float32', 'bfloat16', 'float16')."""
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="sdpa")


def add_lora(model: PreTrainedModel, config: LoraConfig) -> Any:
    """Wrap the language model's linear layers with adapters; the other weights are frozen."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    return get_peft_model(model, PeftConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets))


def banned_token_ids(processor: ProcessorMixin) -> list[int]:
    """Ids that a policy must never sample: vision placeholders and turn openers.

    A sampled placeholder shifts every later multimodal position, in the engine and in the learner, and ends in a
    mismatch of placeholders and features many steps later.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    known = tokenizer.get_vocab()
    banned = {known[token] for token in BANNED_TOKENS if token in known}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        banned.add(tokenizer.pad_token_id)
    return sorted(banned)


def render_prompt(processor: ProcessorMixin, messages: list[dict[str, Any]]) -> str:
    """Chat messages as the text that both engine and learner are given, ready for the assistant's answer."""
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def count_prompt_tokens(processor: ProcessorMixin, prompt: str, clip: Clip) -> int:
    """Tokens of a rendered prompt with its clip's vision tokens, as the engine will count them."""
    if clip.media_type is MediaType.IMAGE:
        encoded = processor(text=[prompt], images=[clip.frames[0]])
    else:
        metadata = clip.video_metadata()
        sample = metadata.pop("do_sample_frames")  # the engine reads it as metadata, the processor as an argument
        encoded = processor(text=[prompt], videos=[clip.frames], video_metadata=[metadata], do_sample_frames=sample)
    return len(encoded["input_ids"][0])


def longest_sequence(path: str) -> int | None:
    """Most tokens that a local model directory's positions allow; None where config.json does not say."""
    return _text_config(path).get("max_position_embeddings")


def stored_dtype(path: str) -> str:
    """Type in which a model directory's weights are stored; for an id of the hub bfloat16, as it is of all published ones."""
    config = _text_config(path)
    return config.get("dtype") or config.get("torch_dtype") or "bfloat16"


def _text_config(path: str) -> dict[str, Any]:
    """Top level of config.json with the language model's own entries on top; empty for an id of the hub."""
    import json

    config_file = Path(path) / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    return {**config, **config.get("text_config", {})}
