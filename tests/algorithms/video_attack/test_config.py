"""The attack's configuration: what it refuses before anything is asked."""

from __future__ import annotations

import pytest

from squall.algorithms.video_attack.config import AttackConfig
from squall.platform.config import validate
from squall.platform.errors import ConfigError


def test_a_budget_below_one_sweep_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_queries = 24 is below one sweep over the grid: 1 for the clean clip \+ 4 x 4 "
                                          r"places \+ 8 blocks = 25; raise it, or choose larger cells"):
        AttackConfig(max_queries=24).grid(16, 112, 112)
    assert AttackConfig(max_queries=25).grid(16, 112, 112).sweep == 25


@pytest.mark.parametrize(("values", "message"), [
    ({"distortion": "fogg"}, "attack: 'distortion' = 'fogg': unknown distortion 'fogg'. Did you mean 'fog'"),
    ({"severity": 0}, "attack: 'severity' = 0"),
    ({"lam1": float("nan")}, "attack: 'lam1' = nan"),
    ({"lam5": 1}, "attack: unknown key 'lam5'. Did you mean 'lam"),
])
def test_values_out_of_range_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(AttackConfig, values, "attack")
