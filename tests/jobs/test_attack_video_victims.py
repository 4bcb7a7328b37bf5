"""Victims of a run: made in it once, or given and admitted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_features import moving, transnetv2_state
from rich.console import Console

from squall.jobs.attack_video_victims import (
    NamedVictimConfig,
    admit_victim,
    check_same_classes,
    fit_victim,
)
from squall.jobs.fit_features import FeaturesConfig
from squall.platform.errors import ConfigError
from squall.platform.runs import RunDirectory


def test_a_layer_on_published_features_is_fitted_once_and_may_be_given_to_another_run(tmp_path: Path) -> None:
    torch.save(transnetv2_state(), tmp_path / "published.pth")
    config, run = FeaturesConfig(weights=tmp_path / "published.pth"), RunDirectory.create(tmp_path, "attack-video", "run")
    made = fit_victim(config, moving(18, 0), 0.0, run, Console())
    written = (run.path / "victim" / "model.safetensors").stat().st_mtime_ns
    again = fit_victim(config, moving(18, 0), 0.0, run, Console())
    assert (run.path / "victim" / "model.safetensors").stat().st_mtime_ns == written and again.facts == made.facts
    assert made.training["train_accuracy"] == 1.0 and "test_accuracy" not in made.training  # nobody looked at held-out clips
    given = admit_victim(NamedVictimConfig(path=str(run.path / "victim")), moving(18, 0))
    assert (given.name, given.hash, given.source.classes) == ("victim", made.hash, ("brighter", "darker", "still"))
    named = admit_victim(NamedVictimConfig(path=str(run.path / "victim"), name="fitted"), moving(18, 0))
    assert named.name == "fitted" and named.training == {}
    check_same_classes(("Brighter", "darker", "still"), given)
    with pytest.raises(ConfigError, match="victim fitted has 3 classes, not the same 2 .* they differ from class 2 on"):
        check_same_classes(("brighter", "darker"), named)
