"""MVBench (Li et al. 2024): twenty tasks, about 200 multiple choice questions each.

Layout: ``OpenGVLab/MVBench`` on Hugging Face, archives unpacked. Each task has its list in ``json/``. Clips are those of the
branch ``main`` (below ``video/``, whole videos and folders of frames, which the list's ``start`` and ``end`` cut) or of the
branch ``video``, which lmms-eval reads (cut already, one file each). Folders of both are in the evaluation notebook of
OpenGVLab/Ask-Anything (``video_chat2/mvbench.ipynb``) and in lmms-eval's ``tasks/mvbench/utils.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from os.path import isdir
from pathlib import Path

from squall.platform.importers.common import Cut, Importer, Question, Request, Row, find_media, look_for, reject, value, within
from squall.platform.importers.lists import find_list, of_parts, records_of
from squall.platform.importers.questions import by_text, choice
from squall.platform.video import VIDEO_SUFFIXES

FOLDERS = {
    "action_antonym": ("ssv2_video_mp4", "ssv2_video"),
    "action_count": ("perception/videos",),
    "action_localization": ("sta/sta_video_segment", "sta/sta_video"),
    "action_prediction": ("star/Charades_segment", "star/Charades_v1_480"),
    "action_sequence": ("star/Charades_segment", "star/Charades_v1_480"),
    "character_order": ("perception/videos",),
    "counterfactual_inference": ("clevrer/video_validation",),
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/video_fps3_hq_segment", "tvqa/frames_fps3_hq"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "fine_grained_pose": ("nturgbd_convert", "nturgbd"),
    "moving_attribute": ("clevrer/video_validation",),
    "moving_count": ("clevrer/video_validation",),
    "moving_direction": ("clevrer/video_validation",),
    "object_existence": ("clevrer/video_validation",),
    "object_interaction": ("star/Charades_segment", "star/Charades_v1_480"),
    "object_shuffle": ("perception/videos",),
    "scene_transition": ("scene_qa/video",),
    "state_change": ("perception/videos",),
    "unexpected_action": ("FunQA_test/test",),
}
"""Where a task's clips are: those of the branch ``video`` first, and ``main``'s after them where they differ."""
ROOTS = ("video", "", "data0613", "video/data0613")
"""What these folders are below: some of them were published again, in ``data0613``."""
FRAMES_PER_S = 3.0
"""Of the folders of frames."""


def rows(request: Request) -> Iterator[Row]:
    """The entries of one task, or of all of them."""
    def of_task(task: str) -> Iterator[Row]:
        file = find_list(request, ("json", ""), [f"{task}.json"])
        return records_of([file], lambda _, position: f"{task}/{position}")

    return of_parts(request, FOLDERS, of_task)


def question(row: Row, request: Request) -> Question:
    task = row.id.partition("/")[0]
    options = [str(option) for option in value(row, "candidates", list)]
    answer = by_text(row, options, str(value(row, "answer", object)))
    record = choice(row, value(row, "question"), options, answer, question_type=task)
    span = _span(row)
    return Question(record | ({"source_span_s": list(span)} if span else {}), _media(row, request.source, task, span))


def _media(row: Row, source: Path, task: str, span: tuple[float, float] | None) -> Path | Cut:
    video, whole = value(row, "video"), FOLDERS[task][-1]
    if span is None:
        return find_media(row, source, _below_roots(*FOLDERS[task]), video)
    stem = video.removesuffix(Path(video).suffix) if Path(video).suffix.lower() in VIDEO_SUFFIXES else video
    cut = [folder for folder in FOLDERS[task] if folder.endswith("_segment")]
    if found := look_for(source, _below_roots(*cut), video, f"{stem}_{row.data['start']}_{row.data['end']}.mp4"):
        return found
    places = (within(source, f"{folder}/{video}") for folder in _below_roots(whole))
    frames = next((place for place in places if isdir(place)), None)
    found = frames or find_media(row, source, _below_roots(whole), video)
    name = f"{whole}/{found.name if frames else found.stem}_{span[0]:g}_{span[1]:g}.mp4"
    return Cut(found, name, span, FRAMES_PER_S if frames else None)


def _below_roots(*folders: str) -> list[str]:
    return [f"{root}/{folder}" if root else folder for folder in folders for root in ROOTS]


def _span(row: Row) -> tuple[float, float] | None:
    bounds = [row.data.get(key) for key in ("start", "end")]
    if bounds == [None, None]:
        return None
    if not all(isinstance(bound, int | float) for bound in bounds) or not 0 <= bounds[0] < bounds[1]:
        reject(row, "bad_span", f"start and end are {bounds[0]} and {bounds[1]}; expected seconds, the first below the second")
    return float(bounds[0]), float(bounds[1])


MVBENCH = Importer("mvbench", rows, question, splits=tuple(FOLDERS))
