"""What Ray's own task events say about a stretch of time, by actor."""

from __future__ import annotations

import time

import ray

from squall.platform.trace import Span

FLUSH_S = 2.0
"""Workers hand in their task events about once a second."""
HIDDEN = ("ready", "ping", "take", "put", "result", "report", "poll_status")
"""Calls that only wait or ask."""


def actor_spans(start: float, end: float) -> list[Span]:
    """Calls of actors that ran between two times (seconds since the epoch), each under its actor class and worker."""
    time.sleep(FLUSH_S)
    spans = []
    for event in ray.timeline():
        category, method = event["cat"].removeprefix("task::"), event["name"]
        if not event["cat"].startswith("task::") or "." not in category or method in HIDDEN:
            continue
        began = event["ts"] / 1e6
        if began < end and began + event["dur"] / 1e6 > start:
            worker = event["tid"].removeprefix("worker:")[:6]
            spans.append(Span(f"{category.split('.')[0]} {worker}", method, began, began + event["dur"] / 1e6))
    return spans
