"""What TATS' sampler costs beside tube masks: time and peak memory of a training step at 1,568 tokens.

    python benchmarks/tats.py                                  # CUDA where there is one, else the CPU (minutes)
    python benchmarks/tats.py --precision bfloat16 --clips 16
    python benchmarks/tats.py --width 96 --masks 2 --device cpu --threads 2

Clips are 16 frames of 224x224 (8 x 14 x 14 tokens), the autoencoder is ViT-B with a decoder of four blocks; a step is all of
it: masks, reconstruction, its gradient, AdamW, and for TATS acting, and PPO over `--epochs`. Every clip has `--masks` masks in
a step, tubes as well, as in @tats: a sampler looks at a clip once for all of them. `time_ratio_95_one_mask` is of as many clips
as there were masks, one mask each. Both sides take turns, a step each; a time is the median over rounds and a ratio the median
of those of the rounds.

Memory is the peak of a process of its own, weights and moments included: on CUDA what torch allocated, on a CPU the resident
set less that before the first weight. `chunked_memory_ratio` is of the sampler's forward and backward pass alone, with chunks
of `--chunk` queries over all at once.

Targets, at a sampler's width of at most 192: time_ratio_95 <= 1.25. Results to expect: docs/tats.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.samplers.config import SamplerConfig, build_sampler
from squall.algorithms.masked_video.step import JointTraining
from squall.algorithms.masked_video.training_config import MaskedVideoConfig
from squall.platform.config import validate

RATIOS = (0.85, 0.90, 0.95)
CLIP = (3, 16, 224, 224)


def network(args: argparse.Namespace, chunk: int = 0) -> dict[str, int]:
    return {"width": args.width, "heads": args.heads, "chunk_tokens": chunk}


def training(args: argparse.Namespace, kind: str, ratio: float, masks: int) -> JointTraining:
    sampler = {"kind": "tube"} if kind == "tube" else {"kind": "tats", "network": network(args)}
    values = {"autoencoder": {"size": args.size}, "sampler": sampler, "mask_ratio": {"ratio": ratio},
              "sampler_training": {"warmup_steps": 0, "epochs": args.epochs, "baseline": "group" if masks > 1 else "critic"},
              "batch_clips": args.clips * args.masks // masks, "masks_per_clip": masks, "precision": args.precision}
    return JointTraining(validate(MaskedVideoConfig, values, "benchmark"), 1000, args.device)


def batch(args: argparse.Namespace, clips: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (clips, *CLIP), dtype=torch.uint8, generator=generator).to(args.device)


def seconds(step: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def time_ratio(args: argparse.Namespace, ratio: float, masks: int) -> float:
    """The median of TATS' step time over tubes' within a round; prints the medians of both."""
    both = [training(args, kind, ratio, masks) for kind in ("tube", "tats")]
    clips = batch(args, both[0].config.batch_clips)
    rounds = [[seconds(lambda each=each: each.advance(clips), args.device) for each in both]
              for _ in range(args.warmup + args.rounds)][args.warmup:]
    tube, tats = (statistics.median(column) for column in zip(*rounds, strict=True))
    over = statistics.median(later / first for first, later in rounds)
    print(f"ratio {ratio:.2f}, {len(clips)} clips of {masks} masks: tube {tube * 1e3:8.1f} ms   tats {tats * 1e3:8.1f} ms   "
          f"{over:.3f}", flush=True)
    return round(over, 3)


def peak(args: argparse.Namespace, case: str) -> int:
    """Bytes that a case takes, in a process of its own."""
    same = [part for name, value in vars(args).items() if name != "memory" for part in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, __file__, *same, "--memory", case], check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


def peak_here(args: argparse.Namespace) -> int:
    """Bytes that this process takes for the case that it was asked for."""
    clips = batch(args, args.clips)
    sampler_pass(args, 4, TokenGrid(4, 32, 32))  # what libraries load at their first use is none of a case's memory
    before = memory_of_this_process("VmRSS")
    if args.memory in ("tube", "tats"):
        whole = training(args, args.memory, 0.95, args.masks)
        for _ in range(2):  # the first makes the optimisers' moments
            whole.advance(clips)
    else:
        sampler_pass(args, args.chunk if args.memory == "chunked" else 0, TokenGrid(*CLIP[1:]))
    return torch.cuda.max_memory_allocated() if args.device == "cuda" else memory_of_this_process("VmHWM") - before


def sampler_pass(args: argparse.Namespace, chunk: int, grid: TokenGrid) -> None:
    config = SamplerConfig.model_validate({"network": network(args, chunk)})
    tokens = torch.randn(args.clips, grid.tokens, 768, device=args.device)
    sampler = build_sampler(config, grid, tokens.shape[2]).to(args.device)
    with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bfloat16"):
        proposal = sampler(tokens)
    (proposal.logits.sum() + proposal.values.sum()).backward()


def memory_of_this_process(figure: str) -> int:
    """Bytes of its resident set, `VmRSS` now or `VmHWM` at its greatest; rusage's would be that of the parent at first."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{figure}:")) * 1024


def parse() -> argparse.Namespace:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=device, choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--size", default="base", choices=("tiny", "small", "base"))
    parser.add_argument("--width", type=int, default=192, help="of the sampler")
    parser.add_argument("--heads", type=int, default=3, help="of the sampler")
    parser.add_argument("--epochs", type=int, default=2, help="of PPO")
    parser.add_argument("--chunk", type=int, default=196, help="queries at a time, for chunked_memory_ratio")
    parser.add_argument("--clips", type=int, default=8 if device == "cuda" else 1, help="of a step")
    parser.add_argument("--masks", type=int, default=4, help="of each clip in a step")
    parser.add_argument("--rounds", type=int, default=20 if device == "cuda" else 3)
    parser.add_argument("--warmup", type=int, default=3 if device == "cuda" else 1, help="rounds that are left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="", help="used by the benchmark itself: tell one case's peak")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.memory:
        print(peak_here(args))
        return
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    print(f"{where}, {args.precision}, {args.clips} clips of {args.masks} masks a step, sampler of width {args.width} "
          f"({args.heads} heads), {args.epochs} epochs of PPO, {args.rounds} rounds", flush=True)
    told: dict[str, float] = {}
    for ratio in RATIOS:
        told[f"time_ratio_{ratio * 100:.0f}"] = time_ratio(args, ratio, args.masks)
    told["time_ratio_95_one_mask"] = time_ratio(args, 0.95, 1)
    memory = {case: peak(args, case) for case in ("tube", "tats", "unchunked", "chunked")}
    print("peak memory: " + ", ".join(f"{case} {size / 2**20:.0f} MiB" for case, size in memory.items()))
    told["memory_ratio_95"] = round(memory["tats"] / memory["tube"], 3)
    told["chunked_memory_ratio"] = round(memory["chunked"] / memory["unchunked"], 3)
    print(json.dumps(told | {"sampler_width": args.width, "masks_per_clip": args.masks, "epochs": args.epochs,
                             "device": args.device, "precision": args.precision}))


if __name__ == "__main__":
    main()
