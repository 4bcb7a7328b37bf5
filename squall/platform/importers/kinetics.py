"""Kinetics (Kay et al. 2017, Carreira et al. 2019): the authors' CSV lists, lists of paths and labels, or class folders.

- A list with the header ``label,youtube_id,time_start,time_end,split`` (DeepMind, CVDF) means clips ``ID_START_END.mp4``, in
  seconds with six digits, in ``SPLIT/``, ``SPLIT/CLASS/``, ``videos_SPLIT/CLASS/`` and the like.
- Any other list has ``PATH LABEL`` on a line, a blank or a comma between (SlowFast, mmaction2, VideoMAE). LABEL is a name, or
  an index into the classes.
- Without a list these are the files in ``SPLIT/CLASS/``, or in ``CLASS/`` where no split is asked for.

Without a file of classes these are the names that the list or the folders have, sorted, which is the authors' order.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from squall.platform.errors import DataError
from squall.platform.importers.classes import PROBLEM
from squall.platform.importers.common import Importer, Question, Request, Row, find_media, reject, within
from squall.platform.importers.lists import lines_of, split_list
from squall.platform.importers.questions import classification
from squall.platform.runs import read_json
from squall.platform.video import VIDEO_SUFFIXES

NAMES = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}
"""What the splits are called in the names of lists and folders."""
FOLDERS = ("{}", "videos_{}", "kinetics_400_{}", "videos/{}", "compress/{}_256")
LISTS = ("{}.csv", "kinetics*_{}.csv", "kinetics*_{}_list*.txt", "{}_list*.txt", "{}.txt")


def rows(request: Request) -> Iterator[Row]:
    """The entries of a list, or the files of the class folders."""
    file = _list(request)
    entries = list(_of_folders(request) if file is None else _of_csv(file) if _is_csv(file) else _of_paths(file))
    classes = _classes(request, entries)
    return (Row(row.where, row.id, row.data | {"classes": classes}) if isinstance(row.data, dict) else row for row in entries)


def question(row: Row, request: Request) -> Question:
    classes = row.data["classes"]
    label = _label(row, row.data["label"], classes)
    roots = ["", *_folders(request), "videos"]
    below = [f"/{label}", f"/{label.replace(' ', '_')}", ""] if row.data["is_name"] else [""]
    folders = [f"{root}{folder}".lstrip("/") for folder in below for root in roots]
    return Question(classification(row, PROBLEM, label, classes), find_media(row, request.source, folders, row.data["clip"]))


def _label(row: Row, label: str, classes: Sequence[str]) -> str:
    """The class that an index or the name of a folder means: folders often have underscores for blanks."""
    if label in classes or not label.isdecimal():
        return label if label in classes else next((name for name in classes if name.replace(" ", "_") == label), label)
    if int(label) >= len(classes):
        reject(row, "unknown_class", f"label {label}: there are {len(classes)} classes, from 0 to {len(classes) - 1}")
    return classes[int(label)]


def _folders(request: Request) -> list[str]:
    return [folder.format(name) for name in NAMES.get(request.split or "", ()) for folder in FOLDERS]


def _list(request: Request) -> Path | None:
    if request.split is None and request.list_file is None:
        return None
    patterns = [pattern.format(name) for name in NAMES.get(request.split or "", ()) for pattern in LISTS]
    try:
        return split_list(request, ("", "annotations"), patterns)
    except DataError as error:
        if error.reason == "missing_list" and any((request.source / folder).is_dir() for folder in _folders(request)):
            return None
        raise


def _is_csv(file: Path) -> bool:
    _, header = next(lines_of(file), (0, ""))
    return "youtube_id" in header.split(",")


def _of_csv(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        table = csv.DictReader(stream)
        if "label" not in (table.fieldnames or ()):
            raise DataError(f"{file}: no column 'label': the authors' list of test clips has no answers", reason="no_labels")
        for entry in table:
            where, label = f"{file}:{table.line_num}", (entry["label"] or "").strip()
            try:
                name = f"{entry['youtube_id']}_{int(entry['time_start']):06d}_{int(entry['time_end']):06d}"
                yield Row(where, name, {"clip": f"{name}.mp4", "label": label, "is_name": True})
            except (KeyError, TypeError, ValueError):
                problem = DataError("needs youtube_id, time_start and time_end, the times in whole seconds", reason="bad_field")
                yield Row(where, f"{file.stem}:{table.line_num}", problem)


def _of_paths(file: Path) -> Iterator[Row]:
    for line, text in lines_of(file):
        path, _, label = (part.strip() for part in text.rpartition("," if "," in text else " "))
        problem = None if path else DataError(f"{text!r} is not a path and a label", reason="bad_field")
        yield Row(f"{file}:{line}", path or f"{file.stem}:{line}", problem or {"clip": path, "label": label, "is_name": False})


def _of_folders(request: Request) -> Iterator[Row]:
    roots = [path for folder in _folders(request) or [""] if (path := within(request.source, folder)).is_dir()]
    folders = sorted(path for path in roots[0].iterdir() if path.is_dir() and not path.name.startswith("."))
    if request.split is None and {folder.name for folder in folders} & {name for names in NAMES.values() for name in names}:
        raise DataError(f"{request.source}: it holds splits; say which one: split={' or '.join(NAMES)}", reason="missing_list")
    for folder in folders:
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith("."):
                clip = file.relative_to(request.source).as_posix()
                yield Row(str(file), clip, {"clip": clip, "label": folder.name, "is_name": False})


def _classes(request: Request, entries: Sequence[Row]) -> tuple[str, ...]:
    if request.classes is not None:
        return _read_classes(request.classes)
    names = sorted({row.data["label"] for row in entries if isinstance(row.data, dict)})
    if names and all(name.isdecimal() for name in names):
        raise DataError(f"{entries[0].where}: labels are indices; name the file of classes: classes=FILE", reason="bad_classes")
    return tuple(names)


def _read_classes(file: Path) -> tuple[str, ...]:
    """Names a line, a CSV file with a column ``name``, or JSON: a list, or an object from names to their index."""
    if not file.is_file():
        raise DataError(f"{file}: no such file of classes", reason="missing_list")
    if file.suffix == ".json":
        names = read_json(file)
        ordered = sorted(names, key=names.__getitem__) if isinstance(names, dict) else names
        return tuple(str(name).strip('"') for name in ordered)
    lines = [text for _, text in lines_of(file)]
    if file.suffix == ".csv" and "name" in lines[0].split(","):
        return tuple(entry["name"] for entry in csv.DictReader(lines))
    return tuple(lines)


KINETICS = Importer("kinetics", rows, question, tuple(NAMES), None, ("classes", "list_file"))
