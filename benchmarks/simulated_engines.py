"""Engines and a learner that take a known time and no GPU, for `scale.py`: hundreds of engines in one process.

The coordinator sees what it always sees: an actor for each engine, a learner behind the rollout buffer. Every call crosses the
wire as it would; only the work at the other end is a wait.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from squall.actors.learner import Learner
from squall.actors.rollout_buffer import Publish, TrainBatch
from squall.actors.sampling import GroupSampler
from squall.actors.weight_transfer import EngineFleet
from squall.platform.records import Rollout

ANSWERS, VOCABULARY = 64, 150_000
METHODS = ("ready", "ping", "generate", "connect", "start_weight_update", "update_weights", "finish_weight_update")


@dataclass(frozen=True)
class Speed:
    """How long things take."""

    latency_s: float
    """Of one call of an engine, whatever it asks."""
    calls_at_once: int
    """Calls that an engine answers at the same time; further ones wait in it."""
    tokens: int
    """Of every answer."""
    learn_s: float
    """Of a learner's step."""


@dataclass(slots=True)
class _Engine:
    """One simulated engine: as vLLM's, it lets running calls end before new weights come, and holds new ones back."""

    places: asyncio.Semaphore
    version: int = 0
    active: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)


@ray.remote(num_cpus=0, max_concurrency=100_000)
class EngineHost:
    """Many engines in one process, each known by its number."""

    def __init__(self, speed: Speed) -> None:
        draw = random.Random(0)
        self._speed, self._engines = speed, {}
        self._answers = [(tuple(draw.randrange(VOCABULARY) for _ in range(speed.tokens)),
                          f"<think>{'the object moves ' * (speed.tokens // 4)}</think><answer>{'ABCD'[i % 4]}</answer>",
                          tuple(-draw.random() for _ in range(speed.tokens))) for i in range(ANSWERS)]

    async def call(self, number: int, method: str, *arguments: Any) -> Any:
        """A method of an engine."""
        if number not in self._engines:
            engine = self._engines[number] = _Engine(asyncio.Semaphore(self._speed.calls_at_once))
            engine.open.set()
            engine.idle.set()
        return await getattr(self, f"_{method}")(self._engines[number], *arguments)

    async def _ready(self, engine: _Engine) -> int:
        return os.getpid()

    _ping = _ready

    async def _generate(self, engine: _Engine, request: Any, clip: Any) -> tuple[Rollout, ...]:
        await engine.open.wait()
        engine.active += 1
        engine.idle.clear()
        async with engine.places:
            await asyncio.sleep(self._speed.latency_s)
        engine.active -= 1
        if not engine.active:
            engine.idle.set()
        return tuple(self._rollout(request, clip.content_hash, index, engine.version) for index in range(request.n))

    def _rollout(self, request: Any, clip_hash: str, index: int, version: int) -> Rollout:
        tokens, text, logprobs = self._answers[index % ANSWERS]
        return Rollout(request.sample_id, request.attempt_id, request.branch, clip_hash, index, request.sampling, tokens, text,
                       logprobs, version, "stop")

    async def _connect(self, engine: _Engine, init_info: Any) -> None:
        """There is nothing to connect to."""

    async def _start_weight_update(self, engine: _Engine) -> None:
        engine.open.clear()
        await engine.idle.wait()

    async def _update_weights(self, engine: _Engine, update_info: Any) -> None:
        """Weights take no time: their bytes do not pass the coordinator."""

    async def _finish_weight_update(self, engine: _Engine, version: int, vision_changed: bool) -> None:
        engine.version = version
        engine.open.set()


@dataclass(frozen=True)
class _Method:
    host: Any
    number: int
    name: str

    def remote(self, *arguments: Any) -> Any:
        return self.host.call.remote(self.number, self.name, *arguments)


class EngineHandle:
    """What the coordinator holds of one engine: as an actor's handle, for an engine of a host."""

    def __init__(self, host: Any, number: int) -> None:
        self.host, self._actor_id = host, host._actor_id
        for name in METHODS:
            setattr(self, name, _Method(host, number, name))


class EngineClass:
    """Stands in for the engine's actor class: an engine in turn on every host."""

    def __init__(self, hosts: Sequence[Any]) -> None:
        self._hosts, self._made = hosts, 0

    def options(self, **options: Any) -> EngineClass:
        """Hosts reserve nothing and engines have no names of their own."""
        return self

    def remote(self, *arguments: Any) -> EngineHandle:
        self._made += 1
        return EngineHandle(self._hosts[self._made % len(self._hosts)], self._made)


class SimulatedSampler(GroupSampler):
    """The product's sampler over simulated engines."""

    def __init__(self, speed: Speed, processes: int, *arguments: Any, **options: Any) -> None:
        self._hosts = [EngineHost.remote(speed) for _ in range(processes)]
        super().__init__(*arguments, engine_class=EngineClass(self._hosts), **options)

    def stop(self) -> None:
        for actor in (*self._hosts, *(worker.actor for worker in self._supervisor.workers if worker.role != "engine")):
            ray.kill(actor)


@ray.remote(num_cpus=0)
class LearnerRank:
    """Obeys the learner's commands: waits where it would learn, and hands out versions without weights."""

    def run(self, buffer: Any, fleet: EngineFleet, learn_s: float) -> None:
        result: dict[str, Any] | None = {}
        for index in range(-1, 1_000_000):
            if index >= 0:
                command = ray.get(buffer.take.remote(index))
                if command is None:
                    return
                result = self._obey(command, fleet, learn_s)
            ray.get(buffer.report.remote(index, result))

    @staticmethod
    def _obey(command: Any, fleet: EngineFleet, learn_s: float) -> dict[str, Any]:
        if isinstance(command, TrainBatch):
            time.sleep(learn_s)
            return figures(command)
        if isinstance(command, Publish):
            fleet.aim(command.version, command.engines)
            fleet.start_weight_update()
            fleet.update_weights({})
            fleet.finish_weight_update()
            return {"lost": fleet.lost}
        return {}


def figures(batch: TrainBatch) -> Mapping[str, float]:
    """What a learner reports of a step."""
    names = ("loss", "kl", "clipped_tokens", "ratio", "entropy", "mismatch", "mismatch_kl", "importance", "importance_max",
             "importance_capped_tokens", "learning_rate", "grad_norm")
    return dict.fromkeys(names, 0.0) | {"tokens": batch.token_count}


class SimulatedLearner(Learner):
    """The product's handle on a learner; in place of Ray Train one rank that waits."""

    def __init__(self, speed: Speed, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._speed, self._fleet = speed, options["fleet"]

    def _fit(self) -> None:
        try:
            ray.get(LearnerRank.remote().run.remote(self._buffer, self._fleet, self._speed.learn_s))
        except BaseException as error:  # as the product's: the driver's thread raises it
            self._failure = error

    def save(self, directory: Path) -> None:
        """There are no weights."""
