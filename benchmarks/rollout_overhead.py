"""Tokens per second through the RolloutEngine actor over those of bare vLLM: what Ray and Squall's own code cost.

    python benchmarks/rollout_overhead.py

Three sides answer the same questions about the same clips with the same sampling parameters and seeds: the actor, called from
this process with every clip in Ray's object store, where corruption workers leave it; vLLM's AsyncLLM, which is inside the
actor; and vLLM's LLM, its interface for batches. The bare ones have a process of their own each, with the actor's engine
arguments and priority, and the clips in memory. Rounds alternate, one side at work while the others idle; every round has
fresh clips, so nothing is in a cache. The shipped 1 M-parameter policy is the hardest case: the less the model computes, the
more everything else weighs. It is given an end token that cannot be sampled, so every answer has the same length and every side
generates the same number of tokens.

Results to expect on two CPU cores: a ratio of 0.90 or more to the faster of the two, and the same answers on every side. Other
work on the machine moves single rounds by 20 % and more; CPU seconds for 1,000 tokens, printed beside the speed, move less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray

from squall.actors.cluster import start_ray, stop_ray
from squall.actors.rollout_engine import (
    EngineConfig,
    GenerateRequest,
    RolloutEngine,
    _engine_arguments,
    _environment,
    _media,
    _rollout_params,
)
from squall.platform.models import EMBEDDED_POLICY, banned_token_ids, load_processor
from squall.platform.records import Branch, Clip, SamplingSpec, make_clip

GROUPS, ANSWERS, TOKENS = 64, 8, 64
FRAMES, SIDE = 8, 112
PROMPT = ("<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Which way does the camera move?\nA. left\nB. right\n"
          "Answer within <answer> tags.<|im_end|>\n<|im_start|>assistant\n")
ENGINE = EngineConfig(max_model_len=256, dtype="float32")
END = "<|vision_pad|>"
"""Banned from every answer, so as an end token it never comes."""

Question = tuple[GenerateRequest, Clip]
Answers = tuple[float, list[tuple[int, ...]]]
"""Seconds, and the tokens of every answer."""


@dataclass(frozen=True)
class Side:
    """Somebody who answers questions."""

    answer: Callable[[Sequence[Question]], Answers]
    process: int

    def cpu_seconds(self) -> float:
        """CPU time so far of its process, all below it, and this one."""
        process = psutil.Process(self.process)
        times = [member.cpu_times() for member in [process, *process.children(recursive=True), psutil.Process()]]
        return sum(time.user + time.system for time in times)


def endless_policy(folder: Path) -> str:
    """The shipped policy with an end token that it cannot sample."""
    shutil.copytree(EMBEDDED_POLICY, folder)
    number = load_processor(str(folder)).tokenizer.convert_tokens_to_ids(END)
    for name, *path, value in (("tokenizer_config.json", "eos_token", END), ("generation_config.json", "eos_token_id", number),
                               ("config.json", "text_config", "eos_token_id", number)):
        content = json.loads((folder / name).read_text())
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (folder / name).write_text(json.dumps(content))
    return str(folder)


def questions(number: int) -> list[Question]:
    """One round's questions, each about a clip of noise that no other round has."""
    draw = np.random.default_rng(number)
    sampling = SamplingSpec(max_tokens=TOKENS, seed=number)
    return [(GenerateRequest(PROMPT, f"{number}-{i}", f"{number}-{i}#0", Branch.CLEAN, ANSWERS, sampling),
             make_clip(draw.integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8), 2.0)) for i in range(GROUPS)]


def actor_side(policy: str) -> Side:
    """The RolloutEngine actor."""
    actor = RolloutEngine.options(num_cpus=1).remote(policy, ENGINE)
    process = ray.get(actor.ready.remote())

    def answer(asked: Sequence[Question]) -> Answers:
        stored = [(request, ray.put(clip)) for request, clip in asked]
        started = time.perf_counter()
        rollouts = ray.get([actor.generate.remote(request, clip) for request, clip in stored])
        return time.perf_counter() - started, [rollout.token_ids for group in rollouts for rollout in group]

    return Side(answer, process)


