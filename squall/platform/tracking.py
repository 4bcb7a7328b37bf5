"""One tracker for all metrics: metrics.jsonl always; TensorBoard, Weights & Biases and live gauges by choice."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from squall.platform.config import Config
from squall.platform.errors import ConfigError
from squall.platform.runs import append_line, read_lines, to_json, utc_now

RESERVED = frozenset({"step", "time"})


class TrackingConfig(Config):
    """Where metrics go besides metrics.jsonl, which is always written."""

    tensorboard: bool = True
    """Write TensorBoard event files to ``tensorboard/`` in the run directory."""
    wandb: Literal["off", "auto", "offline", "online"] = "off"
    """Weights & Biases. ``auto`` is online when WANDB_API_KEY is set and offline otherwise; ``offline`` writes
    ``wandb/`` in the run directory for a later ``wandb sync``. Off by default, because it takes seconds to start."""
    wandb_project: str = "squall"
    """Project that the run appears under in Weights & Biases."""


class Sink(Protocol):
    """A place that keeps metrics by step."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class GaugeSink(Protocol):
    """A place that shows the latest value of a metric, such as a cluster's dashboard."""

    def set(self, name: str, value: float) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """Gives the same numbers to every sink. Names look like ``accuracy/corrupted``."""

    def __init__(self, sinks: Sequence[Sink], gauges: Sequence[GaugeSink] = ()) -> None:
        self._sinks = tuple(sinks)
        self._gauges = tuple(gauges)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of a step, which may come in several parts. Raises ValueError for a reserved name."""
        if taken := RESERVED & metrics.keys():
            raise ValueError(f"metric name '{min(taken)}' is reserved")
        values = {name: float(value) for name, value in metrics.items()}
        for sink in self._sinks:
            sink.write(step, values)
        for gauge in self._gauges:
            for name, value in values.items():
                gauge.set(name, value)

    def close(self) -> None:
        """Flush and close every sink."""
        for sink in (*self._sinks, *self._gauges):
            sink.close()


class JsonlSink:
    """A line per call: ``{"step": 3, "time": "...Z", "loss": 0.1}``, in the file when `write` returns. NaN is null."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        append_line(self._path, to_json({"step": step, "time": utc_now(), **metrics}))

    def close(self) -> None:
        """Nothing is held open between lines."""


class TensorBoardSink:
    """TensorBoard scalars, stored by TensorBoard as float32."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


STEP = "step"
"""Weights & Biases' name for what curves are drawn over."""


class WandbSink:
    """Weights & Biases, silent, with the run's files in its directory. It takes its key from the environment itself."""

    def __init__(
        self, folder: Path, mode: Literal["offline", "online"], project: str, config: Mapping[str, Any]
    ) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True,
                                  root_dir=str(folder))
        self._run = wandb.init(mode=mode, project=project, name=folder.name, dir=str(folder), config=dict(config),
                               settings=settings)
        # Its own count of steps takes none below the last, and several trainings of a run each begin at 1.
        self._run.define_metric("*", step_metric=STEP)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({**metrics, STEP: step})

    def close(self) -> None:
        self._run.finish()


def open_tracker(
    folder: Path, config: TrackingConfig, run_config: Mapping[str, Any] | None = None, gauges: Sequence[GaugeSink] = (),
    more: Sequence[Sink] = (),
) -> Tracker:
    """The tracker of a run directory. `run_config` is what Weights & Biases shows beside the curves; `more` come last.

    Raises:
        ConfigError: Weights & Biases is to be online and there is no key.
    """
    mode = wandb_mode(config)
    sinks: list[Sink] = [JsonlSink(folder / "metrics.jsonl")]
    if config.tensorboard:
        sinks.append(TensorBoardSink(folder / "tensorboard"))
    if mode != "off":
        sinks.append(WandbSink(folder, mode, config.wandb_project, run_config or {}))
    return Tracker([*sinks, *more], gauges)


def wandb_mode(config: TrackingConfig) -> Literal["off", "offline", "online"]:
    """What ``auto`` comes to in this environment. Raises ConfigError for ``online`` without a key."""
    has_key = bool(os.environ.get("WANDB_API_KEY"))
    if config.wandb == "online" and not has_key:
        raise ConfigError("'wandb' = 'online': WANDB_API_KEY is not set. Set it, or use auto, offline or off")
    if config.wandb == "auto":
        return "online" if has_key else "offline"
    return config.wandb


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, one per step in order. Parts of a step are joined; one done again on resume wins."""
    steps: dict[int, dict[str, Any]] = {}
    for row in read_lines(path):
        steps.setdefault(row["step"], {}).update(row)
    return [steps[step] for step in sorted(steps)]
