"""A classifier trained from beginning to end in one process, and a training as tensors and numbers that can be stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squall.algorithms.classifier_config import FitConfig
from squall.algorithms.classifier_training import ATTACKED, VALIDATION, Best, ClassifierTraining
from squall.platform.errors import SquallError
from squall.platform.image_data import ImageSet

if TYPE_CHECKING:
    import torch

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fitted:
    """A trained classifier."""

    module: torch.nn.Module
    """In eval mode, with the weights that model selection kept."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of each channel of the training images; the module normalises with them."""
    training: dict[str, Any]
    """As `describe` has it: ``objective``, ``steps``, ``passes``, ``seconds``, ``validation`` and more."""
    rows: tuple[dict[str, float], ...]
    """Figures after every validation, each with its ``step``."""


def fit_classifier(config: FitConfig, data: ImageSet, on_row: Callable[[Mapping[str, float]], None] = lambda row: None
                   ) -> Fitted:
    """Train on a training split.

    Args:
        on_row: hears the figures after every validation.

    Raises:
        SquallError: as `ClassifierTraining`, and where the loss is not finite.
    """
    training = ClassifierTraining(config, data)
    rows = []
    for step in training.validation_steps:
        training.advance(step)
        rows.append({"step": step, **training.row(), **training.validate()})
        on_row(rows[-1])
    training.finish()
    return Fitted(training.module, training.mean, training.std, describe(training), tuple(rows))


def describe(training: ClassifierTraining) -> dict[str, Any]:
    """What a checkpoint says of its training: the method, what was spent, and what model selection keeps."""
    config, best = training.config, training.best
    return {"objective": method_name(config), **training.spent(), "validation": best.figures.get(VALIDATION),
            "validation_attacked": best.figures.get(ATTACKED), "selected_step": best.step, "seed": config.seed,
            "images": len(training.images), "data": training.images.source,
            "config": config.model_dump(mode="json", include=set(FitConfig.model_fields) - {"network"})}


def method_name(config: FitConfig) -> str:
    """``pg``, ``ce + fgsm`` or ``ce + jacobian``."""
    parts = [config.objective.kind]
    parts += [config.adversarial.kind] if config.adversarial.kind != "none" else []
    parts += [name for name in ("input_gradient", "jacobian") if getattr(config.controls, name)]
    return " + ".join([*parts, "spectral norm"] if config.network.spectral_norm else parts)


def snapshot(training: ClassifierTraining) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All that another process needs to go on: tensors by name, and numbers."""
    tensors = {f"model/{name}": value for name, value in training.module.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in training.best.weights.items()}
    for name, parameter in training.module.named_parameters():
        tensors |= {f"{moment}/{name}": training.optimiser.state[parameter][moment]
                    for moment in MOMENTS if parameter in training.optimiser.state}
    return tensors, {"step": training.step, "totals": dict(training.totals), "passes": training.passes,
                     "seconds": training.seconds,
                     "best": {"score": training.best.score, "step": training.best.step, "figures": training.best.figures}}


def restore(training: ClassifierTraining, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]) -> None:
    """Go on from a `snapshot`.

    Raises:
        SquallError: it is another network's.
    """
    import torch

    try:
        training.module.load_state_dict(_under("model", tensors))
    except RuntimeError as error:
        raise SquallError(f"a checkpoint of another network: {' '.join(str(error).split())[:200]}") from None
    for name, parameter in training.module.named_parameters():
        if f"{MOMENTS[0]}/{name}" in tensors:
            moments = {moment: tensors[f"{moment}/{name}"].to(training.device) for moment in MOMENTS}
            training.optimiser.state[parameter] = {"step": torch.tensor(float(numbers["step"])), **moments}
    weights = {name: value.to(training.device) for name, value in _under("best", tensors).items()}
    training.best = Best(**numbers["best"], weights=weights)
    training.step, training.totals = numbers["step"], Counter(numbers["totals"])
    training.passes, training.seconds = numbers["passes"], numbers["seconds"]


def _under(part: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{part}/"): tensors[name] for name in tensors if name.startswith(f"{part}/")}
