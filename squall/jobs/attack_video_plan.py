"""What follows from the configuration of `squall attack video`: which clips, victims, attackers and controls.

All that can be refused is refused here, before anything is written or started. Clips that ship with Squall are drawn first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from squall.actors.clip_attack_tasks import Assault
from squall.algorithms.video_attack.controls.base import Control
from squall.algorithms.video_attack.controls.linf import LinfControl
from squall.algorithms.video_attack.controls.registry import parse_control
from squall.jobs.attack_video_arms import Arm, trained_as, try_arm
from squall.jobs.attack_video_clips import AttackedClips, load_clips
from squall.jobs.attack_video_config import KINDS, AttackVideoConfig, make_arms
from squall.jobs.attack_video_language import check_language, language_name
from squall.jobs.attack_video_victims import (
    FOLDER,
    VideoVictim,
    admit_victim,
    check_features,
    check_fit,
    check_same_classes,
)
from squall.jobs.console import counted
from squall.platform.errors import ConfigError

ATTACKERS = "attackers"
"""Folder of the trained attackers in the run directory: NAME/seed-S below it."""
LEARNED, CONTROL = "learned", "control"


@dataclass(frozen=True)
class VideoAttackPlan:
    """Everything that could be refused has been checked."""

    config: AttackVideoConfig
    arms: tuple[Arm, ...]
    controls: Mapping[str, Control]
    clips: AttackedClips
    victim: VideoVictim | None
    """None of one that is made in the run."""
    others: tuple[VideoVictim, ...]

    @property
    def data(self) -> dict[str, Any]:
        """What card and settings say of the clips."""
        config, clips = self.config, self.clips
        path = config.data.path or config.data.embedded.directory
        return {"path": str(path), "hash": clips.held_out.subset(clips.chosen, "").hash, "train_hash": clips.train.hash,
                "split": config.split, "clips": len(clips.chosen), "held_out": len(clips.held_out),
                "train_clips": self.train_count, "shape": list(config.data.shape), "classes": list(clips.train.classes),
                "source": clips.held_out.source}

    @property
    def train_count(self) -> int:
        """Clips that attackers learn on."""
        return self.config.train_clips or len(self.clips.train)

    @property
    def asked(self) -> dict[str, Any]:
        """What results follow from, beside clips and victims: a run with other settings is another run."""
        attacks: dict[str, Any] = {arm.name: {"kind": LEARNED, **arm.asked} for arm in self.arms}
        attacks |= {name: {"kind": CONTROL, "control": control.kind, **control.model_dump(mode="json")}
                    for name, control in self.controls.items()}
        return {"attack": self.config.attack.model_dump(mode="json"), "attacks": attacks, "seeds": list(self.config.seeds),
                "seed": self.config.seed, "label_only": self.config.victims.label_only}

    @property
    def descriptions(self) -> dict[str, tuple[str, str]]:
        """Of every attack its kind and a line about it, in the order of the configuration."""
        return {arm.name: (LEARNED, arm.description) for arm in self.arms} | {
            name: (CONTROL, describe_control(control)) for name, control in self.controls.items()}

    @property
    def victim_asked(self) -> dict[str, Any]:
        """What the victims follow from."""
        config = self.config
        kind = next(key for key in KINDS if getattr(config, key) is not None)
        made = {} if self.victim is not None else getattr(config, kind).model_dump(mode="json", exclude={"engine"})
        facts = {} if self.victim is None else self.victim.facts
        return {"kind": kind, **facts, **made, "others": [other.facts for other in self.others]}

    @property
    def trainings(self) -> list[tuple[Arm, int]]:
        """Arm and seed, seed by seed, so that a run that is stopped has whole seeds."""
        return [(arm, seed) for seed in self.config.seeds for arm in self.arms if trained_as(arm, self.arms) is arm]

    def assaults(self, folder: Path) -> list[Assault]:
        """All attacks, the learned ones first."""
        config = self.config
        learned = [Assault(arm.name, seed, arm.attack, policy=attackers_folder(folder, trained_as(arm, self.arms).name, seed),
                           greedy=arm.greedy) for arm in self.arms for seed in config.seeds]
        return learned + [Assault(name, seed, config.attack, control=control) for name, control in self.controls.items()
                          for seed in config.seeds]

    def lines(self) -> list[str]:
        """What there is to do, for plan.txt and the terminal."""
        clips, config, attack = self.clips, self.config, self.config.attack
        blocks, rows, columns = attack.grid(*config.data.shape[:3]).shape
        victim = f"victim {self.victim.name}: {self.victim.path}" if self.victim is not None else self._made_line()
        return [f"{len(clips.chosen):,} of {len(clips.held_out):,} held-out clips ({clips.held_out.source}) of "
                f"{config.data.frames} frames of {config.data.size}x{config.data.size}, {len(clips.train.classes)} classes",
                victim, *(f"shown what fools it: {other.name}" for other in self.others),
                f"grid of {blocks} blocks x {rows} x {columns} cells, {attack.distortion} {attack.severity:g}, at most "
                f"{attack.max_queries} queries a clip",
                *(f"  {arm.name}: {arm.description}" for arm in self.arms),
                *([f"attackers learn on {counted(self.train_count, 'clip')}, in {counted(len(self.trainings), 'training')}"]
                  if self.arms else []),
                f"controls {', '.join(self.controls) or 'none'}; seeds {', '.join(map(str, config.seeds))}"]

    def _made_line(self) -> str:
        config, count = self.config, len(self.clips.train)
        if config.victim_training is not None:
            return (f"victim {FOLDER}: {config.victim_training.network.architecture}, trained here on {count:,} clips, "
                    f"{config.victim_training.epochs:g} epochs")
        if config.victim_features is not None:
            return f"victim {FOLDER}: a linear layer on {config.victim_features.network}, fitted here on {count:,} clips"
        assert config.language is not None
        return f"victim {language_name(config.language)}: {config.language.path}, asked '{config.language.question}'"

    def resolved(self, name: str, output: Path) -> AttackVideoConfig:
        """The configuration that asks the same when it is read again."""
        return self.config.model_copy(update={"name": name, "output": output, "resume": False})


def attackers_folder(run: Path, name: str, seed: int) -> Path:
    """Where a run's trained attackers lie."""
    return run / ATTACKERS / name / f"seed-{seed}"


