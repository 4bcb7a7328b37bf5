"""Classifiers of every kind with random weights: shapes, frames, sizes, classes, and what is refused before they load."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squall.platform.class_list import candidates, choose, read_classes, unknown_labels
from squall.platform.classifier_kinds import checked, take_frames
from squall.platform.classifiers import (
    ClassifierConfig,
    check_classifier,
    is_checkpoint,
    open_classifier,
    resolve_classifier,
    try_classifier,
)
from squall.platform.config import validate
from squall.platform.errors import ConfigError, DataError
from squall.platform.image_classifiers import CheckpointFacts, save_image_classifier
from squall.platform.image_data.resizing import resize_and_crop
from squall.platform.models import EMBEDDED_POLICY
from squall.platform.networks import NetworkConfig, build_network
from squall.platform.records import MediaType, ProblemType, VideoSample

CLASSES = ("blue", "Playing basketball", "red")
LABELS = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: index for index, name in enumerate(CLASSES)}}
SMALL = {"image_size": 28, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models with random weights, saved as a user would."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    models = {
        "videomae": hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(
            num_frames=4, patch_size=14, tubelet_size=2, **SMALL, **LABELS)),
        "timesformer": hf.TimesformerForVideoClassification(hf.TimesformerConfig(
            num_frames=4, patch_size=14, **SMALL, **LABELS)),
        "vivit": hf.VivitForVideoClassification(hf.VivitConfig(num_frames=4, tubelet_size=[2, 14, 14], **SMALL, **LABELS)),
    }
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    root = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save_pretrained(root / name)
        (hf.VivitImageProcessor if name == "vivit" else hf.VideoMAEImageProcessor)(**size).save_pretrained(root / name)
    return {name: root / name for name in models}


def noise(seed: int, frames: int = 8, height: int = 40, width: int = 52) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def changed(folder: Path, source: Path, remove: tuple[str, ...] = (), **values: Any) -> Path:
    """A copy of a model directory with other values in its config.json."""
    folder.mkdir()
    for file in source.iterdir():
        if file.name not in remove:
            (folder / file.name).write_bytes(file.read_bytes())
    known = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (known | values).items() if v is not None}))
    return folder


@pytest.mark.parametrize("name", ["videomae", "timesformer", "vivit"])
def test_hugging_face_models_classify_clips_of_any_size_one_by_one_or_together(directories: dict[str, Path], name: str) -> None:
    classifier = open_classifier(str(directories[name]), ClassifierConfig())
    assert (classifier.classes, classifier.frame_count) == (CLASSES, 4)
    try_classifier(classifier)
    clips = [noise(i, frames=3 + i, height=30 + 4 * i) for i in range(8)]
    together = classifier.probabilities(clips)
    alone = np.concatenate([classifier.probabilities(clip[None]) for clip in clips])
    assert together.shape == (8, 3) and together.dtype == np.float32
    assert together.sum(axis=1) == pytest.approx(np.ones(8), abs=1e-5) and np.ptp(together[:, 0]) > 0
    assert together == pytest.approx(alone, abs=1e-6) and (together.argmax(1) == alone.argmax(1)).all()


def test_a_hugging_face_model_sees_what_its_own_processor_makes_of_the_frames(directories: dict[str, Path]) -> None:
    import torch
    from transformers import AutoModelForVideoClassification

    clip = noise(1, frames=4, height=28, width=28)  # nothing to resize or crop
    model = AutoModelForVideoClassification.from_pretrained(directories["videomae"]).eval()
    pixels = (torch.from_numpy(clip).permute(0, 3, 1, 2)[None] / 255 - 0.5) / 0.5  # the processor's standard mean and deviation
    with torch.inference_mode():
        expected = model(pixel_values=pixels).logits.softmax(-1).numpy()
    found = open_classifier(str(directories["videomae"]), ClassifierConfig()).probabilities(clip[None])
    assert found == pytest.approx(expected, abs=1e-5)


def test_classes_given_take_the_place_of_the_models_own(directories: dict[str, Path], tmp_path: Path) -> None:
    path = str(directories["vivit"])
    assert check_classifier(path, ClassifierConfig(classes=("a", "b", "c"))) == ("a", "b", "c")
    with pytest.raises(ConfigError, match=r"has 3 outputs, and classes names 2"):
        check_classifier(path, ClassifierConfig(classes=("a", "b")))
    unnamed = changed(tmp_path / "unnamed", directories["vivit"], id2label=None)
    with pytest.raises(ConfigError, match="config.json names no classes"):
        check_classifier(str(unnamed), ClassifierConfig())


@pytest.mark.parametrize(("values", "remove", "problem"), [
    ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, (),
     r"model_type 'vit' \(ViTForImageClassification\) does not classify video; supported: videomae, timesformer, vivit"),
    ({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}, (), "model_type 'bert'"),
    ({"architectures": ["VideoMAEForPreTraining"]}, (), "VideoMAEForPreTraining has no trained classification head"),
    ({}, ("preprocessor_config.json",), "no preprocessor_config.json"),
])
def test_a_model_that_cannot_take_video_is_refused_before_it_is_loaded(
        directories: dict[str, Path], tmp_path: Path, values: dict[str, Any], remove: tuple[str, ...], problem: str) -> None:
    folder = changed(tmp_path / "model", directories["videomae"], (*remove, "model.safetensors"), **values)
    with pytest.raises(ConfigError, match=problem):
        check_classifier(str(folder), ClassifierConfig())


def test_a_language_model_and_a_folder_that_is_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="answers questions in words and is no classifier"):
        check_classifier(str(EMBEDDED_POLICY), ClassifierConfig())
    with pytest.raises(ConfigError, match="no such directory"):
        check_classifier("./nowhere", ClassifierConfig())


def test_weights_that_are_missing_in_the_file_are_not_made_up(directories: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = changed(tmp_path / "headless", directories["videomae"])
    body = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if "classifier" not in name}
    save_file(body, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="its file lacks classifier.bias, classifier.weight; they would be random"):
        open_classifier(str(folder), ClassifierConfig())


# --- checkpoints of Squall's own ---


def test_a_checkpoint_of_clips_is_known_by_its_folder_and_asked_as_it_was_trained(tmp_path: Path) -> None:
    import torch

    network = NetworkConfig(architecture="cnn3d")
    torch.manual_seed(0)
    module = build_network(network, (3, 4, 16, 16), 3, (0.4,) * 3, (0.2,) * 3).eval()
    save_image_classifier(tmp_path / "kept", module, network, CLASSES, (3, 4, 16, 16), (0.4,) * 3, (0.2,) * 3, {})
    path, config = resolve_classifier(str(tmp_path / "kept"), ClassifierConfig())
    assert (config.kind, config.classes, is_checkpoint(path)) == ("checkpoint", CLASSES, True)
    classifier = open_classifier(path, config)
    clips = [noise(1, frames=4, height=16, width=16), noise(2, frames=9, height=40, width=20)]
    seen = [clips[0], np.stack([resize_and_crop(frame, 16) for frame in take_frames(clips[1], 4)])]
    with torch.no_grad():
        expected = module(torch.from_numpy(np.stack(seen)).permute(0, 4, 1, 2, 3) / 255).softmax(-1).numpy()
    assert classifier.frame_count == 4 and classifier.probabilities(clips) == pytest.approx(expected, abs=1e-6)
    assert open_classifier(path, ClassifierConfig(classes=("a", "b", "c"))).classes == ("a", "b", "c")


@pytest.mark.parametrize(("shape", "config", "problem"), [
    ((3, 16, 16), {}, r"a network of images of shape \[3, 16, 16\]; a video classifier takes clips \[3, frames, height"),
    ((1, 4, 16, 16), {}, r"a network of clips of shape \[1, 4, 16, 16\]"),
    ((3, 4, 16, 16), {"classes": ("a", "b")}, "has 3 outputs, and classes names 2"),
    ((3, 4, 16, 16), {"dtype": "float16"}, "dtype belongs to kind huggingface or torchvision or auto, and kind is checkpoint"),
])
def test_a_checkpoint_that_cannot_take_such_clips_is_refused_before_it_is_loaded(
        tmp_path: Path, shape: tuple[int, ...], config: dict[str, Any], problem: str) -> None:
    facts = CheckpointFacts(network=NetworkConfig(), shape=shape, classes=CLASSES, mean=(0.0,), std=(1.0,))
    (tmp_path / "classifier.json").write_text(facts.model_dump_json())
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=problem):
        check_classifier(str(tmp_path), ClassifierConfig(**config))


# --- torchvision ---


@pytest.fixture(scope="module")
def r3d_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from torchvision.models.video import r3d_18

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "r3d.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in r3d_18(num_classes=3).state_dict().items()}}, file)
    return file


def torchvision_config(weights: Path, **values: Any) -> ClassifierConfig:
    return ClassifierConfig(kind="torchvision", weights=weights, **{"classes": CLASSES, "frames": 2} | values)


def test_a_torchvision_model_gets_torchvisions_preprocessing(r3d_weights: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from torchvision.models.video import R3D_18_Weights, r3d_18

    state = {name.removeprefix("module."): value
             for name, value in torch.load(r3d_weights, weights_only=True)["state_dict"].items()}
    save_file(state, tmp_path / "r3d.safetensors")
    model = r3d_18(num_classes=3).eval()
    model.load_state_dict(state)
    clips = [noise(1, frames=4), noise(2, frames=9, height=60)]
    pixels = [R3D_18_Weights.DEFAULT.transforms()(torch.from_numpy(take_frames(clip, 2)).permute(0, 3, 1, 2)) for clip in clips]
    with torch.inference_mode():
        expected = model(torch.stack(pixels)).softmax(-1).numpy()
    for file in (r3d_weights, tmp_path / "r3d.safetensors"):
        assert open_classifier("r3d_18", torchvision_config(file)).probabilities(clips) == pytest.approx(expected, abs=1e-5)


def test_weights_that_do_not_fit_or_are_no_tensors_are_refused(r3d_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="do not fit r3d_18 with 2 classes: .*fc.weight"):
        open_classifier("r3d_18", torchvision_config(r3d_weights, classes=("a", "b")))
    ran, evil = tmp_path / "ran", tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps(_Touch(str(ran)), protocol=2))
    with pytest.raises(ConfigError, match="cannot be read as tensors alone"):
        open_classifier("r3d_18", torchvision_config(evil))
    assert not ran.exists()
    with pytest.raises(ConfigError, match=r"no video model of that name\. Did you mean 'r3d_18'\?"):
        check_classifier("r3d18", torchvision_config(r3d_weights))
    with pytest.raises(ConfigError, match="expected a file with a state dict"):
        check_classifier("r3d_18", torchvision_config(tmp_path / "none.pth"))


class _Touch:
    """A pickle that runs code when it is opened."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


