"""Which network a configuration names, built with random weights and its normalisation inside."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import TYPE_CHECKING, Any, Literal

from squall.platform.config import Config
from squall.platform.errors import ConfigError, nearest

if TYPE_CHECKING:
    import torch

IMAGE_NETWORKS = ("small_cnn", "cnn4", "cnn6", "resnet18")
FEATURE_NETWORKS = ("transnetv2", "mobilenetv2")
CLIP_NETWORKS = ("cnn3d", "videomae", *FEATURE_NETWORKS)
PREFIXES = ("timm", "torchvision")
SMALL_SIDE = 64
"""Images with a side below this get the small stem of `resnet18`."""


class NetworkConfig(Config):
    """Which network is built."""

    architecture: str = "small_cnn"
    """`small_cnn` (about 215,000 parameters), `cnn4`, `cnn6`, `resnet18`, `timm:NAME` or `torchvision:NAME` for images;
    `cnn3d`, `videomae`, `torchvision:NAME` of a video model, or a linear layer on published features, `transnetv2` or
    `mobilenetv2`, for clips."""
    arguments: dict[str, Any] = {}
    """Further arguments of a timm or torchvision model, such as `img_size: 32` of a vision transformer, settings of videomae's
    VideoMAEConfig, such as `hidden_size: 192`, or mobilenetv2's `side`, the pixels that frames are resized to."""
    stem: Literal["auto", "small", "imagenet"] = "auto"
    """First layers of resnet18: `imagenet` is torchvision's 7x7 convolution of stride 2 with max-pooling, `small` a 3x3
    convolution of stride 1 without; `auto` takes the small one for images with a side below 64."""
    spectral_norm: bool = False
    """Divide every convolution's and linear layer's weight by its largest singular value (arXiv 1802.05957)."""
    mean: tuple[float, ...] | None = None
    """Of each channel, with pixels in [0, 1]; by default that of the training images, and for torchvision's video models of RGB
    clips torchvision's own."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel; by default as for the mean."""


def build_network(config: NetworkConfig, shape: Sequence[int], classes: int, mean: Sequence[float], std: Sequence[float]
                  ) -> torch.nn.Module:
    """The network, with weights from torch's global generator.

    Args:
        shape: of one image (C, H, W), or one clip (C, T, H, W).
        mean: of each channel of the training images, as `std`; what `config` says takes their place, and torchvision's own
            figures do for its video models, so that their state dicts mean the same elsewhere.

    Returns:
        A module that takes float32 (B, \\*shape) in [0, 1] and returns logits (B, classes).

    Raises:
        ConfigError: there is no such network, or it does not take images of this shape.
    """
    from squall.platform.architectures import Normalised

    network = _network(config, tuple(shape), classes)
    if config.spectral_norm:
        _normalise_weights(network)
    usual = (published_statistics(config.architecture) if len(shape) == 4 and shape[0] == 3 else None) or (mean, std)
    channels = [_channel_values(key, given, shape)
                for key, given in (("mean", config.mean or usual[0]), ("std", config.std or usual[1]))]
    module = Normalised(network, *channels)
    probe(module, shape, classes, f"network.architecture = {config.architecture}")
    return module


