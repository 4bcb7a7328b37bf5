"""The clips that `squall corrupt` is pointed at: a file, a folder or a manifest, and where each of them goes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squall.platform.errors import ConfigError
from squall.platform.manifest import Rejection, load_manifest, read_records
from squall.platform.records import MediaType
from squall.platform.video import VIDEO_SUFFIXES

IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
MANIFEST_SUFFIXES = frozenset((".json", ".jsonl", ".parquet"))


@dataclass(frozen=True, slots=True)
class Clip:
    """A file to corrupt."""

    id: str
    source: Path
    media_type: MediaType
    relative: str
    """Where it goes below OUT, or below the folder of its kind and severity; no two clips share one."""
    record: Mapping[str, Any]
    """What the new manifest says of it, before what is known of the new file."""


def find_clips(source: Path, output: Path, media_root: Path | None) -> tuple[list[Clip], list[Rejection]]:
    """The clips of a file, folder or manifest, and what in it cannot be used. A folder is searched but for `output`.

    Raises:
        ConfigError: there is no such file, or none of a known kind.
        DataError: a manifest that cannot be read, or has no usable record.
    """
    if not source.exists():
        raise ConfigError(f"{source}: no such file or folder; SRC is a video, an image, a folder of them or a manifest")
    if source.is_dir():
        return _clips_of_folder(source, output)
    suffix = source.suffix.lower()
    if suffix in MANIFEST_SUFFIXES:
        return _clips_of_manifest(source, media_root)
    if suffix not in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
        raise ConfigError(f"{source}: unknown kind of file '{suffix}'; SRC is a video ({_known(VIDEO_SUFFIXES)}), an image "
                          f"({_known(IMAGE_SUFFIXES)}), a folder of them or a manifest ({_known(MANIFEST_SUFFIXES)})")
    return [_plain_clip(source, source.name, Counter())], []


def slug(text: str) -> str:
    """A spec's text as the name of a folder: ``night + my.kinds:blur`` is ``night+my.kinds.blur``."""
    return re.sub(r"[^\w.+=-]+", "_", text.replace(" + ", "+").replace(":", "."))


def _clips_of_folder(folder: Path, output: Path) -> tuple[list[Clip], list[Rejection]]:
    clips, rejected, taken = [], [], Counter()
    for parent, names, files in os.walk(folder):
        names[:] = sorted(name for name in names
                          if not name.startswith(".") and Path(os.path.abspath(Path(parent, name))) != output)
        for name in names:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES:
                path = Path(parent, name)
                relative, full = path.relative_to(folder).as_posix(), os.path.abspath(path)
                rejected.append(Rejection(0, relative, "missing_media", f"{full}: sample {relative}: is a folder, not a file"))
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES and not name.startswith("."):
                path = Path(parent, name)
                clips.append(_plain_clip(path, path.relative_to(folder).as_posix(), taken))
    if not clips and not rejected:
        raise ConfigError(f"{folder}: no video or image in it; known are {_known(VIDEO_SUFFIXES | IMAGE_SUFFIXES)}")
    return sorted(clips, key=lambda clip: clip.id), rejected


def _plain_clip(path: Path, relative: str, taken: Counter[str]) -> Clip:
    media = MediaType.IMAGE if path.suffix.lower() in IMAGE_SUFFIXES else MediaType.VIDEO
    record = {"id": relative, "data_type": media.value}
    return Clip(relative, Path(os.path.abspath(path)), media, own_name(relative, media, relative, taken), record)


def _clips_of_manifest(source: Path, media_root: Path | None) -> tuple[list[Clip], list[Rejection]]:
    manifest = load_manifest(source, media_root=media_root, on_error="collect")
    records = dict(read_records(source))
    root = Path(os.path.abspath(media_root or source.parent))
    clips, taken = [], Counter()
    for line, sample in zip(manifest.lines, manifest.samples, strict=True):
        media = Path(sample.media)
        relative = media.relative_to(root) if media.is_relative_to(root) else Path(media.name)
        name = own_name(relative.as_posix(), sample.media_type, sample.id, taken)
        clips.append(Clip(sample.id, media, sample.media_type, name, records[line]))
    return clips, list(manifest.rejected)


def own_name(relative: str, media: MediaType, clip_id: str, taken: Counter[str]) -> str:
    """The path with the suffix of what is written; with the id in it where another clip has that path."""
    suffix = ".png" if media is MediaType.IMAGE else ".mp4"
    stem = relative.removesuffix(Path(relative).suffix)
    tries = (stem, f"{stem}-{slug(clip_id).replace('/', '_')}")
    name = next((name for name in tries if not taken[name + suffix]), None)
    if name is None:
        name = f"{tries[1]}-{taken[tries[1] + suffix] + 1}"
        taken[tries[1] + suffix] += 1
    taken[name + suffix] += 1
    return name + suffix


def _known(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffixes))
