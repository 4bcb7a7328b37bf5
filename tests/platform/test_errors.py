from __future__ import annotations

import pytest

from squall.platform.errors import cause


@pytest.mark.parametrize(("text", "expected"), [
    ("ray::Worker.run()\n  File x\nValueError: no such thing", "ValueError: no such thing"),
    ("Task was killed due to the node running low on memory.\nSee docs on the out of memory issue: https", "memory ran out"),
    ("", "RuntimeError"),
])
def test_a_remote_error_comes_down_to_its_cause(text: str, expected: str) -> None:
    assert cause(RuntimeError(text)).startswith(expected)
