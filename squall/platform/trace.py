"""A trace of what ran when, in the Chrome format that https://ui.perfetto.dev and chrome://tracing open."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from squall.platform.runs import write_text


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time; seconds since the epoch."""

    track: str
    """Who did it, such as ``engine-0``; spans of one track that overlap are drawn below each other."""
    name: str
    start: float
    end: float


def write_trace(path: Path, spans: Iterable[Span]) -> Path:
    """Write spans as one trace that begins at the earliest."""
    ordered = sorted(spans, key=lambda span: (span.start, -span.end))
    origin = ordered[0].start if ordered else 0.0
    tracks = {track: number for number, track in enumerate(dict.fromkeys(span.track for span in ordered))}
    events: list[dict[str, object]] = [
        {"ph": "M", "name": "process_name", "pid": number, "args": {"name": track}} for track, number in tracks.items()]
    ends: dict[str, list[float]] = {}
    for span in ordered:
        lanes = ends.setdefault(span.track, [])
        lane = next((number for number, end in enumerate(lanes) if end <= span.start), len(lanes))
        lanes[lane:lane + 1] = [span.end]
        events.append({"ph": "X", "name": span.name, "pid": tracks[span.track], "tid": lane,
                       "ts": round(1e6 * (span.start - origin)), "dur": round(1e6 * (span.end - span.start))})
    write_text(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
    return path
