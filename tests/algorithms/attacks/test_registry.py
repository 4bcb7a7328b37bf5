"""Attacks as a configuration names them."""

from __future__ import annotations

import pytest

from squall.algorithms.attacks.apgd import APGDT
from squall.algorithms.attacks.pgd import PGD
from squall.algorithms.attacks.registry import ATTACKS, parse_attack
from squall.platform.errors import ConfigError


def test_a_kind_alone_has_its_defaults_and_its_own_name() -> None:
    for kind, attack in ATTACKS.items():
        assert parse_attack(kind) == (kind, attack()) and attack.kind == kind


def test_a_mapping_has_a_name_and_settings() -> None:
    assert parse_attack({"kind": "pgd", "name": "pgd-1000", "steps": 1000}) == ("pgd-1000", PGD(steps=1000))
    assert parse_attack({"kind": "apgd-t", "targets": 3}) == ("apgd-t", APGDT(targets=3))


@pytest.mark.parametrize(("entry", "message"), [
    ("pdg", "unknown attack 'pdg'. Did you mean 'pgd'\\? Allowed: pgd, apgd-ce"),
    ({"name": "x"}, "attack {'name': 'x'} has no kind. Allowed"),
    (3, "attack 3 has no kind"),
    ({"kind": "pgd", "step": 3}, "attack 'pgd': unknown key 'step'. Did you mean 'steps'"),
    ({"kind": "pgd", "steps": 0}, "attack 'pgd': 'steps' = 0"),
    ({"kind": "pgd", "restarts": 2, "random_start": False}, "2 restarts without random_start are the same round"),
    ({"kind": "pgd", "name": "clean"}, "name = 'clean': expected letters"),
    ({"kind": "pgd", "name": "../up"}, "name = '../up': expected letters"),
    ({"kind": "autoattack", "components": ["apgd-ce", "autoattack"]}, "'components'.*unknown attack 'autoattack'"),
    ({"kind": "autoattack", "components": ["pgd", "pgd"]}, "pgd comes twice"),
    ({"kind": "autoattack", "components": []}, "'components'"),
])
def test_what_is_wrong_with_an_entry_is_said(entry: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_attack(entry)
