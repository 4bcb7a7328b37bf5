"""Going on from the last checkpoint when a run loses its learner with a node, as `--resume` would."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.console import Console

from squall.actors.worker_group import LearnerLost
from squall.jobs.console import say
from squall.jobs.run_session import RunSessionConfig
from squall.platform.runs import RunDirectory

Config = TypeVar("Config", bound=RunSessionConfig)
Result = TypeVar("Result")


def recovering(train: Callable[[Config], Result], config: Config, recoveries: int) -> Result:
    """Run `train`, and run it on in the same directory each time that its learner is lost.

    Where no checkpoint has been written yet it begins anew. Everything random follows from the seed, so no group counts twice.

    Raises:
        LearnerLost: more often than `recoveries`.
    """
    for left in range(recoveries, -1, -1):
        try:
            return train(config)
        except LearnerLost as error:
            if not left or error.run is None:
                raise
            run = RunDirectory.open(error.run)
            again = run.latest_checkpoint()
            say(Console(), f"{error}. Going on from {again.name if again else 'the first step: no checkpoint was written yet'} "
                           f"({left - 1} of learner.recoveries {recoveries} left)")
            config = config.model_copy(update={"resume": True, "name": run.name})
    raise AssertionError("unreachable")
