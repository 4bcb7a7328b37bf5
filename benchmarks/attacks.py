"""Squall's attacks beside pyautoattack, torchattacks and foolbox: the same model, images, budget and core.

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb fashion
    pip install --no-deps --target peers torchattacks==3.5.1 foolbox==3.3.4 eagerpy==0.30.0 GitPython gitdb smmap
    PYTHONPATH=peers python benchmarks/attacks.py --data fashion/usr/share/datasets/fashion-mnist

The model is the 215,000-parameter CNN, trained for two epochs on Fashion-MNIST against PGD-5 at Linf 0.1 (a minute or two), and
kept in the folder `--model`. All sides get the same test images with their labels, those that the model gets wrong too, and
one torch thread. Times are of the processor, without loading and training.

- the schedule: Auto-PGD, targeted Auto-PGD, targeted FAB and Square of 5,000 queries, Squall's in fast mode against
  pyautoattack's `version="standard"`. torchattacks' AutoAttack runs 10 steps where the others run 100, and is shown as it is.
  Images that stand against one and not the other are listed: both draw random numbers, each its own.
- the replay: Squall with pyautoattack's random streams; `same_robust_set` says whether the same images stand.
- PGD of 20 steps, in turns, medians of several rounds.
- `scaling_2`: wall time of the schedule on Ray with one worker over that with two, in chunks of `--chunk` images.

Results to expect on two quiet cores: the schedule 1.3 times as fast as pyautoattack or faster, the replay with the same robust
set, PGD-20 faster than both peers, and 1.8 or more from a second worker. `--images 40` is a quick look.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from squall.algorithms.attacks.base import Attack, Oracle, Threat
from squall.algorithms.attacks.registry import parse_attack
from squall.platform.image_classifiers import ImageModelConfig, open_image_classifier, save_image_classifier
from squall.platform.image_data import ImageDataConfig, ImageSet, load_images
from squall.platform.networks import NetworkConfig, build_network
from squall.platform.seeds import derive_seed

EPSILON, STEPS, SEED = 0.1, 20, 0
STEP = 2.5 / STEPS
PARTS = ("schedule", "replay", "pgd", "scaling")
PEERS = "pip install --no-deps torchattacks==3.5.1 foolbox==3.3.4 eagerpy==0.30.0 GitPython gitdb smmap"


@dataclass(frozen=True)
class Trial:
    """What all sides are given."""

    model: torch.nn.Module
    images: torch.Tensor
    labels: torch.Tensor

    def squall(self, attack: Attack) -> torch.Tensor:
        """bool (n,): images that are right as they are and stand."""
        oracle = Oracle(self.model, len(self.images))
        rows = (oracle.logits(self.images, torch.arange(len(self.images))).argmax(1) == self.labels).nonzero()[:, 0]
        outcome = attack.run(oracle.part(rows), self.images[rows], self.labels[rows], Threat(epsilon=EPSILON),
                             [derive_seed(SEED, row) for row in rows.tolist()])
        stands = torch.zeros(len(self.images), dtype=torch.bool)
        stands[rows[~outcome.fooled]] = True
        return stands

    def right(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.model(images).argmax(1) == self.labels

    def pyautoattack(self) -> torch.Tensor:
        from pyautoattack import AutoAttack

        attack = AutoAttack(self.model, norm="Linf", eps=EPSILON, seed=SEED, version="standard", device="cpu")
        adversarial, _ = attack.run_standard_evaluation(self.images, self.labels, batch_size=250)
        return self.right(adversarial)

    def torchattacks(self, name: str, **settings: Any) -> torch.Tensor:
        import torchattacks

        return self.right(getattr(torchattacks, name)(self.model, eps=EPSILON, **settings)(self.images, self.labels))

    def foolbox(self) -> torch.Tensor:
        import foolbox

        attack = foolbox.attacks.LinfPGD(rel_stepsize=STEP, steps=STEPS, random_start=True)
        model = foolbox.PyTorchModel(self.model, bounds=(0, 1), device="cpu")
        _, _, fooled = attack(model, self.images, foolbox.criteria.Misclassification(self.labels), epsilons=EPSILON)
        return ~fooled


def main() -> None:
    """Run the parts asked for and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four idx files of Fashion-MNIST")
    parser.add_argument("--model", type=Path, default=Path("runs/attacks-benchmark"), help="folder of the trained model")
    parser.add_argument("--images", type=int, default=200, help="test images, the first of the data set")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of PGD")
    parser.add_argument("--chunk", type=int, default=10, help="images of a task on Ray")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    check_peers()
    data = ImageDataConfig(format="idx", path=options.data)
    if not (options.model / "classifier.json").is_file():
        train(load_images(data, "train"), options.model)
    test = load_images(data, "test")
    rows = np.arange(options.images)
    trial = Trial(open_image_classifier(ImageModelConfig(path=str(options.model))).module, test.tensor(rows),
                  torch.from_numpy(test.labels[rows]))
    clean = trial.right(trial.images).float().mean()
    print(f"{options.images} images, {clean:.1%} right as they are; Linf {EPSILON}", flush=True)
    print(json.dumps(measure(trial, test, options)))


def check_peers() -> None:
    try:
        import foolbox  # noqa: F401
        import pyautoattack  # noqa: F401
        import torchattacks  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"{error}; the peers are installed by: {PEERS}") from None


