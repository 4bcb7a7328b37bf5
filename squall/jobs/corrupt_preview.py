"""The preview of `squall corrupt`: a contact sheet and a page, from short excerpts of a few clips."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from squall.actors.excerpts import SECONDS, SIDE, Excerpt, ExcerptTask, make_excerpts
from squall.algorithms.corruption import parse_spec
from squall.jobs.console import counted, say
from squall.jobs.corrupt_config import CorruptConfig
from squall.jobs.corrupt_plan import Variant, Work
from squall.jobs.corrupt_sources import Clip
from squall.platform.errors import DataError
from squall.platform.report.contact_sheet import SheetRow, write_contact_sheet
from squall.platform.report.gallery import GalleryClip, GalleryItem, write_gallery
from squall.platform.work_progress import WorkProgress

CLEAN = -1
"""In place of a variant's position."""
Shots = Mapping[tuple[int, int], Excerpt]
"""By position of the clip and of the variant, or `CLEAN`."""


def write_preview(work: Work, config: CorruptConfig, workers: int, command: str, console: Console) -> None:
    """Write OUT/preview.png and OUT/gallery.html. Raises DataError when no clip can be shown."""
    clips = choose_clips(work, config.preview_clips)
    shots, problems = shoot(work, config, clips, workers, console)
    whole = [place for place in range(len(clips)) if (place, CLEAN) in shots]
    for problem in problems:
        say(console, f"not shown: {problem}")
    if not whole or len(shots) == len(whole):
        raise DataError(f"{work.output}: no preview could be made: {problems[0] if problems else 'no clip was corrupted'}",
                        reason="no_clips")
    title = f"{counted(len(whole), 'clip')}, {counted(len(work.variants), 'corruption')}"
    sheet = write_sheet(work, config, clips, shots, title)
    page = write_page(work, config, clips, shots, title, command)
    for file in (sheet, page):
        say(console, f"preview: {file}")


def choose_clips(work: Work, count: int) -> list[int]:
    """Positions of the clips shown: spread evenly over those that could be made, where files were written."""
    written = [place for place, clip in enumerate(work.clips)
               if work.variants and (not _written(work) or (work.output / work.variants[0].folder / clip.relative).is_file())]
    count = min(count, len(written))
    return [written[(2 * i + 1) * len(written) // (2 * count)] for i in range(count)]


def shoot(work: Work, config: CorruptConfig, clips: Sequence[int], workers: int,
          console: Console) -> tuple[dict[tuple[int, int], Excerpt], list[str]]:
    """Make the excerpts, a task for each clip and kind; and say what could not be shown."""
    tasks, places = [], []
    written = _written(work)
    for place, number in enumerate(clips):
        clip = work.clips[number]
        kinds = groupby(range(len(work.variants)), lambda i: work.variants[i].text)
        groups = [[CLEAN], *(list(group) for _, group in kinds)]
        for group in groups:
            variants = [None if index == CLEAN else work.variants[index] for index in group]
            specs = tuple(None if variant is None else _text(variant, clip, config.seed) for variant in variants)
            outputs = tuple(None if variant is None or not written else str(work.output / variant.folder / clip.relative)
                            for variant in variants)
            tasks.append(ExcerptTask(len(tasks), clip.id, str(clip.source), clip.media_type.value, specs, outputs, os.getcwd()))
            places.append([(place, index) for index in group])
    shots, problems = {}, []
    with WorkProgress("excerpts", len(tasks), len(tasks), console=console) as progress:
        for number, result in make_excerpts(tasks, workers):
            if isinstance(result, str):
                problems.append(result)
            else:
                shots |= dict(zip(places[number], result, strict=True))
            progress.advance(number, 1)
    return shots, list(dict.fromkeys(problems))


def write_sheet(work: Work, config: CorruptConfig, clips: Sequence[int], shots: Shots, title: str) -> Path:
    """A row for each kind and a column for each severity; for a single corruption a row for each clip."""
    path = work.output / "preview.png"
    stills = {place: shot.still for place, shot in shots.items()}
    if len(work.variants) == 1:
        rows = []
        for place, number in enumerate(clips):
            text = _text(work.variants[0], work.clips[number], config.seed)
            pair = (stills.get((place, CLEAN)), stills.get((place, 0)))
            rows.append(SheetRow(work.clips[number].relative, (pair,), text or "clean"))
        return write_contact_sheet(path, title, [""], ["clean", "corrupted"], rows)
    severities = list(dict.fromkeys(variant.severity for variant in work.variants))
    rows = []
    for text, group in groupby(range(len(work.variants)), lambda i: work.variants[i].text):
        by_severity = {work.variants[index].severity: index for index in group}
        cells = tuple(tuple(stills.get((place, index)) for index in (CLEAN, *(by_severity.get(s) for s in severities)))
                      for place in range(len(clips)))
        rows.append(SheetRow(text.replace("_", " "), cells, parse_spec(text, severity=severities[0], seed=0).family))
    return write_contact_sheet(path, title, [work.clips[number].relative for number in clips],
                               ["clean", *(f"{severity:g}" for severity in severities)], rows)


def write_page(work: Work, config: CorruptConfig, clips: Sequence[int], shots: Shots, title: str, command: str) -> Path:
    """The page with every excerpt."""
    kept = [place for place in range(len(clips)) if (place, CLEAN) in shots]
    shown = [GalleryClip(work.clips[clips[place]].relative, shot.video, shot.still, shot.width, shot.height)
             for place in kept for shot in [shots[place, CLEAN]]]
    items = []
    for index, variant in enumerate(work.variants):
        for position, place in enumerate(kept):
            clip, shot = work.clips[clips[place]], shots.get((place, index))
            text = _text(variant, clip, config.seed)
            if shot is None:
                continue
            spec = None if text is None else parse_spec(text)
            file = Path(variant.folder, clip.relative).as_posix() if _written(work) else None
            items.append(GalleryItem(
                position, variant.text or ("clean" if spec is None else spec.name), "none" if spec is None else spec.family,
                variant.severity if variant.severity is not None else (0.0 if spec is None else spec.severity),
                text or "clean", shot.video, shot.still, quote(file) if file else None))
    facts = {"source": str(config.source), "seed": str(config.seed),
             "excerpts": f"the middle {SECONDS:g} s of each clip, at most {SIDE} pixels wide or high"}
    return write_gallery(work.output / "gallery.html", title, shown, items, facts, command)


def _text(variant: Variant, clip: Clip, seed: int) -> str | None:
    spec = variant.spec(clip.id, seed)
    return None if spec is None else str(spec)


def _written(work: Work) -> bool:
    return (work.output / "manifest.jsonl").is_file()
