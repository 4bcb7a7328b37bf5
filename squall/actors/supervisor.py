"""Watches over the actors of a run: who may be given calls, who is asked whether it lives, who is restarted or given up.

Nothing here waits for long: `tick` asks and looks at answers that are there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from squall.actors.health import WorkerEvent, WorkerState, next_state
from squall.actors.resources import amount
from squall.platform.errors import SquallError, cause
from squall.platform.runs import utc_now, utc_time

PING_TIMEOUT_S = 30.0
"""A worker that has not answered a ping by then hangs: it is killed, and Ray starts it anew."""
TELL_AFTER_S = 10.0
MOST_REFUSALS = 3
"""A worker that is lost so often, each time while it received weights, is given up: another start would not mend it."""
RETRY_S = 1.0
"""How often a restarting worker is asked whether it is up."""


@dataclass(slots=True)
class Worker:
    """An actor and what is known of it. Its class has `ready` and `ping`, which return its process id."""

    role: str
    number: int
    actor: Any
    takes: str = ""
    """What Ray reserves for it, in words."""
    state: WorkerState = WorkerState.HEALTHY
    shown: WorkerState = WorkerState.HEALTHY
    """What listeners were last told."""
    process: int = 0
    deaths: int = 0
    refusals: int = 0
    """How often weights did not reach it since they last did."""
    suspicion: str = ""
    """Why it was last asked whether it lives."""
    question: Any = None
    """Reference to the answer that is awaited."""
    deadline: float = 0.0
    ask_again_at: float = 0.0
    gone: str = ""
    """When it was found dead, UTC."""
    nodes: frozenset[str] = frozenset()
    """The cluster's nodes when it was last asked where it lies."""
    told: bool = False
    """Whether somebody has heard that it takes long to come back."""

    @property
    def name(self) -> str:
        return f"{self.role}-{self.number}"


@dataclass(frozen=True, slots=True)
class Change:
    """A worker went from one state to another."""

    worker: str
    before: WorkerState
    after: WorkerState
    reason: str
    time: str = field(default_factory=utc_now)
    """When it was seen, UTC."""


