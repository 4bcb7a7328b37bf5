"""What `squall bench build` leaves behind: a manifest for each condition, the card and its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import squall
from squall.actors.file_corruption import FileOutcome
from squall.algorithms.corruption import CALIBRATION
from squall.jobs.bench_plan import BenchBuildConfig, BenchWork, Condition
from squall.jobs.corrupt_output import OutputFolder
from squall.jobs.corrupt_plan import command_line, file_facts, renew
from squall.platform.bench_card import CARD_FILE, README_FILE, BenchCard, BenchCondition, LostQuestion, render_readme
from squall.platform.errors import DataError
from squall.platform.manifest import write_manifest
from squall.platform.runs import read_lines, to_json, write_text
from squall.platform.streaming import hash_file

NO_LICENCE = "not stated; what the source's licence asks for holds for these copies too"


def finish_bench(bench: BenchWork, config: BenchBuildConfig, folder: OutputFolder, done: Mapping[int, FileOutcome],
                 failed: Mapping[int, tuple[str, str]]) -> BenchCard:
    """Write manifests, page and card, for the clips that were made in every condition; files of others are deleted.

    Raises:
        DataError: there is no such clip.
    """
    work = bench.work
    whole = {place for place in range(len(work.clips)) if all(number in done for number in numbers_of(bench, place))}
    lost = tuple(lost_questions(bench, whole, failed))
    if not whole:
        raise DataError(f"{work.output}: no clip could be made in every condition: {lost[0].message}", reason="no_clips")
    delete_others(folder, {Path(work.tasks[number].output) for place in whole for number in numbers_of(bench, place)})
    conditions = []
    for position, condition in enumerate(work.variants):
        assert isinstance(condition, Condition)
        manifest = f"{condition.folder}.jsonl"
        write_manifest(folder.path / manifest, records_of(bench, position, whole, done))
        kinds = Counter(condition.kind_of(work.clips[place].id, config.seed) for place in whole if condition.kinds)
        conditions.append(BenchCondition(name=condition.folder, manifest=manifest, kinds=dict(sorted(kinds.items()))))
    return write_card(bench, config, folder, len(whole), tuple(conditions), lost)


def numbers_of(bench: BenchWork, place: int) -> range:
    """The tasks of a clip, one for each condition."""
    return range(place, len(bench.work.tasks), len(bench.work.clips))


def lost_questions(bench: BenchWork, whole: Collection[int], failed: Mapping[int, tuple[str, str]]) -> Iterator[LostQuestion]:
    """Records that cannot be used, then questions whose clip failed somewhere, with the first reason."""
    for rejection in bench.work.rejected:
        yield LostQuestion(sample_id=rejection.sample_id, reason=rejection.reason, message=rejection.message)
    for question in bench.questions:
        if question.clip not in whole:
            numbers = [number for number in numbers_of(bench, question.clip) if number in failed]
            reason, message = failed[numbers[0]]
            names = tuple(bench.work.of(number)[0].folder for number in numbers)
            yield LostQuestion(sample_id=question.id, reason=reason, message=message, conditions=names)


def delete_others(folder: OutputFolder, kept: Collection[Path]) -> None:
    """Delete files of this and of earlier runs into the folder that are in no manifest."""
    for row in read_lines(folder.finished):
        file = folder.path / row["output"]
        if file not in kept and ".." not in file.parts and file.is_relative_to(folder.path):
            file.unlink(missing_ok=True)


def records_of(bench: BenchWork, position: int, whole: Collection[int],
               done: Mapping[int, FileOutcome]) -> Iterator[dict[str, Any]]:
    """The lines of a condition's manifest, in the order of the source."""
    work = bench.work
    for question in bench.questions:
        if question.clip not in whole:
            continue
        number = position * len(work.clips) + question.clip
        task, source = work.tasks[number], Path(work.tasks[number].source)
        shown = source.relative_to(bench.root).as_posix() if source.is_relative_to(bench.root) else task.source
        new = {"condition": work.variants[position].folder} | file_facts(task, done[number]) | {"source": shown}
        record, path = {**question.record, "id": question.id}, Path(task.output).relative_to(work.output)
        yield renew(record, question.id, path.as_posix(), new)


def write_card(bench: BenchWork, config: BenchBuildConfig, folder: OutputFolder, clips: int,
               conditions: tuple[BenchCondition, ...], lost: tuple[LostQuestion, ...]) -> BenchCard:
    """Write the page, then the card with the hashes of all the rest."""
    encoding = config.model_dump(mode="json", include={"frames", "crf", "preset", "threads_per_clip"})
    card = BenchCard(
        name=folder.path.name, command=command_line(), squall=squall.__version__, calibration=CALIBRATION, seed=config.seed,
        severity=config.severity_range, kinds=config.kinds, per_family=config.per_family,
        source_manifest=str(config.manifest), source_sha256=hash_file(config.manifest), media_root=str(bench.root),
        licence=config.licence or NO_LICENCE, encoding=encoding, questions=len(bench.questions) + len(bench.work.rejected)
        - len(lost), clips=clips, conditions=conditions, lost=lost)
    write_text(folder.path / README_FILE, render_readme(card))
    files = [README_FILE, *(condition.manifest for condition in conditions)]
    card = card.model_copy(update={"files": {name: hash_file(folder.path / name) for name in files}})
    write_text(folder.path / CARD_FILE, to_json(card.model_dump(mode="json"), indent=2) + "\n")
    return card
