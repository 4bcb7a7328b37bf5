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
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from squall.actors.file_corruption import FileOutcome, FileTask
from squall.algorithms.corruption import CorruptionSpec, Mixture, expand_kinds, parse_spec, render
from squall.jobs.corrupt_config import CorruptConfig, WritingConfig
from squall.jobs.corrupt_sources import IMAGE_SUFFIXES, MANIFEST_SUFFIXES, Clip, find_clips, slug
from squall.platform.errors import ConfigError, DataError
from squall.platform.manifest import Rejection
from squall.platform.runs import to_json
from squall.platform.seeds import derive_seed
from squall.platform.video import VIDEO_SUFFIXES

FACTS = ("sha256", "content_hash", "decoded_hash", "fps", "frames", "width", "height")
"""Of a file, in its manifest."""
TRIAL_SHAPE = (48, 64, 3)
TRIAL_FRAMES, MAX_TRIAL_FRAMES = 4, 1000
"""Every spec is tried on a few small frames before anything starts; on more where its span begins later."""


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
    find_user_kinds()
    variants = tuple(find_variants(config))
    output = Path(os.path.abspath(config.output))
    clips, rejected = find_clips(config.source, output, config.media_root)
    if not clips:
        more = f": {rejected[0].message}" if rejected else ""
        raise DataError(f"{config.source}: nothing in it can be corrupted{more}", reason="no_clips")
    one_file = _is_one_file(config, output, clips)
    tasks = [make_task(number, clip, output if one_file else output / variant.folder / clip.relative,
                       variant.spec(clip.id, config.seed), config)
             for number, (variant, clip) in enumerate(product(variants, clips))]
    return Work(output, one_file, tuple(clips), variants, tuple(rejected), tuple(tasks))


def find_user_kinds() -> None:
    """Let kinds be imported from the folder that the command was started in: a console script does not look there."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def make_task(number: int, clip: Clip, file: Path, spec: CorruptionSpec | None, config: WritingConfig, *,
              decode_back: bool = False) -> FileTask:
    """One clip under one corruption, or clean, into one file."""
    return FileTask(
        number, clip.id, str(clip.source), clip.media_type.value, str(file), None if spec is None else str(spec),
        config.frames.model_dump() if config.frames else None, config.crf, config.preset, config.threads_per_clip,
        config.held_mib, os.getcwd(), decode_back)


def find_variants(config: CorruptConfig) -> Iterator[Variant]:
    """The ways to corrupt, each tried on a small clip. Raises ConfigError, or DataError where a user's kind fails."""
    if config.mixture:
        mixture = Mixture.of(config.mixture, config.severity)
        for text, _ in mixture.entries:
            for severity in config.severity:
                try_spec(parse_spec(text, severity=severity, seed=config.seed))
        yield Variant("", "", None, mixture)
    elif config.spec is not None:
        try_spec(parse_spec(config.spec, seed=config.seed))
        yield Variant("", config.spec, None)
    else:
        seen = set()
        for kind in expand_kinds(config.kinds or ("standard",)):
            for severity in config.severities:
                spec = parse_spec(kind, severity=severity, seed=config.seed)
                if str(spec) not in seen:  # a text may say all severities itself
                    try_spec(spec)
                    yield Variant(f"{slug(kind)}/{severity:g}", kind, severity)
                seen.add(str(spec))


def make_record(work: Work, outcome: FileOutcome) -> dict[str, Any]:
    """The line of the new manifest: the source's record with the new path, then what was done and what came of it."""
    task, (variant, clip) = work.tasks[outcome.number], work.of(outcome.number)
    new, sample_id = file_facts(task, outcome), clip.id
    if variant.folder:
        new["source_id"] = clip.id
        sample_id = f"{clip.id} {variant.folder}"
    return renew(clip.record, sample_id, os.path.relpath(task.output, work.output), new)


def file_facts(task: FileTask, outcome: FileOutcome) -> dict[str, Any]:
    """What is known of a file that was made: its corruption, its source, its hashes and its size."""
    spec = None if task.spec is None else parse_spec(task.spec)
    facts = {key: outcome.facts[key] for key in FACTS if key in outcome.facts}
    return {"corruption": task.spec, "corruption_spec": None if spec is None else asdict(spec), "source": task.source,
            "source_sha256": outcome.facts["source_sha256"], **facts}


def renew(record: Mapping[str, Any], sample_id: str, path: str, new: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's record about a new file; fields that have the name of a new one are kept under ``before``."""
    renewed = dict(record)
    name = next((key for key in ("id", "problem_id") if record.get(key) not in (None, "")), "id")
    renewed |= {name: sample_id, "path": f"./{path}"} | new
    if before := {key: record[key] for key in new if key in record}:
        renewed["before"] = before
    return _as_json(renewed)


def command_line() -> str:
    """What was typed, but for going on."""
    return shlex.join(["squall", *(word for word in sys.argv[1:] if word not in ("--resume", "resume=true"))])


def try_spec(spec: CorruptionSpec) -> None:
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
