"""Time of a weight update of a running engine over the time to copy the same bytes through shared memory.

    python benchmarks/weight_update.py

The update is what the learner does after every step: write all weights to shared memory, let the engine's requests end, load
the weights, forget what was computed from older ones, go on. Questions are answered before and after it. The copy writes the
same tensors to a new file in /dev/shm and reads them back into other tensors, one thread, and nothing else. Updates and copies
alternate in one run. Two policies: one of random weights, large enough that bytes matter, and the shipped one of 1 M
parameters, where fixed costs are all there is. `pause_s` is the part in which the engine answers nothing.

Results to expect on two CPU cores: about 2 copies for the large policy. Of its update two fifths are the file, written and
freed; of the loading, half is oneDNN, which packs every matrix anew, and a quarter the one copy that there is. Some 80 ms for
the shipped policy: vLLM waits 20 ms when it pauses, the rest is its work for every tensor and layer.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import ray
import torch

sys.path.insert(0, str(Path(__file__).parent))
import shared_prefix

from squall.actors.cluster import start_ray, stop_ray
from squall.actors.rollout_engine import EngineConfig, GenerateRequest, RolloutEngine
from squall.actors.weight_transfer import SHARED_MEMORY, EngineFleet, open_sender
from squall.platform.models import EMBEDDED_POLICY, load_policy
from squall.platform.records import Branch, SamplingSpec, make_clip

LARGE = shared_prefix.Shape(hidden=1024, intermediate=2816, layers=12, heads=8, kv_heads=4, vocabulary=4096)
PROMPT = ("<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Which way does the camera move?<|im_end|>\n"
          "<|im_start|>assistant\n")


def large_policy(folder: Path) -> str:
    """A policy of random weights with the shipped processor, as a Hugging Face directory."""
    shutil.copytree(EMBEDDED_POLICY, folder, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
    shipped = json.loads((EMBEDDED_POLICY / "config.json").read_text())
    policy = shared_prefix.random_policy(LARGE)
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(policy.config, name, shipped[name])
    policy.save_pretrained(folder)
    return str(folder)


class TimedFleet(EngineFleet):
    """Notes how long each call to the engines takes."""

    def __init__(self, engine: Any) -> None:
        super().__init__([engine], 1, vision_changed=True, timeout_s=300)
        self.times: dict[str, list[float]] = defaultdict(list)

    def _call(self, method: str, *arguments: Any) -> None:
        started = time.perf_counter()
        super()._call(method, *arguments)
        self.times[method].append(time.perf_counter() - started)


class Weights:
    """A learner's weights, of a policy in this process."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.weights = weights

    def metadata(self) -> list[Any]:
        return []

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.weights.items())


def copy_seconds(weights: Mapping[str, torch.Tensor], into: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """Seconds to write tensors to a new file in shared memory, and to read them back."""
    path = SHARED_MEMORY / f"squall-benchmark-{uuid4().hex}"
    try:
        started = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for tensor in weights.values():
                file.write(tensor.view(-1).view(torch.uint8).numpy())
        written = time.perf_counter()
        with path.open("rb", buffering=0) as file:
            for tensor in into.values():
                file.readinto(tensor.view(-1).view(torch.uint8).numpy())
        return written - started, time.perf_counter() - written
    finally:
        path.unlink(missing_ok=True)


def ask(engine: Any, number: int) -> None:
    """Have a question answered under the weights of version `number`."""
    clip = make_clip(np.random.default_rng(number).integers(0, 256, (8, 56, 56, 3), dtype=np.uint8), 2.0)
    request = GenerateRequest(PROMPT, "s", f"s#{number}", Branch.CLEAN, 4, SamplingSpec(max_tokens=8, seed=1))
    assert {rollout.weight_version for rollout in ray.get(engine.generate.remote(request, clip))} == {number}


def measure(name: str, policy: str, rounds: int) -> dict[str, float]:
    """Update an engine `rounds` times, a copy of the same bytes after each; prints and returns medians."""
    weights = {key: tensor.clone() for key, tensor in load_policy(policy).state_dict().items()}
    into = {key: torch.zeros_like(tensor) for key, tensor in weights.items()}
    engine = RolloutEngine.options(num_cpus=1).remote(policy, EngineConfig(max_model_len=256, dtype="float32"))
    ray.get(engine.ready.remote())
    fleet = TimedFleet(engine)
    sender = open_sender("shared_memory", 0, fleet, Weights(weights))
    times = fleet.times
    ask(engine, 0)
    for fleet.version in range(1, rounds + 2):
        started = time.perf_counter()
        sender.send_weights()
        times["update"].append(time.perf_counter() - started)
        ask(engine, fleet.version)
        for kind, taken in zip(("write", "read"), copy_seconds(weights, into), strict=True):
            times[kind].append(taken)
    ray.kill(engine)
    assert fleet.lost == [] and all(torch.equal(into[key], weights[key]) for key in weights)
    median = {key: statistics.median(values[1:]) for key, values in times.items() if key != "connect"}  # the first warms up
    copied = statistics.median(map(sum, zip(times["write"][1:], times["read"][1:], strict=True)))
    calls = {key: median[key] for key in ("start_weight_update", "update_weights", "finish_weight_update")}
    parts = {"file": median["update"] - sum(calls.values()), **calls}
    size = sum(tensor.nbytes for tensor in weights.values())
    print(f"{name}: {sum(t.numel() for t in weights.values()) / 1e6:.0f} M parameters, {size / 1e6:,.0f} MB; "
          f"update {median['update']:.3f} s, copy {copied:.3f} s (write {median['write']:.3f}, read {median['read']:.3f}); "
          + ", ".join(f"{key} {value:.3f}" for key, value in parts.items()), flush=True)
    return {"update_s": median["update"], "copy_s": copied, "pause_s": sum(calls.values()), **parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="updates and copies of each policy, after one that warms up")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    start_ray(num_cpus=2)
    with tempfile.TemporaryDirectory() as folder:
        large = measure("random", large_policy(Path(folder) / "policy"), rounds)
    small = measure("shipped", str(EMBEDDED_POLICY), 3 * rounds)
    stop_ray()
    for name, figures in (("shipped", small), ("random", large)):
        print(json.dumps({"policy": name, "ratio": round(figures["update_s"] / figures["copy_s"], 2),
                          **{key: round(value, 4) for key, value in figures.items()}}))


if __name__ == "__main__":
    main()
