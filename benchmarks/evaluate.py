"""Questions per second of `squall evaluate` over those of bare vLLM, and its memory for few and for many clips.

    squall data embedded && python benchmarks/evaluate.py

A policy of Qwen2.5-VL's architecture with some 24 M random weights answers the same questions about the same clips, greedily
and with answers of one length. On one side `squall evaluate` asks: from the manifest through corruption workers, which have
the decoded clips in their cache, engine, reward workers and journal. On the other vLLM's LLM, its interface for batches, in a
process of its own with the same engine arguments and priority, clips and rendered prompts in memory. Starting is not in the
time. Rounds alternate; every round has clips that no other has. `peak_mb` is what the driver and all processes of its cluster
hold of their own, at most, while 4 times as many questions are asked as in a round; `peak_growth_mb` is how much more that is
than in a round. The engine keeps at most 50 MB of processed clips there, so that this cache is full before memory is looked at.

Results to expect on two CPU cores: a ratio of 0.85 or more, and the same answers. Other work on the machine moves rounds by 20
percent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rollout_overhead import end, endless_policy

from squall.actors.rollout_engine import EngineConfig, _completion_params, _engine_arguments, _environment, _media
from squall.actors.sampling import GroupSampler
from squall.algorithms.scoring import BAN_BIAS
from squall.jobs.evaluate import ask, sampling
from squall.jobs.evaluate_output import Journal
from squall.jobs.evaluate_plan import EvaluateConfig, Evaluation, prepare
from squall.platform.config import validate
from squall.platform.models import banned_token_ids, load_processor, render_prompt
from squall.platform.prompts import build_messages, prompt_template
from squall.platform.runs import RunDirectory
from squall.platform.video import ClipCache

QUESTIONS, TOKENS = 128, 16
MANY = 4
CACHE_BYTES = 8 << 30
"""On disk."""


def wide_policy(folder: Path) -> str:
    """A policy of 24 M random weights that never ends an answer by itself, with the shipped tokenizer."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    path = endless_policy(folder)
    config = Qwen2_5_VLConfig.from_pretrained(path)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers, text.num_attention_heads = 512, 1536, 7, 8
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    text.rope_parameters = dict(rope_type="default", rope_theta=1e6, mrope_section=[8, 12, 12])
    config.vision_config.out_hidden_size = text.hidden_size
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    for weight in model.parameters():
        if weight.ndim >= 2:
            torch.nn.init.normal_(weight, 0.0, weight[0].numel() ** -0.5)
    model.save_pretrained(path)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters")
    return path


def plan(options: argparse.Namespace, policy: str, folder: Path) -> Evaluation:
    """Everything that is asked, with the clips decoded and cached."""
    asked = options.questions * (1 + options.rounds + MANY)
    work = prepare(validate(EvaluateConfig, {
        "manifest": options.data / "test.jsonl", "questions": asked, "kinds": [], "temperature": 0.0, "max_tokens": TOKENS,
        "model": {"path": policy}, "data": {"cache": folder / "clips", "prompt_template": "compact",
                                            "frames": {"max_frames": 8, "max_pixels": 3136}},
        "engine": {"cpus": 1, "max_model_len": 256, "clip_cache_gib": 0.05},
        "workers": {"corruption_cpus": 0.4, "reward_cpus": 0.1}}, "benchmark"))
    if len(work.samples) < asked:
        raise SystemExit(f"{options.data / 'test.jsonl'} has {len(work.samples)} questions, and {asked} are needed; give fewer "
                         "--questions or --rounds")
    cache = ClipCache(folder / "clips", CACHE_BYTES)
    for sample in work.samples:
        cache.load(sample.media, work.sampler.frames, sample_id=sample.id)
    return work


def serve(policy: str, engine: EngineConfig, pipe: Connection) -> None:
    """Answer rounds of (prompts, clips) with vLLM's LLM until it is ended."""
    os.environ.update(_environment(engine) | {"VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"})
    os.nice(int(os.environ.get("RAY_worker_niceness", 15)))
    from vllm import LLM

    llm = LLM(**_engine_arguments(policy, engine))
    bias = dict.fromkeys(banned_token_ids(load_processor(policy)), BAN_BIAS)
    pipe.send("ready")
    while True:
        sampling_spec, prompts = pipe.recv()
        started = time.perf_counter()
        outputs = llm.generate([{"prompt": prompt, **_media(clip)} for prompt, clip in prompts],
                               _completion_params(sampling_spec, bias, None), use_tqdm=False)
        pipe.send((time.perf_counter() - started, [output.outputs[0].text for output in outputs]))


