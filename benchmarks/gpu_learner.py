"""The learner's step on a GPU, without Ray and vLLM: random weights of the 7B shape, shared prompts against naive ones.

    python benchmarks/gpu_learner.py                # Qwen2.5-VL-7B's shape in bfloat16, one GPU of 80 GB or more
    python benchmarks/gpu_learner.py --tiny         # the same code in a few seconds on a CPU

Forward and backward pass of one group: a clip of 16 frames (1,024 tokens), a prompt, G = 8 answers of 256 tokens, gradients of
all weights, layers computed again in the backward pass. The optimiser is left out: its state does not fit beside 7B weights on
one GPU, and ZeRO shards it in a run. MFU is 6 floating-point operations per parameter and token, those of the recomputation and
of attention scores left out, over the time and the peak given by --peak.

Nothing was measured on a GPU yet; expected from tokens alone: naive over shared 3 to 4 times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from shared_prefix import GROUP, Shape, group_loss, microbatch, random_policy, random_prompt

from squall.algorithms.packing import AnswerBatch
from squall.algorithms.scoring import AnswerScorer

SEVEN_B = Shape(hidden=3584, intermediate=18_944, layers=28, heads=28, kv_heads=4, vocabulary=152_064, vision_hidden=1280,
                vision_intermediate=3420, vision_layers=32, vision_heads=16)
"""Qwen2.5-VL-7B-Instruct."""
TINY = Shape(hidden=128, intermediate=256, layers=2, heads=1, kv_heads=1, vocabulary=1024, vision_hidden=64,
             vision_intermediate=128, vision_layers=2, vision_heads=2)
REPEATS = 3


def operations(scorer: AnswerScorer, batch: AnswerBatch) -> float:
    """Floating-point operations of forward and backward pass by 6 per parameter and token; attention scores are left out."""
    model = scorer.model
    language = sum(parameter.numel() for parameter in model.model.language_model.layers.parameters())
    tower = sum(parameter.numel() for parameter in model.model.visual.parameters())
    tokens, answers = batch.inputs["attention_mask"].shape[0] * batch.inputs["input_ids"].shape[1], float(batch.mask_AL.sum())
    return 6.0 * (language * tokens + model.lm_head.weight.numel() * answers + tower * len(batch.inputs["pixel_values_videos"]))


def step(scorer: AnswerScorer, batch: AnswerBatch) -> tuple[float, float]:
    """Seconds of one forward and backward pass, and the loss."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    scorer.zero_grad(set_to_none=True)
    synchronize()
    started = time.perf_counter()
    loss = group_loss(scorer, batch)
    loss.backward()
    synchronize()
    return time.perf_counter() - started, float(loss.detach())


def measure(name: str, scorer: AnswerScorer, batch: AnswerBatch, peak: float) -> dict[str, float | None]:
    """Median time, MFU, peak memory and loss of one form of the batch."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    times = []
    for repeat in range(REPEATS + 1):
        taken, loss = step(scorer, batch)
        if repeat:  # the first one warms up
            times.append(taken)
    seconds = statistics.median(times)
    memory = round(torch.cuda.max_memory_allocated() / 2**30, 1) if torch.cuda.is_available() else None
    utilisation = operations(scorer, batch) / seconds / peak
    print(f"{name}: {seconds:.3f} s a group, MFU {utilisation:.1%}, peak memory {memory} GiB, loss {loss:.6f}")
    return {"seconds": seconds, "mfu": utilisation, "peak_gib": memory, "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small shape, on a CPU too")
    parser.add_argument("--answer-tokens", type=int, default=256, help="tokens of each of the 8 answers")
    parser.add_argument("--peak", type=float, default=989e12, help="peak of the device in operations a second (H100: 989e12)")
    options = parser.parse_args()
    shape = TINY if options.tiny else SEVEN_B
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    scorer = AnswerScorer(random_policy(shape, dtype, device), banned_ids=[]).train()
    scorer.model.gradient_checkpointing_enable({"use_reentrant": False})
    size = sum(parameter.numel() for parameter in scorer.parameters())
    hardware = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{size / 1e9:.2f} B parameters, {dtype}, {hardware}, G = {GROUP} answers of {options.answer_tokens} tokens")
    prompt = random_prompt((8, 16, 32) if not options.tiny else (4, 8, 8), 200, shape.vocabulary, dtype)
    batches = {shared: microbatch(prompt, shape.vocabulary, options.answer_tokens, shared).to(torch.device(device))
               for shared in (True, False)}
    shared = measure("shared", scorer, batches[True], options.peak)
    naive = measure("naive", scorer, batches[False], options.peak)
    print(json.dumps({"speedup": round(naive["seconds"] / shared["seconds"], 3), "mfu_shared": round(shared["mfu"], 4),
                      "mfu_naive": round(naive["mfu"], 4), "peak_gib_shared": shared["peak_gib"],
                      "peak_gib_naive": naive["peak_gib"],
                      "loss_difference": abs(shared["loss"] - naive["loss"]) / abs(naive["loss"])}))


if __name__ == "__main__":
    main()
