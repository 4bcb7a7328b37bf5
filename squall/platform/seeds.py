"""Seeds derived from names, so that a restart or another number of workers sees the same random stream."""

from __future__ import annotations

import hashlib


def derive_seed(run_seed: int, *names: str | int) -> int:
    """Hash ``(run_seed, *names)`` to an integer in [0, 2**31), the same on every machine and Python version.

    Typical names are ``(sample_id, epoch, branch)``. Numbers and their text are kept apart: 1 and "1" differ.
    """
    key = "\x1f".join(f"{type(name).__name__}:{name}" for name in (run_seed, *names))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") & 0x7FFFFFFF