@contextlib.contextmanager
def bare(work: Evaluation) -> Iterator[Connection]:
    """vLLM in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    engine = work.model.engine.model_copy(update={"dtype": "float32"})
    process = spawn.Process(target=serve, args=(work.model.path, engine, there))
    process.start()
    there.close()
    try:
        here.recv()
        yield here
    finally:
        end(process.pid)


def ask_bare(work: Evaluation, pipe: Connection) -> tuple[float, list[str]]:
    """Seconds and answers of a round, the clips from the cache."""
    processor, template = load_processor(work.model.path), prompt_template(work.model.prompt_template)
    cache = ClipCache(work.config.data.cache, CACHE_BYTES)
    prompts = [(render_prompt(processor, build_messages(sample, template)),
                cache.load(sample.media, work.sampler.frames, sample_id=sample.id)) for sample in work.samples]
    pipe.send((work.sampling, prompts))
    return pipe.recv()


def ask_squall(work: Evaluation, folder: RunDirectory, sampler: GroupSampler) -> tuple[float, list[str]]:
    """Seconds and answers of a round."""
    path = folder.path / f"{work.samples[0].id}.jsonl"
    path.unlink(missing_ok=True)  # of the round that asked the same before
    journal = Journal(path)
    started = time.perf_counter()
    lost = ask(work, folder, journal, sampler, Console(quiet=True))
    seconds = time.perf_counter() - started
    assert not lost, lost[0]
    texts = [entry["answers"][0]["text"] for entry in journal.entries([(i, "clean") for i in range(len(work.samples))])]
    journal.close()
    return seconds, texts


@contextlib.contextmanager
def peak_memory(found: list[float]) -> Iterator[None]:
    """Append the most that this process and all below it held of their own, in MB, looked at twice a second."""
    done, peak = threading.Event(), [0.0]

    def watch() -> None:
        while not done.wait(0.5):
            own = 0
            for member in (psutil.Process(), *psutil.Process().children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                    usage = member.memory_info()
                    own += usage.rss - usage.shared
            peak[0] = max(peak[0], own / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        found.append(peak[0])


def compare(works: Sequence[Evaluation], folder: RunDirectory, sampler: GroupSampler, pipe: Connection) -> list[float]:
    """Ratio of every round but the first, which warms up."""
    ratios = []
    for number, work in enumerate(works):
        sides = [lambda work=work: ask_squall(work, folder, sampler), lambda work=work: ask_bare(work, pipe)]
        order = (0, 1) if number % 2 else (1, 0)
        found: dict[int, Any] = {side: sides[side]() for side in order}
        same = sum(first == second for first, second in zip(found[0][1], found[1][1], strict=True))
        speeds = [len(work.samples) / found[side][0] for side in (0, 1)]
        print(f"round {number}: squall {speeds[0]:.1f}, vLLM {speeds[1]:.1f} questions/s; {same} of {len(work.samples)} "
              "answers the same", flush=True)
        ratios += [speeds[0] / speeds[1]] if number else []
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/embedded"), help="folder of the embedded data set")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of both sides, after one that warms up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        policy = wide_policy(Path(name) / "policy")
        work = plan(options, policy, Path(name))
        folder = RunDirectory.create(Path(name), "evaluate", "run")
        size, peaks = options.questions, list[float]()
        works = [replace(work, samples=work.samples[i * size:(i + 1) * size]) for i in range(1 + options.rounds)]
        rest = replace(work, samples=work.samples[(1 + options.rounds) * size:])
        with sampling(work, folder, Console(quiet=True)) as sampler:
            with bare(work) as pipe:
                ratios = compare(works, folder, sampler, pipe)
            with peak_memory(peaks):
                ask_squall(works[-1], folder, sampler)
            with peak_memory(peaks):
                ask_squall(rest, folder, sampler)
    print(json.dumps({"ratio": round(statistics.median(ratios), 3), "peak_mb": round(peaks[1]),
                      "peak_growth_mb": round(peaks[1] - peaks[0])}))


if __name__ == "__main__":
    main()
