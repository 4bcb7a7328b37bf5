"""A data set in memory: its tensors and figures, and how it is divided."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from squall.platform.errors import ConfigError, DataError
from squall.platform.image_data import ImageDataConfig, ImageSet, load_images, split_validation
from squall.platform.image_data.images import stratified_order


def small(count: int = 40, classes: int = 4, shape: tuple[int, ...] = (5, 6, 3)) -> ImageSet:
    generator = np.random.default_rng(0)
    return ImageSet(generator.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % classes,
                    tuple(f"class {number}" for number in range(classes)), "noise")


def test_tensors_have_channels_first_and_values_up_to_1() -> None:
    data = small()
    data.images[3, 4, 5] = (0, 51, 255)
    images = data.tensor([3, 0])
    assert images.shape == (2, 3, 5, 6) and images.dtype == torch.float32 and images.is_contiguous()
    assert data.shape == (3, 5, 6)
    assert images[0, :, 4, 5].tolist() == [0.0, pytest.approx(0.2), 1.0]
    clips = small(shape=(2, 5, 6, 3))
    assert clips.shape == (3, 2, 5, 6) and clips.tensor(slice(0, 4)).shape == (4, 3, 2, 5, 6)
    assert clips.tensor([7])[0, 2, 1, 3, 4].item() == pytest.approx(clips.images[7, 1, 3, 4, 2] / 255)


def test_statistics_are_those_of_every_pixel() -> None:
    data = small()
    mean, std = data.statistics()
    assert mean == pytest.approx(tuple((data.images / 255).mean(axis=(0, 1, 2))))
    assert std == pytest.approx(tuple((data.images / 255).std(axis=(0, 1, 2))))
    assert replace(data, images=np.full_like(data.images, 7)).statistics()[1] == (1 / 255,) * 3


def test_the_hash_is_of_pixels_labels_and_classes() -> None:
    data = small()
    pixels, labels = data.images.copy(), data.labels.copy()
    pixels[0, 0, 0, 0] ^= 1
    labels[0] = 1
    changed = [replace(data, images=pixels), replace(data, labels=labels), replace(data, classes=("a", "b", "c", "d"))]
    assert len({data.hash, *(one.hash for one in changed)}) == 4
    assert replace(data, source="elsewhere").hash == data.hash


def test_validation_takes_every_class_by_its_share_and_the_same_images_each_time() -> None:
    data = replace(small(), labels=np.repeat([0, 1, 2, 3], [20, 10, 6, 4]))
    training, validation = split_validation(data, 0.5)
    assert np.bincount(validation.labels).tolist() == [10, 5, 3, 2]
    assert np.bincount(training.labels).tolist() == [10, 5, 3, 2]
    both = np.concatenate([training.images, validation.images])
    assert {image.tobytes() for image in both} == {image.tobytes() for image in data.images}
    assert split_validation(data, 0.5)[1].hash == validation.hash != split_validation(data, 0.5, seed=1)[1].hash
    for fraction in (0.0, 1.0, 0.001):
        with pytest.raises(ConfigError, match="both parts need at least one"):
            split_validation(data, fraction)


def test_every_beginning_of_the_order_holds_each_class_by_its_share() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    order = stratified_order(labels, 5)
    assert sorted(order) == list(range(100))
    for count in range(1, 101):
        held = np.bincount(labels[order[:count]], minlength=3)
        assert (np.abs(held - count * np.array([0.6, 0.3, 0.1])) <= 1.0001).all()


def test_digits_are_whole_and_their_split_stays_as_it_is() -> None:
    train, test = (load_images(ImageDataConfig(), split) for split in ("train", "test"))
    assert (len(train), len(test), train.shape, train.classes) == (1437, 360, (1, 8, 8), tuple("0123456789"))
    assert test.hash == "47217457c76678798508d35f6c3ffe95"
    assert (train.images.min(), train.images.max()) == (0, 255)
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}


def test_a_limit_takes_a_part_of_a_larger_limits_images() -> None:
    def pixels(limit: int) -> list[bytes]:
        data = load_images(ImageDataConfig(test_images=limit), "test")
        return [image.tobytes() for image in data.images]

    few, more = pixels(50), pixels(100)
    assert len(few) == 50 and len(more) == 100 and set(few) < set(more)
    assert len(load_images(ImageDataConfig(test_images=9999), "test")) == 360
    assert load_images(ImageDataConfig(size=16, train_images=20), "train").shape == (1, 16, 16)


@pytest.mark.parametrize(("values", "message"), [
    ({"format": "idx"}, "format idx needs path"),
    ({"path": "x"}, "format digits takes no path"),
    ({"format": "folder", "path": "x"}, "format folder needs size"),
    ({"frames": 4}, "frames belongs to format video, and format is digits"),
])
def test_keys_of_another_format_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageDataConfig(**values)


def test_no_images_is_an_empty_split(tmp_path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="the test split holds no images") as error:
        load_images(ImageDataConfig(format="folder", path=tmp_path, size=8), "test")
    assert error.value.reason == "empty_split"
