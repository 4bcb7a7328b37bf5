"""How many engines one driver can feed: T-GRPO's own coordinator over 1 to 1,024 simulated engines.

    python benchmarks/scale.py                                    # everything, some 10 minutes
    python benchmarks/scale.py --engines 64 --latency 2           # one size, short calls, to try a change
    python benchmarks/scale.py --engines 1024 --profile           # where the driver's main thread spends its time
    python benchmarks/scale.py --parts bytes                      # what passes the driver, with two sizes of clips

What is measured is `squall train tgrpo` itself: group assembly, rollout stream, rollout buffer, supervisor, corruption and
reward workers, rollout store, metrics, gauges and weight updates. Two things are simulated (`simulated_engines.py`), many to a
process:

- An engine answers a call after --latency seconds with as many tokens and log-probabilities as a real one would send, --calls
  calls at a time, and as vLLM does lets running calls end before it takes new weights.
- The learner takes --learn-share of the time that the engines need for a step. Its rank 0 hands new weights to every engine by
  the three messages of a real update; their bytes do not pass the driver, and here there are none.

A step has --rounds groups for every engine, and a group three calls: clean, corrupted, shuffled. The ideal step is the longer
of its halves, with all engines busy throughout: rounds x calls x latency / calls at once. Efficiency is the ideal over the
measured step with max_staleness 1; the first step, which fills the pipe, and what comes after the measured ones are left out.

What limits a step, as printed: `main` is processor time of the driver's main thread for a group, `driver` that of all its
threads. One over `main` is what the driver would feed with the machine to itself. Here it shares its cores with the workers,
Ray's own processes and the simulated engines, so `groups/s` saturates earlier: `saturates_at` is the highest that was
measured.

`driver_bytes_per_group` counts what crosses the driver's sockets, both ways, as the kernel counts it (TCP_INFO), and every
object in shared memory that the driver writes or reads. Clips are references there. Two sizes of clips, 64 times apart, must
give the same.

Results to expect on two quiet CPU cores: efficiency 0.97 at 64 engines and 0.9 at 256, 54 groups/s at the most, 344 KiB for
a group with both sizes of clips (docs/scale.md).
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import json
import os
import pstats
import resource
import shutil
import socket
import stat
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ray._private.serialization import SerializationContext
from simulated_engines import SimulatedLearner, SimulatedSampler, Speed

from squall.actors.cluster import start_ray, stop_ray
from squall.jobs import session, tgrpo
from squall.platform.config import load_config
from squall.platform.tracking import read_metrics
from squall.platform.video import encode_video

SIZES = (1, 4, 16, 64, 256, 1024)
CALLS_PER_GROUP = 3
QUESTIONS, VIDEOS = 2048, 8
CLIPS = {"small": (4, 112), "large": (16, 448)}
"""Frames and side in pixels; 0.15 and 9.6 MB."""
INLINE_BYTES = 100 * 1024
"""Ray sends smaller objects inside its messages and keeps larger ones in shared memory."""
PROFILED = 40
BYTES_ENGINES, BYTES_LATENCY_S = 4, 3.0
BRANCHES = "tgrpo={optimise: both, samples_per_group: 8, clean_samples: 8, shuffled_samples: 4, contrast: off}"


class Done(Exception):
    """All steps that were to be measured are."""


@dataclass
class Traffic:
    """Bytes that this process exchanges: over sockets, and as objects in shared memory."""

    shared: int = 0

    def total(self) -> int:
        """Bytes so far, both ways."""
        return self.shared + sum(map(tcp_bytes, os.listdir("/proc/self/fd")))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Inside the block every object that is put into shared memory or read from it counts."""
        read, write = SerializationContext.deserialize_objects, SerializationContext.serialize

        def reading(context: Any, objects: Any, *arguments: Any) -> Any:
            self._add(sum(len(part) for part in (data, metadata) if part is not None) for data, metadata, _ in objects)
            return read(context, objects, *arguments)

        def writing(context: Any, value: Any) -> Any:
            made = write(context, value)
            self._add([made.total_bytes])
            return made

        SerializationContext.deserialize_objects, SerializationContext.serialize = reading, writing
        try:
            yield
        finally:
            SerializationContext.deserialize_objects, SerializationContext.serialize = read, write

    def _add(self, sizes: Any) -> None:
        self.shared += sum(size for size in sizes if size > INLINE_BYTES)


