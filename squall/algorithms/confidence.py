"""How sure a model is of an answer that it wrote, from the log-probabilities of its tokens."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def answer_probability(text: str, token_ids: Sequence[int], logprobs: Sequence[float],
                       decode: Callable[[Sequence[int]], str]) -> float | None:
    """Probability in [0, 1] of the tokens of an answer, given all that was written before them.

    That is the product over the tokens that hold a part of what stands in the first answer tag; reasoning is not in it.

    Args:
        text: what was written.
        token_ids, logprobs: its tokens and their natural log-probabilities, of equal length.
        decode: from the first few of the tokens to their text.

    Returns:
        None without an answer in its tag, or without log-probabilities.
    """
    found = _ANSWER.search(text)
    if found is None or not found.group(1).strip() or len(logprobs) != len(token_ids):
        return None
    content = found.group(1)
    start = found.start(1) + len(content) - len(content.lstrip())
    end = found.end(1) - (len(content) - len(content.rstrip()))
    counts = range(len(token_ids) + 1)

    def length(count: int) -> int:
        return len(decode(token_ids[:count]))

    first = bisect_right(counts, start, key=length) - 1
    last = bisect_left(counts, end, key=length)
    return math.exp(math.fsum(logprobs[first:last]))
