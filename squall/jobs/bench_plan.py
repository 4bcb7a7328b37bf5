"""What `squall bench build` is told and what follows from it: which clips, under which conditions, for which questions."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from squall.algorithms.corruption import CorruptionSpec, parse_spec
from squall.jobs.corrupt_config import WritingConfig
from squall.jobs.corrupt_plan import Variant, Work, find_user_kinds, make_task, try_spec
from squall.jobs.corrupt_sources import Clip, own_name
from squall.platform.bench_card import CLEAN
from squall.platform.config import Config
from squall.platform.manifest import Manifest, load_manifest, read_records
from squall.platform.records import MediaType
from squall.platform.seeds import derive_seed

PVR_KINDS = {
    "lighting": ("dusk", "night", "overexposure", "shadow"),
    "occlusion": ("blocks_static", "blocks_dynamic"),
    "camera": ("translation", "zoom", "rotation"),
    "weather": ("fog", "heavy_rain", "snow"),
}
"""The four families and twelve kinds of ROVA (arXiv 2603.10652)."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class BenchKeys(Config):
    """What a benchmark is."""

    manifest: Path
    """Questions about videos and images (docs/data.md)."""
    output: Path
    """A new folder."""
    kinds: dict[str, tuple[str, ...]] = PVR_KINDS
    """Families, and the kinds that each clip's corruption is drawn from; a family's name is that of its condition. Give all
    that are wanted: kinds="{weather: [fog, snow], lens: [lens_drops 0.5, motion_blur]}"."""
    severity: float | tuple[float, float] = 0.7
    """Of kinds that name none: one for all, or a range that each clip's is drawn from."""
    per_family: int = Field(1, ge=1)
    """Different corruptions of each family for a clip; with several, conditions are called weather-1, weather-2, ..."""
    seed: int = Field(0, ge=0)
    """A clip's corruptions follow from this and from its path below the media's folder."""
    media_root: Path | None = None
    """Folder that the manifest's relative paths start from; by default its own."""
    licence: str | None = None
    """A note for the card: under which licence the source may be copied, and whom to name."""

    @field_validator("kinds")
    @classmethod
    def _named(cls, kinds: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if not kinds:
            raise ValueError("no families; give one or more, such as {weather: [fog, snow]}")
        for family, names in kinds.items():
            if not _NAME.fullmatch(family) or family == CLEAN:
                raise ValueError(f"family '{family}': a name of small letters, digits, - and _, and not '{CLEAN}'")
            if not names or len(set(names)) < len(names):
                raise ValueError(f"family '{family}': one or more kinds, each once")
        return kinds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.severity_range
        if not 0 < low <= high <= 1:
            raise ValueError(f"severity = {self.severity}: expected numbers above 0 and up to 1, the lower first")
        for family, names in self.kinds.items():
            if len(names) < self.per_family:
                raise ValueError(f"per_family = {self.per_family}: family '{family}' has {len(names)} kinds to draw different "
                                 "ones from; give it more, or lower per_family")
        return self

    @property
    def severity_range(self) -> tuple[float, float]:
        return self.severity if isinstance(self.severity, tuple) else (self.severity, self.severity)


class BenchBuildConfig(WritingConfig, BenchKeys):  # fields of the last base come first in --help
    """Build a benchmark: every clip clean, and under one corruption of each family."""

    command: ClassVar[str] = "squall bench build"


@dataclass(frozen=True, slots=True)
class Condition(Variant):
    """Clips under one corruption of a family each; without kinds, the clean ones."""

    kinds: tuple[str, ...] = ()
    place: int = 0
    """Which of a clip's different draws from the family it takes."""
    severities: tuple[float, float] = (0.0, 0.0)

    def spec(self, clip_id: str, seed: int) -> CorruptionSpec | None:
        if not self.kinds:
            return None
        kind = self.kind_of(clip_id, seed)
        own = derive_seed(seed, clip_id, self.text, kind)
        severity = round(float(_generator(own).uniform(*self.severities)), 3)
        return parse_spec(str(parse_spec(kind, severity=severity, seed=own)))

    def kind_of(self, clip_id: str, seed: int) -> str:
        """The kind that a clip drew, as its text was given."""
        order = _generator(derive_seed(seed, clip_id, self.text)).permutation(len(self.kinds))
        return self.kinds[order[self.place]]


@dataclass(frozen=True, slots=True)
class BenchQuestion:
    """A record of the source."""

    id: str
    record: Mapping[str, Any]
    clip: int
    """Position of its clip; questions may share one."""


@dataclass(frozen=True, slots=True)
class BenchWork:
    """All there is to do."""

    work: Work
    questions: tuple[BenchQuestion, ...]
    root: Path
    """Folder that paths of the sources start from."""


def plan_bench(config: BenchBuildConfig) -> BenchWork:
    """Read the manifest, try the kinds, and name the files. Raises ConfigError or DataError."""
    find_user_kinds()
    conditions = tuple(find_conditions(config))
    output = Path(os.path.abspath(config.output))
    root = Path(os.path.abspath(config.media_root or config.manifest.parent))
    manifest = load_manifest(config.manifest, media_root=root, on_error="collect")
    clips, questions = find_questions(manifest, root)
    tasks = [make_task(number, clip, output / condition.folder / clip.relative, condition.spec(clip.id, config.seed), config,
                       decode_back=True)
             for number, (condition, clip) in enumerate(product(conditions, clips))]
    return BenchWork(Work(output, False, tuple(clips), conditions, manifest.rejected, tuple(tasks)), tuple(questions), root)


def find_conditions(config: BenchBuildConfig) -> Iterator[Condition]:
    """Clean, then every family; each kind is tried on a small clip. Raises ConfigError, or DataError where one fails."""
    yield Condition(CLEAN, "", None)
    for family, kinds in config.kinds.items():
        for kind, severity in product(kinds, config.severity_range):
            try_spec(parse_spec(kind, severity=severity, seed=config.seed))
        for place in range(config.per_family):
            name = family if config.per_family == 1 else f"{family}-{place + 1}"
            yield Condition(name, family, None, None, kinds, place, config.severity_range)


def find_questions(manifest: Manifest, root: Path) -> tuple[list[Clip], list[BenchQuestion]]:
    """Every media file once, called by its path below `root`, and the questions about it."""
    records = dict(read_records(manifest.path))
    clips: dict[tuple[str, MediaType], Clip] = {}
    places: dict[tuple[str, MediaType], int] = {}
    questions, taken = [], Counter()
    for line, sample in zip(manifest.lines, manifest.samples, strict=True):
        key = sample.media, sample.media_type
        if key not in clips:
            media = Path(sample.media)
            relative = (media.relative_to(root) if media.is_relative_to(root) else Path(media.name)).as_posix()
            name = own_name(relative, sample.media_type, sample.id, taken)
            clips[key] = Clip(relative, media, sample.media_type, name, {})
            places[key] = len(places)
        questions.append(BenchQuestion(sample.id, records[line], places[key]))
    return list(clips.values()), questions


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
