"""The arithmetic of memory, tokens and time: against numbers worked out by hand, and against what torch keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from squall.platform import budget
from squall.platform.budget import (
    EngineLayout,
    GpuSpeed,
    GroupTokens,
    LearnerLayout,
    activation_bytes,
    clip_tokens,
    engine_memory,
    learner_memory,
    learner_operations,
    learner_remedies,
    learner_seconds,
    rollout_seconds,
    timestamp_tokens,
)
from squall.platform.machine import GIB
from squall.platform.models import EMBEDDED_POLICY, load_policy
from squall.platform.shapes import PUBLISHED, find_shape
from squall.platform.video import FrameSampling

SEVEN = PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]
EIGHT = PUBLISHED["Qwen/Qwen3-VL-8B-Instruct"]
LAYOUT = LearnerLayout(workers=4, zero_stage=3, dtype="bfloat16", tokens_per_pass=0, vision_tokens_per_pass=0,
                       answer_tokens_per_pass=0)
ENGINE = EngineLayout("bfloat16", 1, 16_384, 256, 0.85)


def gib(memory: budget.Memory) -> dict[str, float]:
    return {name: round(value / GIB, 1) for name, value in memory.parts.items()}


@pytest.mark.parametrize(("stage", "expected"), [
    # 8.292 G parameters: 2 bytes = 15.4 GiB, 12 bytes = 92.7 GiB; a quarter is 3.9 and 23.2
    (0, {"weights": 15.4, "gradients": 15.4, "optimiser": 92.7, "reference": 15.4}),
    (1, {"weights": 15.4, "gradients": 15.4, "optimiser": 23.2, "reference": 15.4, "ZeRO buffers": 1.9}),
    (2, {"weights": 15.4, "gradients": 3.9, "optimiser": 23.2, "reference": 15.4, "ZeRO buffers": 1.9}),
    (3, {"weights": 3.9, "gradients": 3.9, "optimiser": 23.2, "reference": 3.9, "ZeRO buffers": 2.8}),
])
def test_zero_shards_what_it_says(stage: int, expected: dict[str, float]) -> None:
    assert gib(learner_memory(SEVEN, replace(LAYOUT, zero_stage=stage))) == expected


def test_what_does_not_learn_has_no_gradients_and_no_state() -> None:
    frozen = learner_memory(SEVEN, replace(LAYOUT, zero_stage=0, train_vision=False)).parts
    assert frozen["gradients"] == 2 * (8_292_166_656 - 676_550_144)
    adapters = learner_memory(SEVEN, replace(LAYOUT, zero_stage=0, lora_rank=16)).parts
    assert adapters["gradients"] == 2 * 40_370_176 and adapters["optimiser"] == 12 * 40_370_176
    assert adapters["weights"] == 2 * (8_292_166_656 + 40_370_176)
    assert "reference" not in learner_memory(SEVEN, replace(LAYOUT, reference=False)).parts


def test_offloaded_state_moves_to_the_host() -> None:
    offloaded = replace(LAYOUT, offload_optimiser=True)
    assert "optimiser" not in learner_memory(SEVEN, offloaded).parts
    assert budget.host_optimiser_bytes(SEVEN, offloaded) == 12 * 8_292_166_656
    assert budget.host_optimiser_bytes(SEVEN, LAYOUT) == 0


def test_adamw_in_float32_keeps_two_moments_and_no_copy_until_it_is_sharded() -> None:
    shape = find_shape("@embedded")
    alone = replace(LAYOUT, workers=1, zero_stage=0, dtype="float32")
    assert learner_memory(shape, alone).parts["optimiser"] == 8 * 857_728
    assert learner_memory(shape, replace(alone, zero_stage=2)).parts["optimiser"] == 12 * 857_728


def kept_bytes(model: torch.nn.Module, run: Callable[[], object]) -> int:
    """Bytes that autograd keeps of a forward pass, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor too, lest its memory be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result is not None
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_those_that_autograd_keeps(dtype: str) -> None:
    shape, model = find_shape("@embedded"), load_policy(str(EMBEDDED_POLICY), dtype).train()
    tokens, layout = 512, replace(LAYOUT, dtype=dtype, train_vision=False, tokens_per_pass=512)
    ids = torch.randint(20, 400, (1, tokens), generator=torch.Generator().manual_seed(0))
    language = kept_bytes(model, lambda: model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state)
    assert language == pytest.approx(activation_bytes(shape, layout), rel=0.15)

    patches = torch.randn(tokens, shape.vision.pixels, dtype=getattr(torch, dtype))
    vision = kept_bytes(model, lambda: model.model.visual(patches, grid_thw=torch.tensor([[2, 16, 16]])))
    tower = replace(layout, tokens_per_pass=0, vision_tokens_per_pass=tokens // 4, train_vision=True)
    assert vision == pytest.approx(activation_bytes(shape, tower), rel=0.15)


def test_activations_of_the_7b_policy_by_hand() -> None:
    """A token: 28 layers of two norms (3584 x 8 bytes), and of 5 x 3584 and 4 x 18944 numbers of 2 bytes; 6.85 MB."""
    layer = 2 * 3584 * 8 + 2 * (5 * 3584 + 4 * 18_944)
    assert layer == 244_736
    assert activation_bytes(SEVEN, replace(LAYOUT, tokens_per_pass=1000)) == 1000 * 28 * layer
    recomputed = activation_bytes(SEVEN, replace(LAYOUT, tokens_per_pass=1000, recompute=True))
    assert recomputed == 1000 * (28 * 3584 * 2 + layer)
    logits = replace(LAYOUT, answer_tokens_per_pass=100)
    assert activation_bytes(SEVEN, logits) == 100 * 152_064 * 24
    assert activation_bytes(SEVEN, replace(logits, vocabulary_at_once=8192)) == 100 * 8192 * 24


def test_tokens_of_a_clip() -> None:
    # 16 frames are 8 pairs; 128 x 28 x 28 pixels are 128 blocks of 28, and 98 of 32
    assert clip_tokens(FrameSampling(), SEVEN) == 8 * 128
    assert clip_tokens(FrameSampling(size_multiple=32), EIGHT) == 8 * 98
    assert clip_tokens(FrameSampling(max_frames=7, resize=(56, 112)), SEVEN) == 4 * 2 * 4
    assert timestamp_tokens(FrameSampling(), EIGHT) == 8 * budget.TIMESTAMP_TOKENS
    assert timestamp_tokens(FrameSampling(), SEVEN) == 0


def test_a_shared_prompt_counts_once_for_each_branch() -> None:
    group = GroupTokens(1024, 200, 768, {"corrupted": 8}, {"clean": 2, "corrupted": 8, "shuffled": 4})
    assert (group.prompt, group.sequence) == (1224, 1992)
    assert (group.shared, group.naive) == (1224 + 8 * 768, 8 * 1992) == (7368, 15_936)
    # of a pass of 14,736 tokens, twice the shared group: 2 clips and 16 answers; of one sequence, one each
    assert group.composition(14_736, shared=True) == (2 * 1024, 16 * 768)
    assert group.composition(1992, shared=False) == (1024, 768)
    both = replace(group, trained={"corrupted": 8, "clean": 4})
    assert (both.shared, both.naive) == (2 * 1224 + 12 * 768, 12 * 1992)


def test_an_engine_holds_weights_and_a_cache() -> None:
    found = engine_memory(SEVEN, ENGINE, 80 * GIB)
    assert found.memory.parts["weights"] == 2 * 8_292_166_656
    working = 16_384 * (4 * 3584 + 2 * 18_944) * 2 + 2 * 256 * 152_064 * 4
    assert found.memory.parts["activations"] == working
    room = 0.85 * 80 * GIB - 2 * GIB - 2 * 8_292_166_656 - working
    assert found.cache_tokens == int(room / 57_344) == 911_340
    split = engine_memory(SEVEN, replace(ENGINE, tensor_parallel=2), 80 * GIB)
    assert split.memory.parts["weights"] == 8_292_166_656 and split.cache_tokens > 2 * found.cache_tokens
    eight = replace(ENGINE, tensor_parallel=8)  # 4 key heads on 8 GPUs: each is held twice
    assert budget.kv_bytes_per_gpu(SEVEN, eight) == 57_344 / 4
    assert engine_memory(SEVEN, ENGINE, 16 * GIB).cache_tokens == 0


def test_operations_follow_the_rule_of_thumb() -> None:
    plain = replace(LAYOUT, reference=False)
    layers, head = SEVEN.layer_parameters, 152_064 * 3584
    assert layers == pytest.approx(6.53e9, rel=0.001)
    assert learner_operations(SEVEN, plain, 1000, 0, 0) == 6 * layers * 1000
    assert learner_operations(SEVEN, LAYOUT, 1000, 0, 0) == 8 * layers * 1000
    assert learner_operations(SEVEN, plain, 0, 0, 10) == 6 * head * 10
    assert learner_operations(SEVEN, plain, 0, 10, 0) == 6 * SEVEN.vision.layer_parameters * 40
    assert learner_operations(SEVEN, replace(plain, train_vision=False), 0, 10, 0) == 2 * SEVEN.vision.layer_parameters * 40
    assert learner_operations(SEVEN, replace(plain, recompute=True), 1000, 0, 0, updates=2) == 10 * layers * 1000
    assert learner_operations(SEVEN, replace(plain, lora_rank=16), 1000, 0, 0) == 4 * layers * 1000


def test_times_of_both_sides_by_hand() -> None:
    speed = GpuSpeed("test", 1e15, 1e12)
    group = GroupTokens(0, 100, 200, {"corrupted": 8}, {"clean": 0, "corrupted": 8})
    naive = learner_seconds(SEVEN, LAYOUT, group, 10, shared=False, speed=speed)
    operations = 8 * (SEVEN.layer_parameters * 10 * 8 * 300 + 152_064 * 3584 * 10 * 8 * 200)
    assert naive == pytest.approx(operations / (0.4 * 1e15 * 4))
    assert learner_seconds(SEVEN, LAYOUT, group, 10, shared=True, speed=speed) < naive

    seconds = rollout_seconds(SEVEN, ENGINE, group, 10, engines=2, cache_tokens=10_000, speed=speed)
    prefill = 2 * 10 * SEVEN.layer_parameters * 100 / (0.5 * 1e15 * 2)
    weights = (SEVEN.layer_parameters + 152_064 * 3584) * 2
    # 40 answers an engine, 33 at a time: 2 rounds of 200 steps read the weights; each token reads 200 tokens of cache
    read = 2 * 200 * weights + 40 * 200 * 200 * 57_344
    assert seconds == pytest.approx(prefill + 2 * read / (0.7 * 1e12 * 2))


def test_remedies_make_it_fit_and_are_the_cheapest() -> None:
    plain = replace(LAYOUT, zero_stage=1, tokens_per_pass=2000, vision_tokens_per_pass=1000, answer_tokens_per_pass=700)
    assert learner_memory(SEVEN, plain).total > 78 * GIB
    assert learner_remedies(SEVEN, plain, 78 * GIB)[0] == "learner.optimiser.zero_stage=3"
    together = learner_remedies(SEVEN, plain, 40 * GIB)
    assert len(together) == 1 and together[0].count(" and ") >= 1
    assert not any("zero_stage=3" in text and "lora" in text for text in together)
    assert learner_remedies(PUBLISHED["Qwen/Qwen2.5-VL-72B-Instruct"], plain, 8 * GIB) == []
