"""Engines and workers of a job that asks and does not train, from their start to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from squall.actors.cluster import start_ray, stop_ray
from squall.actors.logs import messages_of_ray
from squall.actors.resources import Demand, ResourcePlan
from squall.actors.sampling import GroupSampler
from squall.jobs.console import counted, phase


@contextmanager
def asking(sampler: GroupSampler, demands: Sequence[Demand], model: str, ray_address: str | None,
           on_message: Callable[[str], None], console: Console) -> Iterator[GroupSampler]:
    """Join or start Ray, check that it has what is demanded, start the sampler; stop both in the end.

    Args:
        model: what the engines hold, for the line that says they start.
        on_message: gets what Ray says, such as that a worker died.
    """
    with phase(console, "starting Ray", "ray", {}):
        cluster = start_ray(ray_address)
    try:
        with messages_of_ray(on_message):
            ResourcePlan(tuple(demands)).check(cluster)
            with phase(console, f"starting {counted(demands[0].count, 'engine')} with {model} (tens of seconds)", "engine", {}):
                sampler.start()
            yield sampler
    finally:
        sampler.stop()
        stop_ray()
