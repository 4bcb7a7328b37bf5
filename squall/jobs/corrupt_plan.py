"""What `squall corrupt` is told and what follows from it: which clips, under which corruptions, into which files.

All that can be refused is refused here, before anything is written or started.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from squall.actors.file_corruption import FileOutcome, FileTask
from squall.algorithms.corruption import CorruptionSpec, Mixture, expand_kinds, parse_spec, render
from squall.jobs.corrupt_sources import IMAGE_SUFFIXES, MANIFEST_SUFFIXES, Clip, find_clips, slug
from squall.platform.config import Config
from squall.platform.errors import ConfigError, DataError
from squall.platform.manifest import Rejection
from squall.platform.runs import to_json
from squall.platform.seeds import derive_seed
from squall.platform.video import VIDEO_SUFFIXES, FrameSampling

TRIAL_SHAPE = (48, 64, 3)
TRIAL_FRAMES, MAX_TRIAL_FRAMES = 4, 1000
"""Every spec is tried on a few small frames before anything starts; on more where its span begins later."""


class CorruptConfig(Config):
    """Corrupt files: one spec, a sweep of kinds and severities, or a mixture."""

    source: Path | None = None
    """SRC: a video or image file, a folder (searched to the bottom), or a manifest (.json, .jsonl, .parquet; docs/data.md)."""
    output: Path | None = None
    """OUT: a new folder; for a single file also the name of the new file. Videos become H.264 in .mp4 without sound, and odd
    sides lose a row or column; images become .png."""
    spec: str | None = None
    """One corruption for every clip: a kind, a severity from 0 (nothing) to 1, and values of its own where wanted, such as
    "fog 0.5", "heavy_rain 0.6 wind=4" or, one after the other, "heavy_rain 0.6 + night 0.3". `squall corrupt --list` shows
    all kinds."""
    kinds: tuple[str, ...] = ()
    """A sweep: every clip under each of these kinds, such as [fog, night + light_rain], at each of `severities`. `standard` is
    what training draws from, `all` every kind, module:function one of your own."""
    severities: tuple[float, ...] = (0.2, 0.5, 0.8)
    """Severities of a sweep."""
    mixture: dict[str, float] | tuple[str, ...] = ()
    """One draw for each clip: kinds with probabilities, such as {fog: 0.3, night: 0.2}, of which what is missing to 1 stays
    clean; or kinds that are equally likely, such as [fog, night]."""
    severity: tuple[float, float] = (0.4, 0.9)
    """Range from which a mixture draws severities."""
    seed: int = Field(0, ge=0)
    """Each clip's corruption follows from this and from its id or path, whatever the number of workers."""
    media_root: Path | None = None
    """Folder that relative paths of a manifest start from; by default the manifest's own."""
    frames: FrameSampling | None = None
    """Write the few small frames that a model sees, such as frames.max_frames=16; by default every frame at its own size."""
    crf: int = Field(18, ge=0, le=51)
    """Quality of the H.264 files: 0 is lossless but for colour, 18 looks it, 51 is worst."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"] = "medium"
    """Speed of the encoder; slower ones make smaller files."""
    workers: int | None = Field(None, ge=1)
    """Clips that are worked on at the same time; by default as many as the cluster has CPUs for."""
    threads_per_clip: int = Field(1, ge=1)
    """CPUs of each clip. More make one long film faster; the encoded bytes depend on it, the pixels before encoding do not."""
    held_mib: int = Field(1024, ge=16)
    """Frames of one clip that are held at a time, in MiB, where a corruption needs many at once: compression needs all and
    refuses longer clips, shuffle reads the clip again for every such part. The process takes about three times as much."""
    resume: bool = False
    """Go on where a run into the same folder stopped: what is finished and whole stays."""
    preview: bool = False
    """Also write OUT/preview.png, a contact sheet, and OUT/gallery.html, where short excerpts play, clean and corrupted side by
    side. Without spec, kinds or mixture: these two alone, for the standard kinds."""
    preview_only: bool = False
    """Write the preview without the files."""
    preview_clips: int = Field(3, ge=1)
    """Clips in the preview, taken evenly from all."""
    list: bool = False
    """Print every kind with its parameters, and stop."""
    check: str | None = None
    """Try a kind of your own, module:function, or a known one: what it gets right, what is wrong and what to do; then stop."""
    ray_address: str | None = None
    """Cluster to join, which must see the same files; by default RAY_ADDRESS, else a local one on the loopback interface."""

    @field_validator("kinds", "mixture", mode="before")
    @classmethod
    def _as_texts(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("severities", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _consistent(self) -> CorruptConfig:
        if self.list or self.check is not None:
            return self
        if self.source is None or self.output is None:
            raise ValueError("SRC and OUT are missing: squall corrupt SRC OUT spec=\"fog 0.5\" (see --help and --list)")
        ways = [key for key in ("spec", "kinds", "mixture") if getattr(self, key)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are given; give one of spec, kinds, mixture")
        if not ways and not (self.preview or self.preview_only):
            raise ValueError('how to corrupt is missing: give spec="fog 0.5", kinds=standard or mixture="{fog: 0.3}"; '
                             "or --preview to see what there is")
        if not self.severities or not all(0 <= value <= 1 for value in self.severities):
            raise ValueError(f"severities = {list(self.severities)}: expected one or more numbers from 0 to 1")
        if len(set(self.severities)) < len(self.severities):
            raise ValueError(f"severities = {list(self.severities)}: one is there twice")
        return self

    @property
    def preview_alone(self) -> bool:
        """Whether no files but the preview are to be written."""
        return self.preview_only or not (self.spec or self.kinds or self.mixture)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which every clip is corrupted."""

    folder: str
    """Below OUT; empty unless it is a sweep."""
    text: str
    """Kind or spec as it was given; empty for a mixture."""
    severity: float | None
    mixture: Mixture | None = None

    def spec(self, clip_id: str, seed: int) -> CorruptionSpec | None:
        """The corruption of one clip, or None where a mixture leaves it clean.

        It is what its own text says, to the last digit, so that the manifest's line renders the same pixels again. Severities
        of a sweep share their seeds: the same rain, only more of it.
        """
        if self.mixture is not None:
            spec = self.mixture.draw(derive_seed(seed, clip_id))
        else:
            spec = parse_spec(self.text, severity=self.severity, seed=derive_seed(seed, clip_id, self.text))
        return None if spec is None else parse_spec(str(spec))