# --- callables ---

CALLABLES = '''
import numpy as np

def brightness(clips):
    assert clips.dtype == np.uint8 and clips.ndim == 5
    light = clips.mean((1, 2, 3, 4)) / 255
    return np.stack([light / 2, light / 2, 1 - light], 1)

def logits(clips):
    return np.tile([0.0, 0.0, np.log(2)], (len(clips), 1))

def transposed(clips):
    return np.full((3, len(clips)), 1 / 3)

def bad(clips):
    return np.where(clips.mean((1, 2, 3, 4), keepdims=True)[:, :, 0, 0, 0] > 250, np.nan, np.full((len(clips), 3), 1 / 3))

nothing = 3
'''


@pytest.fixture(autouse=True)
def _callables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_classifiers.py").write_text(CALLABLES)
    monkeypatch.syspath_prepend(tmp_path)


def callable_classifier(name: str, **values: Any) -> Any:
    return open_classifier(f"own_classifiers:{name}", ClassifierConfig(kind="callable", classes=CLASSES, **values))


def test_a_callable_gets_clips_of_one_shape_at_a_time_and_their_order_is_kept() -> None:
    clips = [np.full((frames, 8, 8, 3), 51 * i, np.uint8) for i, frames in enumerate((2, 3, 2, 3, 4))]
    classifier = callable_classifier("brightness")
    assert classifier.frame_count is None
    assert classifier.probabilities(clips)[:, 2] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert callable_classifier("logits", returns="logits", frames=4).probabilities(clips)[4] == pytest.approx([0.25, 0.25, 0.5])