def probe(module: torch.nn.Module, shape: Sequence[int], classes: int, name: str) -> None:
    """Ask a module about two grey images. Raises ConfigError, which begins with `name`, where it cannot or answers wrongly."""
    import torch

    training = module.training
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    try:
        with torch.no_grad():
            logits = module.eval()(torch.full((2, *shape), 0.5, device=device))
    except Exception as error:
        problem = " ".join(str(error).split())[:200]
        raise ConfigError(f"{name}: takes no images of shape {tuple(shape)}: {type(error).__name__}: {problem}") from None
    finally:
        module.train(training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(f"{name}: returned {got} for 2 images; expected logits (2, {classes})")


def published_name(architecture: str) -> tuple[str, str] | None:
    """(library, name) of ``timm:NAME`` and ``torchvision:NAME``; None for Squall's own."""
    library, separator, name = architecture.partition(":")
    return (library, name) if separator and library in PREFIXES else None


def published_statistics(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation with which timm or torchvision published a model of RGB; None where it published none."""
    if architecture in FEATURE_NETWORKS:  # they normalise by themselves
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    library, name = published_name(architecture) or ("", "")
    if library == "timm":
        import timm

        settings = timm.get_pretrained_cfg(name)
        return settings and (settings.mean, settings.std)
    if library == "torchvision" and name in _torchvision()[1]:
        from torchvision import models

        transform = models.get_model_weights(name).DEFAULT.transforms()
        return tuple(transform.mean), tuple(transform.std)
    return None


def check_network(config: NetworkConfig, shape: Sequence[int]) -> None:
    """Raises ConfigError, with the nearest right name, where there is no such network for images, or clips, of that shape."""
    name, published = config.architecture, published_name(config.architecture)
    what, other = ("images", "clips") if len(shape) == 3 else ("clips", "images")
    allowed = IMAGE_NETWORKS if len(shape) == 3 else CLIP_NETWORKS
    if published is not None:
        library, model = published
        names = (_timm if library == "timm" else _torchvision)()[1]
        if model not in names:
            raise ConfigError(f"network.architecture = '{name}': {library} has no model of that name.{nearest(model, names)}")
    elif name not in allowed:
        hint = f" {name} is for {other}." if name in IMAGE_NETWORKS + CLIP_NETWORKS else nearest(name, allowed)
        raise ConfigError(f"network.architecture = '{name}': no such network for {what}.{hint} Allowed: {', '.join(allowed)}, "
                          f"{', '.join(f'{prefix}:NAME' for prefix in PREFIXES)}")
    elif config.arguments and name not in ("videomae", "mobilenetv2"):
        raise ConfigError(f"network.arguments belong to timm:NAME, torchvision:NAME, videomae and mobilenetv2, not to {name}")


def _network(config: NetworkConfig, shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    from squall.platform import architectures

    check_network(config, shape)
    name, published = config.architecture, published_name(config.architecture)
    if published is not None:
        return _published(*published, shape, classes, config.arguments)
    if name == "resnet18":
        return _resnet18(shape, classes, config.stem)
    if name == "videomae":
        return _videomae(shape, classes, config.arguments)
    if name in FEATURE_NETWORKS:
        return _features(name, classes, config.arguments)
    try:
        return getattr(architectures, name)(shape, classes)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise ConfigError(f"network.architecture = {name}: takes no images of shape {shape}: {problem}") from None


def _resnet18(shape: tuple[int, ...], classes: int, stem: str) -> torch.nn.Module:
    """torchvision's, its classes and channels replaced. With the small stem, a 3x3 convolution without max-pooling, a 32x32
    image reaches the first block at its full size; torchvision's own stem would leave 8x8 of it."""
    from torch import nn

    network = _published("torchvision", "resnet18", shape, classes, {})
    if stem == "small" or (stem == "auto" and min(shape[1:]) < SMALL_SIDE):
        network.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def _videomae(shape: tuple[int, ...], classes: int, arguments: dict[str, Any]) -> torch.nn.Module:
    """Four layers of width 96, on patches of at most 16 pixels, at least 4 of them to a side."""
    from transformers import VideoMAEConfig

    from squall.platform.architectures import VideoMAE

    channels, frames, height, width = shape
    side = gcd(height, width)
    patch = max((size for size in range(1, 17) if side % size == 0 and min(height, width) // size >= 4), default=side)
    values = {"image_size": height, "num_channels": channels, "num_frames": frames, "patch_size": patch,
              "tubelet_size": 2 - frames % 2, "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
              "intermediate_size": 192, "num_labels": classes}
    if height != width:
        raise ConfigError(f"network.architecture = videomae: takes square clips, and these are {height}x{width}")
    try:
        return VideoMAE(VideoMAEConfig(**(values | arguments)))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"network.arguments: {' '.join(str(error).split())[:200]}") from None


def _features(name: str, classes: int, arguments: dict[str, Any]) -> torch.nn.Module:
    from squall.platform.feature_networks import BACKBONES, FeatureNetwork

    try:
        return FeatureNetwork(BACKBONES[name](**arguments), classes)
    except TypeError as error:
        raise ConfigError(f"network.arguments: {' '.join(str(error).split())[:200]}") from None


def _published(library: str, name: str, shape: tuple[int, ...], classes: int, arguments: dict[str, Any]) -> torch.nn.Module:
    """A model of timm or torchvision with this many classes and channels, random weights."""
    build = (_timm if library == "timm" else _torchvision)()[0]
    try:
        return build(name, shape[0], classes, arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"network.architecture = {library}:{name}: cannot be built: {type(error).__name__}: "
                          f"{' '.join(str(error).split())[:200]}") from None


def _timm() -> tuple[Any, list[str]]:
    import timm

    def build(name: str, channels: int, classes: int, arguments: dict[str, Any]) -> torch.nn.Module:
        return timm.create_model(name, pretrained=False, in_chans=channels, num_classes=classes, **arguments)

    return build, timm.list_models()


def _torchvision() -> tuple[Any, list[str]]:
    from torchvision import models

    def build(name: str, channels: int, classes: int, arguments: dict[str, Any]) -> torch.nn.Module:
        network = models.get_model(name, weights=None, num_classes=classes, **arguments)
        if channels != 3:
            _replace_first_convolution(network, channels)
        return network

    return build, [*models.list_models(models), *models.list_models(models.video)]


def _replace_first_convolution(network: torch.nn.Module, channels: int) -> None:
    """Let a network of torchvision's take images of another number of channels than 3."""
    from torch import nn

    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    replacement = type(first)(channels, first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation,
                              first.groups, first.bias is not None)
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, replacement)


def _normalise_weights(network: torch.nn.Module) -> None:
    from torch import nn
    from torch.nn.utils.parametrizations import spectral_norm

    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            spectral_norm(module)


def _channel_values(key: str, values: Sequence[float], shape: Sequence[int]) -> torch.Tensor:
    import torch

    if len(values) != shape[0]:
        raise ConfigError(f"network.{key} has {len(values)} values, and images have {shape[0]} channels")
    if key == "std" and min(values) <= 0:
        raise ConfigError(f"network.std = {list(values)}: every value must be above 0")
    return torch.tensor(list(values), dtype=torch.float32).reshape(-1, *[1] * (len(shape) - 1))
