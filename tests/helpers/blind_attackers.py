"""Attackers whose weights were chosen by hand, so that a test knows what they do: they take the cells that stand out most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from squall.actors.attackers import save_attackers
from squall.algorithms.video_attack.blind import TrainedOn
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.episode import Episode
from squall.algorithms.video_attack.observing import SPATIAL_FEATURES
from squall.algorithms.video_attack.policy import Actor, AttackerPolicy, agent_shapes

SHAPE = (8, 32, 32)
"""Of the clips that they were trained on: 4 x 4 x 4 cells."""


def attack_of(**keys: Any) -> AttackConfig:
    return AttackConfig(**{"block": 2, "cell": 8, "distortion": "brightness", "max_queries": 100} | keys)


def attackers(attack: AttackConfig, eagerness: float = 40.0) -> AttackerPolicy:
    """A spatial agent whose logits are `eagerness` times the contrast of a place, and a temporal one that draws evenly."""
    shapes = agent_shapes(Episode(np.zeros((*SHAPE, 3), np.uint8), 0, attack, 0))
    actors = {name: Actor(shape, 1) for name, shape in shapes.items()}
    with torch.no_grad():
        for parameter in (parameter for actor in actors.values() for parameter in actor.parameters()):
            parameter.zero_()
        spatial = actors["spatial"]
        spatial.trunk.near.weight[0, SPATIAL_FEATURES.index("contrast"), 1, 1] = 1.0
        spatial.trunk.mixed.weight[0, 0, 1, 1] = 1.0
        spatial.places.weight[0] = eagerness
    return AttackerPolicy(actors)


def save_blind_attackers(folder: Path, eagerness: float = 40.0, **keys: Any) -> Path:
    """Such attackers in a folder; `keys` are the attack's."""
    attack = attack_of(**keys)
    about = TrainedOn(attack=attack, frames=SHAPE[0], height=SHAPE[1], width=SHAPE[2]).model_dump(mode="json")
    save_attackers(attackers(attack, eagerness), folder, {**about, "victim": "nobody"})
    return folder


def clip_with_a_patch(frames: int = 8, height: int = 32, width: int = 32) -> np.ndarray:
    """Grey noise, uint8 (frames, height, width, 3), and a red patch in the third of four columns, second of four rows."""
    clip = np.random.default_rng(0).integers(90, 95, (frames, height, width, 3), dtype=np.uint8)
    clip[:, height // 4:height // 2, width // 2:3 * width // 4] = (230, 20, 20)
    return clip
