"""Two Ray Train workers, one of which goes on from the other's checkpoint, end with what one process without Ray does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from squall.actors.classifier_loop import ClassifierWorkersConfig
from squall.actors.clip_sources import ClipSource, make_clip_source
from squall.actors.video_encoder_files import save_clip_classifier
from squall.actors.video_finetune_loop import FinetuneLearner, FinetuneTask, FinetuneWorker, TestViewsConfig
from squall.algorithms.masked_video.autoencoder import MaskedAutoencoder
from squall.algorithms.masked_video.autoencoder_config import AutoencoderConfig
from squall.algorithms.masked_video.finetune import ClipClassifier, FinetuneTraining
from squall.algorithms.masked_video.finetune_config import FinetuneConfig
from squall.platform.checkpoints import TRAINER, write_tensors
from squall.platform.classifiers import ClassifierConfig, open_classifier
from squall.platform.clip_data import TatsDataConfig
from squall.platform.errors import SquallError
from squall.platform.video import encode_video

SIZES = {"frames": 4, "image_height": 16, "image_width": 16, "patch": 8, "width": 12, "depth": 1, "heads": 2,
         "decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}
STEPS, FIRST = 6, 3
CLASSES, ASTRAY = 7, 3
"""Test clips have other labels than in training, so that not all are among the likeliest five."""
CONFIG = FinetuneConfig(batch_clips=5, fc_dropout=0.2, optimiser={"learning_rate": 0.01})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TatsDataConfig:
    """Eight clips of two brightnesses and seven classes, a ninth that is none."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for number in range(8):
        frames = rng.integers(0, 90, (8, 24, 32, 3)) + 80 * (number % 2)
        encode_video(root / f"{number}.mp4", frames.astype(np.uint8), fps=10)
    (root / "8.mp4").write_text("no video")
    for name, first in (("train", 0), ("test", ASTRAY)):
        (root / f"{name}.txt").write_text("".join(f"{number}.mp4 {(first + number) % CLASSES}\n" for number in range(9)))
    return TatsDataConfig(format="list", path=root / "train.txt", test_path=root / "test.txt", validation_share=0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    save_clip_classifier(folder, ClipClassifier(MaskedAutoencoder(AutoencoderConfig(**SIZES)), 2, 0), ("dark", "light"), {})
    return folder


def source(data: TatsDataConfig, split: Any) -> ClipSource:
    return make_clip_source(data, AutoencoderConfig(**SIZES).grid(), split, 0)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / TRAINER, [("weight", torch.zeros(1))], {"numbers": {}, "totals": {}})
    with pytest.raises(SquallError, match="no checkpoint of `squall train tats-finetune`; encoder= takes a trained encoder"):
        FinetuneWorker._restore(object.__new__(FinetuneWorker), tmp_path)


@pytest.mark.cluster
def test_two_workers_and_a_resumed_one_do_what_one_process_does(ray_cluster: object, tmp_path: Path, data: TatsDataConfig,
                                                                encoder: Path) -> None:
    from squall.actors.video_encoder_files import open_encoder

    alone = FinetuneTraining(CONFIG, ClipClassifier(open_encoder(str(encoder)), CLASSES, 0), STEPS)
    train = source(data, "train")
    rows = []
    for step in range(STEPS):
        drawn = train.draw(step, 5, slice(0, 5))
        rows.append(alone.advance(drawn.clips, drawn.labels))
    train.close()
    task = FinetuneTask(str(encoder), source(data, "train"), source(data, "test"), source(data, "test"),
                        TestViewsConfig(clips=2, crops=2), STEPS)
    found, facts = [], {}
    for workers, until, resume in ((2, FIRST, None), (1, STEPS, tmp_path / "saved")):
        learner = FinetuneLearner(ClassifierWorkersConfig(workers=workers, cpus=0.5), CONFIG, task, tmp_path, resume=resume)
        try:
            assert learner.start() == {"step": 0 if resume is None else FIRST, "device": "cpu"}
            learner.advance(until)
            found.append(learner.validate())
            if resume is None:
                (tmp_path / "saved").mkdir()
                learner.save(tmp_path / "saved")
                index = tmp_path / "saved" / TRAINER / "index.json"
                stored = json.loads(index.read_text())
                stored["dropped"].append("a clip of before")
                index.write_text(json.dumps(stored))
            else:
                facts = learner.keep(tmp_path / "model")
        finally:
            learner.stop()
    for row, part in zip(found, (rows[:FIRST], rows[FIRST:]), strict=True):
        for name in ("loss", "accuracy/train", "grad_norm", "learning_rate"):
            assert row[name] == pytest.approx(np.mean([each[name] for each in part]), rel=1e-4), name
    opened = open_classifier(str(tmp_path / "model"), ClassifierConfig())
    views = [source(data, "test").views(row, 2, 2) for row in range(8)]
    theirs = np.stack([opened.probabilities(np.moveaxis(each, 1, -1)).mean(0) for each in views])
    ours = torch.stack([alone.probabilities(torch.from_numpy(each)).mean(0) for each in views]).numpy()
    assert theirs == pytest.approx(ours, abs=1e-3)
    place = (-theirs).argsort(1).argsort(1)[np.arange(8), (np.arange(8) + ASTRAY) % CLASSES]
    assert 0 < np.mean(place < 5) < 1, "or the test says nothing"
    assert facts["top1"] == pytest.approx(np.mean(place == 0)) and facts["top5"] == pytest.approx(np.mean(place < 5))
    assert facts["clips"] == 8
    unreadable, before = facts["dropped"]
    assert before == "a clip of before" and "8.mp4: not a readable video" in unreadable.replace("sample 8.mp4: ", "")
