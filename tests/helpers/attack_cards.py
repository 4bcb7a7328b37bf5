"""Cards of attacks of the size that real ones have, with rows, landscapes and images to match: one model, several, a trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from squall.platform.attack_card import (
    ATTACKS,
    Arm,
    ArmContrast,
    ArmFigure,
    AttackCard,
    AttackResult,
    Budget,
    EntropyRow,
    IndicatorCurve,
    Indicators,
    MaskingCheck,
    ModelResult,
    Transfer,
)
from squall.platform.report.attack_examples import AttackedImage
from squall.platform.report_card import Estimate
from squall.platform.runs import to_json

IMAGES = 500
BUDGETS = (("linf", 8 / 255), ("linf", 2 / 255), ("linf", 4 / 255), ("linf", 16 / 255), ("l2", 0.5), ("l2", 1.0))
"""The main one first."""
STRENGTHS = {"noise": 0.06, "fgsm": 0.62, "pgd": 1.0, "apgd-ce": 1.06, "square": 0.85, "autoattack": 1.12}
"""How far an attack gets on a model that hides nothing; 1 is a tenth of the images left at 8/255 for a plain one."""
PASSES = {"noise": (20, 0), "fgsm": (2, 1), "pgd": (21, 20), "apgd-ce": (101, 100), "square": (1000, 0),
          "autoattack": (1420, 310)}
TITLES = {"sl": "cross-entropy", "rl": "REINFORCE, epsilon-greedy per batch", "rl-adv": "REINFORCE with FGSM examples",
          "sl-adv": "cross-entropy with FGSM examples"}
SHAPES = {"sl": (0.91, 2.4, 1.0), "rl": (0.885, 2.2, 0.14), "rl-adv": (0.842, 0.82, 0.85), "sl-adv": (0.86, 0.8, 0.95)}
"""Clean accuracy, how fast it falls, and how much of that PGD sees."""


def estimate(value: float, n: int = IMAGES) -> Estimate:
    half = 1.96 * math.sqrt(max(value * (1 - value), 1e-4) / n)
    return Estimate.of(value, value - half, value + half, n, (0.0, 1.0))


def accuracy(kind: str, attack: str, norm: str, epsilon: float, shift: float = 0.0) -> float:
    clean, slope, seen = SHAPES[kind]
    size = epsilon * 255 / 8 if norm == "linf" else epsilon / 0.75
    blind = seen if attack in ("fgsm", "pgd", "apgd-ce") else 1.0
    return round((clean + shift) * math.exp(-slope * STRENGTHS[attack] * blind * size ** 1.2) * IMAGES) / IMAGES


def make_model(kind: str, seed: int | None = None, arm: str | None = None, **changes: object) -> ModelResult:
    """A model of one of `SHAPES`; `changes` replace fields."""
    shift = 0.0 if seed is None else 0.01 * ((seed * 7) % 3 - 1)
    clean = round((SHAPES[kind][0] + shift) * IMAGES) / IMAGES
    results = [_result(attack, norm, epsilon, accuracy(kind, attack, norm, epsilon, shift), clean)
               for attack in STRENGTHS for norm, epsilon in BUDGETS]
    budgets = []
    for norm, epsilon in BUDGETS:
        value = accuracy(kind, "autoattack", norm, epsilon, shift) - 0.004
        budgets.append(Budget(norm=norm, epsilon=epsilon, robust_accuracy=estimate(max(0.0, value)), worst_attack="autoattack"))
    masked = SHAPES[kind][2] < 0.5
    values = {
        "name": kind if seed is None else f"{kind}-{seed}", "path": f"runs/{kind}/classifier", "hash": "9f2c17e0",
        "arm": arm, "seed": seed, "clean": estimate(clean), "budgets": budgets, "results": results,
        "indicators": indicators(kind, shift), "checks": checks(masked, kind),
        "unreliable": ("PGD leaves 63.4 % and the worst attack 7.2 %: the gradients lead PGD astray.",) if masked else (),
        "training": {"objective": "pg" if "rl" in kind else "cross_entropy", "passes": 3.6e6, "seconds": 512.0, "steps": 9000,
                     "validation": clean}}
    return ModelResult.model_validate(values | changes)


def _result(attack: str, norm: str, epsilon: float, value: float, clean: float) -> AttackResult:
    queries, gradients = PASSES[attack]
    left = value / clean
    return AttackResult(
        attack=attack, norm=norm, epsilon=epsilon, robust_accuracy=estimate(value), attacked=round(clean * IMAGES),
        queries_mean=round(queries * (0.2 + 0.8 * left), 1), queries_median=float(round(queries * left + 1)),
        gradients_mean=round(gradients * (0.2 + 0.8 * left), 1))


def indicators(kind: str, shift: float = 0.0) -> Indicators:
    masked = SHAPES[kind][2] < 0.5
    agn = {"sl": 1.9, "rl": 0.07, "rl-adv": 0.36, "sl-adv": 0.41}[kind] * (1 + 6 * shift)
    radii, steps = (0.05, 0.25, 1.0), tuple(float(step) for step in range(1, 20))
    return Indicators(
        images=128, agn=agn, igv=agn ** 2 * 1.2e-4, digv=0.61 if masked else 0.18, gsua=0.22 if masked else 0.83,
        sign_consistency=0.58 if masked else 0.91, spread_steps=0.44 if masked else 0.12,
        zero_gradients=0.182 if masked else 0.0, zero_gradients_float64=0.0, float32_agreement=0.731 if masked else 1.0,
        entropy=tuple(EntropyRow(images=images, group=group, bits=round(bits + shift, 3), count=128)
                      for images, base in (("clean", 0.31), ("attacked", 0.94))
                      for group, bits in (("all", base), ("correct", 0.7 * base), ("wrong", 1.9 * base))),
        curves=(IndicatorCurve(name="igv", x=radii, y=tuple(agn ** 2 * 1.2e-4 * (0.4 + radius) for radius in radii)),
                IndicatorCurve(name="digv", x=radii, y=tuple(min(1.0, (0.5 if masked else 0.1) * (1 + radius + 5 * shift))
                                                             for radius in radii)),
                IndicatorCurve(name="agn", x=(0.0, *steps), y=tuple(agn * (1 + step / 10) for step in (0.0, *steps))),
                IndicatorCurve(name="gsua", x=steps, y=tuple((0.25 if masked else 0.9) - 0.15 * math.exp(-step / 4) + shift
                                                             for step in steps))))


def checks(masked: bool, kind: str = "sl") -> tuple[MaskingCheck, ...]:
    seen = [
        ("unbounded", not masked, 0.212 if masked else 0.0, 0.0, "PGD without bounds leaves 21.2 % of the images standing: it "
         "does not find what is certainly there." if masked else "PGD without bounds leaves no image standing."),
        ("monotone", True, 0.0, 0.01, "Accuracy falls from each budget to the next."),
        ("black_box", not masked, 0.41 if masked else -0.05, 0.02, "Square fools 41.0 points more than PGD although it sees no "
         "gradient." if masked else "PGD fools 5.0 points more than Square."),
        ("one_step", True, -0.12, 0.02, "One step fools 12.0 points less than twenty."),
        ("zero_gradients", not masked, 0.182 if masked else 0.0, 0.05, "The gradient of 18.2 % of the images is exactly zero."
         if masked else "No image's gradient is exactly zero."),
        ("noise", None if kind == "sl-adv" else True, None, None, "No attack at random was run." if kind == "sl-adv" else
         "Noise of the same length fools 5.1 %, PGD 60.3 %."),
        ("worst_case", not masked, 0.562 if masked else 0.021, 0.05, "PGD leaves 56.2 points more than the worst attack."
         if masked else "PGD leaves 2.1 points more than the worst attack.")]
    return tuple(MaskingCheck(name=name, passed=passed, value=value, bound=bound, message=message)
                 for name, passed, value, bound, message in seen)


def make_card(models: Sequence[ModelResult], **changes: object) -> AttackCard:
    """A card over models; several get transfers between all pairs."""
    transfers = [Transfer(source=source.name, target=target.name, attack="pgd", norm=norm, epsilon=epsilon,
                          accuracy=estimate(_transferred(source, target, norm, epsilon)))
                 for norm, epsilon in BUDGETS[:2] for source in models for target in models if source.name != target.name]
    values = {
        "name": "fashion", "models": models, "transfers": transfers,
        "data": {"format": "idx", "path": "fashion-mnist", "split": "test", "hash": "5d41402abc4b2a76", "images": IMAGES,
                 "classes": [f"class {i}" for i in range(10)], "shape": [1, 28, 28]},
        "asked": {"attacks": [{"kind": "noise", "name": "noise"}, {"kind": "pgd", "name": "fgsm", "steps": 1},
                              {"kind": "pgd", "name": "pgd", "steps": 20, "restarts": 1, "loss": "ce"},
                              {"kind": "apgd", "name": "apgd-ce", "steps": 100}, {"kind": "square", "name": "square"},
                              {"kind": "autoattack", "name": "autoattack", "mode": "fast"}],
                  "budgets": [{"norm": norm, "epsilon": epsilon} for norm, epsilon in BUDGETS], "seed": 0, "chunk": 64},
        "provenance": {"squall": "0.8.0", "commit": "bd63222", "packages": {"torch": "2.9.1", "numpy": "2.3.0"}}}
    return AttackCard.model_validate(values | changes)


def _transferred(source: ModelResult, target: ModelResult, norm: str, epsilon: float) -> float:
    own = next(one.robust_accuracy.value for one in target.results
               if (one.attack, one.norm, one.epsilon) == ("autoattack", norm, epsilon))
    return round(min(target.clean.value, own + 0.25 + 0.03 * (len(source.name) % 4)) * IMAGES) / IMAGES


def one_model(kind: str = "rl", **changes: object) -> AttackCard:
    return make_card([make_model(kind)], **changes)


def several_models(**changes: object) -> AttackCard:
    return make_card([make_model(kind) for kind in SHAPES], **changes)


def trial(seeds: Sequence[int] = (0, 1, 2), kinds: Sequence[str] = tuple(SHAPES), **changes: object) -> AttackCard:
    """Arms x seeds, with their figures and contrasts."""
    models = [make_model(kind, seed, kind) for kind in kinds for seed in seeds]
    card = make_card(models)
    arms = [_arm(kind, [model for model in models if model.arm == kind], card) for kind in kinds]
    contrasts = [_contrast(arms, first, second, figure) for first, second in zip(kinds, kinds[1:], strict=False)
                 for figure in ("worst", "pgd", "clean")]
    return AttackCard.model_validate(card.model_dump() | {"arms": arms, "contrasts": contrasts} | changes)


def _arm(kind: str, models: Sequence[ModelResult], card: AttackCard) -> Arm:
    def figure(name: str, values: Sequence[float], norm: str | None = None, epsilon: float | None = None) -> ArmFigure:
        mean = float(np.mean(values))
        half = 0.02 + 2 * float(np.std(values))
        return ArmFigure(figure=name, norm=norm, epsilon=epsilon, mean=mean, low=max(0.0, mean - half),
                         high=min(1.0, mean + half), seeds=values)

    figures = [figure("clean", [model.clean.value for model in models])]
    for place, (norm, epsilon) in enumerate(BUDGETS):
        for attack in STRENGTHS:
            figures.append(figure(attack, [next(one.robust_accuracy.value for one in model.results if (
                one.attack, one.norm, one.epsilon) == (attack, norm, epsilon)) for model in models], norm, epsilon))
        figures.append(figure("worst", [model.budgets[place].robust_accuracy.value for model in models], norm, epsilon))
        shown = [[one.accuracy.value for one in card.transfers if one.target == model.name and one.epsilon == epsilon]
                 for model in models]
        if all(shown):
            figures.append(figure("transfer", [min(own) for own in shown], norm, epsilon))
    figures.append(figure("agn", [model.indicators.agn for model in models]))
    return Arm(name=kind, description=TITLES[kind], figures=figures, passes=3.6e6, seconds=512.0)


def _contrast(arms: Sequence[Arm], first: str, second: str, figure: str) -> ArmContrast:
    norm, epsilon = (None, None) if figure == "clean" else BUDGETS[0]
    a, b = (next(one.mean for arm in arms if arm.name == name for one in arm.figures
                 if (one.figure, one.norm, one.epsilon) == (figure, norm, epsilon)) for name in (first, second))
    return ArmContrast(first=first, second=second, figure=figure, p_value=0.0004 if abs(b - a) > 0.05 else 0.31,
                       change=Estimate(value=b - a, low=b - a - 0.041, high=b - a + 0.041, n=3 * IMAGES))


def make_rows(card: AttackCard, seed: int = 0) -> pa.Table:
    """``attacks.parquet`` of the main budget, whose fallen images are as many as the card says."""
    rng, rows = np.random.default_rng(seed), []
    for model in card.models:
        for result in (one for one in model.results if (one.norm, one.epsilon) == BUDGETS[0]):
            queries, gradients = PASSES[result.attack]
            fallen = result.attacked - round(result.robust_accuracy.value * IMAGES)
            for image in range(result.attacked):
                fooled = image < fallen
                asked = min(queries, 1 + int(rng.exponential(queries / 5))) if fooled else queries
                rows.append({"model": model.name, "attack": result.attack, "norm": result.norm, "epsilon": result.epsilon,
                             "image": image, "label": image % 10, "prediction": (image + fooled) % 10, "fooled": fooled,
                             "by": result.attack if fooled else None, "queries": asked, "gradients": min(asked, gradients),
                             "l2": 0.5, "linf": result.epsilon})
    return pa.Table.from_pylist(rows, schema=ATTACKS)


def write_landscape(folder: Path, name: str, steep: float = 1.0, size: int = 41) -> str:
    """A landscape file whose answer is wrong beyond a slanted, wavy line."""
    epsilon = 8 / 255
    axis = np.linspace(-3, 3, size)
    alpha, beta = np.meshgrid(axis, axis, indexing="ij")
    height = steep * (1.5 * alpha + 0.5 * np.sin(2 * beta) + 0.3 * beta) - 1
    loss = np.log1p(np.exp(2 * height))
    return save_landscape(folder, name, epsilon, axis * epsilon, loss, height < 0.2, roughness=0.0123, plateau=0.0, wrong=0.41)


def save_landscape(folder: Path, name: str, epsilon: float, axis: np.ndarray, loss: np.ndarray, correct: np.ndarray,
                   **figures: float) -> str:
    """The file, with the same axis in both directions."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(to_json({"epsilon": epsilon, "alphas": axis, "betas": axis, "loss": loss, "correct": correct}
                                       | figures), encoding="utf-8")
    return name


def attacked_images(clip: bool = False) -> list[AttackedImage]:
    """Blobs, of which half fell."""
    rng, images = np.random.default_rng(3), []
    for number in range(6):
        y, x = np.mgrid[0:28, 0:28]
        blob = np.exp(-((x - 9 - 2 * number) ** 2 + (y - 14) ** 2) / 40.0)
        clean = np.repeat((255 * blob)[..., None], 1, -1).astype(np.uint8)
        if clip:
            clean = np.stack([np.roll(clean, 2 * t, 1) for t in range(12)])
        change = rng.choice([-1.0, 1.0], clean.shape) * 8 / 255
        images.append(AttackedImage(clean, np.clip(clean / 255 + change, 0, 1).astype(np.float32), "ankle boot",
                                    "sneaker" if number % 2 else "ankle boot", "apgd-ce", "linf", 8 / 255, "rl"))
    return images
