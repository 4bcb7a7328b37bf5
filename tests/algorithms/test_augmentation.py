"""Flips and shifts, of images and of all frames of a clip alike."""

from __future__ import annotations

import torch

from squall.algorithms.augmentation import AugmentConfig, augment

IMAGE = torch.arange(1, 17, dtype=torch.float32).view(1, 1, 4, 4)


def varied(config: AugmentConfig, *chance: float, images: torch.Tensor = IMAGE) -> torch.Tensor:
    return augment(config, images, torch.tensor([chance]))


def test_numbers_decide_what_becomes_of_an_image() -> None:
    both = AugmentConfig(flip=True, vertical_flip=True)
    assert torch.equal(varied(both, 0.4, 0.6, 0, 0), IMAGE.flip(-1))
    assert torch.equal(varied(both, 0.6, 0.4, 0, 0), IMAGE.flip(-2))
    assert torch.equal(varied(AugmentConfig(), 0.0, 0.0, 0.0, 0.0), IMAGE)
    shift = AugmentConfig(shift=0.25)
    assert torch.equal(varied(shift, 0, 0, 0.5, 0.5), IMAGE)
    moved = varied(shift, 0, 0, 0.0, 0.99)
    assert torch.equal(moved[..., 1:, :3], IMAGE[..., :3, 1:]) and not moved[..., 0, :].any() and not moved[..., 3].any()


def test_frames_move_alike() -> None:
    clip = IMAGE.unsqueeze(2).repeat(1, 3, 2, 1, 1)
    moved = varied(AugmentConfig(flip=True, shift=0.25), 0.1, 0.9, 0.0, 0.0, images=clip)
    assert moved.shape == clip.shape and (moved == moved[:, :1, :1]).all() and not torch.equal(moved, clip)
