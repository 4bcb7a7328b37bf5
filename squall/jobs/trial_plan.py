"""What a trial trains, attacks and compares; all that can be refused is refused here, before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from squall.actors.arm_training import Training, TrainingTasksConfig
from squall.algorithms.classifier_config import FitConfig
from squall.jobs.attack_battery import make_battery
from squall.jobs.attack_image_plan import NAME, AttackImageConfig, choose
from squall.platform.config import Config, lay_over, validate
from squall.platform.errors import ConfigError
from squall.platform.image_data import ImageDataConfig, ImageSet, load_images
from squall.platform.networks import NetworkConfig, build_network

MODELS = "models"
"""Folder of the checkpoints in the run directory."""
OWN = ("models", "data", "split", "name", "output", "resume", "ray_address")
"""Keys of `squall attack image` that the trial itself decides."""


class TrialConfig(Config):
    """Arms that differ in one thing, trained with the same compute, attacked alike."""

    data: ImageDataConfig = ImageDataConfig()
    """Images: arms learn from the training split, and the test split is attacked."""
    training: dict[str, Any] = {}
    """What all arms share: keys of `squall train classifier`, such as {passes: 40, network: {architecture: small_cnn}}."""
    arms: dict[Annotated[str, StringConstraints(pattern=f"^{NAME}$")], dict[str, Any]] = Field(min_length=1)
    """By name, what is different about an arm: {RL: {objective: {kind: pg}}}."""
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1)
    """Every arm is trained with each; from three on the trial says which arms differ."""
    contrasts: tuple[tuple[str, str], ...] = ()
    """Pairs of arms that are compared, the second against the first."""
    attack: dict[str, Any] = {"epsilons": [0.1]}
    """Keys of `squall attack image`: attacks, norms and epsilons (the first budget is the main one), images, diagnosis."""
    trainings: TrainingTasksConfig = TrainingTasksConfig()
    """What one training reserves; as many run at a time as the cluster holds."""
    name: str | None = None
    """Name of the run directory; by default the job and the time."""
    output: Path = Path("runs")
    """Folder that run directories go into."""
    resume: bool = False
    """Go on with a trial that was interrupted: squall trial runs/NAME/config.yaml --resume"""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""

    @model_validator(mode="after")
    def _consistent(self) -> TrialConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: name each once")
        for pair in self.contrasts:
            if unknown := [name for name in pair if name not in self.arms]:
                raise ValueError(f"contrasts: there is no arm '{unknown[0]}'; there are {', '.join(self.arms)}")
        if taken := [key for key in self.attack if key in OWN]:
            raise ValueError(f"attack.{taken[0]} is what the trial decides by itself; leave it out")
        if self.resume and self.name is None:
            raise ValueError("resume needs the run: give its config.yaml (runs/NAME/config.yaml), or name=NAME")
        return self

    def attack_on(self, models: Sequence[Mapping[str, Any]]) -> AttackImageConfig:
        """The attack of models, each with its path and name."""
        return validate(AttackImageConfig, {**self.attack, "models": list(models), "data": self.data.model_dump()}, "attack")


@dataclass(frozen=True)
class TrialWork:
    """Everything that could be refused has been checked."""

    config: TrialConfig
    train: ImageSet
    test: ImageSet
    fits: Mapping[str, FitConfig]
    """How each arm learns; the seeds are the trial's."""

    def trainings(self, folder: Path) -> list[tuple[str, int, Training]]:
        """(arm, seed, training), seed by seed, so that a trial that is stopped has whole seeds."""
        def training(arm: str, seed: int) -> Training:
            name = f"{arm}.s{seed}"
            return Training(name, self.fits[arm].model_copy(update={"seed": seed}), folder / MODELS / name)

        return [(arm, seed, training(arm, seed)) for seed in self.config.seeds for arm in self.fits]

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What the models follow from."""
        return {"data": self.train.hash, "seeds": list(self.config.seeds),
                "arms": {name: fit.model_dump(mode="json", exclude={"seed"}) for name, fit in self.fits.items()}}

    def lines(self) -> list[str]:
        """What there is to do, for plan.txt and the terminal."""
        images = len(self.train) * (1 - next(iter(self.fits.values())).validation.fraction)
        width = max(map(len, self.fits))
        return [f"{len(self.fits)} arms x {len(self.config.seeds)} seeds, each on {images:,.0f} images of {self.train.source}",
                *(f"  {name:<{width}}  {describe_arm(fit)}; {fit.total_steps(round(images)):,} steps"
                  for name, fit in self.fits.items())]


def prepare(config: TrialConfig) -> TrialWork:
    """Read images, arms and attacks.

    Raises:
        ConfigError: a key of an arm, an attack or a budget that cannot be used.
        DataError: images cannot be read.
    """
    fits = {name: _fit(name, config.training, own) for name, own in config.arms.items()}
    _refuse_equal(fits)
    train, test = load_images(config.data, "train"), load_images(config.data, "test")
    _try_networks(fits, train)
    attack = config.attack_on([{"path": MODELS, "name": "none"}])
    make_battery(attack.attacks, attack.threats, test.shape, masking=attack.masking, transfer=attack.transfer)
    choose(len(test), attack)
    return TrialWork(config, train, test, fits)


def describe_arm(fit: FitConfig) -> str:
    """One line on how an arm learns."""
    parts = [_named(fit.objective.model_dump(exclude_unset=True), fit.objective.kind)]
    if fit.adversarial.kind != "none":
        own, threat = fit.adversarial.model_dump(exclude_unset=True, exclude={"threat"}), fit.adversarial.threat
        parts.append(f"{_named(own, fit.adversarial.kind)} at {threat.norm} {threat.epsilon:.4g}")
    controls = fit.controls.model_dump(exclude_defaults=True)
    parts += [f"{key.replace('_', ' ')} {value:g}" for key, value in controls.items() if isinstance(value, float)]
    if fit.network.spectral_norm:
        parts.append("spectral norm")
    return "; ".join(parts)


def _named(own: Mapping[str, Any], kind: str) -> str:
    more = ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in own.items() if key != "kind")
    return f"{kind} ({more})" if more else kind


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fit(name: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> FitConfig:
    if "seed" in shared or "seed" in own:
        raise ConfigError(f"arms: {name}: seeds are those of the trial; leave seed out")
    return validate(FitConfig, lay_over(shared, own), where=f"arms: {name}")


def _try_networks(fits: Mapping[str, FitConfig], images: ImageSet) -> None:
    tried: list[NetworkConfig] = []
    for name, fit in fits.items():
        if fit.network in tried:
            continue
        tried.append(fit.network)
        try:
            build_network(fit.network, images.shape, len(images.classes), *images.statistics())
        except ConfigError as error:
            raise ConfigError(f"arms: {name}: {error}") from None


def _refuse_equal(fits: Mapping[str, FitConfig]) -> None:
    names = list(fits)
    for place, name in enumerate(names):
        for other in names[:place]:
            if fits[name] == fits[other]:
                raise ConfigError(f"arms: '{other}' and '{name}' are the same; leave one out")
