"""What `squall corrupt --list` prints."""

from __future__ import annotations

import math
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from squall.algorithms.corruption import KINDS, STANDARD_KINDS, Kind, make_spec

SHOWN_SEVERITIES = (0.2, 0.8)


def print_kinds(console: Console) -> int:
    """Every kind by family: what it does, and its parameters with what they may be and what two severities make them."""
    low, high = SHOWN_SEVERITIES
    kinds = sorted(KINDS.values(), key=lambda kind: kind.family)  # stable: within a family as declared
    for family, members in groupby(kinds, key=lambda kind: kind.family):
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for kind in members:
            mark = "*" if kind.name in STANDARD_KINDS else " "
            table.add_row(Text(f"{mark} {kind.name}", "bold"), Text(kind.summary))
            table.add_row("", Text(describe_parameters(kind), "dim"))
        console.print(Text(f"\n{family}", "bold cyan"))
        console.print(table)
    console.print(f"\n* kinds=standard. Parameters: [smallest..largest] = value at severity {low:g} -> {high:g}, set by name: "
                  'spec="fog 0.5 drift=0.1". Every kind takes severity (0 to 1), seed and frames=START:STOP; '
                  '"night 0.4 + fog 0.3" is one after the other. Further kinds: module:function of your own, learned:FOLDER of '
                  "trained attackers.", highlight=False, markup=False)
    return 0


def describe_parameters(kind: Kind) -> str:
    """``optical_depth [0..20] = 0.52 -> 2.08``, for every parameter."""
    low, high = (kind.resolve(make_spec(kind.name, severity, 0)) for severity in SHOWN_SEVERITIES)
    parts = []
    for name, parameter in kind.parameters.items():
        values = f"{low[name]:.3g}" if low[name] == high[name] else f"{low[name]:.3g} -> {high[name]:.3g}"
        limits = [f"{value:g}" if math.isfinite(value) else "" for value in (parameter.minimum, parameter.maximum)]
        parts.append(f"{name} [{'..'.join(limits)}] = {values}")
    return ", ".join(parts) or "no parameters"
