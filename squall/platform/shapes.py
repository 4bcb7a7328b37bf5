"""Shapes of Qwen2.5-VL and Qwen3-VL policies: parameters and cache bytes from config.json alone, without torch or weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from squall.platform.models import EMBEDDED_POLICY

BYTES = MappingProxyType({"float32": 4, "bfloat16": 2, "float16": 2})
"""Bytes of a number, by the names that `model.dtype` takes."""


@dataclass(frozen=True, slots=True)
class VisionShape:
    """The vision tower. A patch is `patch` x `patch` pixels of `temporal` frames; `merge` x `merge` patches are one token."""

    layers: int
    hidden: int
    intermediate: int
    output: int
    """Hidden size of the language model."""
    gated: bool
    """Qwen2.5-VL: gated layers, root-mean-square norms, no learned positions. Qwen3-VL: none of these."""
    patch: int = 14
    merge: int = 2
    temporal: int = 2
    deepstack: int = 0
    """Further mergers whose outputs go into the language model's first layers."""
    positions: int = 0
    """Learned positions."""

    @property
    def block(self) -> int:
        """Sides of a frame are multiples of this many pixels."""
        return self.patch * self.merge

    @property
    def pixels(self) -> int:
        """Values of a patch, three colours each."""
        return 3 * self.temporal * self.patch**2

    @property
    def layer_parameters(self) -> int:
        """Parameters that every patch passes: the layers."""
        d, i = self.hidden, self.intermediate
        attention = 4 * d * d + 4 * d
        if self.gated:
            return self.layers * (attention + 3 * d * i + 2 * i + d + 2 * d)
        return self.layers * (attention + 2 * d * i + i + d + 4 * d)

    @property
    def parameters(self) -> int:
        """All parameters, mergers included."""
        wide = self.hidden * self.merge**2
        merger = wide * wide + wide + wide * self.output + self.output
        if self.gated:
            return self.layer_parameters + self.pixels * self.hidden + self.hidden + merger
        embedding = self.pixels * self.hidden + self.hidden + self.positions * self.hidden
        return self.layer_parameters + embedding + merger + 2 * self.hidden + self.deepstack * (merger + 2 * wide)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A policy: language model and vision tower."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    """Whether input and output embeddings are the same weights."""
    vision: VisionShape
    head_size: int = 128
    qk_norm: bool = False
    """Qwen3: queries and keys are normalised, and projections have no bias."""

    @property
    def query_size(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Width of all key heads, which is that of all value heads."""
        return self.kv_heads * self.head_size

    @property
    def layer_parameters(self) -> int:
        """Parameters that every token passes: the language model's layers, without embeddings."""
        h, q, kv = self.hidden, self.query_size, self.kv_size
        projections = 2 * h * q + 2 * h * kv + (2 * self.head_size if self.qk_norm else q + 2 * kv)
        return self.layers * (projections + 3 * h * self.intermediate + 2 * h)

    @property
    def embedding_parameters(self) -> int:
        """Input and output embeddings."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.layer_parameters + self.embedding_parameters + self.hidden + self.vision.parameters

    def lora_parameters(self, rank: int) -> int:
        """Parameters of adapters of a rank on the language model's linear layers."""
        h, q, kv, i = self.hidden, self.query_size, self.kv_size, self.intermediate
        return self.layers * rank * (2 * (h + q) + 2 * (h + kv) + 3 * (h + i))

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of the keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_size * BYTES[dtype]


_VISION_25 = {"layers": 32, "hidden": 1280, "gated": True}
_VISION_3 = {"gated": False, "patch": 16, "deepstack": 3, "positions": 2304}
_SMALL_3 = {"layers": 24, "hidden": 1024, "intermediate": 4096, **_VISION_3}
_LARGE_3 = {"layers": 27, "hidden": 1152, "intermediate": 4304, **_VISION_3}
_QWEN25_7B = ModelShape(28, 3584, 18944, 28, 4, 152064, False, VisionShape(intermediate=3420, output=3584, **_VISION_25))
PUBLISHED: Mapping[str, ModelShape] = MappingProxyType({
    "Qwen/Qwen2.5-VL-3B-Instruct":
        ModelShape(36, 2048, 11008, 16, 2, 151936, True, VisionShape(intermediate=3420, output=2048, **_VISION_25)),
    "Qwen/Qwen2.5-VL-7B-Instruct": _QWEN25_7B,
    "Qwen/Qwen2.5-VL-32B-Instruct":
        ModelShape(64, 5120, 27648, 40, 8, 152064, False, VisionShape(intermediate=3456, output=5120, **_VISION_25)),
    "Qwen/Qwen2.5-VL-72B-Instruct":
        ModelShape(80, 8192, 29568, 64, 8, 152064, False, VisionShape(intermediate=3456, output=8192, **_VISION_25)),
    "Qwen/Qwen3-VL-2B-Instruct":
        ModelShape(28, 2048, 6144, 16, 8, 151936, True, VisionShape(output=2048, **_SMALL_3), qk_norm=True),
    "Qwen/Qwen3-VL-4B-Instruct":
        ModelShape(36, 2560, 9728, 32, 8, 151936, True, VisionShape(output=2560, **_SMALL_3), qk_norm=True),
    "Qwen/Qwen3-VL-8B-Instruct":
        ModelShape(36, 4096, 12288, 32, 8, 151936, False, VisionShape(output=4096, **_LARGE_3), qk_norm=True),
    "Qwen/Qwen3-VL-32B-Instruct":
        ModelShape(64, 5120, 25600, 64, 8, 151936, False, VisionShape(output=5120, **_LARGE_3), qk_norm=True),
    "Video-R1/Video-R1-7B": _QWEN25_7B,
    "Video-R1/Qwen2.5-VL-7B-COT-SFT": _QWEN25_7B,
})
"""Published policies by hub id, so that a plan needs neither the hub nor the weights."""


def find_shape(path: str) -> ModelShape | None:
    """The shape of `@embedded`, of a local Hugging Face directory or of a published hub id; None for any other id."""
    folder = EMBEDDED_POLICY if path == "@embedded" else Path(path)
    if (folder / "config.json").is_file():
        return read_shape(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    return PUBLISHED.get(path)


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json of Qwen2.5-VL or Qwen3-VL describes, in its flat (older) or nested form."""
    text, vision = {**config, **config.get("text_config", {})}, config["vision_config"]
    gated = config["model_type"] == "qwen2_5_vl"
    tower = VisionShape(
        layers=vision["depth"], hidden=vision["hidden_size"], intermediate=vision["intermediate_size"],
        output=vision["out_hidden_size"], gated=gated, patch=vision.get("patch_size", 14 if gated else 16),
        merge=vision.get("spatial_merge_size", 2), temporal=vision.get("temporal_patch_size", 2),
        deepstack=len(vision.get("deepstack_visual_indexes", ())), positions=vision.get("num_position_embeddings", 0))
    heads = text["num_attention_heads"]
    return ModelShape(
        layers=text["num_hidden_layers"], hidden=text["hidden_size"], intermediate=text["intermediate_size"], heads=heads,
        kv_heads=text["num_key_value_heads"], vocabulary=text["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))), vision=tower,
        head_size=text.get("head_dim") or text["hidden_size"] // heads, qk_norm=not gated)
