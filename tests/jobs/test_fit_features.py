"""A victim out of published features: fitted, written, and opened by its path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_features import moving, transnetv2_state

from squall.jobs.evaluated_model import _as_classifier
from squall.jobs.fit_features import FeaturesConfig, fit_features
from squall.platform.classifiers import ClassifierConfig, open_classifier
from squall.platform.errors import ConfigError
from squall.platform.image_data import ImageSet


def test_the_layer_is_fitted_and_the_folder_says_the_same_when_it_is_opened(tmp_path: Path) -> None:
    torch.save(transnetv2_state(), tmp_path / "published.pth")
    config, test = FeaturesConfig(weights=tmp_path / "published.pth"), moving(9, 1)
    facts = fit_features(tmp_path / "victim", config, moving(18, 0), test)
    assert facts["train_accuracy"] == 1.0 and facts["test_accuracy"] > 0.9
    classifier = open_classifier(str(tmp_path / "victim"), ClassifierConfig())
    found = classifier.probabilities(test.images)
    assert (classifier.classes, classifier.frame_count) == (test.classes, 3)
    assert (found.argmax(1) == test.labels).mean() == facts["test_accuracy"]
    assert _as_classifier(str(tmp_path / "victim")) == ClassifierConfig()
    images = ImageSet(test.images[:, 0], test.labels, test.classes, "images")
    with pytest.raises(ConfigError, match="images: features are of RGB clips, and this is of shape"):
        fit_features(tmp_path / "none", config, images)
