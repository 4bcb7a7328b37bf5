"""TempCompass (Liu et al. 2024): short clips, asked about in four kinds of task.

Layouts: ``llyx97/TempCompass`` on GitHub (``questions/TASK.json``: clip -> aspect -> list of question and answer) and
``lmms-lab/TempCompass`` on Hugging Face (``TASK/test-*.parquet`` with ``video_id``, ``dim``, ``question``, ``answer``), the
archive of ``videos/`` unpacked. Options stand in the text of the question, a line each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from squall.platform.errors import DataError
from squall.platform.importers.common import Importer, Question, Request, Row, find_media, reject, value
from squall.platform.importers.lists import find_lists, of_parts, records_of
from squall.platform.importers.questions import by_text, choice, open_question
from squall.platform.records import ProblemType
from squall.platform.runs import read_json

CHOICE_TASKS = ("multi-choice", "yes_no", "caption_matching")
TASKS = (*CHOICE_TASKS, "captioning")
_OPTION = re.compile(r"(?:[A-Z]\.|(?:Option|Sentence|Caption) \w+:)\s*(.+)")


def rows(request: Request) -> Iterator[Row]:
    """The entries of one task, or of the three that have options."""
    return of_parts(request, CHOICE_TASKS, lambda task: _of_task(request, task))


def question(row: Row, request: Request) -> Question:
    """Options get letters, whatever they are called in the text. Captions are scored by ROUGE, not by a judge."""
    task, video = row.id.split("/")[0], value(row, "video_id")
    about = {"question_type": value(row, "dim"), "task": task}
    text, answer = value(row, "question"), value(row, "mc_answer" if "mc_answer" in row.data else "answer").strip()
    media = find_media(row, request.source, ("videos", ""), f"{video}.mp4")
    if task == "captioning":
        return Question(open_question(row, text, ProblemType.FREE_FORM, _words(answer), **about), media)
    if task == "yes_no":
        options, problem = ["yes", "no"], text
    else:
        problem, options = _split(row, text)
        answer = _words(answer)
    return Question(choice(row, problem, options, by_text(row, options, answer), **about), media)


def _of_task(request: Request, task: str) -> Iterator[Row]:
    counts: Counter[tuple[str, str]] = Counter()

    def entry_id(data: Mapping[str, Any], _: int) -> str:
        place = str(data.get("video_id")), str(data.get("dim"))
        counts[place] += 1
        return f"{task}/{'/'.join(place)}/{counts[place]}"

    places = (request.source / folder / f"{task}.json" for folder in ("questions", ""))
    if (file := next((path for path in places if path.is_file()), None)) is None:
        return records_of(find_lists(request, (task,), "test-*.parquet"), entry_id)
    return _of_object(file, entry_id)


def _of_object(file: Path, entry_id: Callable[[Mapping[str, Any], int], str]) -> Iterator[Row]:
    """The file has no records in a list, so that an entry's place is its key: ``CLIP/ASPECT/POSITION``."""
    for video, aspects in _mapping(read_json(file), f"{file}").items():
        for aspect, questions in _mapping(aspects, f"{file}: {video}").items():
            for position, one in enumerate(questions, start=1):
                where = f"{file}: {video}/{aspect}/{position}"
                data = {"video_id": video, "dim": aspect} | _mapping(one, where)
                yield Row(where, entry_id(data, position), data)


def _mapping(data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise DataError(f"{where}: expected an object, got {type(data).__name__}; take the file of TempCompass's repository",
                        reason="not_json")
    return data


def _split(row: Row, text: str) -> tuple[str, list[str]]:
    """The question, and its options without their names."""
    lines = text.strip().split("\n")
    options = [found.group(1).strip() if (found := _OPTION.fullmatch(line.strip())) else None for line in lines]
    first = next((i for i, option in enumerate(options) if option), len(lines))
    if first == 0 or len(lines) - first < 2 or None in options[first:]:
        reject(row, "no_options", f"the question {text[:60]!r} does not end in lines such as 'A. red' and 'B. blue'")
    return "\n".join(lines[:first]), [option for option in options[first:] if option]


def _words(answer: str) -> str:
    found = _OPTION.fullmatch(answer)
    return found.group(1).strip() if found else answer


TEMPCOMPASS = Importer("tempcompass", rows, question, splits=TASKS)
