"""How sure a model is of its answer: the product over the answer's own tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from squall.algorithms.confidence import answer_probability

PIECES = ("<think>", "It ", "is ", "white", ".</think>", " <ans", "wer>", " B", ". ", "white", " </", "answer>", "<end>")


def decode(ids: Sequence[int]) -> str:
    return "".join("" if PIECES[i] == "<end>" else PIECES[i] for i in ids)


def probability(pieces: Sequence[int], logprobs: Sequence[float] | None = None) -> float | None:
    logprobs = [-0.1 * (i + 1) for i in pieces] if logprobs is None else logprobs
    return answer_probability(decode(pieces), pieces, logprobs, decode)


def test_only_the_tokens_of_the_answer_count() -> None:
    assert probability(range(13)) == pytest.approx(math.exp(-0.8 - 0.9 - 1.0))  # " B", ". ", "white"
    assert probability([5, 6, 7, 10, 11]) == pytest.approx(math.exp(-0.8))


def test_a_token_that_holds_a_part_of_the_answer_counts_whole() -> None:
    text = ("<answer>B", "</answer>")
    found = answer_probability("".join(text), (0, 1), (-0.5, -9.0), lambda ids: "".join(text[i] for i in ids))
    assert found == pytest.approx(math.exp(-0.5))


@pytest.mark.parametrize("pieces", [[0, 1, 2, 3, 4], [5, 6, 7], [5, 6, 10, 11]])
def test_without_an_answer_nothing_is_known(pieces: list[int]) -> None:
    assert probability(pieces) is None


def test_without_log_probabilities_nothing_is_known() -> None:
    assert probability(range(13), []) is None
