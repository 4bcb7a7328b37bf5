from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from squall.platform.config import validate
from squall.platform.errors import ConfigError
from squall.platform.tracking import TrackingConfig, open_tracker, read_metrics, wandb_mode

ROWS = {1: {"loss": 0.25, "rollout/accuracy_corrupted": 0.5}, 2: {"loss": -1.5, "rollout/accuracy_corrupted": 0.75}}


class LatestValues(dict):
    def set(self, name: str, value: float) -> None:
        self[name] = value

    def close(self) -> None:
        self.closed = True


def tensorboard_scalars(folder: Path) -> dict[int, dict[str, float]]:
    from tensorboardX.proto.event_pb2 import Event

    data, scalars, position = next(folder.glob("events.*")).read_bytes(), {}, 0
    while position < len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        event = Event.FromString(data[position + 12:position + 12 + length])
        for value in event.summary.value:
            scalars.setdefault(event.step, {})[value.tag] = value.simple_value
        position += 12 + length + 4
    return scalars


def test_every_sink_holds_the_same_numbers(tmp_path: Path) -> None:
    gauges = LatestValues()
    tracker = open_tracker(tmp_path, TrackingConfig(), gauges=[gauges])
    for step, metrics in ROWS.items():
        tracker.log(step, metrics)
    tracker.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert {row.pop("step"): {k: v for k, v in row.items() if k != "time"} for row in rows} == ROWS
    assert tensorboard_scalars(tmp_path / "tensorboard") == ROWS
    assert gauges == ROWS[2]


def test_wandb_offline_keeps_its_files_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    tracker = open_tracker(tmp_path, TrackingConfig(tensorboard=False, wandb="auto"), {"seed": 7})
    for step, metrics in ROWS.items():
        tracker.log(step, metrics)
    tracker.log(1, {"other/loss": 0.5})  # another training of the same run, which is at an earlier step
    tracker.close()
    (stored,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30  # W&B's own process writes on for a moment after it said that it is done
    while not all(name in stored.read_bytes() for name in (b"rollout/accuracy_corrupted", b"other/loss")):
        assert time.monotonic() < deadline, "the metrics are not in the run's file"
        time.sleep(0.05)
    assert not (tmp_path / "tensorboard").exists()


def test_wandb_mode_follows_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    modes = [wandb_mode(TrackingConfig(wandb=mode)) for mode in ("off", "auto", "offline")]
    assert modes == ["off", "offline", "offline"]
    with pytest.raises(ConfigError, match="WANDB_API_KEY is not set"):
        wandb_mode(TrackingConfig(wandb="online"))
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert [wandb_mode(TrackingConfig(wandb=mode)) for mode in ("auto", "offline")] == ["online", "offline"]


def test_unknown_mode_names_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="'wandb' = 'cloud'.*'off', 'auto', 'offline' or 'online'"):
        validate(TrackingConfig, {"wandb": "cloud"}, "x.yaml")


def test_parts_of_a_step_join_and_a_repeated_step_wins(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, TrackingConfig(tensorboard=False))
    for step, metrics in ((1, {"loss": 1.0}), (2, {"loss": 2.0}), (2, {"kl": 0.1}), (1, {"loss": 5.0})):
        tracker.log(step, metrics)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"], row.get("kl")) for row in rows] == [(1, 5.0, None), (2, 2.0, 0.1)]


def test_nan_is_recorded_as_null_and_reserved_names_are_refused(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, TrackingConfig(tensorboard=False))
    tracker.log(1, {"loss": float("nan")})
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] is None
    with pytest.raises(ValueError, match="'step' is reserved"):
        tracker.log(2, {"step": 1.0})