def test_what_a_callable_gets_wrong_is_said_once_and_clearly() -> None:
    clips = np.stack([noise(1), np.full_like(noise(1), 255)])
    with pytest.raises(ConfigError, match=r"returned shape \(3, 2\) for 2 clips and 3 classes, expected \(2, 3\)"):
        callable_classifier("transposed").probabilities(clips)
    with pytest.raises(ConfigError, match="sum to 0.6931, which are no probabilities; if they are logits .* returns=logits"):
        callable_classifier("logits").probabilities(clips)
    with pytest.raises(DataError, match="1 of 2 clips got values that are not finite") as failed:
        callable_classifier("bad").probabilities(clips)
    assert failed.value.reason == "bad_output"
    assert callable_classifier("bad").probabilities(clips[:1]) == pytest.approx(np.full((1, 3), 1 / 3))
    with pytest.raises(ConfigError, match=r"shape \(8, 64, 64, 3\): ValueError"):
        try_classifier(_Broken())
    for name, problem in (("none", "has no attribute 'none'"), ("nothing", "nothing is a int, not a function")):
        with pytest.raises(ConfigError, match=problem):
            callable_classifier(name)
    with pytest.raises(ConfigError, match="expected module:function"):
        check_classifier("no_colon", ClassifierConfig(kind="callable", classes=CLASSES))


class _Broken:
    classes, frame_count = CLASSES, None

    def probabilities(self, clips: Any) -> Any:
        raise ValueError("wrong size")


