"""A benchmark folder as `squall bench build` leaves it: its card, and a manifest for each condition.

A question has the same id in every condition's manifest, so that answers pair by id.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from squall.platform.config import Config, validate
from squall.platform.errors import ConfigError, DataError
from squall.platform.manifest import Manifest, load_manifest

CARD_FILE, README_FILE = "bench.json", "README.md"
SHOWN_LOSSES = 50
"""On the page; the card has all."""
CLEAN = "clean"
"""Name of the condition of clips without corruption, encoded as the others are."""


class BenchCondition(Config):
    """One copy of all clips."""

    name: str
    manifest: str
    """File beside the card."""
    kinds: dict[str, int]
    """Clips by kind of corruption, as its text was given; empty for the clean ones."""


class LostQuestion(Config):
    """A question that is in no condition, because its clip could not be made in one of them, or its record not be read."""

    sample_id: str
    reason: str
    message: str
    conditions: tuple[str, ...] = ()
    """Those that failed; empty for a record that could not be read."""


class BenchCard(Config):
    """``bench.json``: how a benchmark was made, and the hashes of its manifests, which hold those of its clips."""

    version: Literal[1] = 1
    name: str
    command: str
    """As it was typed."""
    squall: str
    """Version."""
    calibration: int
    """Version of the table of severities."""
    seed: int
    severity: tuple[float, float]
    """Range that severities were drawn from, unless a kind's text names its own."""
    kinds: dict[str, tuple[str, ...]]
    """What each family's corruption was drawn from."""
    per_family: int
    source_manifest: str
    """Path when it was built."""
    source_sha256: str
    """Of the manifest's file."""
    media_root: str
    """Folder that paths of the sources start from, when it was built."""
    licence: str
    encoding: dict[str, Any]
    """``frames``, ``crf``, ``preset``, ``threads_per_clip``."""
    questions: int
    """In every condition."""
    clips: int
    """In every condition; questions may share one."""
    conditions: tuple[BenchCondition, ...]
    """Clean first."""
    lost: tuple[LostQuestion, ...] = ()
    files: dict[str, str] = {}
    """SHA-256 of the manifests and of the page."""


def read_bench(folder: Path) -> BenchCard:
    """The card of a benchmark. Raises DataError where there is none or it is not one."""
    path = folder / CARD_FILE
    if not path.is_file():
        raise DataError(f"{folder}: no {CARD_FILE}; `squall bench build` writes it when all clips are made, and goes on with "
                        "--resume", reason="no_card")
    try:
        return validate(BenchCard, json.loads(path.read_bytes()), where=str(path))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); build the benchmark again", reason="bad_card") from None
    except ConfigError as error:
        raise DataError(f"{error}; build the benchmark again", reason="bad_card") from None


def load_conditions(folder: Path, card: BenchCard) -> dict[str, Manifest]:
    """The manifest of every condition by its name, clean first.

    Raises:
        DataError: a manifest cannot be read, or the conditions do not ask the same questions in the same order.
    """
    found = {condition.name: load_manifest(folder / condition.manifest) for condition in card.conditions}
    ids = {name: [sample.id for sample in manifest.samples] for name, manifest in found.items()}
    for name, own in ids.items():
        if own != ids[card.conditions[0].name]:
            raise DataError(f"{folder}: conditions {card.conditions[0].name} and {name} do not hold the same questions; see "
                            "`squall bench verify`", reason="unpaired")
    return found


def render_readme(card: BenchCard) -> str:
    """The page that goes with a card, as Markdown."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True,
                        lstrip_blocks=True, keep_trailing_newline=True)
    pages.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")
    return pages.get_template("bench_readme.md.jinja").render(card=card, shown=SHOWN_LOSSES)
