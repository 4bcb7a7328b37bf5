"""What `squall attack image` is told and what follows from it: which images, models, attacks and budgets.

All that can be refused is refused here, before anything is written or started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from squall.actors.attack_pool import AttackWorkersConfig
from squall.algorithms.attacks.base import Norm, Threat
from squall.jobs.attack_admission import admit
from squall.jobs.attack_battery import Battery, make_battery
from squall.jobs.attack_diagnosis import DiagnosisConfig
from squall.jobs.attack_memory import Targets
from squall.jobs.attack_models import AttackedModel
from squall.platform.config import Config
from squall.platform.errors import ConfigError
from squall.platform.image_classifiers import ImageModelConfig
from squall.platform.image_data import ImageDataConfig, ImageSet, load_images
from squall.platform.seeds import derive_seed

LARGEST_NAME = 80
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"


class NamedModelConfig(ImageModelConfig):
    """A model and what the run calls it."""

    name: str | None = Field(None, max_length=LARGEST_NAME, pattern=f"^{NAME}$")
    """Name in tables and pages; by default the last part of `path`."""


class AttackImageConfig(Config):
    """Attacks on image classifiers, and what is left of their accuracy."""

    models: tuple[NamedModelConfig, ...] = ()
    """One or several: checkpoint folders, torchvision:NAME, timm:NAME or module:function, each a path or a mapping
    {path: ..., name: ..., weights: ..., ...}."""
    data: ImageDataConfig = ImageDataConfig()
    """The images; by default the embedded digits."""
    split: Literal["train", "test"] = "test"
    """Which part of the data."""
    images: int | None = Field(1000, ge=2)
    """So many of them; null takes all."""
    choice: Literal["first", "seeded"] = "first"
    """The first ones, as the literature does, or some that follow from `seed`."""
    attacks: tuple[str | dict[str, Any], ...] = ("pgd", "autoattack", "square", "noise")
    """Kinds, or mappings {kind: pgd, name: pgd-1000, steps: 1000}; docs/attacks.md lists kinds and settings."""
    budgets: tuple[Threat, ...] = ()
    """How far an image may be changed, each {norm: linf, epsilon: 0.03}; the first is the main one. In place of this: norms
    and epsilons."""
    norms: tuple[Norm, ...] = ()
    """`linf`, `l2`, or both: a budget for each with each of `epsilons`."""
    epsilons: tuple[float, ...] = ()
    """Radii with pixel values in [0, 1], such as [0.0157, 0.0314]; for both norms the same."""
    masking: bool = True
    """Also make the attacks that the seven checks for gradient masking need at the first budget: PGD at 2 and 4 epsilon and
    unlimited, one step, noise, Square. Without them checks are made on what there is."""
    transfer: bool | tuple[str, ...] = True
    """With several models: show each the examples that PGD, or the attacks named here, made on the others."""
    diagnosis: DiagnosisConfig | None = DiagnosisConfig()
    """Gradient indicators and loss landscapes; null leaves them out."""
    seed: int = Field(0, ge=0)
    """What attacks draw follows from it and from where an image stands in the data, whatever the number of workers."""
    chunk: int = Field(64, ge=1)
    """Images that are attacked together; on a GPU rather hundreds. Resuming needs the same."""
    workers: AttackWorkersConfig = AttackWorkersConfig()
    """Processes that attack."""
    name: str | None = None
    """Name of the run directory; by default the job and the time."""
    output: Path = Path("runs")
    """Folder that run directories go into."""
    resume: bool = False
    """Go on with a run that was interrupted: squall attack image runs/NAME/config.yaml --resume"""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""

    @field_validator("models", mode="before")
    @classmethod
    def _as_models(cls, value: Any) -> Any:
        entries = (value,) if isinstance(value, str | dict) else value
        return tuple({"path": one} if isinstance(one, str) else one for one in entries)

    @field_validator("attacks", "norms", "epsilons", "budgets", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int | float | dict) else value

    @field_validator("transfer", mode="before")
    @classmethod
    def _as_names(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("diagnosis", mode="before")
    @classmethod
    def _as_section(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _consistent(self) -> AttackImageConfig:
        if not self.models:
            raise ValueError("give a model: models=runs/NAME/model, or several: models=[A, B]")
        if self.budgets and (self.norms or self.epsilons):
            raise ValueError("give budgets, or norms and epsilons; not both")
        if not self.budgets and not self.epsilons:
            raise ValueError("how far may an image be changed? Give epsilons=[0.03] (and norms=[linf, l2]), or budgets")
        if self.resume and self.name is None:
            raise ValueError("resume needs the run: give its config.yaml (runs/NAME/config.yaml), or name=NAME")
        return self

    @model_validator(mode="after")
    def _positive(self) -> AttackImageConfig:
        if wrong := [epsilon for epsilon in self.epsilons if not 0 < epsilon < float("inf")]:
            raise ValueError(f"epsilons: {wrong[0]:g} is no budget; expected numbers above 0, with pixel values in [0, 1]")
        return self

    @property
    def threats(self) -> tuple[Threat, ...]:
        """The budgets, written out."""
        return self.budgets or tuple(Threat(norm=norm, epsilon=epsilon)
                                     for norm in self.norms or ("linf",) for epsilon in self.epsilons)


@dataclass(frozen=True)
class AttackPlan:
    """Everything that could be refused has been checked."""

    config: AttackImageConfig
    models: tuple[AttackedModel, ...]
    targets: Targets
    battery: Battery
    source: str
    """Where the images come from."""
    data_hash: str
    """Of the whole split."""

    @property
    def data(self) -> dict[str, Any]:
        """What the card says of the images."""
        config, images = self.config, self.targets.data
        return {"format": config.data.format, "path": None if config.data.path is None else str(config.data.path),
                "split": config.split, "hash": self.data_hash, "images": len(images), "choice": config.choice,
                "classes": list(images.classes), "shape": list(images.shape), "source": self.source}

    @property
    def asked(self) -> dict[str, Any]:
        """What answers follow from, beside the images and the models: a run with other settings is another run."""
        diagnosis = self.config.diagnosis
        return {**self.battery.asked, "seed": self.config.seed, "chunk": self.config.chunk,
                "diagnosis": None if diagnosis is None else diagnosis.model_dump(mode="json")}

    def lines(self) -> list[str]:
        """What there is to do, for plan.txt and the terminal."""
        count = len(self.targets.positions)
        budgets = ", ".join(f"{threat.norm} {threat.epsilon:.4g}" for threat in self.battery.budgets)
        beside = len(self.battery.strikes) - len(self.battery.budgets) * len(self.config.attacks)
        return [
            f"{count:,} images of {self.source}, shape {list(self.targets.data.shape)}, in chunks of {self.config.chunk}",
            *(f"model {model.name}: {model.description}" for model in self.models),
            f"attacks {', '.join(self.battery.attacks)} at {budgets}"
            + (f", and {beside} beside for the checks for gradient masking" if beside else ""),
            *([f"examples of {', '.join(self.battery.transfers)} shown to the other models"] if self.battery.transfers else [])]

    def resolved(self, name: str, output: Path) -> AttackImageConfig:
        """The configuration that asks the same when it is read again."""
        models = tuple(one.model_copy(update={"name": model.name})
                       for one, model in zip(self.config.models, self.models, strict=True))
        return self.config.model_copy(update={"name": name, "output": output, "resume": False, "models": models})


def prepare(config: AttackImageConfig, whole: ImageSet | None = None) -> AttackPlan:
    """Read the images, open every model once, and see that they fit.

    Args:
        whole: the images of `config.split`, where they have been read before.

    Raises:
        ConfigError: a model, attack, budget or value that cannot be used, or that does not fit the images.
        DataError: the images cannot be read, or a model does not answer with finite logits.
    """
    whole = whole or load_images(config.data, config.split)
    positions = choose(len(whole), config)
    images = whole.subset(positions, f"{config.choice} {len(positions):,}")
    targets = Targets(images, positions, config.seed, config.chunk)
    transfer = config.transfer if len(config.models) > 1 else False
    battery = make_battery(config.attacks, config.threats, images.shape, masking=config.masking, transfer=transfer)
    models = tuple(admit(name, one, images) for name, one in zip(names_of(config.models), config.models, strict=True))
    return AttackPlan(config, models, targets, battery, whole.source, whole.hash)


def choose(count: int, config: AttackImageConfig) -> np.ndarray:
    """Positions of the images that are attacked, ascending. Raises ConfigError where there are fewer than asked for."""
    wanted = count if config.images is None else config.images
    if wanted > count:
        if "images" in config.model_fields_set:
            raise ConfigError(f"images = {wanted:,}: the {config.split} split has {count:,}; ask for fewer, or images=null for "
                              "all")
        wanted = count
    if config.choice == "first":
        return np.arange(wanted)
    order = np.random.default_rng(derive_seed(config.seed, "choice")).permutation(count)
    return np.sort(order[:wanted])


def names_of(models: Sequence[NamedModelConfig]) -> list[str]:
    """A name for each model, its own or the last part of its path. Raises ConfigError where two are the same."""
    names = [one.name or short_path(one.path) for one in models]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"models: two are called '{twice[0]}'; give them names: models=[{{path: ..., name: ...}}, ...]")
    return names


def short_path(path: str) -> str:
    """The last part of a path; of a run's model the run's name."""
    parts = [part for part in Path(path.rpartition(":")[2] or path).parts if part not in ("/", ".", "..")]
    generic = len(parts) > 1 and parts[-1] in ("model", "classifier", "best", "last")
    name = parts[-2] if generic else parts[-1] if parts else "model"
    return "".join(letter if letter.isalnum() or letter in "._+-" else "-" for letter in name).lstrip("._+-") or "model"
