"""The classes of a classifier by name, and which of them a question asks for."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from squall.platform.errors import ConfigError, DataError, nearest
from squall.platform.records import VideoSample

LIKELIEST = 5
_LETTERED = re.compile(r"\(?([A-Za-z])[.):]\s*(.+)", re.DOTALL)


def read_classes(source: tuple[str, ...] | Path) -> tuple[str, ...]:
    """Names as they stand, or those in a file: a JSON list of texts, or one a line. Raises ConfigError."""
    if isinstance(source, tuple):
        return source
    try:
        text = source.read_text(encoding="utf-8")
        listed = json.loads(text) if text.lstrip().startswith("[") else map(str.strip, text.splitlines())
    except (OSError, ValueError) as error:
        raise ConfigError(f"classes = {source}: cannot be read ({type(error).__name__}: {error}); expected a JSON list of "
                          "names, or one name a line") from None
    names = [name for name in listed if name]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"classes = {source}: expected a list of names, got {json.dumps(names)[:60]}")
    return tuple(names)


def class_indices(classes: Sequence[str]) -> dict[str, int]:
    """Position of each class by its plain name. Raises ConfigError for fewer than two, and for two of one name."""
    if len(classes) < 2:
        raise ConfigError(f"classes: {len(classes)} in all; a classifier needs at least two")
    found: dict[str, int] = {}
    for index, name in enumerate(classes):
        first = found.setdefault(plain(name), index)
        if first != index:
            raise ConfigError(f"classes: '{name}' at {index} is '{classes[first]}' at {first} again")
    return found


@dataclass(frozen=True, slots=True)
class Candidate:
    """A class that a question allows as its answer."""

    index: int
    answer: str
    """What to answer for it: the letter of an option that has one, or its words as they stand."""


def candidates(sample_id: str, options: Sequence[str], classes: Sequence[str]) -> list[Candidate]:
    """The classes that a question's options name, such as ``B. blue`` or ``blue``; all of them where it has none.

    Raises:
        DataError: an option is no class (reason ``unknown_class``).
    """
    if not options:
        return [Candidate(index, name) for index, name in enumerate(classes)]
    known = class_indices(classes)
    found = [_candidate(option, known) for option in options]
    for option, candidate in zip(options, found, strict=True):
        if candidate is None:
            raise DataError(f"sample {sample_id}: option '{option}' is none of the model's {len(classes)} classes."
                            f"{nearest(_words(option), classes)}", sample_id=sample_id, reason="unknown_class")
    return [candidate for candidate in found if candidate is not None]


def unknown_labels(samples: Iterable[VideoSample], classes: Sequence[str]) -> Counter[str]:
    """Options, and solutions of questions without options, that are no class; how many questions have each."""
    known = class_indices(classes)
    return Counter(label for sample in samples for label in (sample.options or (sample.solution,))
                   if _candidate(label, known) is None)


def choose(probabilities: np.ndarray, allowed: Sequence[Candidate]) -> tuple[str, tuple[int, ...], tuple[float, ...]]:
    """The likeliest answer, and the five likeliest classes with their natural log-probabilities.

    The answer's class stands first, with its probability among what was allowed; the others follow from the likeliest on, with
    theirs among all classes. A class that is likelier than the answer was not allowed. If the answer is not itself among the
    five likeliest, none of what was allowed is, and the fifth gives way.

    Args:
        probabilities: float32 (K,).
    """
    best = max(allowed, key=lambda candidate: probabilities[candidate.index])
    others = [int(index) for index in np.argsort(-probabilities, kind="stable") if index != best.index]
    indices = (best.index, *others[:LIKELIEST - 1])
    shares = probabilities[list(indices)].astype(np.float64)
    shares[0] /= max(sum(float(probabilities[candidate.index]) for candidate in allowed), np.finfo(np.float32).tiny)
    logs = np.log(np.clip(shares, np.finfo(np.float32).tiny, 1.0))
    return best.answer, indices, tuple(map(float, logs))


def _candidate(option: str, known: Mapping[str, int]) -> Candidate | None:
    if (index := known.get(plain(option))) is not None:
        return Candidate(index, option.strip())
    lettered = _LETTERED.fullmatch(option.strip())
    index = known.get(plain(lettered.group(2))) if lettered else None
    return None if lettered is None or index is None else Candidate(index, lettered.group(1))


def _words(option: str) -> str:
    lettered = _LETTERED.fullmatch(option.strip())
    return lettered.group(2) if lettered else option


def answer_words(options: Sequence[str], solution: str) -> str:
    """A solution in words: of an option such as ``B. blue`` that it names by letter or as it stands, ``blue``."""
    for option in options:
        lettered = _LETTERED.fullmatch(option.strip())
        if lettered and solution.strip() in (lettered.group(1), option.strip()):
            return lettered.group(2).strip()
    return solution.strip()


def plain(name: str) -> str:
    """A name as classes are compared: without capitals, underscores and further spaces."""
    return " ".join(name.replace("_", " ").casefold().split())
