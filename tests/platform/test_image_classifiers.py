"""Checkpoints and models of others: opened as they were saved, told apart by their hash, refused where they do not fit."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from squall.platform.config import validate
from squall.platform.errors import ConfigError
from squall.platform.image_classifier_kinds import load_checkpoint
from squall.platform.image_classifiers import (
    CheckpointFacts,
    ImageModelConfig,
    open_image_classifier,
    resolve_image_model,
    save_image_classifier,
)
from squall.platform.networks import NetworkConfig, build_network

SHAPE, CLASSES = (1, 8, 8), ("zero", "one", "two")


def save(folder: Path, seed: int = 0, training: dict[str, Any] | None = None, **network: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    config = NetworkConfig(**network)
    module = build_network(config, SHAPE, len(CLASSES), (0.3,), (0.4,))
    save_image_classifier(folder, module, config, CLASSES, SHAPE, (0.3,), (0.4,), training or {"objective": "pg"})
    return module.eval()


def small_module() -> torch.nn.Module:
    """What a user's own function returns."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))


def no_module() -> str:
    return "a network"


def broken_module() -> torch.nn.Module:
    raise FileNotFoundError("weights of mine")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ImageModelConfig]:
    """A configuration of a callable of this file, which is importable as `own_models` for the time of the test."""
    (tmp_path / "own_models.py").write_text(Path(__file__).read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    common = {"classes": CLASSES, "shape": SHAPE}
    return lambda name, **values: ImageModelConfig(**{"path": f"own_models:{name}", **common, **values})


@pytest.mark.parametrize("network", [{}, {"spectral_norm": True}, {"architecture": "cnn4"}, {"mean": (0.7,)},
                                     {"architecture": "timm:resnet10t"}])
def test_a_checkpoint_opens_as_it_was_saved(tmp_path: Path, network: dict[str, Any]) -> None:
    module = save(tmp_path, **network)
    opened = open_image_classifier(ImageModelConfig(path=str(tmp_path)))
    images = torch.rand(5, *SHAPE)
    assert torch.equal(opened.module(images), module(images))
    assert (opened.classes, opened.shape, dict(opened.training)) == (CLASSES, SHAPE, {"objective": "pg"})
    assert not opened.module.training and not any(one.requires_grad for one in opened.module.parameters())
    assert opened.description.endswith("parameters, trained by pg")


def test_the_hash_is_of_weights_and_settings_but_not_of_the_training(tmp_path: Path) -> None:
    save(tmp_path / "a", training={"seconds": 1.5})
    save(tmp_path / "b", training={"seconds": 2.5, "objective": "pg"})
    save(tmp_path / "c", seed=1)
    save(tmp_path / "d", stem="small")
    hashes = [open_image_classifier(ImageModelConfig(path=str(tmp_path / name))).hash for name in "abcd"]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3 and len(hashes[0]) == 32


def test_a_checkpoint_can_be_trained_on(tmp_path: Path) -> None:
    save(tmp_path)
    module, facts = load_checkpoint(tmp_path)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert facts.network == NetworkConfig() and facts.mean == (0.3,)


def test_an_interrupted_save_leaves_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(AttributeError):
        save_image_classifier(tmp_path, None, NetworkConfig(), CLASSES, SHAPE, (0.3,), (0.4,), {})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"no classifier.json in it; expected a checkpoint folder, torchvision:NAME"):
        open_image_classifier(ImageModelConfig(path=str(tmp_path)))


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors in it"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"no tensors"), "cannot be read as tensors alone"),
    (lambda folder: (folder / "classifier.json").write_text("{"), "classifier.json is not JSON"),
    (lambda folder: change(folder, version=2), "classifier.json: 'version' = 2"),
    (lambda folder: change(folder, network={"architectur": "cnn4"}), "unknown key 'network.architectur'. Did you mean"),
    (lambda folder: change(folder, classes=["a", "b"]), r"do not fit the network: .*size mismatch for network"),
    (lambda folder: change(folder, network={"architecture": "cnn4"}), "do not fit the network: Missing key"),
])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ConfigError, match=message) as error:
        open_image_classifier(ImageModelConfig(path=str(tmp_path)))
    assert "\n" not in str(error.value)


def change(folder: Path, **values: Any) -> None:
    file = folder / "classifier.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_published_models_open_with_a_users_weights(tmp_path: Path) -> None:
    import timm
    import torchvision

    networks = {"timm:resnet10t": timm.create_model("resnet10t", num_classes=3),
                "torchvision:mobilenet_v2": torchvision.models.mobilenet_v2(num_classes=3)}
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor((0.485, 0.456, 0.406))[:, None, None], torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    for name, network in networks.items():
        torch.save({"state_dict": network.state_dict()}, tmp_path / "weights.pt")
        opened = open_image_classifier(ImageModelConfig(path=name, weights=tmp_path / "weights.pt", classes=CLASSES,
                                                        shape=(3, 32, 32)))
        assert torch.allclose(opened.module(images), network.eval()((images - mean) / std), atol=1e-5)
        assert opened.description.startswith(f"{name}, ")


