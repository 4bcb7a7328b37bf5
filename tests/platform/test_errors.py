from __future__ import annotations

import pickle

import pytest

from squall.platform.errors import DataError, cause


class OwnError(DataError):
    """One of a part of Squall."""


def test_a_data_error_travels_between_processes_as_what_it_is() -> None:
    arrived = pickle.loads(pickle.dumps(OwnError("gone", sample_id="s1", reason="missing_media")))
    assert (type(arrived), str(arrived), arrived.sample_id, arrived.reason) == (OwnError, "gone", "s1", "missing_media")


@pytest.mark.parametrize(("text", "expected"), [
    ("ray::Worker.run()\n  File x\nValueError: no such thing", "ValueError: no such thing"),
    ("Task was killed due to the node running low on memory.\nSee docs on the out of memory issue: https", "memory ran out"),
    ("1 validation error for M\n  Value error, 9 is too long\n    For further information visit https://x", "Value error, 9"),
    ("", "RuntimeError"),
])
def test_a_remote_error_comes_down_to_its_cause(text: str, expected: str) -> None:
    assert cause(RuntimeError(text)).startswith(expected)