# --- configuration, classes, options ---


@pytest.mark.parametrize(("values", "problem"), [
    ({"kind": "torchvision", "classes": ["a", "b"]}, "kind torchvision needs weights"),
    ({"kind": "torchvision", "weights": "w.pt"}, "kind torchvision needs classes"),
    ({"frames": 4}, "frames belongs to kind torchvision or callable, and kind is auto"),
    ({"kind": "callable", "classes": ["a", "b"], "dtype": "float16"}, "dtype belongs to kind huggingface or torchvision"),
])
def test_what_does_not_go_together_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        validate(ClassifierConfig, values, "model")


def test_workers_get_absolute_paths_and_the_classes_by_name(r3d_weights: Path, directories: dict[str, Path],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    (r3d_weights.parent / "names.txt").write_text("\n".join(CLASSES))
    monkeypatch.chdir(r3d_weights.parent)
    path, config = resolve_classifier("r3d_18", torchvision_config(Path(r3d_weights.name), classes=Path("names.txt")))
    assert (path, config.weights, config.classes) == ("r3d_18", r3d_weights, CLASSES)
    monkeypatch.chdir(directories["vivit"].parent)
    path, config = resolve_classifier("vivit", ClassifierConfig())
    assert (path, config.classes) == (str(directories["vivit"]), CLASSES)


def test_classes_come_from_json_or_lines_and_are_distinct(tmp_path: Path) -> None:
    for text in ('["red", "light blue"]', "red\n\n  light blue \n"):
        (tmp_path / "classes").write_text(text)
        assert read_classes(tmp_path / "classes") == ("red", "light blue")
    (tmp_path / "classes").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="expected a list of names"):
        read_classes(tmp_path / "classes")
    with pytest.raises(ConfigError, match="'Light_Blue' at 1 is 'light blue' at 0 again"):
        candidates("s", ("red",), ("light blue", "Light_Blue"))


@pytest.mark.parametrize(("frames", "count", "taken"), [
    (8, 4, [0, 2, 5, 7]), (2, 4, [0, 0, 1, 1]), (1, 3, [0, 0, 0]), (5, 1, [0])])
def test_frames_are_taken_evenly_from_the_first_to_the_last(frames: int, count: int, taken: list[int]) -> None:
    clip = np.arange(frames, dtype=np.uint8).reshape(-1, 1, 1, 1)
    assert take_frames(clip, count).ravel().tolist() == taken


def test_the_answer_is_the_likeliest_of_the_options_and_stands_first() -> None:
    classes = ("a b", "c", "d", "e", "f", "g")
    found = np.array([0.02, 0.5, 0.2, 0.15, 0.08, 0.05], np.float32)
    answer, order, logs = choose(found, candidates("s", ("A. g", "B. D", "(C) A_b"), classes))
    assert (answer, order) == ("B", (2, 1, 3, 4, 5)) and np.exp(logs) == pytest.approx([0.2 / 0.27, *found[list(order[1:])]])
    assert choose(found, candidates("s", ("A b", "g"), classes))[:2] == ("g", (5, 1, 2, 3, 4))
    assert choose(found, candidates("s", ("a b ", "e"), classes))[0] == "e"
    assert choose(found, candidates("s", (), classes))[:2] == ("c", (1, 2, 3, 4, 5))
    assert min(choose(np.array([1.0, 0.0], np.float32), candidates("s", (), ("x", "y")))[2]) > -100


def test_an_option_that_is_no_class_is_named() -> None:
    with pytest.raises(DataError, match=r"sample s3: option 'B. reed' is none of the model's 3 classes. Did you mean 'red'\?"
                       ) as failed:
        candidates("s3", ("A. blue", "B. reed"), CLASSES)
    assert (failed.value.reason, failed.value.sample_id) == ("unknown_class", "s3")
    samples = [VideoSample("1", "v", MediaType.VIDEO, "?", ProblemType.MULTIPLE_CHOICE, "A", ("A. red", "B. teal")),
               VideoSample("2", "v", MediaType.VIDEO, "?", ProblemType.FREE_FORM, "teal"),
               VideoSample("3", "v", MediaType.VIDEO, "?", ProblemType.FREE_FORM, "playing Basketball")]
    assert unknown_labels(samples, CLASSES) == {"B. teal": 1, "teal": 1}


def test_rows_must_be_probabilities() -> None:
    assert checked(np.array([[0.5, 0.5004]]), 1, ("a", "b"), "m").dtype == np.float32
    with pytest.raises(ConfigError, match="values from -0.1 to 1.1"):
        checked(np.array([[-0.1, 1.1]]), 1, ("a", "b"), "m")
