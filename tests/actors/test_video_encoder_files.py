"""Encoders are opened as transformers has them, and refused with a reason; classifiers are written as it opens them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEImageProcessor

from squall.actors.video_encoder_files import encoder_config, open_encoder, save_clip_classifier
from squall.algorithms.masked_video.finetune import ClipClassifier
from squall.platform.classifiers import ClassifierConfig, open_classifier
from squall.platform.errors import ConfigError

SIZES = {"image_size": 16, "patch_size": 8, "num_frames": 4, "hidden_size": 12, "num_hidden_layers": 2,
         "num_attention_heads": 2, "intermediate_size": 24, "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1,
         "decoder_num_attention_heads": 2, "decoder_intermediate_size": 16, "use_mean_pooling": False, "initializer_range": 0.3}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VideoMAEForPreTraining as transformers writes it, normalised by 0.5."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    VideoMAEForPreTraining(VideoMAEConfig(**SIZES)).save_pretrained(folder)
    VideoMAEImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder


def test_an_encoder_is_that_of_transformers(published: Path) -> None:
    module = open_encoder(str(published))
    config = module.config
    assert (config.width, config.depth, config.mlp_ratio, config.frames, config.patch) == (12, 2, 2, 4, 8)
    assert config.mean == (0.5,) * 3 and config.final_norm
    clips = torch.rand(2, 3, 4, 16, 16)
    theirs = VideoMAEForPreTraining.from_pretrained(published).videomae.eval()
    with torch.no_grad():
        expected = theirs((clips.transpose(1, 2) - 0.5) / 0.5).last_hidden_state
        assert torch.allclose(module.encode(module.embed(clips)), expected, atol=1e-5)


HUB = """
from squall.actors.video_encoder_files import encoder_config
print(encoder_config("some/one").mean, encoder_config("other/one").mean[0] == encoder_config("other/one").mean[1])
"""


def test_an_encoder_of_the_hub_keeps_what_its_pixels_are_normalised_by(published: Path, tmp_path: Path) -> None:
    for name in ("some", "other"):  # as the hub's library keeps what it has fetched
        snapshot = tmp_path / "hub" / f"models--{name}--one" / "snapshots" / "abc"
        shutil.copytree(published, snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "preprocessor_config.json").unlink()
    ended = subprocess.run([sys.executable, "-c", HUB], env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
                           capture_output=True, text=True, timeout=120)
    assert ended.stdout == "(0.5, 0.5, 0.5) False\n", ended.stdout + ended.stderr  # the second has ImageNet's


def test_a_classifier_opens_by_its_path_and_says_the_same(published: Path, tmp_path: Path) -> None:
    module = ClipClassifier(open_encoder(str(published)), 3, 0)
    module.scale_mean.uniform_()
    save_clip_classifier(tmp_path / "model", module.eval(), ("run", "walk", "jump"), {"steps": 1})
    opened = open_classifier(str(tmp_path / "model"), ClassifierConfig())
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    with torch.no_grad():
        ours = module(torch.from_numpy(np.moveaxis(clips, -1, 1))).softmax(1)
    assert opened.classes == ("run", "walk", "jump") and opened.frame_count == 4
    assert opened.probabilities(clips) == pytest.approx(ours.numpy(), abs=1e-4)
    assert encoder_config(str(tmp_path / "model")).width == 12  # which can be trained further
    with torch.no_grad():
        again, white = ClipClassifier(open_encoder(str(tmp_path / "model")), 3, 0), torch.ones(1, 3, 4, 16, 16)
        assert torch.allclose(again.features(white), module.features(white), atol=1e-6)


@pytest.mark.parametrize(("changed", "message"), [
    ({"model_type": "vivit"}, "model_type 'vivit' is no VideoMAE"),
    ({"hidden_act": "relu"}, "hidden_act is 'relu', and of a VideoMAE that can be taken it is 'gelu'"),
    ({"intermediate_size": 25}, "intermediate_size 25 is no multiple of hidden_size 12"),
    ({"patch_size": 32}, "are smaller than a tubelet"),
])
def test_what_is_no_such_encoder_is_refused_by_its_small_files(published: Path, tmp_path: Path, changed: dict[str, object],
                                                               message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(json.loads((published / "config.json").read_text()) | changed))
    with pytest.raises(ConfigError, match=message):
        encoder_config(str(tmp_path)).grid()


def test_weights_that_are_missing_or_unreadable_are_refused(published: Path, tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((published / name).read_text())
    with pytest.raises(ConfigError, match=r"cannot be loaded"):
        open_encoder(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((published / "model.safetensors").read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"cannot be loaded"):
        open_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(SIZES | {"model_type": "videomae", "num_hidden_layers": 3}))
    (tmp_path / "model.safetensors").write_bytes((published / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=r"its file lacks encoder.layer.2"):
        open_encoder(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("[")
    with pytest.raises(ConfigError, match="cannot be read"):
        encoder_config(str(tmp_path))
    with pytest.raises(ConfigError, match="no such directory"):
        encoder_config(str(tmp_path / "none"))
