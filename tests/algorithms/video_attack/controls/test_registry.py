"""Controls as a configuration names them."""

from __future__ import annotations

import pytest

from squall.algorithms.video_attack.controls.nes import Nes
from squall.algorithms.video_attack.controls.registry import CONTROLS, parse_control
from squall.platform.errors import ConfigError


def test_a_kind_alone_has_its_defaults_and_its_own_name() -> None:
    assert list(CONTROLS) == ["random_cells", "greedy", "nes", "square_video", "sva", "astfocus"]
    for kind, control in CONTROLS.items():
        assert parse_control(kind) == (kind, control()) and control.kind == kind


def test_a_mapping_has_a_name_and_settings() -> None:
    assert parse_control({"kind": "nes", "name": "nes-small", "epsilon": 0.05}) == ("nes-small", Nes(epsilon=0.05))


@pytest.mark.parametrize(("entry", "message"), [
    ("gredy", "unknown control 'gredy'. Did you mean 'greedy'\\? Allowed: random_cells, greedy, .*{kind: nes, name: nes-small"),
    (3, "control 3 has no kind"),
    ({"kind": "nes", "sample": 3}, "control 'nes': unknown key 'sample'. Did you mean 'samples'"),
    ({"kind": "nes", "samples": 3}, "control 'nes': 'samples' = 3"),
    ({"kind": "sva", "epsilon": 0.001}, "control 'sva': 'epsilon' = 0.001"),
    ({"kind": "greedy", "name": "../up"}, "control 'greedy': name = '../up': expected letters"),
])
def test_what_is_wrong_with_an_entry_is_said(entry: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_control(entry)
