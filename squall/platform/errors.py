"""The errors a user sees. One line each: what is wrong, where, what is allowed, what to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from typing import ClassVar

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the OSErrors that say there is no room for a file."""


class SquallError(Exception):
    """Something the user can mend. The command line prints it as one line and exits with `status`."""

    status: ClassVar[int] = 2


class ConfigError(SquallError):
    """A configuration key or value that Squall does not accept."""


class DataError(SquallError):
    """A manifest line or a media file that cannot be used; the message names the file, the line and the sample id."""

    def __init__(self, message: str, *, sample_id: str | None = None, reason: str = "data") -> None:
        super().__init__(message)
        self.sample_id = sample_id
        self.reason = reason
        """Short snake_case word under which the loss is counted, such as ``decode_error``."""

    def __reduce__(self):  # exceptions with keyword arguments do not survive pickling between actors by themselves
        return _rebuild_data_error, (type(self), str(self), self.sample_id, self.reason)


class Preempted(SquallError):
    """A node goes, and the run has written a checkpoint: the same command with --resume goes on."""

    status = 75
    """EX_TEMPFAIL of sysexits.h: a RayJob's backoffLimit or a script may start it again."""


class ResourceError(SquallError):
    """The plan needs more CPUs, GPUs or memory than the cluster has."""


def _rebuild_data_error(kind: type[DataError], message: str, sample_id: str | None, reason: str) -> DataError:
    return kind(message, sample_id=sample_id, reason=reason)


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the candidate closest to ``word``, or an empty string.

    One of the same letters in another order comes before all others: letters are swapped more often than mistaken.
    """
    matches = difflib.get_close_matches(word, list(candidates), n=3, cutoff=0.6)
    matches.sort(key=lambda match: sorted(match) != sorted(word))
    return f" Did you mean '{matches[0]}'?" if matches else ""


def cause(error: BaseException) -> str:
    """What a long error of a remote process comes down to: that memory ran out, or the last line that says something."""
    text = str(error)
    if "out of memory" in text.lower():
        return "memory ran out and the process was killed; run less on the node, or lower counts, caches and micro-batches"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("For further information visit")]  # as pydantic's errors end
    return lines[-1][:300] if lines else type(error).__name__
