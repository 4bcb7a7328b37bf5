"""A trial of a sweep: a Ray Tune trainable that runs one job of Squall, hears its metrics and stops it when Tune wants."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from squall.platform.errors import SquallError, nearest
from squall.platform.hosting import Host, hosted

STOP_TIMEOUT_S = 300.0
"""How long a stopped trial may take to write its checkpoint and let its actors go."""
POINTER = "trial.json"


class Population(PopulationBasedTraining):
    """Population-based training that lets trials end as they are: a copy made at the last step would have nothing to do."""

    def __init__(self, last_step: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._last_step = last_step

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Compare the trial with the others, unless it has come to its end."""
        if result.get("step", 0) >= self._last_step:
            return self.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """What every trial of a sweep is told."""

    run: Callable[[Mapping[str, Any], str, Path | None], int]
    """Runs the job: sampled values, name of the trial's run, checkpoint to start from. Returns its exit status."""
    metric: str
    folder: str
    """Working folder of the sweep, from which relative paths start."""
    runs: str
    """Folder of the trials' run directories."""


class JobTrial(tune.Trainable):
    """One result for Tune whenever the job logs the sweep's metric; the job waits until Tune has looked at it.

    A trial that Tune stops ends as after a Ctrl-C: with a checkpoint, its actors and placement groups gone.
    """

    def setup(self, config: Mapping[str, Any], settings: TrialSettings) -> None:
        """Prepare; the job begins with the first step, when it is known what it starts from."""
        self._settings = settings
        self._results: queue.Queue[dict[str, float] | None] = queue.Queue()
        self._seen = threading.Semaphore(0)
        self._host = Host((self,), self.settled)
        self._job: threading.Thread | None = None
        self._error: BaseException | None = None
        self._run, self._start_from = self.trial_name, None
        self._latest: dict[str, float] = {}
        self._news = False

    def step(self) -> dict[str, Any]:
        """Wait for the job's next result, or its end."""
        if self._job is None:
            self._job = threading.Thread(target=self._work, name="job", daemon=True)
            self._job.start()
        else:
            self._seen.release()
        result = self._results.get()
        if self._error is not None:
            raise self._error
        metric = self._settings.metric
        if result is None and metric not in self._latest and not self._host.stop.is_set():
            raise SquallError(f"the job never logged sweep.metric '{metric}'.{nearest(metric, self._latest)} It logs: "
                              f"{', '.join(sorted(self._latest))}")
        return {**self._latest, "trial": self.trial_name, "run": self._run} | ({"done": True} if result is None else {})

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """`Sink` of the job: keep the latest figures."""
        self._latest |= {**metrics, "step": step}
        self._news = self._news or self._settings.metric in metrics

    def settled(self) -> None:
        """Hand on what has the sweep's metric, and hold the job back until Tune has decided."""
        if self._news and not self._host.stop.is_set():
            self._news = False
            self._results.put(dict(self._latest))
            self._seen.acquire()

    def close(self) -> None:
        """The job has ended; `step` hears of it when the thread ends."""

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Note which of the run's checkpoints is the latest; the weights stay in the run directory."""
        finished = sorted((self._runs / self._run).glob("checkpoints/step-*"))
        pointer = {"trial": self.trial_name, "run": self._run, "start_from": self._start_from and str(self._start_from),
                   "checkpoint": str(finished[-1].relative_to(self._runs)) if finished else None, "latest": self._latest}
        (Path(checkpoint_dir) / POINTER).write_text(json.dumps(pointer), encoding="utf-8")

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on with this trial's own run, or begin a new one from a checkpoint of another trial's."""
        pointer = json.loads((Path(checkpoint_dir) / POINTER).read_text(encoding="utf-8"))
        self._latest = pointer["latest"]
        if pointer["trial"] == self.trial_name:
            self._run, self._start_from = pointer["run"], pointer["start_from"] and Path(pointer["start_from"])
        elif pointer["checkpoint"] is not None:
            self._run = next(name for number in count(2) if not (self._runs / (name := f"{self.trial_name}-{number}")).exists())
            self._start_from = self._runs / pointer["checkpoint"]

    def cleanup(self) -> None:
        """Let the job end well: Tune has stopped the trial, or its process goes for another reason."""
        self._host.stop.set()
        self._seen.release()
        if self._job is not None:
            self._job.join(STOP_TIMEOUT_S)

    @property
    def _runs(self) -> Path:
        return Path(self._settings.runs)

    def _work(self) -> None:
        os.chdir(self._settings.folder)
        try:
            with hosted(self._host):
                status = self._settings.run(self.config, self._run, self._start_from)
            if status and not self._host.stop.is_set():
                raise RuntimeError(f"the job ended with exit status {status}")
        except BaseException as error:  # handed to Tune's thread, which raises it
            self._error = error
        finally:
            self._results.put(None)