@dataclass(slots=True)
class Supervisor:
    """States of all workers of a run, by the rules of `health.next_state`."""

    startup_timeout_s: float
    on_state: Callable[[str, str], None] = lambda worker, state: None
    """Called with the name and the state of a worker that is new or changes."""
    logs: Path | None = None
    """Folder with what the workers print, named in errors."""
    timeout_key: str = "engine.startup_timeout_s"
    """Key of the configuration that `startup_timeout_s` comes from, named in errors."""
    on_wait: Callable[[str], None] = lambda text: None
    """Called once for each worker that is not back after `TELL_AFTER_S`, with what is waited for."""
    workers: list[Worker] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    """What happened since the list was last emptied by its reader."""
    restarts: Counter[str] = field(default_factory=Counter)
    """By role."""
    _turns: Counter[str] = field(default_factory=Counter)
    _alive: frozenset[str] = frozenset()
    _look_again_at: float = 0.0
    _roles: dict[str, list[Worker]] = field(default_factory=dict)

    def add(self, role: str, actors: Sequence[Any], takes: str = "") -> None:
        """Watch over actors that are being started; returns when all can serve.

        Args:
            takes: what Ray reserves for each, in words.

        Raises:
            SquallError: one could not start, or not in time.
        """
        made = [Worker(role, number, actor, takes) for number, actor in enumerate(actors)]
        waiting = [worker.actor.ready.remote() for worker in made]
        done, late = ray.wait(waiting, num_returns=len(waiting), timeout=self.startup_timeout_s) if waiting else ([], [])
        if late:
            raise SquallError(f"{len(late)} of {len(waiting)} {role} workers not ready after {self.startup_timeout_s:.0f} s; "
                              f"{self._see(made[0])}, or raise {self.timeout_key}")
        for worker, reference in zip(made, waiting, strict=True):
            try:
                worker.process = ray.get(reference)
            except RayError as error:
                raise SquallError(f"{worker.name} could not start: {cause(error)}; {self._see(worker)}") from error
        for worker in made:
            self.on_state(worker.name, worker.state)
        self.workers += made
        self._roles.setdefault(role, []).extend(made)

    def of(self, role: str) -> list[Worker]:
        """The workers of a role that have not been given up."""
        return [worker for worker in self.workers if worker.role == role and worker.state is not WorkerState.RETIRED]

    def choose(self, role: str) -> Worker | None:
        """The next healthy worker of a role, in turn; None while there is none."""
        workers = self._roles.get(role, [])
        for _ in workers:
            self._turns[role] += 1
            worker = workers[self._turns[role] % len(workers)]
            if worker.state is WorkerState.HEALTHY:
                return worker
        return None

    def suspect(self, worker: Worker, reason: str) -> None:
        """A call failed or took too long: ask the worker whether it lives before it is given another."""
        worker.suspicion = reason
        self._move(worker, WorkerEvent.MISSED_DEADLINE, reason)
        if worker.question is None and worker.state in (WorkerState.SUSPECT, WorkerState.STALE):
            worker.question = worker.actor.ping.remote()
            worker.deadline = time.monotonic() + PING_TIMEOUT_S

    def accuse(self, error: BaseException, workers: Sequence[Worker]) -> str:
        """Suspect whoever a failed call names, or all of `workers`; returns the reason under which a retry is counted."""
        named = getattr(error, "actor_id", None)
        guilty = [worker for worker in workers if worker.actor._actor_id.hex() == named] or workers
        for worker in guilty:
            self.suspect(worker, cause(error))
        return f"{guilty[0].role}_died" if len(guilty) == 1 else "worker_died"

    def tick(self) -> None:
        """Look at what workers have answered, and ask those that have not been asked.

        Raises:
            SquallError: the last worker of a role was given up.
        """
        for worker in self.workers:
            if worker.state is WorkerState.RESTARTING and not worker.told:
                self._tell(worker)
            if worker.question is not None:
                self._look(worker)
            elif worker.state is WorkerState.RESTARTING and time.monotonic() >= worker.ask_again_at:
                worker.question = worker.actor.ready.remote()

    def settle(self, role: str) -> list[Worker]:
        """The workers of a role that live; each is asked. Those that Ray is starting anew are not waited for."""
        for worker in self.of(role):
            self.suspect(worker, "")
        while any(worker.question is not None for worker in self._running(role)):
            self.tick()
            time.sleep(0.02)
        return self._running(role)

    def _running(self, role: str) -> list[Worker]:
        return [worker for worker in self.of(role) if worker.state is not WorkerState.RESTARTING]

    def refused(self, worker: Worker, reason: str) -> None:
        """The worker was lost while it received weights.

        Raises:
            SquallError: that was once too often, and it is the last worker of its role.
        """
        worker.refusals += 1
        if worker.refusals < MOST_REFUSALS:
            self.suspect(worker, f"lost while it received weights: {reason}")
            return
        ray.kill(worker.actor)
        worker.question = None
        self._retire(worker, f"was lost {MOST_REFUSALS} times in a row while it received weights: {reason}")

    def synced(self, worker: Worker) -> None:
        """The worker holds the current weights."""
        worker.refusals = 0
        if worker.state is WorkerState.HEALTHY:
            self._move(worker, WorkerEvent.NEW_WEIGHTS, "")
        self._move(worker, WorkerEvent.SYNCED, "")

    def _look(self, worker: Worker) -> None:
        done, _ = ray.wait([worker.question], timeout=0)
        late = time.monotonic() > worker.deadline
        if not done and not late:
            return
        question, worker.question = worker.question, None
        if not done:
            self._late(worker)
            return
        try:
            process = ray.get(question)
        except RayError as error:
            if not isinstance(error, RayActorError):  # the actor lives and what it wraps does not: only its death helps
                ray.kill(worker.actor, no_restart=False)
            self._failed(worker, cause(error))
            return
        if worker.state is WorkerState.RESTARTING:
            self._started(worker, process)
        elif process != worker.process or self._moved(worker):
            self._failed(worker, "another process answered")
        elif worker.state is WorkerState.SUSPECT:
            self._move(worker, WorkerEvent.ANSWERED, "it answered")

    def _moved(self, worker: Worker) -> bool:
        """Whether it was started anew on another node, where its process may have the number that it had: those of containers
        are small, and the same on each. Asked once after nodes have come or gone."""
        if time.monotonic() > self._look_again_at:
            alive = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
            self._alive = self._alive if alive == self._alive else alive
            self._look_again_at = time.monotonic() + RETRY_S
        if worker.nodes is self._alive:
            return False
        worker.nodes = self._alive
        return _restarts(worker.actor, worker.process) > worker.deaths

    def _late(self, worker: Worker) -> None:
        if worker.state is WorkerState.RESTARTING:
            self._give_up(worker)
        else:
            ray.kill(worker.actor, no_restart=False)
            self._failed(worker, f"no answer to a ping in {PING_TIMEOUT_S:.0f} s")

    def _failed(self, worker: Worker, reason: str) -> None:
        now = time.monotonic()
        if worker.state is not WorkerState.RESTARTING:
            self._move(worker, WorkerEvent.DIED, worker.suspicion or reason)
            self._move(worker, WorkerEvent.RESTART, "Ray starts it anew")
            worker.deadline, worker.gone, worker.told = now + self.startup_timeout_s, utc_now(), False
        elif _known(worker.actor).get("State") == "DEAD":  # Ray tries no more
            self._retire(worker, f"could not be started anew: {reason}")
            return
        elif now > worker.deadline:
            self._give_up(worker)
            return
        worker.ask_again_at = now + RETRY_S

    def _started(self, worker: Worker, process: int) -> None:
        worker.process = process
        for _ in range(_restarts(worker.actor, process) - worker.deaths):  # it came back and died once more before it was asked
            self._move(worker, WorkerEvent.DIED, "died again before it was asked")
            self._move(worker, WorkerEvent.RESTART, "Ray starts it anew")
        self.restarts[worker.role] += 1
        self._move(worker, WorkerEvent.STARTED, f"process {process}")
        if worker.role != "engine":  # nothing but an engine holds weights
            self._move(worker, WorkerEvent.SYNCED, "")

    def _give_up(self, worker: Worker) -> None:
        why = why_away(worker.actor, worker.takes)
        self._retire(worker, f"did not come back within {self.startup_timeout_s:.0f} s: {why}",
                     f", or raise {self.timeout_key}")

    def _retire(self, worker: Worker, why: str, remedy: str = "") -> None:
        self._move(worker, WorkerEvent.GIVEN_UP, why)
        if not self.of(worker.role):
            raise SquallError(f"{worker.name}, the last {worker.role} worker, {why}; {self._see(worker)}{remedy}")

    def _tell(self, worker: Worker) -> None:
        """Say what is waited for, since when and until when, once it takes long."""
        left_s = worker.deadline - time.monotonic()
        if self.startup_timeout_s - left_s < TELL_AFTER_S:
            return
        worker.told = True
        until = utc_time(time.time() + left_s)
        others = [other for other in self.of(worker.role) if other.state is WorkerState.HEALTHY]
        rest = f"{len(others)} of {len(self.of(worker.role))} go on" if others else f"no {worker.role} worker is left meanwhile"
        self.on_wait(f"waiting for {worker.name} since {worker.gone}, until {until} at the longest ({self.timeout_key}): "
                     f"{why_away(worker.actor, worker.takes)}; {rest}")

    def _see(self, worker: Worker) -> str:
        if self.logs is None or not (self.logs / f"{worker.name}.log").exists():
            return "see the Ray logs of its node"
        return f"see {self.logs / worker.name}.log"

    def _move(self, worker: Worker, event: WorkerEvent, reason: str) -> None:
        before, worker.state = worker.state, next_state(worker.state, event)
        passing = not reason and worker.state in (WorkerState.SUSPECT, WorkerState.STALE)  # every engine at every weight update
        if worker.state is not worker.shown and not passing:
            worker.shown = worker.state
            self.on_state(worker.name, worker.state)
        worker.deaths += event is WorkerEvent.DIED
        asked = {before, worker.state} <= {WorkerState.HEALTHY, WorkerState.SUSPECT}  # asking alone is no news
        if worker.state is not before and reason and not asked:
            self.changes.append(Change(worker.name, before, worker.state, reason))


def why_away(actor: Any, takes: str) -> str:
    """What keeps an actor that died from serving: no node has room for it, or it is loading."""
    if _known(actor).get("State") == "ALIVE":
        return "it has been started anew and is not ready yet"
    free = ray.available_resources()
    left = amount(free.get("CPU", 0.0), free.get("GPU", 0.0))
    return f"Ray has no process for it yet; it takes {takes or 'its resources'} on one node, and {left} are free on all nodes"


def _restarts(actor: Any, process: int) -> int:
    """How often Ray had started an actor anew when it started this process; 0 where that is not known (any more)."""
    entry = _known(actor)
    return entry["NumRestarts"] if (entry["State"], entry["Pid"]) == ("ALIVE", process) else 0


def _known(actor: Any) -> dict[str, Any]:
    """What Ray's control store knows of an actor; Ray's public State API would need the dashboard."""
    return ray._private.state.actors(actor._actor_id.hex())
