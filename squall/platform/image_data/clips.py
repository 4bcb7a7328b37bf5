"""Clips of a manifest's videos; their classes are the answers to its questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from squall.platform.class_list import answer_words, plain
from squall.platform.classifier_kinds import take_frames
from squall.platform.errors import ConfigError, DataError, nearest
from squall.platform.image_data.config import ImageDataConfig
from squall.platform.image_data.images import ImageSet, divide
from squall.platform.image_data.loading import Choose, Split, read_each
from squall.platform.image_data.resizing import resize_and_crop
from squall.platform.manifest import load_manifest
from squall.platform.records import MediaType, VideoSample
from squall.platform.video import FrameSampling, load_clip

TEST_SHARE = 0.2
TEST_SEED = 42
SUFFIXES = (".jsonl", ".json", ".parquet")


def read(config: ImageDataConfig, split: Split, choose: Choose) -> ImageSet:
    """Clips whose answers are classes. Of a multiple choice question the class is the words of the option, not its letter.

    Classes are the answers of the training clips, in alphabetical order; their capitals and spaces do not count.
    """
    assert config.path is not None and config.size is not None
    samples, labels, classes, lost = labelled(config, split)
    rows = choose(labels)
    size, frames = config.size, config.frames
    sampling = FrameSampling(max_frames=frames, max_pixels=2**40, size_multiple=1)

    def decode(sample: VideoSample) -> np.ndarray:
        clip = load_clip(sample.media, sampling, sample_id=sample.id).frames
        return take_frames(np.stack([resize_and_crop(frame, size) for frame in clip]), frames)

    images, kept, dropped = read_each([samples[row] for row in rows], decode, (frames, size, size, 3), config.decode_threads,
                                      str(config.path))
    return ImageSet(images, labels[rows][kept], classes, f"{config.path.name}, {split}", lost + dropped)


def labelled(config: ImageDataConfig, split: Split
             ) -> tuple[list[VideoSample], np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """A split's samples, their labels int64 (N,), the classes, and lines about records that cannot be used; decodes nothing."""
    assert config.path is not None
    samples, lost = _samples(config, split)
    training = samples if split == "train" else _samples(config, "train")[0]
    classes = _classes(training, config.path)
    return samples, _labels(samples, classes), classes, lost


def _samples(config: ImageDataConfig, split: Split) -> tuple[list[VideoSample], tuple[str, ...]]:
    """The split's samples, and lines about records that cannot be used."""
    assert config.path is not None
    file = _manifest_file(config.path, config.test_path, split)
    samples, lost = _selected(file, config)
    if config.path.is_dir() or config.test_path is not None:
        return samples, lost
    answers = np.unique([_answer(sample) for sample in samples], return_inverse=True)[1]
    test, train = divide(answers, round(TEST_SHARE * len(samples)), TEST_SEED)
    return [samples[row] for row in (test if split == "test" else train)], lost


def _manifest_file(path: Path, test_path: Path | None, split: Split) -> Path:
    if not path.is_dir():
        return test_path if split == "test" and test_path is not None else path
    found = next((path / f"{split}{suffix}" for suffix in SUFFIXES if (path / f"{split}{suffix}").is_file()), None)
    if found is None:
        raise DataError(f"{path}: no {split}.jsonl in it; name a manifest, or a folder with train.jsonl and test.jsonl",
                        reason="missing_file")
    return found


def _selected(file: Path, config: ImageDataConfig) -> tuple[list[VideoSample], tuple[str, ...]]:
    """Samples about videos that answer the question that the configuration chooses.

    Raises:
        ConfigError: none does, or there are several kinds of question and it chooses none.
    """
    manifest = load_manifest(file, on_error="collect")
    samples = [sample for sample in manifest.samples if sample.media_type is MediaType.VIDEO]
    if config.problem_type is not None:
        samples = _where(samples, "problem_type", config.problem_type, [sample.problem_type for sample in samples], file)
    kinds = [str(sample.metadata.get("question_type", "")) for sample in samples]
    if config.question_type is not None:
        samples = _where(samples, "question_type", config.question_type, kinds, file)
    elif len(set(kinds)) > 1:
        raise ConfigError(f"{file}: a classifier answers one question, and these are of several kinds; choose one with "
                          f"question_type: {', '.join(sorted(set(kinds)))}")
    return samples, tuple(one.message for one in manifest.rejected)


def _where(samples: Sequence[VideoSample], key: str, wanted: str, values: Sequence[str], file: Path) -> list[VideoSample]:
    chosen = [sample for sample, value in zip(samples, values, strict=True) if value == wanted]
    if not chosen:
        known = sorted({str(value) for value in values})
        raise ConfigError(f"{file}: no video question has {key} '{wanted}'.{nearest(wanted, known)} It has: {', '.join(known)}")
    return chosen


def _answer(sample: VideoSample) -> str:
    return plain(answer_words(sample.options, sample.solution))


def _classes(samples: Sequence[VideoSample], path: Path) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for sample in samples:
        found.setdefault(_answer(sample), answer_words(sample.options, sample.solution))
    if len(found) < 2:
        raise DataError(f"{path}: {len(found)} different answers among {len(samples)} training clips; a classifier needs two",
                        reason="one_class")
    return tuple(found[name] for name in sorted(found))


def _labels(samples: Sequence[VideoSample], classes: tuple[str, ...]) -> np.ndarray:
    known = {plain(name): index for index, name in enumerate(classes)}
    for sample in samples:
        if _answer(sample) not in known:
            raise DataError(f"sample {sample.id}: its answer '{answer_words(sample.options, sample.solution)}' is that of no "
                            f"training clip; classes: {', '.join(classes[:10])}", sample_id=sample.id, reason="unknown_class")
    return np.array([known[_answer(sample)] for sample in samples], np.int64)
