"""One quickly trained network serves all tests of attacks."""

from __future__ import annotations

import pytest
from attacked_models import Digits, train_digits


@pytest.fixture(scope="session")
def digits() -> Digits:
    return train_digits()
