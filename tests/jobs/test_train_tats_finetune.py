"""squall train tats-finetune: what it refuses before anything starts, and a run whose classifier opens by its path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from squall.actors.video_encoder_files import save_clip_classifier
from squall.algorithms.masked_video.autoencoder import MaskedAutoencoder
from squall.algorithms.masked_video.autoencoder_config import AutoencoderConfig
from squall.algorithms.masked_video.finetune import ClipClassifier
from squall.jobs import train_tats_finetune
from squall.jobs.registry import find_job
from squall.jobs.train_tats_finetune import TatsFinetuneConfig, plan, prepare, stops
from squall.platform.classifiers import ClassifierConfig, check_classifier
from squall.platform.config import load_config
from squall.platform.errors import ConfigError, DataError

SETTINGS = ["batch_clips=8", "epochs=3", "tracking.tensorboard=false", "learner.cpus=0.5",
            "data={train_clips: 24, validation_clips: 4, test_clips: 8}"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    config = AutoencoderConfig(frames=4, image_height=16, image_width=16, patch=8, width=12, depth=1, heads=2)
    save_clip_classifier(folder, ClipClassifier(MaskedAutoencoder(config), 2, 0), ("a", "b"), {})
    return folder


def settings(encoder: Path, *overrides: str) -> TatsFinetuneConfig:
    return load_config(TatsFinetuneConfig, None, [*SETTINGS, f"encoder={encoder}", *overrides])


@pytest.mark.cluster
def test_a_probe_ends_with_a_classifier_that_opens_by_its_path(ray_cluster: object, tmp_path: Path, encoder: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    config = settings(encoder, "mode=linear", f"output={tmp_path}", "name=probe")
    assert train_tats_finetune.run(config) == 0
    run = tmp_path / "probe"
    results = json.loads((run / "results.json").read_text())
    assert list(results["accuracy"]) == ["test"], "of four classes all are among the likeliest five"
    assert results["test_clips"] == 8 and results["steps"] == 9 and 0 <= results["accuracy"]["test"] <= 1
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6, 9] and "accuracy/validation" in rows[0]
    assert check_classifier(str(run / "model"), ClassifierConfig()) == ("down", "left", "right", "up")
    page = (run / "report.html").read_text()
    assert "8 clips, looked at once, with the last weights" in page and "a linear layer learns from its features" in page
    assert "classifier: " in capsys.readouterr().out and (run / "checkpoints" / "step-000009" / "trainer").is_dir()


def test_the_plan_says_what_there_is_to_do(encoder: Path) -> None:
    config = settings(encoder)
    assert plan(config, prepare(config)) == [
        f"all weights of {encoder}: 1 block of width 12, clips of 4 frames of 16x16",
        "24 clips to train on (clips of known motion, train), 4 for validation, 8 to test by (clips of known motion, test), "
        "4 classes",
        "9 steps of 8 clips on 1 worker(s), test clips are seen once"]
    assert find_job("train tats-finetune").steps_of(config) == 9
    assert stops(settings(encoder, "checkpoint_every_steps=4"), 24, 9) == {3: True, 4: False, 6: True, 8: False, 9: True}


def test_what_cannot_be_used_is_refused_before_anything_starts(tmp_path: Path, encoder: Path) -> None:
    with pytest.raises(ConfigError, match="batch_clips 8 does not go round learner.workers 9"):
        settings(encoder, "learner.workers=9")
    with pytest.raises(ConfigError, match="no such directory"):
        prepare(settings(tmp_path / "none"))
    (tmp_path / "a.mp4").touch()
    (tmp_path / "train.txt").write_text("a.mp4 0\nb.mp4 1\n")
    listed = ["data.format=list", f"data.path={tmp_path}/train.txt", f"data.test_path={tmp_path}/train.txt"]
    with pytest.raises(DataError, match=r"train.txt:2: no clip .*b.mp4; mend the list"):
        prepare(settings(encoder, *listed))
    (tmp_path / "train.txt").write_text("a.mp4 0\na.mp4 0\n")
    with pytest.raises(ConfigError, match="a classifier needs at least two"):
        prepare(settings(encoder, *listed))
