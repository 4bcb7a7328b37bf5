"""One quickly trained network serves all tests of attacks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from attacked_models import Digits, train_digits


@pytest.fixture(scope="session")
def digits() -> Digits:
    return train_digits()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
