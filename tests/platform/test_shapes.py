"""Shapes of policies: parameter totals against the published ones and against weights that are here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from squall.platform.models import EMBEDDED_POLICY
from squall.platform.shapes import PUBLISHED, find_shape, read_shape

TOTALS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976, "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33_452_718_336, "Qwen/Qwen2.5-VL-72B-Instruct": 73_410_777_344,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032, "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696, "Qwen/Qwen3-VL-32B-Instruct": 33_357_390_064,
}
"""As the models' safetensors files sum up to on the hub; transformers builds as many on its meta device."""


@pytest.mark.parametrize(("name", "total"), TOTALS.items())
def test_published_policies_have_their_published_parameters(name: str, total: int) -> None:
    assert PUBLISHED[name].parameters == total


def test_the_shipped_policy_has_the_parameters_of_its_file() -> None:
    with safe_open(str(EMBEDDED_POLICY / "model.safetensors"), "numpy") as weights:
        names = list(weights.keys())
        total = sum(weights.get_tensor(name).size for name in names)
        vision = sum(weights.get_tensor(name).size for name in names if "visual" in name)
    shape = find_shape("@embedded")
    assert (shape.parameters, shape.vision.parameters) == (total, vision)


def test_adapters_are_counted_as_peft_makes_them() -> None:
    shape = PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]
    # 28 layers, rank 16: q and o 2 x (3584 + 3584), k and v 2 x (3584 + 512), gate, up and down 3 x (3584 + 18944)
    assert shape.lora_parameters(16) == 28 * 16 * (14_336 + 8_192 + 67_584) == 40_370_176


def test_the_cache_of_the_7b_policy_takes_56_kib_a_token() -> None:
    assert PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"].kv_bytes_per_token("bfloat16") == 28 * 2 * 4 * 128 * 2 == 57_344


def test_older_flat_configurations_read_as_nested_ones(tmp_path: Path) -> None:
    nested = json.loads((EMBEDDED_POLICY / "config.json").read_text())
    flat = {**{key: value for key, value in nested.items() if key != "text_config"},
            **{key: value for key, value in nested["text_config"].items() if key != "model_type"}}
    assert read_shape(flat) == read_shape(nested)
    (tmp_path / "config.json").write_text(json.dumps(flat))
    assert find_shape(str(tmp_path)) == find_shape("@embedded")
    assert find_shape("somebody/else") is None
