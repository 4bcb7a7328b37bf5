"""Two Ray Train workers learn, validate and store what one process without Ray does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from squall.actors.classifier_loop import ClassifierLearner, ClassifierWorkersConfig
from squall.algorithms.classifier_config import FitConfig
from squall.algorithms.classifier_fit import fit_classifier
from squall.platform.config import load_config
from squall.platform.errors import SquallError
from squall.platform.image_classifiers import ImageModelConfig, open_image_classifier
from squall.platform.image_data import ImageDataConfig, load_images

SETTINGS = ["objective={kind: pg, baseline: batch_mean}", "adversarial={kind: fgsm, start: 0.5}", "augment.shift=0.1",
            "optimiser.learning_rate=0.003", "batch_size=33", "epochs=2"]


@pytest.mark.cluster
def test_two_workers_do_what_one_process_does(ray_cluster: object, tmp_path: Path) -> None:
    train, test = (load_images(ImageDataConfig(train_images=200), split) for split in ("train", "test"))
    config = load_config(FitConfig, None, SETTINGS)
    alone = fit_classifier(config, train)
    (tmp_path / "saved").mkdir()
    learner = ClassifierLearner(ClassifierWorkersConfig(workers=2, cpus=0.5), config, train, test, tmp_path)
    assert learner.start() == {"step": 0, "device": "cpu"}
    try:
        rows = []
        for expected in alone.rows:
            learner.advance(int(expected["step"]) - 1)
            learner.advance(int(expected["step"]))
            rows.append(learner.validate())
        learner.save(tmp_path / "saved")
        facts = learner.keep(tmp_path / "model")
    finally:
        learner.stop()
    timed = {"step", "time/train"}
    for row, expected in zip(rows, alone.rows, strict=True):
        for name in expected.keys() - timed:
            assert row[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    opened = open_image_classifier(ImageModelConfig(path=str(tmp_path / "model")))
    with torch.no_grad():
        ours, theirs = alone.module(test.tensor()), opened.module(test.tensor())
    assert torch.allclose(ours, theirs, atol=1e-3)
    right = (theirs.argmax(-1) == torch.from_numpy(test.labels)).float().mean()
    assert facts["test_accuracy"] == pytest.approx(float(right), abs=1e-6)
    assert facts["validation"] == alone.training["validation"]
    assert opened.training["objective"] == "pg + fgsm" and opened.training["passes"] == alone.training["passes"]
    assert json.loads((tmp_path / "saved" / "trainer" / "index.json").read_text())["step"] == alone.training["steps"]


@pytest.mark.cluster
def test_a_loss_that_is_no_number_is_told_with_its_step(ray_cluster: object, tmp_path: Path) -> None:
    images = load_images(ImageDataConfig(train_images=200), "train")
    config = load_config(FitConfig, None, ["optimiser={learning_rate: 1.0e+30, max_grad_norm: 1.0e+30}"])
    learner = ClassifierLearner(ClassifierWorkersConfig(cpus=0.5), config, images, images, tmp_path)
    learner.start()
    try:
        with pytest.raises(SquallError, match=r"learner failed while training up to step 5: .*step \d of 56: the loss is"):
            learner.advance(5)
    finally:
        learner.stop()
