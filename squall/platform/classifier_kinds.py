"""The kinds of video classifier that `squall.platform.classifiers.open_classifier` opens."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from squall.platform.classifiers import Clips
from squall.platform.errors import ConfigError, DataError
from squall.platform.plugins import import_function

if TYPE_CHECKING:
    import torch

SUM_TOLERANCE = 1e-3
STATE_SUFFIXES = (".safetensors", ".pt", ".pth")
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class CheckpointClassifier:
    """A network of clips that Squall trained or fitted; frames are scaled and cropped as its training clips were."""

    def __init__(self, folder: Path, classes: tuple[str, ...], device: str) -> None:
        from squall.platform.image_classifiers import ImageModelConfig, open_image_classifier

        opened = open_image_classifier(ImageModelConfig(path=str(folder), kind="checkpoint"), device)
        self._name, self._module, self._device = str(folder), opened.module, device
        _, self.frame_count, *self._size = opened.shape
        self.classes = classes

    def probabilities(self, clips: Clips) -> np.ndarray:
        """See `VideoClassifier`."""
        import torch

        from squall.platform.image_data.resizing import resize_and_crop

        pixels = np.stack([[resize_and_crop(frame, *self._size) for frame in take_frames(clip, self.frame_count)]
                           for clip in clips])
        with torch.inference_mode():
            inputs = torch.from_numpy(np.moveaxis(pixels, -1, 1)).to(self._device).float().div_(255)
            logits = self._module(inputs.contiguous())
        return checked(_softmax(logits), len(clips), self.classes, self._name)


class HuggingFaceClassifier:
    """VideoMAE, TimeSformer or ViViT; sizes, crops and normalises as its own image processor says."""

    def __init__(self, path: str, classes: tuple[str, ...], dtype: str, device: str) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModelForVideoClassification

        try:
            self._processor = AutoImageProcessor.from_pretrained(path)
            model, report = AutoModelForVideoClassification.from_pretrained(
                path, dtype=getattr(torch, dtype), output_loading_info=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"model {path}: cannot be loaded: {_short(error)}") from None
        if report["missing_keys"]:
            raise ConfigError(f"model {path}: its file lacks {', '.join(sorted(report['missing_keys'])[:3])}; "
                              "they would be random numbers")
        self._name, self._model, self._device = path, model.to(device).eval(), device
        self.classes, self.frame_count = classes, int(model.config.num_frames)

    def probabilities(self, clips: Clips) -> np.ndarray:
        """See `VideoClassifier`."""
        import torch

        videos = [list(take_frames(clip, self.frame_count)) for clip in clips]
        pixels = self._processor(videos, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            logits = self._model(pixel_values=pixels.to(self._device, self._model.dtype)).logits
        return checked(_softmax(logits), len(clips), self.classes, self._name)


class TorchvisionClassifier:
    """A video model of torchvision with weights of the user's; sized, cropped and normalised as torchvision's own are."""

    def __init__(self, name: str, weights: Path, classes: tuple[str, ...], frames: int, dtype: str, device: str) -> None:
        import torch
        from torchvision.models import get_model, get_model_weights

        model = get_model(name, weights=None, num_classes=len(classes))
        try:
            model.load_state_dict(read_state(weights))
        except RuntimeError as error:
            problem = _short(error).split(": ", 1)[-1]
            raise ConfigError(f"weights = {weights}: do not fit {name} with {len(classes)} classes: {problem}") from None
        self._transform = get_model_weights(name).DEFAULT.transforms()
        self._name, self._dtype, self._device = name, getattr(torch, dtype), device
        self._model = model.to(device, self._dtype).eval()
        self.classes, self.frame_count = classes, frames

    def probabilities(self, clips: Clips) -> np.ndarray:
        """See `VideoClassifier`."""
        import torch

        pixels = torch.stack([self._pixels(clip) for clip in clips])
        with torch.inference_mode():
            logits = self._model(pixels.to(self._device, self._dtype))
        return checked(_softmax(logits), len(clips), self.classes, self._name)

    def _pixels(self, clip: np.ndarray) -> torch.Tensor:
        import torch

        return self._transform(torch.from_numpy(take_frames(clip, self.frame_count)).permute(0, 3, 1, 2).contiguous())


class CallableClassifier:
    """``module:function``. Clips of one batch that differ in shape are given to it one shape after the other."""

    def __init__(self, name: str, classes: tuple[str, ...], frames: int | None, logits: bool) -> None:
        self._name, self._function, self._logits = name, import_function("model", name), logits
        self.classes, self.frame_count = classes, frames

    def probabilities(self, clips: Clips) -> np.ndarray:
        """See `VideoClassifier`."""
        taken = [clip if self.frame_count is None else take_frames(clip, self.frame_count) for clip in clips]
        result = np.empty((len(taken), len(self.classes)), np.float32)
        for shape in dict.fromkeys(clip.shape for clip in taken):
            rows = [row for row, clip in enumerate(taken) if clip.shape == shape]
            result[rows] = self._ask(np.stack([taken[row] for row in rows]))
        return result

    def _ask(self, clips: np.ndarray) -> np.ndarray:
        returned = np.asarray(self._function(clips))
        if self._logits and returned.ndim == 2:
            returned = np.exp(returned - returned.max(axis=1, keepdims=True))
            returned /= returned.sum(axis=1, keepdims=True)
        return checked(returned, len(clips), self.classes, self._name)


def take_frames(clip: np.ndarray, count: int) -> np.ndarray:
    """`count` frames of a clip (T, H, W, 3) in a new array: evenly from the first to the last, repeated where T < `count`."""
    return clip[np.linspace(0, len(clip) - 1, count).round().astype(int)]


def checked(probabilities: np.ndarray, count: int, classes: Sequence[str], name: str) -> np.ndarray:
    """What a model said of `count` clips, as float32. Errors as of `VideoClassifier.probabilities`."""
    expected = (count, len(classes))
    if probabilities.shape != expected:
        raise ConfigError(f"model {name}: returned shape {probabilities.shape} for {count} clips and {len(classes)} classes, "
                          f"expected {expected}")
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        raise DataError(f"model {name}: {count - finite.sum()} of {count} clips got values that are not finite numbers",
                        reason="bad_output")
    low, high, sums = probabilities.min(), probabilities.max(), probabilities.sum(axis=1)
    if low < 0 or np.abs(sums - 1).max() > SUM_TOLERANCE:
        raise ConfigError(f"model {name}: returned values from {low:.3g} to {high:.3g} that sum to {sums[0]:.4g}, which are no "
                          "probabilities; if they are logits say so: returns=logits")
    return probabilities.astype(np.float32)


def _softmax(logits: torch.Tensor) -> np.ndarray:
    return logits.float().softmax(-1).cpu().numpy()


def read_state(file: Path) -> Mapping[str, Any]:
    """A state dict, also one that training scripts wrapped or that DataParallel named.

    Raises:
        ConfigError: no such file, or it holds anything but tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file() or file.suffix not in STATE_SUFFIXES:
        problem = f"a {file.suffix or 'nameless'} file" if file.is_file() else "no such file"
        raise ConfigError(f"weights = {file}: {problem}; expected a state dict, .safetensors, or .pt and .pth of tensors alone")
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ConfigError(f"weights = {file}: cannot be read as tensors alone, and a pickle of anything else could run code; "
                          "save model.state_dict() as safetensors where the file was made") from None
    except (SafetensorError, RuntimeError, OSError, EOFError) as error:
        raise ConfigError(f"weights = {file}: cannot be read as tensors alone: {_short(error)}") from None
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConfigError(f"weights = {file}: holds a {type(state).__name__} that is no state dict; save model.state_dict()")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:250]
