"""Published networks by their published layouts: the same features as those of the packages that they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from published_features import mobilenetv2_state, transnetv2_state

from squall.platform.errors import ConfigError
from squall.platform.feature_networks import FeatureNetwork, MobileNetV2, TransNetV2, load_backbone
from squall.platform.networks import NetworkConfig, build_network


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def loaded(backbone: torch.nn.Module, state: dict[str, torch.Tensor], folder: Path) -> torch.nn.Module:
    torch.save(state, folder / "published.pth")
    network = FeatureNetwork(backbone, 3)
    load_backbone(network, folder / "published.pth")
    return network.train().backbone  # in training too the backbone stays as it was published


def test_transnetv2_makes_what_the_published_code_makes_of_the_same_weights(tmp_path: Path) -> None:
    clips = pixels(1, 6, 27, 48, 3).permute(0, 4, 1, 2, 3) / 255
    with torch.no_grad():
        (found,) = loaded(TransNetV2(), transnetv2_state(), tmp_path)(clips)
    assert found[[0, 1, 5, 1024, 1030, 2047]].tolist() == pytest.approx([0.2351, 1.2965, 0, 1.4106, 11.0343, 7.104], abs=2e-3)
    assert found.mean().item() == pytest.approx(3.445945, abs=1e-4)


def test_mobilenetv2_makes_what_the_published_code_makes_of_the_same_weights(tmp_path: Path) -> None:
    clips = pixels(3, 3, 64, 64).transpose(0, 1)[None] / 255
    with torch.no_grad():
        (found,) = loaded(MobileNetV2(side=64), mobilenetv2_state(), tmp_path)(clips)
    theirs = [3.4366, 0.629, 0.2104, 0.6249, 0.4803, 0.0883]
    assert found[[0, 1, 5, 1280, 1290, 2559]].tolist() == pytest.approx(theirs, abs=2e-4)
    assert found.mean().item() == pytest.approx(0.8898454, abs=1e-5)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = transnetv2_state()
    del state["fc1.weight"]
    with pytest.raises(ConfigError, match=r"published.pth: do not fit TransNetV2: .*merge.weight"):
        loaded(TransNetV2(), state, tmp_path)
    with pytest.raises(ConfigError, match="do not fit MobileNetV2"):
        loaded(MobileNetV2(), {"fc1.weight": torch.zeros(2)}, tmp_path)


def test_they_are_networks_of_rgb_clips_of_any_size_that_normalise_by_themselves() -> None:
    network = NetworkConfig(architecture="transnetv2")
    module = build_network(network, (3, 2, 10, 12), 4, (0.5,) * 3, (0.2,) * 3)
    assert (module.mean.unique().tolist(), module.std.unique().tolist()) == ([0.0], [1.0])
    assert [name for name, value in module.named_parameters() if value.requires_grad] == ["network.head.weight",
                                                                                         "network.head.bias"]
    with pytest.raises(ConfigError, match="network.arguments: .*unexpected keyword argument 'sides'"):
        build_network(NetworkConfig(architecture="mobilenetv2", arguments={"sides": 32}), (3, 2, 8, 8), 4, (0,) * 3, (1,) * 3)
    with pytest.raises(ConfigError, match="takes no images of shape"):
        build_network(network, (1, 2, 10, 12), 4, (0.5,), (0.2,))
