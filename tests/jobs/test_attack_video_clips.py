"""Which clips a run learns from and which it attacks, and what their labels are to a victim."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from squall.jobs.attack_video_clips import AttackedClipsConfig, load_clips
from squall.platform.config import validate
from squall.platform.errors import ConfigError
from squall.platform.image_data import ImageSet


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> AttackedClipsConfig:
    """Forty small embedded clips to learn from and twelve to test with."""
    return AttackedClipsConfig(size=28, frames=2, train_clips=40, test_clips=12, validation_fraction=0.2,
                               directory=tmp_path_factory.mktemp("data"))


def contents(clips: ImageSet) -> set[bytes]:
    return {clip.tobytes() for clip in clips.images}


def test_nothing_is_trained_on_what_either_split_attacks(config: AttackedClipsConfig) -> None:
    test, validation = (load_clips(config, split, 6, Console()) for split in ("test", "validation"))
    assert test.train.hash == validation.train.hash and len(test.train) == 32
    assert (len(test.held_out), len(validation.held_out)) == (12, 8)
    assert not contents(test.train) & (contents(test.held_out) | contents(validation.held_out))
    assert not contents(test.held_out) & contents(validation.held_out)
    assert test.held_out.images.shape[1:] == config.shape


def test_the_same_clips_are_attacked_every_time_and_more_include_fewer(config: AttackedClipsConfig) -> None:
    few, again, more, every = (load_clips(config, "test", count, Console()).chosen.tolist() for count in (4, 4, 8, None))
    assert few == again and len(few) == 4 and set(few) < set(more) and every == list(range(12))


def test_labels_are_a_victims_own_numbers_by_name(config: AttackedClipsConfig) -> None:
    clips = load_clips(config, "test", None, Console())
    classes = ("orange", *reversed(clips.train.classes))
    other = clips.labelled_for("victim", [name.upper() for name in classes])
    names = [classes[label] for label in other.held_out.labels]
    assert names == [clips.held_out.classes[label] for label in clips.held_out.labels]
    assert other.train.labels.min() >= 1 and np.array_equal(other.train.images, clips.train.images)
    with pytest.raises(ConfigError, match="victim small: 'purple' of .* is none of its 5 classes"):
        clips.labelled_for("small", [name for name in clips.train.classes if name != "purple"])


@pytest.mark.parametrize(("values", "message"), [
    ({"problem_type": "regression"}, "problem_type belongs to clips of your own"),
    ({"size": 40}, "embedded clips are of 28, 56, 84"),
    ({"question_type": "cuont"}, "Did you mean 'count'?"),
])
def test_embedded_clips_have_fewer_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(AttackedClipsConfig, values, "data")
