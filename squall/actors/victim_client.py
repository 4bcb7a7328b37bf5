"""How the victims of a pool are asked, from any process."""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from squall.actors.victim_config import AskingConfig
from squall.actors.victim_core import Request
from squall.platform.errors import SquallError, cause

if TYPE_CHECKING:
    from squall.platform.classifiers import Clips

LOOK_EVERY_S = 10.0
"""How often a victim that has not answered is asked whether it lives."""
PING_TIMEOUT_S = 30.0
RETRY_S = 0.5


class VictimUnavailable(SquallError, ConnectionError):
    """No victim answered: of what was asked nothing is known, which is no probability and no reward."""


@dataclass(slots=True)
class _Flight:
    """A request on its way."""

    request: Request
    clips: Any
    worker: Any
    reference: Any


@dataclass
class VictimClient:
    """Asks a pool; may be pickled, and copies may ask at the same time. One thread at a time."""

    workers: Sequence[Any]
    """Handles of the processes."""
    classes: tuple[str, ...]
    label: str
    config: AskingConfig
    purpose: str
    """Under which its clips are counted."""
    _turn: int = 0

    def ask(self, clips: Clips) -> np.ndarray:
        """See `squall.actors.victim_core.Victim`."""
        deadline = time.monotonic() + self.config.ask_timeout_s
        size = max(1, min(self.config.max_batch, math.ceil(len(clips) / len(self.workers))))  # every process gets a part
        flights = [self._send(Request(uuid.uuid4().hex, self.purpose), clips[start:start + size])
                   for start in range(0, len(clips), size)]
        return np.concatenate([np.empty((0, len(self.classes)), np.float32),
                               *(self._await(flight, deadline) for flight in flights)])

    def for_purpose(self, purpose: str) -> VictimClient:
        """The same victims, asked for something else."""
        return replace(self, purpose=purpose)

    def _send(self, request: Request, clips: Any) -> _Flight:
        able = [worker for worker in self.workers if not is_gone(worker)] if request.attempt else self.workers
        if not able:
            raise VictimUnavailable(f"victim {self.label}: none of its {len(self.workers)} processes is left; see their logs")
        self._turn = (self._turn or os.getpid()) + 1  # callers do not all begin with the same one
        worker = able[self._turn % len(able)]
        return _Flight(request, clips, worker, worker.ask.remote(request, clips))

    def _await(self, flight: _Flight, deadline: float) -> np.ndarray:
        patience = min(LOOK_EVERY_S, self.config.pass_timeout_s)
        while True:
            try:
                return ray.get(flight.reference, timeout=min(patience, max(0.0, deadline - time.monotonic())))
            except GetTimeoutError:
                if time.monotonic() < deadline and (problem := self._problem_of(flight.worker)) is None:
                    continue
                problem = problem if time.monotonic() < deadline else "it is still busy"
            except RayTaskError as error:
                if not isinstance(error.cause, RayError):  # the model or its settings: it would fail again
                    raise (error.cause if isinstance(error.cause, SquallError) else self._broken(error)) from None
                problem = cause(error)
            except RayError as error:
                problem = cause(error)
            flight = self._again(flight, deadline, problem)

    def _again(self, flight: _Flight, deadline: float, problem: str) -> _Flight:
        attempts = flight.request.attempt + 1
        if time.monotonic() + RETRY_S > deadline:
            raise VictimUnavailable(f"victim {self.label}: no answer about {len(flight.clips)} clips within "
                                    f"{self.config.ask_timeout_s:g} s and {attempts} attempt{'s' * (attempts > 1)}: {problem}")
        time.sleep(RETRY_S)
        return self._send(replace(flight.request, attempt=attempts), flight.clips)

    def _problem_of(self, worker: Any) -> str | None:
        """What is wrong with a victim that has not answered; None where it is at work. One that hangs is killed."""
        try:
            busy_s = ray.get(worker.busy_s.remote(), timeout=PING_TIMEOUT_S)
        except GetTimeoutError:
            problem = f"no answer to a ping in {PING_TIMEOUT_S:.0f} s"
        except RayError as error:
            return cause(error)
        else:
            if busy_s < self.config.pass_timeout_s:
                return None
            problem = f"a batch took {busy_s:.0f} s, more than pass_timeout_s"
        ray.kill(worker, no_restart=False)
        return problem

    def _broken(self, error: BaseException) -> SquallError:
        return SquallError(f"victim {self.label}: its model failed: {cause(error)}")


def is_gone(worker: Any) -> bool:
    """Whether Ray will not start a process again. Its public State API would need the dashboard."""
    return ray._private.state.actors(worker._actor_id.hex()).get("State") == "DEAD"
