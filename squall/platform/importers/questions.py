"""Records of a manifest out of questions, options and answers, without the path of the clip."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from string import ascii_uppercase
from typing import Any

from squall.platform.errors import nearest
from squall.platform.importers.common import Row, reject
from squall.platform.prompts import letter_options
from squall.platform.records import MediaType, ProblemType

_LETTER = re.compile(r"\(?([A-Za-z])(?:[.:)].*)?", re.DOTALL)


def choice(row: Row, problem: str, options: Sequence[str], answer: int, **metadata: Any) -> dict[str, Any]:
    """A multiple choice question whose options have letters; `answer` is the position of the right one."""
    if len(options) > len(ascii_uppercase):
        reject(row, "too_many_options", f"{len(options)} options; letters are enough for {len(ascii_uppercase)}")
    if options.count(options[answer]) > 1:
        reject(row, "options_alike", f"the right option, {options[answer]!r}, is there more than once")
    lettered = letter_options(options)
    if any(option.lstrip("(")[0].upper() != letter for option, letter in zip(lettered, ascii_uppercase, strict=False)):
        reject(row, "bad_field", f"letters of the options are not A, B, C and so on: {', '.join(options)}")
    return _record(row, problem, ProblemType.MULTIPLE_CHOICE, ascii_uppercase[answer], lettered, metadata)


def by_letter(row: Row, options: Sequence[str], answer: str) -> int:
    """Position of the option that an answer such as ``B`` or ``B. blue`` means."""
    letter = _LETTER.fullmatch(answer.strip())
    position = ascii_uppercase.index(letter.group(1).upper()) if letter else len(options)
    if position >= len(options):
        reject(row, "unknown_answer", f"answer {answer!r} is none of the {len(options)} options")
    return position


def by_text(row: Row, options: Sequence[str], answer: str) -> int:
    """Position of the option that is the answer, word for word."""
    if answer not in options:
        reject(row, "unknown_answer", f"answer {answer!r} is none of the options: {', '.join(options)}")
    return options.index(answer)


def open_question(row: Row, problem: str, kind: ProblemType, solution: str, **metadata: Any) -> dict[str, Any]:
    """A question without options."""
    return _record(row, problem, kind, solution, None, metadata)


def classification(row: Row, problem: str, label: str, classes: tuple[str, ...], **metadata: Any) -> dict[str, Any]:
    """A question whose options are the names of all classes, in the order of their index and without letters."""
    if label not in classes:
        reject(row, "unknown_class", f"label '{label}' is none of the {len(classes)} classes.{_nearest(label, classes)}")
    metadata |= {"question_type": "action recognition", "class_index": classes.index(label)}
    return _record(row, problem, ProblemType.MULTIPLE_CHOICE, label, classes, metadata)


def _record(row: Row, problem: str, kind: ProblemType, solution: str, options: tuple[str, ...] | None,
            metadata: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"id": row.id, "problem": problem, "problem_type": kind.value, "data_type": MediaType.VIDEO.value,
              "options": options, "solution": f"<answer>{solution}</answer>"}
    return {key: value for key, value in (fields | metadata).items() if value is not None}


@lru_cache(maxsize=1024)
def _nearest(label: str, classes: tuple[str, ...]) -> str:
    return nearest(label, classes)