def tcp_bytes(descriptor: str) -> int:
    """Bytes that were sent and received over a TCP connection of this process; 0 for everything else."""
    try:
        if not stat.S_ISSOCK(os.stat(int(descriptor)).st_mode):
            return 0
        with socket.socket(fileno=os.dup(int(descriptor))) as copy:
            if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.type != socket.SOCK_STREAM:
                return 0
            return sum(struct.unpack_from("QQ", copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 120))
    except (OSError, struct.error):
        return 0


@dataclass(frozen=True)
class Mark:
    """Where the driver stands at the beginning of a step."""

    wall_s: float
    main_s: float
    driver_s: float
    traffic: int


@dataclass
class Meter:
    """Notes every step of a run, and ends it when enough are measured."""

    steps: int
    traffic: Traffic
    profile: cProfile.Profile | None = None
    marks: list[Mark] = field(default_factory=list)

    def around(self, train_step: Callable[..., None]) -> Callable[..., None]:
        """The job's step with a mark before it."""
        @functools.wraps(train_step)
        def measured(*arguments: Any) -> None:
            self.marks.append(Mark(time.monotonic(), time.thread_time(), time.process_time(), self.traffic.total()))
            if len(self.marks) == 2 and self.profile is not None:
                self.profile.enable()
            if len(self.marks) == self.steps + 2:
                raise Done
            train_step(*arguments)
        return measured

    def differences(self, name: str) -> list[float]:
        """What each measured step added."""
        values = [getattr(mark, name) for mark in self.marks[1:]]
        return [after - before for before, after in zip(values, values[1:], strict=False)]


@dataclass(frozen=True)
class Found:
    """Medians over the measured steps of a run."""

    engines: int
    step_s: float
    ideal_s: float
    groups: int
    main_s: float
    driver_s: float
    traffic: float
    phases: dict[str, float]

    @property
    def efficiency(self) -> float:
        return self.ideal_s / self.step_s

    @property
    def groups_per_s(self) -> float:
        return self.groups / self.step_s

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.phases.items())
        return (f"{self.engines:5,} engines: step {self.step_s:6.2f} s, ideal {self.ideal_s:5.2f} ({phases}): efficiency "
                f"{self.efficiency:.3f}; {self.groups_per_s:6.2f} groups/s; a group takes {1e3 * self.main_s:.2f} ms main, "
                f"{1e3 * self.driver_s:.2f} ms driver, {self.traffic / 1024:,.0f} KiB; load {os.getloadavg()[0]:.1f}")


@dataclass(frozen=True)
class Data:
    """Generated videos and questions."""

    folder: Path

    def manifest(self, clips: str) -> Path:
        """Questions about videos whose clips have a size."""
        frames, side = CLIPS[clips]
        path, draw = self.folder / f"{clips}.jsonl", np.random.default_rng(0)
        if not path.exists():
            for number in range(VIDEOS):
                pixels = draw.integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
                encode_video(self.folder / f"{clips}-{number}.mp4", pixels, 8.0, crf=35)
            path.write_text("".join(json.dumps(self._question(clips, number)) + "\n" for number in range(QUESTIONS)))
        return path

    @staticmethod
    def _question(clips: str, number: int) -> dict[str, Any]:
        return {"problem": f"Question {number}: which way does the cyclist turn at the crossing behind the parked van?",
                "problem_type": "multiple choice", "data_type": "video", "path": f"{clips}-{number % VIDEOS}.mp4",
                "options": ["A. to the left", "B. to the right", "C. not at all", "D. back again"],
                "solution": f"<answer>{'ABCD'[number % 4]}</answer>"}