def measure(trial: Trial, test: ImageSet, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of the last line; None for what was not asked for."""
    found: dict[str, Any] = dict.fromkeys(
        ("autoattack_speedup", "same_robust_set", "pgd_speedup_torchattacks", "pgd_speedup_foolbox", "scaling_2"))
    theirs = None
    if {"schedule", "replay"} & set(options.parts):
        theirs = timed("pyautoattack 0.2.0", trial.pyautoattack)
    if "schedule" in options.parts:
        ours = timed("Squall, fast", lambda: trial.squall(parse_attack("autoattack")[1]))
        timed("torchattacks' AutoAttack (10 steps)", lambda: trial.torchattacks("AutoAttack", norm="Linf", seed=SEED))
        list_differences(ours[1], theirs[1])
        found["autoattack_speedup"] = round(theirs[0] / ours[0], 2)
    if "replay" in options.parts:
        replay = parse_attack({"kind": "autoattack", "mode": "replay", "seed": SEED, "batch_size": 250})[1]
        ours = timed("Squall, replay", lambda: trial.squall(replay))
        list_differences(ours[1], theirs[1])
        found["same_robust_set"] = torch.equal(ours[1], theirs[1])
    if "pgd" in options.parts:
        found |= compare_pgd(trial, options.rounds)
    if "scaling" in options.parts:
        found["scaling_2"] = scaling(test, options)
    return found


def timed(name: str, run: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Processor seconds and which images stand, printed."""
    started = time.process_time()
    stands = run()
    seconds = time.process_time() - started
    print(f"{name}: {seconds:.2f} s, {stands.float().mean():.1%} stand", flush=True)
    return seconds, stands


def list_differences(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Print every image that stands on one side alone."""
    for row in (ours != theirs).nonzero()[:, 0].tolist():
        here, there = ("stands" if side[row] else "falls" for side in (ours, theirs))
        print(f"  image {row}: {here} here, {there} there", flush=True)


def compare_pgd(trial: Trial, rounds: int) -> dict[str, float]:
    """How many times as fast as each peer's PGD ours is: medians over rounds in turns."""
    attack = parse_attack({"kind": "pgd", "steps": STEPS, "step_size": STEP})[1]
    sides: Mapping[str, Callable[[], torch.Tensor]] = {
        "squall": lambda: trial.squall(attack),
        "torchattacks": lambda: trial.torchattacks("PGD", alpha=STEP * EPSILON, steps=STEPS, random_start=True),
        "foolbox": trial.foolbox}
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            seconds[name].append(timed(f"PGD-{STEPS}, {name}", run)[0])
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {f"pgd_speedup_{name}": round(middle[name] / middle["squall"], 2) for name in ("torchattacks", "foolbox")}


def scaling(test: ImageSet, options: argparse.Namespace) -> float:
    """Wall time of the schedule with one worker over that with two."""
    from squall.actors.cluster import start_ray, stop_ray

    start_ray(num_cpus=2)
    try:
        seconds = {count: on_ray(test, options, count) for count in (1, 2)}
    finally:
        stop_ray()
    return round(seconds[1] / seconds[2], 2)


def on_ray(test: ImageSet, options: argparse.Namespace, count: int) -> float:
    """Wall seconds of the schedule on all images that are right, started workers not counted."""
    from squall.actors.attack_pool import AttackPool, AttackWorkersConfig, Failed
    from squall.actors.attack_tasks import Look, Strike

    pool = AttackPool(AttackWorkersConfig(count=count), [ImageModelConfig(path=str(options.model))], test, f"scaling-{count}")
    pool.start()
    try:
        rows = np.arange(options.images)
        looks = [(number, Look(0, rows)) for number in range(4 * count)]  # every worker opens the model
        answers = [result for _, result in pool.run(looks)]
        right = rows[answers[0].result.prediction == test.labels[rows]]
        attack, threat = parse_attack("autoattack")[1], Threat(epsilon=EPSILON)
        started = time.monotonic()
        done = list(pool.run((int(part[0]), Strike(0, part, attack, threat, [derive_seed(SEED, int(row)) for row in part]))
                             for part in parts(right, options.chunk)))
        seconds = time.monotonic() - started
        lost = [result.message for _, result in done if isinstance(result, Failed)]
        if lost:
            raise SystemExit(f"{len(lost)} tasks failed: {lost[0]}")
    finally:
        pool.stop()
    print(f"Squall on Ray, {count} worker{'s' * (count > 1)}: {seconds:.1f} s", flush=True)
    return seconds


def parts(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start:start + size] for start in range(0, len(rows), size)]


def train(data: ImageSet, folder: Path, epochs: int = 2, batch: int = 128) -> None:
    """The CNN against five steps of PGD, saved as a checkpoint."""
    network, mean, std = NetworkConfig(architecture="small_cnn"), *statistics_of(data)
    torch.manual_seed(SEED)
    model = build_network(network, data.shape, len(data.classes), mean, std)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for epoch in range(epochs):
        started, right = time.monotonic(), 0
        for rows in parts(torch.randperm(len(data.labels)).numpy(), batch):
            images, labels = data.tensor(rows), torch.from_numpy(data.labels[rows])
            logits = model(worst(model, images, labels))
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels).backward()
            optimiser.step()
            right += int((logits.argmax(1) == labels).sum())
        print(f"trained epoch {epoch + 1} of {epochs}: {right / len(data.labels):.1%} right under PGD-5,"
              f" {time.monotonic() - started:.0f} s", flush=True)
    save_image_classifier(folder, model, network, data.classes, data.shape, mean, std, {"objective": "PGD-5", "seed": SEED})


def statistics_of(data: ImageSet) -> tuple[Sequence[float], Sequence[float]]:
    pixels = data.images.reshape(-1, data.images.shape[-1]) / 255
    return pixels.mean(0).tolist(), pixels.std(0).tolist()


def worst(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    points = (images + EPSILON * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
    for _ in range(5):
        points.requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(points), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, points)
        points = (points.detach() + EPSILON / 4 * gradient.sign()).clamp(images - EPSILON, images + EPSILON).clamp(0, 1)
    return points.detach()


if __name__ == "__main__":
    main()
