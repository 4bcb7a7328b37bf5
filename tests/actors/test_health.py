from __future__ import annotations

from itertools import product

import pytest

from squall.actors.health import WorkerEvent, WorkerState, next_state


def follow(state: WorkerState, *events: WorkerEvent) -> WorkerState:
    for event in events:
        state = next_state(state, event)
    return state


def test_a_dead_engine_serves_again_only_with_the_current_weights():
    restarted = follow(WorkerState.HEALTHY, WorkerEvent.DIED, WorkerEvent.RESTART, WorkerEvent.STARTED)
    assert restarted is WorkerState.STALE
    assert next_state(restarted, WorkerEvent.SYNCED) is WorkerState.HEALTHY


@pytest.mark.parametrize("event", [WorkerEvent.SYNCED, WorkerEvent.ANSWERED])
def test_restarting_to_healthy_does_not_exist(event: WorkerEvent):
    with pytest.raises(ValueError, match=f"no transition from 'restarting' on '{event}'"):
        next_state(WorkerState.RESTARTING, event)


def test_no_single_event_leads_from_restarting_to_healthy():
    for event in WorkerEvent:
        try:
            assert next_state(WorkerState.RESTARTING, event) is not WorkerState.HEALTHY
        except ValueError:
            continue


def test_a_suspect_that_answers_is_healthy_and_one_that_does_not_is_dead():
    suspect = follow(WorkerState.HEALTHY, WorkerEvent.MISSED_DEADLINE)
    assert suspect is WorkerState.SUSPECT
    assert next_state(suspect, WorkerEvent.ANSWERED) is WorkerState.HEALTHY
    assert next_state(suspect, WorkerEvent.DIED) is WorkerState.DEAD


def test_new_weights_make_every_living_engine_stale():
    for state in (WorkerState.HEALTHY, WorkerState.SUSPECT, WorkerState.STALE):
        assert next_state(state, WorkerEvent.NEW_WEIGHTS) is WorkerState.STALE


def test_nothing_leaves_retired():
    for state, event in product([WorkerState.RETIRED], WorkerEvent):
        try:
            assert next_state(state, event) is WorkerState.RETIRED
        except ValueError:
            continue
