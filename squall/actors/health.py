"""Health of a worker: an enum and a pure transition, so that the rules can be tested without a cluster.

A worker that starts again is STALE until it has what it needs to serve: an engine the current weights. A worker without
weights is synchronised at once.
"""

from __future__ import annotations

from enum import StrEnum


class WorkerState(StrEnum):
    """Only HEALTHY workers are given calls."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    """A call missed its deadline; a ping decides."""
    DEAD = "dead"
    RESTARTING = "restarting"
    STALE = "stale"
    """Alive, but without the current weights."""
    RETIRED = "retired"
    """Given up; never called again."""


class WorkerEvent(StrEnum):
    MISSED_DEADLINE = "missed_deadline"
    ANSWERED = "answered"
    """A suspect answered a ping."""
    DIED = "died"
    RESTART = "restart"
    STARTED = "started"
    NEW_WEIGHTS = "new_weights"
    """The learner has published weights that this worker does not hold."""
    SYNCED = "synced"
    """The worker holds the current weights, or needs none."""
    GIVEN_UP = "given_up"


_TRANSITIONS: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    (WorkerState.HEALTHY, WorkerEvent.MISSED_DEADLINE): WorkerState.SUSPECT,
    (WorkerState.SUSPECT, WorkerEvent.MISSED_DEADLINE): WorkerState.SUSPECT,
    (WorkerState.SUSPECT, WorkerEvent.ANSWERED): WorkerState.HEALTHY,
    (WorkerState.HEALTHY, WorkerEvent.NEW_WEIGHTS): WorkerState.STALE,
    (WorkerState.SUSPECT, WorkerEvent.NEW_WEIGHTS): WorkerState.STALE,
    (WorkerState.STALE, WorkerEvent.NEW_WEIGHTS): WorkerState.STALE,
    (WorkerState.DEAD, WorkerEvent.RESTART): WorkerState.RESTARTING,
    (WorkerState.RESTARTING, WorkerEvent.STARTED): WorkerState.STALE,
    (WorkerState.STALE, WorkerEvent.SYNCED): WorkerState.HEALTHY,
}
# A worker that is starting, dead or already behind gains nothing from late news.
_IGNORED = {
    (WorkerState.STALE, WorkerEvent.MISSED_DEADLINE),
    (WorkerState.DEAD, WorkerEvent.MISSED_DEADLINE), (WorkerState.DEAD, WorkerEvent.NEW_WEIGHTS),
    (WorkerState.RESTARTING, WorkerEvent.MISSED_DEADLINE), (WorkerState.RESTARTING, WorkerEvent.NEW_WEIGHTS),
    (WorkerState.RETIRED, WorkerEvent.MISSED_DEADLINE), (WorkerState.RETIRED, WorkerEvent.NEW_WEIGHTS),
    (WorkerState.RETIRED, WorkerEvent.DIED),
}


def next_state(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """The state after an event.

    Raises:
        ValueError: the transition does not exist. Above all, nothing leads from RESTARTING to HEALTHY: an engine that
            answers before it holds the current weights would sample from old ones.
    """
    if (state, event) in _IGNORED:
        return state
    if event is WorkerEvent.DIED:
        return WorkerState.DEAD
    if event is WorkerEvent.GIVEN_UP:
        return WorkerState.RETIRED
    if (state, event) not in _TRANSITIONS:
        raise ValueError(f"no transition from '{state}' on '{event}'")
    return _TRANSITIONS[state, event]
