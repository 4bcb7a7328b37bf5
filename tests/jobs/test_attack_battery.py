"""Which attacks are made: those that are asked for, each once, and those that the checks for gradient masking need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from squall.algorithms.attacks.base import Threat
from squall.jobs.attack_battery import make_battery
from squall.platform.errors import ConfigError

THREAT = Threat(norm="linf", epsilon=0.1)


def battery_error(entries: Sequence[str | Mapping[str, Any]], budgets: Sequence[Threat], **options: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        make_battery(entries, budgets, (1, 8, 8), **options)
    return str(refused.value)


def test_a_battery_refuses_what_could_not_be_told_apart_or_done() -> None:
    assert "attacks: 'pgd' is there twice" in battery_error(["pgd", {"kind": "pgd", "steps": 5}], [THREAT])
    assert "'pgd' and 'same' are the same attack" in battery_error(["pgd", {"kind": "pgd", "name": "same"}], [THREAT])
    assert "attacks: none" in battery_error([], [THREAT])
    assert "budgets: name each once" in battery_error(["pgd"], [THREAT, THREAT])
    assert "above the box" in battery_error(["pgd"], [Threat(norm="linf", epsilon=8)])
    assert "no attack 'fab' in this run; there are pgd" in battery_error(["pgd"], [THREAT], masking=False, transfer=["fab"])


def test_probes_of_the_checks_use_the_attacks_of_the_run() -> None:
    quick = {"kind": "square", "name": "quick", "queries": 50}
    battery = make_battery(["pgd", {**quick, "name": "square"}, "noise"], [THREAT], (1, 8, 8), transfer=True)
    assert battery.attacks["square"].queries == 50 and battery.transfers == ("pgd",) and battery.headline == "pgd"
    assert set(battery.attacks) == {"pgd", "square", "noise", "fgsm", "pgd-unlimited"}
    assert battery.strikes[:3] == (("pgd", THREAT), ("square", THREAT), ("noise", THREAT))
    assert len(battery.strikes) == len(set(battery.strikes)) == 3 + 2 + 3 + 2  # PGD at 2, 4; noise at 2, 4, 1; FGSM, unlimited
    assert ("pgd-unlimited", Threat(norm="linf", epsilon=1.0)) in battery.strikes


def test_what_takes_longest_comes_first() -> None:
    battery = make_battery(["noise", "pgd", {"kind": "pgd", "name": "long", "steps": 200}, "square", "autoattack"], [THREAT],
                           (1, 8, 8), masking=False)
    assert sorted(battery.attacks, key=battery.effort) == ["noise", "pgd", "long", "square", "autoattack"]