def bare_side(policy: str, serve: Callable[[str, Connection], None], stack: ExitStack) -> Side:
    """vLLM in a process of its own, which ends with the stack."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(policy, there))
    process.start()
    there.close()  # so that a process that died ends the run
    stack.callback(end, process.pid)
    here.recv()

    def answer(asked: Sequence[Question]) -> Answers:
        here.send(asked)
        return here.recv()

    return Side(answer, process.pid)


def end(number: int) -> None:
    """End a process and all below it."""
    members = [*psutil.Process(number).children(recursive=True), psutil.Process(number)]
    for member in members:
        member.terminate()
    for member in psutil.wait_procs(members, timeout=10)[1]:
        member.kill()


def bare_environment() -> None:
    """As the actor's: its variables, and the priority that Ray gives its workers."""
    os.environ.update(_environment(ENGINE) | {"VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"})
    os.nice(int(os.environ.get("RAY_worker_niceness", 15)))


def serve_batches(policy: str, pipe: Connection) -> None:
    """Answer rounds with vLLM's LLM until it is ended."""
    bare_environment()
    from vllm import LLM

    llm = LLM(**_engine_arguments(policy, ENGINE))
    bias = bias_of(policy)
    pipe.send("ready")
    while True:
        asked = pipe.recv()
        started = time.perf_counter()
        outputs = llm.generate([{"prompt": request.prompt, **_media(clip)} for request, clip in asked],
                               [_rollout_params(request, bias) for request, _ in asked], use_tqdm=False)
        taken = time.perf_counter() - started
        pipe.send((taken, [tuple(answer.token_ids) for output in outputs for answer in output.outputs]))


def serve_requests(policy: str, pipe: Connection) -> None:
    """Answer rounds with vLLM's AsyncLLM until it is ended."""
    bare_environment()
    asyncio.run(_serve_requests(policy, pipe))


async def _serve_requests(policy: str, pipe: Connection) -> None:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**_engine_arguments(policy, ENGINE)))
    bias = bias_of(policy)

    async def answer(request: GenerateRequest, clip: Clip) -> Any:
        prompt = {"prompt": request.prompt, **_media(clip)}
        return [output async for output in llm.generate(prompt, _rollout_params(request, bias), request.attempt_id)][-1]

    pipe.send("ready")
    while True:
        asked = await asyncio.to_thread(pipe.recv)
        started = time.perf_counter()
        outputs = await asyncio.gather(*(answer(request, clip) for request, clip in asked))
        taken = time.perf_counter() - started
        pipe.send((taken, [tuple(answer.token_ids) for output in outputs for answer in output.outputs]))


def bias_of(policy: str) -> dict[int, float]:
    """What the actor adds to the logits."""
    from squall.algorithms.scoring import BAN_BIAS

    return dict.fromkeys(banned_token_ids(load_processor(policy)), BAN_BIAS)


def measure(sides: Mapping[str, Side], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Tokens per second, and CPU seconds per 1,000 tokens, of every side and round."""
    speeds, costs = ({name: [] for name in sides} for _ in range(2))
    for number in range(rounds + 1):
        asked, tokens = questions(number), {}
        for name in (list(sides) * 2)[number % len(sides):][:len(sides)]:
            before = sides[name].cpu_seconds()
            seconds, tokens[name] = sides[name].answer(asked)
            assert [len(answer) for answer in tokens[name]] == [TOKENS] * GROUPS * ANSWERS
            if number:  # the first round warms up
                speeds[name].append(GROUPS * ANSWERS * TOKENS / seconds)
                costs[name].append((sides[name].cpu_seconds() - before) / (GROUPS * ANSWERS * TOKENS / 1000))
        if number:
            same = ", ".join(name for name in sides if tokens[name] == tokens["actor"])
            print(f"round {number}: " + ", ".join(f"{name} {speeds[name][-1]:,.0f} tokens/s" for name in sides)
                  + f"; same answers: {same}", flush=True)
    return speeds, costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of every side, after one that warms up")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        policy = endless_policy(Path(folder) / "policy")
        start_ray(num_cpus=2)
        stack.callback(stop_ray)
        sides = {"actor": actor_side(policy), "AsyncLLM": bare_side(policy, serve_requests, stack),
                 "LLM": bare_side(policy, serve_batches, stack)}
        speeds, costs = measure(sides, rounds)
    speed, cost = ({name: statistics.median(values) for name, values in of.items()} for of in (speeds, costs))
    for name in sides:
        print(f"{name}: {speed[name]:,.0f} tokens/s, {cost[name]:.3f} CPU s for 1,000 tokens")
    ratios = {f"over_{name}": round(speed["actor"] / speed[name], 3) for name in ("AsyncLLM", "LLM")}
    print(json.dumps({"ratio": min(ratios.values()), **ratios,
                      **{f"tokens_per_s_{name}": round(value) for name, value in speed.items()}}))


if __name__ == "__main__":
    main()
