"""Trainings on digits: what is learned, counted and refused, and that workers and snapshots change nothing."""

from __future__ import annotations

import functools
import threading

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from squall.algorithms.classifier_config import FitConfig
from squall.algorithms.classifier_fit import fit_classifier, method_name, restore, snapshot
from squall.algorithms.classifier_training import ClassifierTraining, Share
from squall.platform.config import load_config
from squall.platform.errors import ConfigError, DataError, SquallError
from squall.platform.image_data import ImageDataConfig, ImageSet, load_images

DIGITS = load_images(ImageDataConfig(), "train")
FEW = DIGITS.subset(np.arange(120), "the first 120")


def settings(*overrides: str) -> FitConfig:
    return load_config(FitConfig, None, ["optimiser.learning_rate=0.003", "batch_size=32", *overrides])


def steps(training: ClassifierTraining, count: int) -> list[float]:
    """Loss and length of the gradient after each step."""
    figures = []
    for step in range(training.step + 1, count + 1):
        training.advance(step)
        row = training.row()
        figures += [row["loss"], row["grad_norm"], row["accuracy/train"]]
    return figures


def test_supervised_learning_and_reinforce_learn_digits() -> None:
    test = load_images(ImageDataConfig(), "test")
    for kind, epochs, bound in (("ce", 16, 0.95), ("pg", 16, 0.85)):
        fitted = fit_classifier(settings(f"objective.kind={kind}", f"epochs={epochs}"), DIGITS)
        with torch.no_grad():
            right = fitted.module(test.tensor()).argmax(-1) == torch.from_numpy(test.labels)
        assert float(right.float().mean()) > bound and not fitted.module.training
        best = max(row["accuracy/validation"] for row in fitted.rows)
        assert fitted.training["validation"] == best > bound
        assert fitted.training["passes"] == pytest.approx(epochs, abs=0.05) and fitted.training["objective"] == kind
    rewards = [row["reward"] for row in fitted.rows]
    assert rewards[0] < 0.5 < 0.75 < rewards[-1] and fitted.rows[-1]["predictive_entropy"] < 0.3


@pytest.mark.parametrize("method", [
    ("objective.kind=pg", "objective.baseline=batch_mean", "augment={flip: true, shift: 0.2}"),
    ("objective={kind: pg, exploration: {per: sample}}", "adversarial={kind: fgsm, threat: {norm: l2, epsilon: 0.5}}"),
    ("adversarial={kind: trades, steps: 2}", "network.spectral_norm=true"),
    ("adversarial={kind: pgd, steps: 2}", "validation={attack_steps: 2, select: best_attacked}"),
    ("controls={jacobian: 0.1, input_gradient: 0.1, projections: 2}",),
])
def test_two_workers_learn_what_one_does(method: tuple[str, ...]) -> None:
    config, results, parts, barrier = settings(*method), {}, {}, threading.Barrier(2, timeout=60)
    one = ClassifierTraining(config, FEW)
    expected = [*steps(one, 4), *one.validate().values()]

    def add(rank: int, values: torch.Tensor) -> None:
        parts[rank] = values.clone()
        barrier.wait()
        values.copy_(parts[0] + parts[1])
        barrier.wait()

    def work(training: ClassifierTraining) -> None:
        results[training.share.rank] = [*steps(training, 4), *training.validate().values()]

    workers = [ClassifierTraining(config, FEW, Share(rank, 2, functools.partial(add, rank))) for rank in range(2)]
    threads = [threading.Thread(target=work, args=(training,)) for training in workers]
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):  # whose switches threads share: to be put back after them
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results[0] == results[1] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert len(set(expected[::3])) > 3


@pytest.mark.parametrize("method", [
    ("objective={kind: pg, supervised_first: 0.5}", "network.architecture=cnn4", "data_size=32"),
    ("adversarial.kind=fgsm", "adversarial.start=0.3", "network.spectral_norm=true"),
])
def test_a_snapshot_goes_on_bit_by_bit(method: tuple[str, ...]) -> None:
    size = 16 if method[-1] == "data_size=32" else None
    data = load_images(ImageDataConfig(size=size, train_images=120), "train")
    config = settings("epochs=2", *(word for word in method if word != "data_size=32"))
    whole, half, rest = (ClassifierTraining(config, data) for _ in range(3))
    steps(whole, 3)
    whole.validate()
    expected = steps(whole, 6)
    steps(half, 3)
    half.validate()
    half.advance(4)  # in the middle of an interval
    tensors, numbers = snapshot(half)
    restore(rest, tensors, numbers)
    torch.manual_seed(99)  # dropout does not go by it
    rest.advance(5)
    row = rest.row()
    mean = [(a + b) / 2 for a, b in zip(expected[:2], expected[3:5], strict=True)]
    assert [row["loss"], row["grad_norm"]] == pytest.approx(mean)
    assert steps(rest, 6) == expected[6:9]
    assert rest.best.step == 3 and rest.passes == whole.passes
    other = ClassifierTraining(settings("network.architecture=cnn6"), load_images(ImageDataConfig(size=16), "train"))
    with pytest.raises(SquallError, match="a checkpoint of another network"):
        restore(other, tensors, numbers)


