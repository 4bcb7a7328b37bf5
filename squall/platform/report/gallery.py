"""A page on which clips play clean and corrupted, side by side and in step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from squall.platform.report.page import template_environment
from squall.platform.runs import write_text

MAX_SEVERITIES = 12
"""To choose from; a mixture draws more, and then only kinds are offered."""


@dataclass(frozen=True, slots=True)
class GalleryClip:
    """A clean clip. Video (MP4) and still (WebP) are base64."""

    name: str
    video: str
    still: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class GalleryItem:
    """A corrupted clip."""

    clip: int
    """Position of the clean one."""
    kind: str
    family: str
    severity: float
    spec: str
    """What was done, as it is written in a manifest."""
    video: str
    still: str
    file: str | None = None
    """Relative URL of the whole file, where it was written."""


def write_gallery(path: Path, title: str, clips: Sequence[GalleryClip], items: Sequence[GalleryItem],
                  facts: Mapping[str, str], command: str) -> Path:
    """Write the page and return its path. Everything is inside the file but links to whole clips; all text is escaped."""
    kinds: dict[str, list[str]] = {}
    for item in items:
        if item.kind not in kinds.setdefault(item.family, []):
            kinds[item.family].append(item.kind)
    severities = sorted({item.severity for item in items})
    page = template_environment().get_template("gallery.html.jinja").render(
        title=title, clips=clips, kinds=kinds, severities=severities if len(severities) <= MAX_SEVERITIES else [], facts=facts,
        command=command,
        data={"clips": [asdict(clip) for clip in clips], "items": [asdict(item) for item in items]})
    write_text(path, page)
    return path
