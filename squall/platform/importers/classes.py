"""Action recognition: UCF101, HMDB51 and Something-Something as the folders and lists of their authors.

Every clip becomes a question whose options are the names of all classes as they are published, in the order of their index.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from squall.platform.errors import DataError
from squall.platform.importers.common import Importer, Question, Request, Row, find_media, reject, value
from squall.platform.importers.lists import find_list, find_lists, lines_of, records_of, split_list
from squall.platform.importers.questions import classification
from squall.platform.runs import read_json

HMDB51_PARTS = {"0": None, "1": "train", "2": "test"}
PROBLEM = "Which of these actions does the video show?"


def ucf101_rows(request: Request) -> Iterator[Row]:
    """Soomro et al. 2012: ``UCF-101/CLASS/*.avi`` and, in ``ucfTrainTestlist/``, ``classInd.txt`` and lists of three folds."""
    lists = ("ucfTrainTestlist", "annotations", "")
    numbers = _numbered(find_list(request, lists, ["classInd.txt"]))
    classes = tuple(numbers[number] for number in sorted(numbers))
    file = split_list(request, lists, [f"{request.split}list{request.fold:02}.txt"])
    for line, text in lines_of(file):
        path, _, number = text.rpartition(" ")  # lists of test clips have no numbers
        path, number = (path, number) if number.isdecimal() else (text, "")
        label = path.partition("/")[0]
        listed = numbers.get(int(number)) if number else label
        yield Row(f"{file}:{line}", path, {"path": path, "label": label, "listed": listed, "classes": classes})


def ucf101_question(row: Row, request: Request) -> Question:
    data = row.data
    record = classification(row, PROBLEM, data["label"], data["classes"])
    if data["listed"] != data["label"]:
        reject(row, "label_mismatch", f"its folder is {data['label']}, the list gives the number of {data['listed']}")
    return Question(record, find_media(row, request.source, ("UCF-101", "UCF101", "videos", ""), data["path"]))


def hmdb51_rows(request: Request) -> Iterator[Row]:
    """Kuehne et al. 2011: ``CLASS/*.avi`` and, in ``testTrainMulti_7030_splits/``, ``CLASS_test_splitFOLD.txt``.

    A line is a file and 1 for training, 2 for testing, 0 for neither. Classes are in the order of their names.
    """
    ending = f"_test_split{request.fold}.txt"
    files = find_lists(request, ("testTrainMulti_7030_splits", "test_train_splits", "splits", "annotations", ""), f"*{ending}")
    classes = tuple(file.name.removesuffix(ending) for file in files)
    for label, file in zip(classes, files, strict=True):
        for line, text in lines_of(file):
            name, _, part = text.rpartition(" ")
            if part not in HMDB51_PARTS or HMDB51_PARTS[part] == request.split:
                yield Row(f"{file}:{line}", f"{label}/{name.strip()}", {
                    "name": name.strip(), "label": label, "part": part, "classes": classes})


def hmdb51_question(row: Row, request: Request) -> Question:
    data = row.data
    if data["part"] not in HMDB51_PARTS:
        reject(row, "bad_field", f"the line ends in {data['part']!r}; allowed: 0, 1 for training, 2 for testing")
    clip = f"{data['label']}/{data['name']}"
    return Question(classification(row, PROBLEM, data["label"], data["classes"]),
                    find_media(row, request.source, ("", "hmdb51_org", "hmdb51", "videos"), clip))


def something_rows(request: Request) -> Iterator[Row]:
    """Goyal et al. 2017, version 2: ``labels.json`` (name -> index), ``SPLIT.json`` (``id``, ``label``, ``template``,
    ``placeholders``), each with or without ``something-something-v2-`` before it, and clips ``ID.webm``."""
    folders = ("annotations", "labels", "")
    file = find_list(request, folders, _something("labels.json"))
    indices = read_json(file)
    try:
        classes = tuple(sorted(indices, key=lambda name: int(indices[name])))
    except (TypeError, ValueError, IndexError):
        raise DataError(f"{file}: expected an object from class names to their index", reason="bad_classes") from None
    lists = [split_list(request, folders, _something(f"{request.split}.json"))]
    for row in records_of(lists, lambda data, _: str(data.get("id", ""))):
        yield Row(row.where, row.id, row.data | {"classes": classes}) if isinstance(row.data, dict) else row


def something_question(row: Row, request: Request) -> Question:
    """The label is the template without its brackets; what stood for "something" in this clip is kept as ``caption``."""
    label = re.sub(r"[\[\]]", "", value(row, "template"))
    record = classification(row, PROBLEM, label, row.data["classes"], caption=row.data.get("label"))
    clip = f"{value(row, 'id', object)}.webm"
    return Question(record, find_media(row, request.source, ("20bn-something-something-v2", "videos", ""), clip))


def _something(name: str) -> list[str]:
    return [f"something-something-v2-{name}", name]


def _numbered(file: Path) -> dict[int, str]:
    """The class names of ``classInd.txt`` by their number."""
    names = {}
    for line, text in lines_of(file):
        number, _, name = text.partition(" ")
        if not number.isdecimal() or not name.strip():
            raise DataError(f"{file}:{line}: {text!r} is not a number and a class, such as '1 ApplyEyeMakeup'",
                            reason="bad_classes")
        names[int(number)] = name.strip()
    return names


UCF101 = Importer("ucf101", ucf101_rows, ucf101_question, ("train", "test"), "test", ("fold", "list_file"))
HMDB51 = Importer("hmdb51", hmdb51_rows, hmdb51_question, ("train", "test"), "test", ("fold",))
SOMETHING = Importer("somethingsomething", something_rows, something_question, ("train", "validation"), "validation",
                     ("list_file",))
