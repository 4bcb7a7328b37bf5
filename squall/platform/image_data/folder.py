"""Images in a folder for every class, as ImageNet is unpacked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from squall.platform.decoding import read_image
from squall.platform.errors import DataError, nearest
from squall.platform.image_data.config import ImageDataConfig
from squall.platform.image_data.images import ImageSet
from squall.platform.image_data.loading import Choose, Split, read_each
from squall.platform.image_data.resizing import resize_and_crop

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"))
FOLDERS = {"train": ("train",), "test": ("test", "val")}


def read(config: ImageDataConfig, split: Split, choose: Choose) -> ImageSet:
    """``train/CLASS/...``, and ``test`` or ``val`` likewise. Classes are the folders of ``train``, in alphabetical order."""
    assert config.path is not None and config.size is not None
    folder = _split_folder(config.path, split)
    classes = _class_names(_split_folder(config.path, "train") if split == "test" else folder)
    files, labels = _files(folder, classes)
    rows = choose(labels)
    size = config.size

    def decode(file: Path) -> np.ndarray:
        return resize_and_crop(read_image(file, str(file.relative_to(folder))), size)

    images, kept, dropped = read_each([files[row] for row in rows], decode, (size, size, 3), config.decode_threads, str(folder))
    return ImageSet(images, labels[rows][kept], classes, f"{config.path.name}, {split}", dropped)


def _split_folder(root: Path, split: Split) -> Path:
    found = next((root / name for name in FOLDERS[split] if (root / name).is_dir()), None)
    if found is None:
        problem = f"no folder {' or '.join(FOLDERS[split])} in it" if root.is_dir() else "no such folder"
        raise DataError(f"{root}: {problem}; images lie as train/CLASS/NAME.jpg and test/CLASS/NAME.jpg", reason="missing_file")
    return found


def _class_names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))


def _files(folder: Path, classes: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    unknown = sorted(set(_class_names(folder)) - set(classes))
    if unknown:
        raise DataError(f"{folder / unknown[0]}: no class of that name in train.{nearest(unknown[0], classes)}",
                        reason="unknown_class")
    found = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name).rglob("*"))
             if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()]
    return [path for path, _ in found], np.array([label for _, label in found], np.int64)