def prepare(config: AttackVideoConfig, console: Console) -> VideoAttackPlan:
    """Read the clips, open the victims that are given, and see that everything fits.

    Raises:
        ConfigError: a victim, attack, budget or value that cannot be used, or that does not fit the clips.
        DataError: clips cannot be read, or a victim does not answer with probabilities.
    """
    arms = make_arms(config)
    controls = make_controls(config, [arm.name for arm in arms])
    for arm in arms:
        try_arm(arm, config.data.shape)
    if config.victim_features is not None:
        check_features(config.victim_features)
    clips = load_clips(config.data, config.split, config.clips, console)
    if config.train_clips is not None and config.train_clips > len(clips.train):
        raise ConfigError(f"train_clips = {config.train_clips:,}: there are {len(clips.train):,} training clips without those "
                          "for validation; ask for fewer, or train_clips=null for all")
    victim = None if config.victim is None else admit_victim(config.victim, clips.train)
    if config.victim_training is not None:
        check_fit(config.victim_training, clips.train)
    if victim is not None:
        clips = clips.labelled_for(victim.name, victim.source.classes)
    elif config.language is not None:
        clips = clips.labelled_for(language_name(config.language), check_language(config.language, clips.train))
    return VideoAttackPlan(config, arms, controls, clips, victim, admit_others(config, clips))


def describe_control(control: Control) -> str:
    """One line: what it is, and what was set of it."""
    own = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in control.model_dump(exclude_unset=True).items())
    bound = ", as far as the distortion goes" if isinstance(control, LinfControl) and control.epsilon is None else ""
    return f"{control.kind}{bound}{': ' if own else ''}{own}"


def make_controls(config: AttackVideoConfig, taken: list[str]) -> dict[str, Control]:
    """The controls by name. Raises ConfigError for one that cannot be, cannot work here, or has another attack's name."""
    controls: dict[str, Control] = {}
    for entry in config.controls:
        name, control = parse_control(entry)
        if name in controls or name in taken:
            raise ConfigError(f"controls: two attacks are called '{name}'; give one another name: "
                              f"{{kind: {control.kind}, name: ...}}")
        control.check(config.data.shape, config.attack, label_only=config.victims.label_only)
        controls[name] = control
    return controls


def admit_others(config: AttackVideoConfig, clips: AttackedClips) -> tuple[VideoVictim, ...]:
    """The further victims. Raises ConfigError where two have one name, or one has other classes."""
    taken = {FOLDER} if config.victim is None else {FOLDER, config.victim.label}
    names = [*taken, *(other.label for other in config.others)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"others: two victims are called '{twice[0]}'; give them names: others=[{{path: ..., name: ...}}]")
    others = tuple(admit_victim(one, clips.train) for one in config.others)
    for other in others:
        check_same_classes(clips.train.classes, other)
    return others
