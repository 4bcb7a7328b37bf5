"""The victim of a run: given by its path, trained in the run, or a layer fitted on published features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from squall.actors.arm_training import Training, TrainingTasksConfig, train_all
from squall.actors.victim_sources import ClassifierSource, VictimSource
from squall.algorithms.classifier_config import FitConfig
from squall.algorithms.video_attack.asking import checked
from squall.jobs.attack_image_plan import LARGEST_NAME, NAME, short_path
from squall.jobs.attack_video_clips import class_numbers
from squall.jobs.console import counted, phase
from squall.jobs.evaluated_model import hash_model
from squall.jobs.fit_features import FeaturesConfig, fit_features
from squall.platform.class_list import plain
from squall.platform.classifiers import ClassifierConfig
from squall.platform.errors import ConfigError, DataError, SquallError, cause
from squall.platform.image_classifiers import FACTS, read_facts
from squall.platform.image_data import ImageSet
from squall.platform.networks import build_network
from squall.platform.runs import RunDirectory

FOLDER = "victim"
"""Where a victim that is made in the run is written, in the run directory; also its name unless it has another."""
TRIED = 4
"""Training clips that a victim is shown before anything starts."""


class NamedVictimConfig(ClassifierConfig):
    """A classifier and what the run calls it."""

    path: str
    """As `squall evaluate` takes it: a folder, a hub id, torchvision's name of a video model, or module:function."""
    name: str | None = Field(None, max_length=LARGEST_NAME, pattern=f"^{NAME}$")
    """Name in tables and pages; by default the last part of `path`."""

    @property
    def label(self) -> str:
        """Its name in the run."""
        return self.name or short_path(self.path)

    @property
    def classifier(self) -> ClassifierConfig:
        """The configuration without path and name."""
        keys = self.model_fields_set & ClassifierConfig.model_fields.keys()
        return ClassifierConfig(**{key: getattr(self, key) for key in keys})


@dataclass(frozen=True)
class VideoVictim:
    """A victim that can be asked."""

    name: str
    path: str
    source: VictimSource
    hash: str | None
    """Of its files; None for one that has none here."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the training of one that was made in the run."""

    @property
    def facts(self) -> dict[str, Any]:
        """What card and settings say of it."""
        own = {"training": dict(self.training)} if self.training else {}
        return {"name": self.name, "path": self.path, "hash": self.hash, "classes": list(self.source.classes)} | own


def admit_victim(config: NamedVictimConfig, clips: ImageSet) -> VideoVictim:
    """Open a classifier, and see that it knows the clips' classes and answers about some of them with probabilities.

    Raises:
        ConfigError: it cannot be opened, does not know a class, or its answer has another shape.
        DataError: its answer is not finite (reason ``bad_output``).
    """
    name, source = config.label, ClassifierSource.of(config.path, config.classifier)
    class_numbers(name, source.classes, clips)
    try:
        checked(source.open("cpu").probabilities(clips.images[:TRIED]), min(TRIED, len(clips)))
    except ConfigError as error:
        raise ConfigError(f"victim {name} ({config.path}): {error}") from None
    except DataError as error:
        raise DataError(f"victim {name} ({config.path}): {error}; it cannot be attacked", reason=error.reason) from None
    except Exception as error:  # whatever a user's function raises
        raise ConfigError(f"victim {name} ({config.path}): cannot classify clips of shape {list(clips.images.shape[1:])}: "
                          f"{type(error).__name__}: {cause(error)}") from None
    return VideoVictim(name, config.path, source, hash_model(Path(source.path)))


def check_same_classes(first: Sequence[str], other: VideoVictim) -> None:
    """Raises ConfigError where a victim that examples are shown to has not the same classes in the same order."""
    classes = other.source.classes
    if list(map(plain, classes)) != list(map(plain, first)):
        place = next((place for place, pair in enumerate(zip(classes, first, strict=False)) if len(set(map(plain, pair))) > 1),
                     min(len(classes), len(first)))
        raise ConfigError(f"others: victim {other.name} has {len(classes)} classes, not the same {len(first)} in the same "
                          f"order as the one under attack; they differ from class {place} on")


def check_fit(config: FitConfig, clips: ImageSet) -> None:
    """Raises ConfigError where the network of a victim that is to be trained does not take the clips."""
    build_network(config.network, clips.shape, len(clips.classes), *clips.statistics())


def check_features(config: FeaturesConfig) -> None:
    """Raises ConfigError where the published weights are not there."""
    if not config.weights.is_file():
        raise ConfigError(f"victim_features.weights = {config.weights}: no such file")


def train_victim(config: FitConfig, clips: ImageSet, tasks: TrainingTasksConfig, folder: RunDirectory, console: Console
                 ) -> VideoVictim:
    """Train a victim on clips, as an arm of a trial is; one that is there already is taken.

    Raises:
        SquallError: the training failed.
    """
    target = folder.path / FOLDER
    if not (target / FACTS).is_file():
        with phase(console, f"training the victim on {counted(len(clips), 'clip')}", "victim", {}):
            (done,) = train_all([Training(FOLDER, config, target)], clips, tasks)
        if done.problem:
            raise SquallError(f"the victim's training failed: {done.problem}")
        folder.event("trained", model=FOLDER, attempts=done.attempts, seconds=done.facts.get("seconds"))
    return made_victim(target)


def fit_victim(config: FeaturesConfig, clips: ImageSet, gpus: float, folder: RunDirectory, console: Console) -> VideoVictim:
    """Fit a linear layer on published features; one that is there already is taken. No held-out clip is looked at."""
    target = folder.path / FOLDER
    if not (target / FACTS).is_file():
        with phase(console, f"fitting a layer on {config.network} with {counted(len(clips), 'clip')}", "victim", {}):
            facts = fit_features(target, config, clips, device="cuda" if gpus else "cpu")
        folder.event("trained", model=FOLDER, seconds=facts["seconds"])
    return made_victim(target)


def made_victim(folder: Path) -> VideoVictim:
    """A victim that this run made."""
    source = ClassifierSource.of(str(folder), ClassifierConfig(kind="checkpoint"))
    return VideoVictim(FOLDER, FOLDER, source, hash_model(folder), read_facts(folder).training)
