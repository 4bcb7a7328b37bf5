"""squall train classifier: a run that is killed, and one that is stopped, end with the numbers of an undisturbed training."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest
from processes import Command

from squall.algorithms.classifier_fit import fit_classifier
from squall.jobs import train_classifier
from squall.jobs.registry import find_job
from squall.jobs.search_space import parse_space
from squall.jobs.train_classifier import Pace, TrainClassifierConfig, layers_of_a_part, plan, stops
from squall.jobs.tune import TuneConfig, check_space
from squall.platform.config import load_config
from squall.platform.errors import ConfigError
from squall.platform.hosting import Host, hosted
from squall.platform.image_data import ImageDataConfig, load_images
from squall.platform.networks import NetworkConfig, build_network
from squall.platform.tracking import read_metrics

SETTINGS = ["objective.kind=pg", "epochs=12", "batch_size=16", "checkpoint_every_steps=150", "tracking.tensorboard=false",
            "learner.cpus=0.5"]


def settings(*overrides: str) -> TrainClassifierConfig:
    return load_config(TrainClassifierConfig, "@classifier", [*SETTINGS, *overrides])


class Stopper:
    """Asks the run to stop after its second row of figures, as a sweep does."""

    def __init__(self) -> None:
        self.stop, self.rows = threading.Event(), 0

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.rows += 1
        if self.rows == 2:
            self.stop.set()

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.cluster
def test_a_kill_and_a_stop_change_nothing(ray_cluster: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "hurt"
    command = Command(tmp_path, "train", "classifier", "@classifier", *SETTINGS, f"output={tmp_path}", "name=hurt")
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "step-000150").is_dir():
        assert command.poll() is None and time.monotonic() < deadline, command.printed
        time.sleep(0.02)
    command.signal(signal.SIGKILL)
    assert command.wait(30) == -signal.SIGKILL and not (run / "results.json").exists()

    stopper = Stopper()
    with hosted(Host(sinks=(stopper,), stop=stopper.stop)):
        assert train_classifier.run(load_config(TrainClassifierConfig, run / "config.yaml", ["resume=true"])) == 0
    assert "resume with: squall train classifier" in capsys.readouterr().out and not (run / "results.json").exists()
    with pytest.raises(ConfigError, match="was begun with objective.kind = 'pg', and now it is 'mae'"):
        train_classifier.run(load_config(TrainClassifierConfig, run / "config.yaml", ["resume=true", "objective.kind=mae"]))
    assert train_classifier.run(load_config(TrainClassifierConfig, run / "config.yaml", ["resume=true"])) == 0

    alone = fit_classifier(settings(), load_images(ImageDataConfig(), "train"))
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in alone.rows]
    for row, expected in zip(rows, alone.rows, strict=True):
        assert {name: row[name] for name in expected if name != "time/train"} == pytest.approx(
            {name: value for name, value in expected.items() if name != "time/train"}, rel=1e-6)
    results = json.loads((run / "results.json").read_text())
    assert results["accuracy"]["validation"] == alone.training["validation"] and results["accuracy"]["test"] > 0.85
    assert results["passes"] == pytest.approx(12, abs=0.05) and (run / "model" / "classifier.json").is_file()
    page = (run / "report.html").read_text()
    assert "Accuracy, test" in page and "Predictive entropy" in page and "What became of the groups" not in page
    kinds = [json.loads(line)["kind"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert kinds.count("resumed") == 2 and "interrupted" in kinds and kinds[-1] == "finished"


def test_the_plan_says_what_a_run_costs() -> None:
    config = settings("passes=12", "adversarial.kind=fgsm", "learner.workers=2", "network.architecture=cnn4", "data.size=16")
    images = load_images(config.data, "train")
    network = build_network(config.network, images.shape, 10, [0], [1])
    assert plan(config, images, 1293) == [
        "pg + fgsm on digits, train: 1,293 images to train on and 144 for validation, 1x16x16, 10 classes",
        f"cnn4 with {sum(parameter.numel() for parameter in network.parameters()):,} parameters",
        "484 steps of 16 images on 2 worker(s): 12.0 forward and backward passes of each image",
        "dropout layers see one worker's part of a batch alone, so figures depend on learner.workers"]
    assert layers_of_a_part(build_network(NetworkConfig(), (1, 8, 8), 10, [0], [1])) == []
    assert stops(settings("checkpoint_every_steps=30"), [40, 80], 0) == [30, 40, 60, 80]
    assert stops(settings("checkpoint_every_steps=0"), [40, 80], 40) == [80]


def test_the_driver_looks_up_about_once_a_second() -> None:
    pace = Pace()
    pace.took(0.001)
    assert pace.steps == 4
    pace.took(0.5)
    assert pace.steps == 8
    pace.took(16.0)
    assert pace.steps == 1


def test_what_does_not_go_together_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="batch_size 1 does not go round learner.workers 2"):
        settings("batch_size=1", "learner.workers=2")
    with pytest.raises(ConfigError, match="device cuda needs learner.gpus"):
        settings("device=cuda")


def test_a_sweep_can_search_its_keys() -> None:
    job = find_job("train classifier")
    config = load_config(TuneConfig, "@classifier-sweep")
    demands = check_space(job, config, parse_space(config.searched))
    assert [(demand.role, demand.count) for demand in demands] == [("learner worker", 1)]
    assert job.steps_of(settings()) == 970
