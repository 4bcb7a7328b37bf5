"""What `squall attack video` is told, and what a run of it reserves on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator, model_validator

from squall.actors.arm_training import TrainingTasksConfig
from squall.actors.attacker_config import AttackerTrainingConfig, training_demands
from squall.actors.clip_attacks import ClipAttackersConfig
from squall.actors.resources import Demand
from squall.actors.victim_config import VictimPoolConfig
from squall.algorithms.classifier_config import FitConfig
from squall.algorithms.video_attack.config import AttackConfig
from squall.jobs.attack_image_plan import NAME
from squall.jobs.attack_video_arms import ARMS, Arm, make_arm, trained_as
from squall.jobs.attack_video_clips import AttackedClipsConfig, Split
from squall.jobs.attack_video_language import LanguageVictimConfig, engine_demands
from squall.jobs.attack_video_victims import NamedVictimConfig
from squall.jobs.fit_features import FeaturesConfig
from squall.platform.config import Config
from squall.platform.tracking import TrackingConfig

KINDS = ("victim", "victim_training", "victim_features", "language")
"""Keys of which one says what is attacked."""
CONTROLS = ("random_cells", "greedy", "nes", {"kind": "nes", "name": "nes-005", "epsilon": 0.05}, "square_video",
            {"kind": "square_video", "name": "square-005", "epsilon": 0.05}, "sva", "astfocus")
ArmName = Annotated[str, StringConstraints(pattern=f"^{NAME}$", max_length=80)]


class AttackVideoConfig(Config):
    """Attackers that learn to fool a video classifier, and controls under the same budget."""

    victim: NamedVictimConfig | None = None
    """The classifier under attack: a path, or {path: ..., kind: ..., weights: ..., classes: ..., name: ...}."""
    victim_training: FitConfig | None = None
    """In place of `victim`: train one in the run; keys of `squall train classifier`, such as
    {network: {architecture: cnn3d}}."""
    victim_features: FeaturesConfig | None = None
    """In place of `victim`: fit a linear layer on published features in the run."""
    language: LanguageVictimConfig | None = None
    """In place of `victim`: ask a video-language model a multiple choice question."""
    others: tuple[NamedVictimConfig, ...] = ()
    """Further classifiers of the same classes, which are shown the clips that fool: does an attack carry over?"""
    data: AttackedClipsConfig = AttackedClipsConfig()
    """Clips; by default the embedded ones."""
    split: Split = "test"
    """Which clips are held out and attacked: `test`, or `validation` ones to choose settings by."""
    clips: int | None = Field(100, ge=2)
    """Held-out clips that are attacked where the victim gets them right, every class by its share; null takes all."""
    train_clips: int | None = Field(None, ge=1)
    """Training clips that attackers learn on; by default all."""
    attack: AttackConfig = AttackConfig(cell=14)
    """Grid, distortion, budget and reward, the same for all attacks."""
    training: AttackerTrainingConfig = AttackerTrainingConfig()
    """How attackers learn."""
    attackers: dict[ArmName, dict[str, Any]] = {name: dict(own) for name, own in ARMS.items()}
    """Learned attackers by name, and what is different about each: keys of `training`, such as agents and companion, of
    `attack`, such as removal, and greedy: true for the likeliest choices in place of drawn ones."""
    controls: tuple[str | dict[str, Any], ...] = CONTROLS
    """Attacks that learn nothing across clips: kinds, or mappings {kind: nes, name: nes-005, epsilon: 0.05}."""
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1)
    """Attackers are trained with each, and controls draw with each."""
    seed: int = Field(0, ge=0)
    """Of the distorted pixels, which are the same for all attacks on a clip."""
    victims: VictimPoolConfig = VictimPoolConfig()
    """Processes that hold the victim."""
    other_victims: VictimPoolConfig = VictimPoolConfig(cpus=0.5)
    """Processes that hold each of `others`."""
    attack_workers: ClipAttackersConfig = ClipAttackersConfig()
    """Processes that attack held-out clips."""
    making: TrainingTasksConfig = TrainingTasksConfig()
    """What the making of a victim reserves."""
    tracking: TrackingConfig = TrackingConfig()
    """TensorBoard and Weights & Biases, for the training of attackers."""
    name: str | None = None
    """Name of the run directory; by default the job and the time."""
    output: Path = Path("runs")
    """Folder that run directories go into."""
    resume: bool = False
    """Go on with a run that was interrupted: squall attack video runs/NAME/config.yaml --resume"""
    ray_address: str | None = None
    """Cluster to join; by default RAY_ADDRESS, else a local one on the loopback interface."""

    @field_validator("victim", mode="before")
    @classmethod
    def _as_victim(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("others", mode="before")
    @classmethod
    def _as_victims(cls, value: Any) -> Any:
        entries = (value,) if isinstance(value, str | dict) else value
        return tuple({"path": one} if isinstance(one, str) else one for one in entries)

    @field_validator("controls", "seeds", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int | dict) else value

    @model_validator(mode="after")
    def _consistent(self) -> AttackVideoConfig:
        given = [key for key in KINDS if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"what is attacked? Give one of {', '.join(KINDS)}; given: {' and '.join(given) or 'none'}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: name each once")
        if "seed" in self.training.model_fields_set and self.training.seed:
            raise ValueError("training.seed: every training has one of `seeds`; leave it out")
        if not self.attackers and not self.controls:
            raise ValueError("nothing attacks; give attackers or controls")
        if self.resume and self.name is None:
            raise ValueError("resume needs the run: give its config.yaml (runs/NAME/config.yaml), or name=NAME")
        return self


def make_arms(config: AttackVideoConfig) -> tuple[Arm, ...]:
    """The learned attackers. Raises ConfigError as `make_arm`."""
    return tuple(make_arm(name, own, config.attack, config.training) for name, own in config.attackers.items())


def phases(config: AttackVideoConfig) -> list[list[Demand]]:
    """What each part of a run reserves on the cluster: the victim's making, the training of attackers, the attacks."""
    held = [*engine_demands(config.language), config.victims.demand()]
    others = [Demand("other victim", len(config.others) * config.other_victims.count, config.other_victims.cpus,
                     config.other_victims.gpus)] if config.others else []
    making = [Demand("victim training", 1, config.making.cpus, config.making.gpus)] if config.victim_training else []
    runners = training_demands(config.training) if config.attackers else ()
    return [part for part in (making, [*held, *runners], [*held, *others, config.attack_workers.demand]) if part]


def demands(config: AttackVideoConfig) -> list[Demand]:
    """What a run reserves on the cluster: the most that one of its parts does."""
    return max(phases(config), key=lambda part: sum(one.count * (one.cpus + 1000 * one.gpus) for one in part))


def steps(config: AttackVideoConfig) -> int:
    """Iterations of all trainings, and the attack at the end."""
    arms = make_arms(config)
    return len(config.seeds) * sum(arm.training.iterations for arm in arms if trained_as(arm, arms) is arm) + 1
