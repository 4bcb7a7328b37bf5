"""Every control by the kind under which a configuration asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from squall.algorithms.attacks.entries import parse_entry
from squall.algorithms.video_attack.controls.astfocus import AstFocus
from squall.algorithms.video_attack.controls.base import Control
from squall.algorithms.video_attack.controls.greedy import Greedy
from squall.algorithms.video_attack.controls.nes import Nes
from squall.algorithms.video_attack.controls.random_cells import RandomCells
from squall.algorithms.video_attack.controls.square_video import SquareVideo
from squall.algorithms.video_attack.controls.sva import SVA

CONTROLS: Mapping[str, type[Control]] = MappingProxyType(
    {control.kind: control for control in (RandomCells, Greedy, Nes, SquareVideo, SVA, AstFocus)})
"""Kind to class; settings are the class's fields."""


def parse_control(value: str | Mapping[str, Any]) -> tuple[str, Control]:
    """The name and the control of an entry such as ``greedy`` or ``{kind: nes, name: nes-small, epsilon: 0.05}``.

    Raises:
        ConfigError: an unknown kind, key or value, or a name that cannot be one.
    """
    return parse_entry(value, CONTROLS, "control", "{kind: nes, name: nes-small, epsilon: 0.05}")
