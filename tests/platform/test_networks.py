"""Networks by name: their sizes as published, what they take, what is inside, and what is refused."""

from __future__ import annotations

import pytest
import torch

from squall.platform.architectures import cnn4, cnn6
from squall.platform.errors import ConfigError
from squall.platform.networks import NetworkConfig, build_network, published_statistics


def build(architecture: str, shape: tuple[int, ...], classes: int = 10, **values: object) -> torch.nn.Module:
    return build_network(NetworkConfig(architecture=architecture, **values), shape, classes, (0.5,) * shape[0],
                         (0.25,) * shape[0])


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("architecture", "shape", "expected"), [
    ("small_cnn", (1, 28, 28), 214_850),
    ("small_cnn", (1, 8, 8), 30_530),
    ("cnn4", (3, 32, 32), 2_349_258),
    ("cnn4", (1, 8, 8), 382_602),
    ("cnn6", (3, 32, 32), 3_706_274),
    ("resnet18", (3, 32, 32), 11_173_962),  # torchvision's 11,181,642 for 10 classes, a 7x7 stem for a 3x3 one: -7,680
    ("resnet18", (3, 64, 64), 11_181_642),
    ("timm:resnet10t", (1, 32, 32), 4_927_186),
    ("torchvision:mobilenet_v2", (1, 32, 32), 2_236_106),
    ("cnn3d", (3, 4, 16, 16), 71_178),
    ("videomae", (3, 4, 16, 16), 309_226),
])
def test_a_network_has_its_size_and_one_logit_a_class(architecture: str, shape: tuple[int, ...], expected: int) -> None:
    module = build(architecture, shape)
    assert parameters(module) == expected
    assert module.eval()(torch.rand(3, *shape)).shape == (3, 10)


def test_the_papers_networks_have_their_linear_layers_at_32_pixels() -> None:
    for network, width in ((cnn4, 1024), (cnn6, 256)):
        linear = next(module for module in network((3, 32, 32), 10) if isinstance(module, torch.nn.Linear))
        assert (linear.in_features, linear.out_features) == (2048, width)


def test_small_networks_have_no_batch_norm() -> None:
    for module in (build("small_cnn", (1, 8, 8)), build("cnn4", (1, 8, 8)), build("cnn3d", (3, 2, 8, 8))):
        assert not any("BatchNorm" in type(part).__name__ for part in module.modules())


def test_normalisation_is_inside_and_is_the_training_images_unless_one_is_given() -> None:
    images = torch.rand(2, 1, 8, 8)
    module = build("small_cnn", (1, 8, 8)).eval()
    assert torch.equal(module(images), module.network((images - 0.5) / 0.25))
    given = build("small_cnn", (1, 8, 8), mean=(0.1,), std=(0.9,))
    assert (given.mean.item(), given.std.item()) == (pytest.approx(0.1), pytest.approx(0.9))


def test_a_video_model_of_torchvision_is_normalised_as_published() -> None:
    published = published_statistics("torchvision:r3d_18")
    assert published == ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
    assert published_statistics("timm:vit_tiny_patch16_224") == ((0.5,) * 3, (0.5,) * 3)
    assert published_statistics("cnn4") is None
    module = build("torchvision:mc3_18", (3, 2, 16, 16), 2)
    assert module.mean.flatten().tolist() == pytest.approx(published[0])
    assert build("torchvision:mc3_18", (1, 2, 16, 16), 2).mean.flatten().tolist() == [0.5]


def test_spectral_norm_holds_every_layer_at_a_largest_singular_value_of_1() -> None:
    torch.manual_seed(0)
    module = build("small_cnn", (1, 8, 8), spectral_norm=True).train()
    for _ in range(50):
        module(torch.rand(2, 1, 8, 8))
    layers = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)]
    largest = [torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() for layer in layers]
    assert largest == pytest.approx([1.0] * 4, abs=0.02)


def test_the_stem_follows_the_size_or_the_key() -> None:
    assert build("resnet18", (3, 32, 32)).network.conv1.kernel_size == (3, 3)
    imagenet = build("resnet18", (3, 32, 32), stem="imagenet").network
    assert imagenet.conv1.kernel_size == (7, 7) and isinstance(imagenet.maxpool, torch.nn.MaxPool2d)
    assert isinstance(build("resnet18", (3, 64, 64), stem="small").network.maxpool, torch.nn.Identity)


def test_arguments_reach_the_constructor() -> None:
    vit = build("timm:vit_tiny_patch16_224", (3, 32, 32), 4, arguments={"img_size": 32, "patch_size": 8, "depth": 1})
    assert len(vit.network.blocks) == 1
    assert build("videomae", (3, 4, 16, 16), arguments={"num_hidden_layers": 1}).network.model.config.num_hidden_layers == 1


def test_double_gradients_pass_through_the_video_transformer() -> None:
    clips = torch.rand(1, 3, 4, 16, 16, requires_grad=True)
    module = build("videomae", (3, 4, 16, 16))
    (gradient,) = torch.autograd.grad(module(clips).logsumexp(1).sum(), clips, create_graph=True)
    gradient.square().sum().backward()
    assert clips.grad is not None and clips.grad.abs().sum() > 0


@pytest.mark.parametrize(("architecture", "shape", "values", "message"), [
    ("smal_cnn", (1, 8, 8), {}, "no such network for images. Did you mean 'small_cnn'?"),
    ("cnn3d", (1, 8, 8), {}, "cnn3d is for clips"),
    ("cnn4", (3, 4, 8, 8), {}, "cnn4 is for images"),
    ("timm:resnet19", (1, 8, 8), {}, "timm has no model of that name. Did you mean 'resnet1"),
    ("torchvision:resnet81", (1, 8, 8), {}, "torchvision has no model of that name. Did you mean 'resnet18'?"),
    ("small_cnn", (1, 2, 2), {}, r"takes no images of shape \(1, 2, 2\)"),
    ("torchvision:vit_b_16", (3, 32, 32), {}, "Wrong image height"),
    ("torchvision:resnet18", (3, 32, 32), {"arguments": {"depth": 3}}, "cannot be built: TypeError: .*'depth'"),
    ("small_cnn", (1, 8, 8), {"arguments": {"width": 3}}, "network.arguments belong to timm:NAME"),
    ("small_cnn", (1, 8, 8), {"mean": (0.1, 0.2)}, "network.mean has 2 values, and images have 1 channels"),
    ("small_cnn", (1, 8, 8), {"std": (0.0,)}, "network.std = .*above 0"),
    ("videomae", (3, 4, 16, 32), {}, "takes square clips, and these are 16x32"),
])
def test_what_cannot_be_built_is_refused(architecture: str, shape: tuple[int, ...], values: dict[str, object],
                                         message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build(architecture, shape, **values)
    assert "\n" not in str(error.value)