def test_a_budget_of_passes_gives_every_method_the_same_compute() -> None:
    methods = {"ce": (), "fgsm": ("adversarial.kind=fgsm",), "late": ("adversarial={kind: fgsm, start: 0.5}",),
               "pgd": ("adversarial={kind: pgd, steps: 3}",), "jacobian": ("controls.jacobian=1",)}
    configs = {name: settings("passes=12", *words) for name, words in methods.items()}
    assert {name: config.total_steps(320) for name, config in configs.items()} == {
        "ce": 120, "fgsm": 60, "late": 80, "pgd": 30, "jacobian": 40}
    assert all(config.planned_passes(320) == pytest.approx(12) for config in configs.values())
    fitted = fit_classifier(settings("passes=6", "adversarial={kind: fgsm, start: 0.5}"), FEW)
    assert fitted.training["steps"] == 13 and fitted.training["passes"] == pytest.approx(6, abs=0.5)
    assert [method_name(config) for config in configs.values()] == ["ce", "ce + fgsm", "ce + fgsm", "ce + pgd", "ce + jacobian"]


def test_validation_comes_every_epoch_and_at_the_end() -> None:
    assert settings("epochs=3.2", "batch_size=50").validation_steps(100) == [2, 4, 6]
    assert settings("epochs=3.6", "batch_size=10").validation_steps(100) == [10, 20, 30, 36]
    assert settings("epochs=0.1").validation_steps(100) == [1]


def test_images_that_fgsm_cannot_change_are_counted() -> None:
    row = fit_classifier(settings("objective.kind=pg", "adversarial.kind=fgsm", "epochs=1"), FEW).rows[0]
    assert row["unchanged"] == pytest.approx(1 - row["reward"], abs=0.2) and 0.5 < row["unchanged"] < 1


def test_the_weights_that_are_kept_are_those_of_the_validation_that_was_best() -> None:
    training = ClassifierTraining(settings("epochs=4", "network.spectral_norm=true"), FEW)
    figures = {}
    for step in training.validation_steps:
        training.advance(step)
        figures[step] = training.validate()["accuracy/validation"]
    training.finish()
    assert training.accuracy(training.validation_images) == max(figures.values()) == figures[training.best.step]
    last = ClassifierTraining(settings("epochs=2", "validation.select=last"), FEW)
    for step in last.validation_steps:
        last.advance(step)
        last.validate()
    assert last.best.step == last.total_steps


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step() -> None:
    training = ClassifierTraining(settings("epochs=2"), FEW)
    training.advance(2)
    with torch.no_grad():
        next(training.module.parameters()).fill_(float("nan"))
    with pytest.raises(SquallError, match="step 3 of 7: the loss is nan; lower optimiser.learning_rate"):
        training.advance(4)


def test_what_cannot_be_learned_from_is_refused() -> None:
    with pytest.raises(DataError, match="there are no images to train on"):
        ClassifierTraining(settings(), DIGITS.subset([], "none"))
    wrong = ImageSet(FEW.images, np.where(np.arange(120) == 7, 12, FEW.labels), FEW.classes, "mine")
    with pytest.raises(DataError, match="mine: image 7 has label 12, and the 10 classes are numbered 0 to 9"):
        ClassifierTraining(settings(), wrong)
    with pytest.raises(ConfigError, match="batch_size 1 does not go round 2 workers"):
        ClassifierTraining(settings("batch_size=1"), FEW, Share(0, 2))
    with pytest.raises(ConfigError, match="select best_attacked needs attack_steps"):
        settings("validation.select=best_attacked")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device = cuda: torch sees no GPU here"):
            ClassifierTraining(settings("device=cuda"), FEW)
