"""How alike two reasoning texts are, without a model: a rule, an edit distance, and the segments of a text.

Sources: ROVA (arXiv 2603.10652), section 3 for the three values of a reasoning's similarity, its ablation for the steps
of the step-level alignment and for the edit distance of the conditional one. The rule itself is ours.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

CONSISTENT_FROM, RELATED_FROM = 0.5, 0.2
"""Shares of common content words from which texts without a contradiction score 1, and 0.5."""

NEGATIONS = frozenset("no not never none nothing nobody nowhere neither nor without cannot".split())
OPPOSITES = (
    ("left", "right"), ("up", "down"), ("upwards", "downwards"), ("above", "below"), ("forward", "backward"),
    ("forwards", "backwards"), ("clockwise", "anticlockwise"), ("clockwise", "counterclockwise"), ("towards", "away"),
    ("before", "after"), ("first", "last"), ("more", "fewer"), ("more", "less"), ("larger", "smaller"),
    ("bigger", "smaller"), ("faster", "slower"), ("closer", "farther"), ("increases", "decreases"), ("rises", "falls"),
    ("open", "closed"), ("opens", "closes"), ("enters", "leaves"), ("day", "night"), ("indoors", "outdoors"),
    ("true", "false"), ("same", "different"), ("same", "opposite"), ("moving", "still"),
)
"""Words of which a scene has one or the other."""
STOP_WORDS = frozenset(
    "a an and are as at be been but by can do does for from had has have he her his i if in into is it its my of on or our "
    "she so some than that the their then there these they this those to was we were which while who will with you".split())

_COUNTS = {word: str(count) for count, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve".split())}
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]+(?:['’][^\W\d_]+)*")
_LABEL = re.compile(r"(?im)(?:^[\s*_#>-]*|(?<=[.!?])[ \t]+[*_]*)(observation|reasoning|action|conclusion)s?[*_]*[ \t]*:[*_]*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_PLACES = {"observation": 0, "reasoning": 1, "action": 2, "conclusion": 2}


class _Content(NamedTuple):
    words: frozenset[str]
    """Numbers among them, without stop words and negations."""
    numbers: frozenset[str]
    negated: bool


def rule_similarity(first: str, second: str) -> float:
    """0 for contradictory or unrelated texts, 0.5 for related ones, 1 for consistent ones. The order does not matter.

    Texts contradict each other where one of them alone has a negation, where each has a number that the other lacks, or
    where they take different sides of `OPPOSITES`. Without a contradiction the share of common words counts (words of
    both by words of either, casefolded, without stop words; "three" is 3). The same words in the same order are always
    1. A text without content words is consistent with another such text and with nothing else.

    It reads no grammar: a long text that says "no" in passing contradicts one that does not. Scripts without spaces
    are compared by character, or not at all.
    """
    if first.casefold().split() == second.casefold().split():
        return 1.0
    one, other = _content(first), _content(second)
    if not one.words and not other.words:
        return float(one.negated == other.negated)
    if _contradict(one, other):
        return 0.0
    share = len(one.words & other.words) / len(one.words | other.words)
    return 1.0 if share >= CONSISTENT_FROM else 0.5 if share >= RELATED_FROM else 0.0


def segments(text: str) -> tuple[str, str, str]:
    """Observation, reasoning and action of a text, stripped.

    Labels at the start of a line or a sentence decide where there are any: ``Observation:``, ``Reasoning:``, ``Action:``
    or ``Conclusion:``, bold or not. What stands before the first is observed; a segment without a label is empty, one
    with several is their text in order. Without labels the observation is the first sentence, the action the last,
    and the reasoning what stands between; with fewer than three sentences the reasoning is the whole text. A sentence
    ends at its punctuation or at the end of a line.
    """
    labels = list(_LABEL.finditer(text))
    if labels:
        return _labelled(text, labels)
    sentences = [sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    if not sentences:
        return "", "", ""
    middle = sentences[1:-1] or sentences
    return sentences[0], " ".join(middle), sentences[-1]


def edit_distance(first: str, second: str) -> float:
    """Words to insert, delete or replace, by the words of the longer text, in [0, 1]; 0 for two empty texts.

    Words are what stands between spaces, casefolded.
    """
    return Levenshtein.normalized_distance(first.casefold().split(), second.casefold().split())


def _labelled(text: str, labels: list[re.Match[str]]) -> tuple[str, str, str]:
    parts: tuple[list[str], list[str], list[str]] = ([text[:labels[0].start()]], [], [])
    ends = [*(label.start() for label in labels[1:]), len(text)]
    for label, end in zip(labels, ends, strict=True):
        parts[_PLACES[label[1].lower()]].append(text[label.end():end])
    observation, reasoning, action = (" ".join(piece.strip() for piece in part if piece.strip()) for part in parts)
    return observation, reasoning, action


def _content(text: str) -> _Content:
    tokens = [_COUNTS.get(token, token) for token in _WORD.findall(text.casefold().replace("’", "'"))]
    negations = {token for token in tokens if token in NEGATIONS or token.endswith("n't")}
    words = frozenset(_plain_number(token) for token in tokens) - negations - STOP_WORDS
    return _Content(words, frozenset(word for word in words if word[0].isdecimal()), bool(negations))


def _plain_number(token: str) -> str:
    """2.0 is 2, and 1,000 is 1000; words stay as they are."""
    if not token[0].isdecimal():
        return token
    number = re.sub(r",(?=\d{3}(?!\d))", "", token)
    return number.rstrip("0").rstrip(".") if number.count(".") == 1 else number


def _contradict(one: _Content, other: _Content) -> bool:
    if one.negated != other.negated or (one.numbers - other.numbers and other.numbers - one.numbers):
        return True
    return any(_take_sides(one.words, other.words, *sides) or _take_sides(other.words, one.words, *sides)
               for sides in OPPOSITES)


def _take_sides(one: frozenset[str], other: frozenset[str], side: str, opposite: str) -> bool:
    return side in one and opposite not in one and opposite in other and side not in other