def test_what_a_model_of_grey_images_was_normalised_with_is_not_guessed(tmp_path: Path) -> None:
    import timm

    save_file(timm.create_model("resnet10t", num_classes=3, in_chans=1).state_dict(), tmp_path / "w.safetensors")
    values = {"path": "timm:resnet10t", "weights": tmp_path / "w.safetensors", "classes": CLASSES, "shape": (1, 32, 32)}
    with pytest.raises(ConfigError, match="say with which mean and std .* none are published for 1 channel"):
        open_image_classifier(ImageModelConfig(**values))
    opened = open_image_classifier(ImageModelConfig(**values, mean=(0.1,), std=(0.2,)))
    assert opened.module.mean.item() == pytest.approx(0.1)


def test_a_function_of_the_users_own_is_opened(own: Callable[..., ImageModelConfig], tmp_path: Path) -> None:
    state = small_module().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    config = own("small_module", weights=tmp_path / "w.safetensors")
    opened = open_image_classifier(config)
    images = torch.rand(2, *SHAPE)
    assert torch.allclose(opened.module(images), images.flatten(1) @ state["1.weight"].T + state["1.bias"])
    save_file({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "w.safetensors")
    assert open_image_classifier(config).hash != opened.hash


def test_what_a_function_returns_must_be_a_classifier_of_such_images(own: Callable[..., ImageModelConfig]) -> None:
    refused = {
        "returned a str; expected a torch.nn.Module": own("no_module"),
        "FileNotFoundError: weights of mine": own("broken_module"),
        r"returned \(2, 3\) for 2 images; expected logits \(2, 2\)": own("small_module", classes=("a", "b")),
        r"takes no images of shape \(1, 9, 9\): RuntimeError": own("small_module", shape=(1, 9, 9)),
        "no attribute 'small_modul'": own("small_modul"),
        "'one' at 2 is 'one' at 1 again": own("small_module", classes=("zero", "one", "one")),
    }
    for message, config in refused.items():
        with pytest.raises(ConfigError, match=message) as error:
            open_image_classifier(config)
        assert "\n" not in str(error.value)


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_a_pickle_is_refused_and_not_run(own: Callable[..., ImageModelConfig], tmp_path: Path) -> None:
    ran, evil = tmp_path / "ran", tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps(_Touch(str(ran)), protocol=2))
    with pytest.raises(ConfigError, match="a pickle of anything else could run code; save model.state_dict.. as safetensors"):
        open_image_classifier(own("small_module", weights=evil))
    with pytest.raises(ConfigError, match="best as safetensors"):
        open_image_classifier(ImageModelConfig(path=str(evil)))
    other = evil.rename(tmp_path / "evil.pkl")
    with pytest.raises(ConfigError, match="a .pkl file; expected a state dict, .safetensors"):
        open_image_classifier(own("small_module", weights=other))
    with pytest.raises(ConfigError, match="no such file; expected a state dict"):
        open_image_classifier(own("small_module", weights=tmp_path / "none.safetensors"))
    assert not ran.exists()


@pytest.mark.parametrize(("values", "message"), [
    ({"path": "timm:resnet10t"}, "a timm model needs weights"),
    ({"path": "mine:function"}, "a callable model needs classes"),
    ({"path": "runs/one", "weights": "w.pt"}, "weights belongs to kind .*callable, and runs/one is a checkpoint"),
    ({"path": "mine:f", "classes": ("a", "b"), "shape": (8, 8)}, r"shape \[8, 8\]: not \[channels, height, width\]"),
    ({"path": "mine:f", "classes": ("a", "b"), "shape": (1, 8, 8), "mean": (0.5,)}, "mean belongs to kind torchvision or timm"),
])
def test_configurations_that_do_not_fit_their_kind_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(ImageModelConfig, values, where="test")


def test_workers_get_absolute_paths_and_names(own: Callable[..., ImageModelConfig], tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "model")
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    monkeypatch.chdir(tmp_path)
    assert resolve_image_model(ImageModelConfig(path="model")).path == str(tmp_path / "model")
    resolved = resolve_image_model(own("small_module", classes=Path("names.txt"), weights=Path("w.pt")))
    assert (resolved.kind, resolved.classes, resolved.weights) == ("callable", CLASSES, tmp_path / "w.pt")
    assert ImageModelConfig.model_validate(resolved.model_dump()) == resolved


def test_facts_of_a_checkpoint_are_those_it_was_saved_with(tmp_path: Path) -> None:
    save(tmp_path, architecture="cnn4", training={"objective": "pg", "validation": float("nan")})
    facts = CheckpointFacts.model_validate(json.loads((tmp_path / "classifier.json").read_text()))
    assert facts.network.architecture == "cnn4" and facts.training == {"objective": "pg", "validation": None}
    assert "network.0.weight" in load_file(tmp_path / "model.safetensors")
