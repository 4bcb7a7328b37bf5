"""Functions of lmms-eval tasks over clips that Squall corrupted. `squall` copies this file beside the tasks as utils.py.

It needs nothing of Squall: scores are those of its accuracy reward, but that a text without an answer tag counts as the
answer, since lmms-eval takes the tags of reasoning models away. Free-form answers need the package rouge-score.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OPTION_LETTER = re.compile(r"\(?([A-Za-z])(?:[.:)]+|\)?[.:]?\s*$)(?:\s.*)?", re.DOTALL)
NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d*)(?:\.\d*)?(?:[eE][+-]?\d+)?")
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def squall_doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """The clip's file, or an opened picture."""
    path = (Path(__file__).resolve().parent / doc["path"]).resolve()
    if doc["media_type"] == "video":
        return [str(path)]
    from PIL import Image

    return [Image.open(path).convert("RGB")]


def squall_doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, str] | None = None) -> str:
    """The question as Squall asks it."""
    words = lmms_eval_specific_kwargs or {}
    return f"{words.get('pre_prompt', '')}{doc['prompt']}{words.get('post_prompt', '')}"


def squall_process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The score in [0, 1] and the video, by which standard errors are clustered."""
    tagged = ANSWER.search(results[0])
    answer = (tagged.group(1) if tagged else results[0]).strip()
    score = squall_score(answer, doc["solution"].strip(), doc["problem_type"])
    return {"squall_score": {"score": score, "video": doc["video"], "id": doc["id"], "answer": answer}}


def squall_mean(results: Sequence[Mapping[str, Any]]) -> float:
    """Mean score of a condition."""
    return sum(result["score"] for result in results) / len(results) if results else 0.0


def squall_score(answer: str, solution: str, problem_type: str) -> float:
    """How right an answer is, in [0, 1], by the problem type of the record."""
    scorers = {"multiple choice": choice, "numerical": numerical, "OCR": ocr, "free-form": free_form, "regression": regression}
    return scorers[problem_type](answer, solution)


def choice(answer: str, solution: str) -> float:
    return float(canonical(answer) == canonical(solution))


def canonical(answer: str) -> str:
    """One spelling for options that mean the same: "(b)" and "B. blue" become "B"."""
    letter = OPTION_LETTER.fullmatch(answer)
    return letter.group(1).upper() if letter else plain(answer)


def numerical(answer: str, solution: str) -> float:
    given, wanted = number(answer), number(solution)
    return float(given is not None and wanted is not None and round(given, 2) == round(wanted, 2))


def regression(answer: str, solution: str) -> float:
    given, wanted = number(answer), number(solution)
    if given is None or wanted is None:
        return 0.0
    if wanted == 0.0:
        return float(abs(given) < 1e-9)
    return 1.0 - min(1.0, abs(given - wanted) / abs(wanted))


def number(text: str) -> float | None:
    """"1,000", "-3.5" or "2e3"; None for anything else."""
    if not NUMBER.fullmatch(text.strip()):
        return None
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def ocr(answer: str, solution: str) -> float:
    """One minus the word error rate."""
    wanted, given = solution.split(), answer.split()
    if not wanted:
        return float(not given)
    row = list(range(len(given) + 1))
    for i, word in enumerate(wanted, start=1):
        last, row[0] = row[0], i
        for j, other in enumerate(given, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return max(0.0, 1.0 - row[-1] / len(wanted))


def free_form(answer: str, solution: str) -> float:
    """Mean F1 of ROUGE-1, -2 and -L; 1 where the texts are the same."""
    if plain(answer) == plain(solution):
        return 1.0
    from rouge_score.rouge_scorer import RougeScorer

    scores = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(solution, answer)
    return sum(score.fmeasure for score in scores.values()) / len(scores)


def plain(answer: str) -> str:
    return " ".join(answer.casefold().split())
