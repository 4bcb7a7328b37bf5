"""Pictures in rows and columns with labels, as one PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from squall.platform.video import replacing

MARGIN, GAP, GROUP_GAP, LINE = 24, 6, 18, 20
INK, SOFT, PAPER = (22, 25, 31), (89, 97, 110), (255, 255, 255)
HIGH, LOW, MANY_ROWS = 150, 104, 8
"""Height of the pictures: of a few rows of one group of columns, and of larger sheets."""
WIDEST = 2.4
"""Width of a picture at most, by its height."""


@dataclass(frozen=True, slots=True)
class SheetRow:
    """One row: a label and, for each group of columns, its pictures."""

    label: str
    groups: tuple[tuple[str | None, ...], ...]
    """WebP or PNG as base64; None leaves the cell empty."""
    note: str = ""
    """Smaller, below the label."""


def write_contact_sheet(path: Path, title: str, headings: Sequence[str], columns: Sequence[str],
                        rows: Sequence[SheetRow]) -> Path:
    """Write the sheet, in one piece. Every group has the same `columns`, below its own heading (empty for none)."""
    height = HIGH if len(headings) == 1 and len(rows) <= MANY_ROWS else LOW
    pictures = [[[_picture(data, height) for data in group] for group in row.groups] for row in rows]
    widths = [max((picture.width for row in pictures for picture in row[number] if picture), default=height)
              for number in range(len(headings))]
    small, medium, large = (ImageFont.load_default(size=size) for size in (13, 15, 22))
    labels = max(max(medium.getlength(row.label), small.getlength(row.note)) for row in rows)
    lefts = [MARGIN + int(labels) + GROUP_GAP]
    for width in widths:
        lefts.append(lefts[-1] + len(columns) * (width + GAP) - GAP + GROUP_GAP)
    top = MARGIN + 40 + (LINE if any(headings) else 0) + LINE + GAP
    row_height = max(height, 2 * LINE) + GAP
    sheet = Image.new("RGB", (lefts[-1] - GROUP_GAP + MARGIN, top + len(rows) * row_height - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, large)
    for left, width, heading in zip(lefts, widths, headings, strict=False):
        draw.text((left, MARGIN + 40), _shortened(heading, medium, len(columns) * width), INK, medium)
        for place, column in enumerate(columns):
            draw.text((left + place * (width + GAP), top - LINE - GAP // 2), column, SOFT, small)
    for number, (row, groups) in enumerate(zip(rows, pictures, strict=True)):
        y = top + number * row_height
        draw.text((MARGIN, y), row.label, INK, medium)
        draw.text((MARGIN, y + LINE), row.note, SOFT, small)
        for left, width, group in zip(lefts, widths, groups, strict=False):
            for place, picture in enumerate(group):
                if picture:
                    sheet.paste(picture, (left + place * (width + GAP), y))
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)
    return path


def _picture(data: str | None, height: int) -> Image.Image | None:
    if data is None:
        return None
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    width = max(1, round(picture.width * height / picture.height))
    if width > WIDEST * height:
        height = max(1, round(height * WIDEST * height / width))
        width = max(1, round(picture.width * height / picture.height))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"