def measure(options: argparse.Namespace, data: Data, engines: int, *, latency: float, clips: str = "small") -> Found:
    """Train with simulated engines and learner; medians over the measured steps."""
    groups = options.rounds * engines
    ideal = options.rounds * CALLS_PER_GROUP / options.calls * latency
    speed = Speed(latency, options.calls, options.tokens, options.learn_share * ideal)
    profile = cProfile.Profile(time.thread_time) if options.profile else None
    meter, processes = Meter(options.steps, Traffic(), profile), max(1, min(options.processes, engines // 16))
    runs = data.folder / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    frames, side = CLIPS[clips]
    config = load_config(tgrpo.TGRPOJobConfig, None, (
        f"data.train={data.manifest(clips)}", f"output={runs}", "name=scale", f"steps={options.steps + 3}",
        f"groups_per_step={groups}", f"max_sampled_groups={4 * groups}", "max_staleness=1", f"max_tokens={options.tokens}",
        f"data.frames={{max_frames: {frames}, resize: [{side}, {side}]}}", "model.path=@embedded",
        f"engine={{count: {engines}, cpus: 0.001}}", "corruption.kinds=[random_drop]", BRANCHES,
        f"workers={{corruption_count: {options.workers}, corruption_cpus: 0.01, reward_count: {options.workers}, "
        f"reward_cpus: 0.01, max_groups_in_flight: {2 * engines}}}", "learner.cpus=0.01", "tracking.tensorboard=false"))
    with ExitStack() as stack:
        stack.enter_context(replaced(session, "GroupSampler", functools.partial(SimulatedSampler, speed, processes)))
        stack.enter_context(replaced(session, "Learner", functools.partial(SimulatedLearner, speed)))
        stack.enter_context(replaced(tgrpo, "train_step", meter.around(tgrpo.train_step)))
        stack.enter_context(meter.traffic.counted())
        stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(suppress(Done))
        tgrpo.run(config)
    if len(meter.marks) < options.steps + 2:
        raise SystemExit(f"{engines} engines: stopped after {len(meter.marks) - 1} steps of {options.steps + 1}")
    if profile is not None:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(PROFILED)
    rows = read_metrics(runs / "scale" / "metrics.jsonl")[1:1 + options.steps]
    phases = {name: statistics.median(row[f"time/{name}"] for row in rows) for name in ("rollout", "learn", "sync", "record")}
    wall, main, driver, traffic = (statistics.median(meter.differences(name))
                                   for name in ("wall_s", "main_s", "driver_s", "traffic"))
    return Found(engines, wall, max(ideal, speed.learn_s), groups, main / groups, driver / groups, traffic / groups, phases)


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Inside the block a module's name stands for something else."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def scale(options: argparse.Namespace, data: Data) -> dict[str, float]:
    """Efficiency by the number of engines, and the most groups per second that were seen."""
    found = []
    for engines in options.engines:
        found.append(measure(options, data, engines, latency=options.latency))
        print(found[-1], flush=True)
    busiest = max(found, key=lambda one: one.groups_per_s)
    return {**{f"efficiency_{one.engines}": round(one.efficiency, 3) for one in found},
            "saturates_at": round(busiest.groups_per_s, 1),
            "driver_alone_groups_per_s": round(1 / busiest.main_s, 1)}


def count_bytes(options: argparse.Namespace, data: Data) -> dict[str, float]:
    """Bytes that pass the driver for a group, with small and with large clips."""
    passed = {}
    for clips, (frames, side) in CLIPS.items():
        passed[clips] = measure(options, data, BYTES_ENGINES, latency=BYTES_LATENCY_S, clips=clips).traffic
        print(f"clips of {frames} x {side} x {side} x 3, {frames * side * side * 3 / 1e6:.2f} MB: "
              f"{passed[clips] / 1024:,.1f} KiB pass the driver for a group", flush=True)
    return {"driver_bytes_per_group": round(passed["small"]), "driver_bytes_large_over_small":
            round(passed["large"] / passed["small"], 3)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=SIZES, help="numbers of engines (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=("scale", "bytes"), default=("scale", "bytes"), help="what to measure")
    parser.add_argument("--latency", type=float, default=8.0, help="seconds of an engine's call (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=3, help="calls that an engine answers at once (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of an answer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="groups of a step for each engine (default: %(default)s)")
    parser.add_argument("--learn-share", type=float, default=0.8,
                        help="learner's time over that of the engines, below 1 (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="steps that are measured, after one that is not "
                                                             "(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="corruption workers, and as many reward workers "
                                                               "(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=4, help="processes that the engines are spread over, at most; one for "
                                                                 "every 16 engines (default: %(default)s)")
    parser.add_argument("--profile", action="store_true",
                        help="print where the processor time of the driver's main thread goes; slows it")
    return parser.parse_args()


def main() -> None:
    options = parse()
    results: dict[str, float] = {}
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)  # some for each engine
    os.environ.setdefault("RAY_worker_niceness", "0")  # what is simulated keeps its time on a machine that has other work
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        start_ray(num_cpus=8)
        stack.callback(stop_ray)
        for part in options.parts:
            results |= {"scale": scale, "bytes": count_bytes}[part](options, Data(Path(folder)))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