@dataclass(frozen=True, slots=True)
class Work:
    """All there is to do."""

    output: Path
    """The folder, or the one file."""
    one_file: bool
    clips: tuple[Clip, ...]
    variants: tuple[Variant, ...]
    rejected: tuple[Rejection, ...]
    """Records and files that cannot be used."""
    tasks: tuple[FileTask, ...]
    """For each variant each clip, in this order."""

    def of(self, number: int) -> tuple[Variant, Clip]:
        """What a task is about."""
        return self.variants[number // len(self.clips)], self.clips[number % len(self.clips)]


def plan_work(config: CorruptConfig) -> Work:
    """Find the clips, read and try the specs, and name the files. Raises ConfigError or DataError."""
    import_path = os.getcwd()
    if import_path not in sys.path:  # a console script does not look for user kinds in its own folder
        sys.path.insert(0, import_path)
    variants = tuple(find_variants(config))
    output = Path(os.path.abspath(config.output))
    clips, rejected = find_clips(config.source, output, config.media_root)
    if not clips:
        more = f": {rejected[0].message}" if rejected else ""
        raise DataError(f"{config.source}: nothing in it can be corrupted{more}", reason="no_clips")
    one_file = _is_one_file(config, output, clips)
    tasks = []
    for variant in variants:
        for clip in clips:
            file = output if one_file else output / variant.folder / clip.relative
            spec = variant.spec(clip.id, config.seed)
            tasks.append(FileTask(
                len(tasks), clip.id, str(clip.source), clip.media_type.value, str(file), None if spec is None else str(spec),
                config.frames.model_dump() if config.frames else None, config.crf, config.preset, config.threads_per_clip,
                config.held_mib, import_path))
    return Work(output, one_file, tuple(clips), variants, tuple(rejected), tuple(tasks))


def find_variants(config: CorruptConfig) -> Iterator[Variant]:
    """The ways to corrupt, each tried on a small clip. Raises ConfigError, or DataError where a user's kind fails."""
    if config.mixture:
        mixture = Mixture.of(config.mixture, config.severity)
        for text, _ in mixture.entries:
            for severity in config.severity:
                _try(parse_spec(text, severity=severity, seed=config.seed))
        yield Variant("", "", None, mixture)
    elif config.spec is not None:
        _try(parse_spec(config.spec, seed=config.seed))
        yield Variant("", config.spec, None)
    else:
        seen = set()
        for kind in expand_kinds(config.kinds or ("standard",)):
            for severity in config.severities:
                spec = parse_spec(kind, severity=severity, seed=config.seed)
                if str(spec) not in seen:  # a text may say all severities itself
                    _try(spec)
                    yield Variant(f"{slug(kind)}/{severity:g}", kind, severity)
                seen.add(str(spec))


def make_record(work: Work, outcome: FileOutcome) -> dict[str, Any]:
    """The line of the new manifest: the source's record with the new path, then what was done and what came of it.

    Fields of the source's record that have the name of a new one are kept under ``before``.
    """
    task, (variant, clip) = work.tasks[outcome.number], work.of(outcome.number)
    record = dict(clip.record)
    name = next((key for key in ("id", "problem_id") if record.get(key) not in (None, "")), "id")
    record[name] = clip.id
    facts = {key: outcome.facts[key] for key in ("sha256", "content_hash", "fps", "frames", "width", "height")}
    spec = None if task.spec is None else parse_spec(task.spec)
    new = {"corruption": task.spec, "corruption_spec": None if spec is None else asdict(spec),
           "source": task.source, "source_sha256": outcome.facts["source_sha256"], **facts}
    if variant.folder:
        new["source_id"] = clip.id
        record[name] = f"{clip.id} {variant.folder}"
    if before := {key: record[key] for key in new if key in record}:
        new["before"] = before
    record["path"] = f"./{os.path.relpath(task.output, work.output)}"
    return _as_json(record | new)


def command_line() -> str:
    """What was typed."""
    return shlex.join(["squall", *sys.argv[1:]])


def _try(spec: CorruptionSpec) -> None:
    """Render a small clip, so that a kind that cannot run says so now."""
    frames = max([TRIAL_FRAMES, *(member.span[1] for member in (spec, *spec.then) if member.span)])
    if frames <= MAX_TRIAL_FRAMES:
        render(np.full((frames, *TRIAL_SHAPE), 128, np.uint8), spec)


def _is_one_file(config: CorruptConfig, output: Path, clips: Sequence[Clip]) -> bool:
    suffix = output.suffix.lower()
    if suffix not in VIDEO_SUFFIXES | IMAGE_SUFFIXES or output.is_dir():
        return False
    wanted = Path(clips[0].relative).suffix
    if suffix != wanted:
        raise ConfigError(f"{config.output}: what is written is {wanted}; name it {output.stem}{wanted}, or a folder")
    if not config.source.is_file() or config.source.suffix.lower() in MANIFEST_SUFFIXES:
        raise ConfigError(f"{config.output}: OUT is a folder where SRC ({config.source}) is one or a manifest; give a name "
                          f"without {suffix}")
    if config.preview or config.preview_only or not (config.spec or config.mixture):
        raise ConfigError(f"{config.output}: a preview or a sweep writes several files, so OUT is a folder; give a name "
                          f"without {suffix}")
    if output.exists():
        raise ConfigError(f"{config.output}: exists already; choose another name or delete it")
    return True


def _as_json(record: Mapping[str, Any]) -> dict[str, Any]:
    """What Parquet has and JSON has not, such as dates, as text."""
    return json.loads(to_json(record))
