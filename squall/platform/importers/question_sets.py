"""Benchmarks whose lists hold a question an entry: Video-MME, Video-MMMU, VSI-Bench and MMVU.

The layouts are those of Hugging Face, archives unpacked, as lmms-eval's and VLMEvalKit's readers of the same names know them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from squall.platform.importers.common import Importer, Question, Request, Row, find_media, reject, value
from squall.platform.importers.lists import find_lists, of_parts, records_of
from squall.platform.importers.questions import by_letter, choice, open_question
from squall.platform.records import ProblemType

DISCIPLINES = ("Art", "Business", "Engineering", "Humanities", "Medicine", "Science")
"""Folders that Video-MMMU's archives unpack to."""
TRACKS = {
    "Perception": ("", "\nPlease ignore the quiz question in the last frame of the video."),
    "Comprehension": ("", "\nPlease ignore the quiz question in the last frame of the video."),
    "Adaptation": ("Watch the video and apply what it teaches to this question, whose image is at the end of the video.\n", ""),
}
"""Video-MMMU's tracks, and what is said before and after their questions: the end of each video shows a quiz."""


def videomme_rows(request: Request) -> Iterator[Row]:
    """``lmms-lab/Video-MME``: ``videomme/test-*.parquet``, clips in ``data/``. A split is a length of the videos."""
    files = find_lists(request, ("videomme", "data", ""), "test-*.parquet")
    for row in records_of(files, lambda data, _: str(data.get("question_id", ""))):
        if request.split is None or not isinstance(row.data, dict) or row.data.get("duration") == request.split:
            yield row


def videomme_question(row: Row, request: Request) -> Question:
    """Asked without subtitles."""
    options = value(row, "options", list)
    record = choice(row, value(row, "question"), options, by_letter(row, options, value(row, "answer")),
                    question_type=value(row, "task_type"), duration=value(row, "duration"), domain=row.data.get("domain"))
    return Question(record, find_media(row, request.source, ("data", "video", "videos", ""), f"{value(row, 'videoID')}.mp4"))


def videommmu_rows(request: Request) -> Iterator[Row]:
    """``lmms-lab/VideoMMMU``: ``TRACK/test-*.parquet``; the tracks share videos and ids."""
    return of_parts(request, TRACKS, lambda track: records_of(
        find_lists(request, (track,), "test-*.parquet"), lambda data, _: f"{track}/{data.get('id')}"))


def videommmu_question(row: Row, request: Request) -> Question:
    """What has options is a multiple choice question, whatever ``question_type`` says: one is marked "None" by mistake."""
    track = row.id.partition("/")[0]
    before, after = TRACKS[track]
    problem, answer = before + value(row, "question") + after, value(row, "answer")
    about = {"question_type": track, "subject": row.id.partition("/")[2].partition("_")[2].rpartition("_")[0]}
    options = row.data.get("options") or []
    if answer.startswith("["):
        reject(row, "several_answers", f"more than one answer is right, {answer}; a record has one")
    record = (choice(row, problem, options, by_letter(row, options, answer), **about) if options
              else open_question(row, problem, _open_kind(answer), answer, **about))
    folders = [f"{root}{folder}" for root in ("", "videos/") for folder in (*DISCIPLINES, "")]
    return Question(record, find_media(row, request.source, folders, f"{value(row, 'id')}.mp4"))


def vsibench_rows(request: Request) -> Iterator[Row]:
    """``nyu-visionx/VSI-Bench``: ``test.jsonl`` or ``test-*.parquet``, clips in ``arkitscenes/`` and the like."""
    return records_of(find_lists(request, ("", "data"), "test.jsonl", "test-*.parquet"), _id)


def vsibench_question(row: Row, request: Request) -> Question:
    """Questions without options ask for an amount, which counts the more the nearer the answer is."""
    problem, answer, options = value(row, "question"), str(value(row, "ground_truth", object)), row.data.get("options") or []
    about = {"question_type": value(row, "question_type"), "dataset": value(row, "dataset")}
    record = (choice(row, problem, options, by_letter(row, options, answer), **about) if options
              else open_question(row, problem, ProblemType.REGRESSION, _number(row, answer), **about))
    clip = f"{value(row, 'dataset')}/{value(row, 'scene_name')}.mp4"
    return Question(record, find_media(row, request.source, ("", "videos"), clip))


def mmvu_rows(request: Request) -> Iterator[Row]:
    """``yale-nlp/MMVU`` (``validation.json``, ``video`` a URL) or ``lmms-lab/MMVU`` (Parquet, ``video_path``)."""
    return records_of(find_lists(request, ("", "data"), "validation.json", "validation-*.parquet"), _id)


def mmvu_question(row: Row, request: Request) -> Question:
    """Open questions are scored by their words or number, not by a judge as the authors do."""
    kind, problem, answer = value(row, "question_type"), value(row, "question"), value(row, "answer")
    link = value(row, "video_path" if "video_path" in row.data else "video")
    clip = unquote(urlsplit(link).path).partition("/resolve/main/")[2] or link
    about = {"question_type": kind, "subject": (row.data.get("metadata") or {}).get("subject") or clip.split("/")[-2:][0]}
    if kind == "multiple-choice":
        choices = value(row, "choices", dict)  # those that are not used are empty
        options = [choices[letter] for letter in sorted(choices) if choices[letter]]
        record = choice(row, problem, options, by_letter(row, options, answer), **about)
    elif kind == "open-ended":
        record = open_question(row, problem, _open_kind(answer), answer, **about)
    else:
        reject(row, "bad_field", f"unknown question_type '{kind}'; known are multiple-choice and open-ended")
    return Question(record, find_media(row, request.source, ("", "videos"), clip))


def _id(data: Mapping[str, Any], _: int) -> str:
    return str(data.get("id", ""))


def _open_kind(answer: str) -> ProblemType:
    return ProblemType.FREE_FORM if _as_number(answer) is None else ProblemType.NUMERICAL


def _number(row: Row, text: str) -> str:
    if _as_number(text) is None:
        reject(row, "unknown_answer", f"the answer to a question without options is {text!r}, not a number")
    return text


def _as_number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


VIDEOMME = Importer("videomme", videomme_rows, videomme_question, splits=("short", "medium", "long"))
VIDEOMMMU = Importer("videommmu", videommmu_rows, videommmu_question, splits=tuple(TRACKS))
VSIBENCH = Importer("vsibench", vsibench_rows, vsibench_question)
MMVU = Importer("mmvu", mmvu_rows, mmvu_question)
