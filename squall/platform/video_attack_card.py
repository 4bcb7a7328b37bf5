"""What attacks on video classifiers leave behind: a row for every clip and attack, and the card that is computed from them.

`squall attack video` writes ``video_attacks.parquet`` (`VIDEO_ATTACKS`) and ``card.json`` (`VideoAttackCard`) into its run
directory. The card follows from the rows and from what was measured once; neither holds a time of day.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa

from squall.platform.config import Config
from squall.platform.report_card import Estimate

CARD_FILE, ROWS_FILE, EXAMPLES_FOLDER = "card.json", "video_attacks.parquet", "examples"

VIDEO_ATTACKS = pa.schema([
    ("attack", pa.string()),  # its name in the run; rows are in the order of attack, seed, clip
    ("seed", pa.int64()),  # of a learned attack's training, or of a control's draws
    ("clip", pa.int32()),  # position in the held-out clips
    ("label", pa.int32()),
    ("prediction", pa.int32()),  # class that the victim gives the attacked clip
    ("fooled", pa.bool_()),
    ("queries", pa.int64()),  # clips asked about until the flip, or until the attack gave up, the clean one included
    ("removal_queries", pa.int64()),  # clips asked about after the flip, to make the change smaller
    ("p_clean", pa.float64()),  # the label's probability before
    ("p_attacked", pa.float64()),  # and after, for the clip that the attack ends with
    ("l2", pa.float64()),  # of the change, with pixels in [0, 1]; measures.py says how
    ("linf", pa.float64()),
    ("mean_abs", pa.float64()),
    ("ssim", pa.float64()),
    ("flicker", pa.float64()),
    ("cells", pa.int32()),  # cells of the grid, and frames, with a changed pixel
    ("frames", pa.int32()),
    ("trace_queries", pa.list_(pa.int32())),  # number of each query until the flip, from 1
    ("trace_p", pa.list_(pa.float32())),  # the label's probability then
    ("seen_by", pa.list_(pa.string())),  # other victims that were shown a clip that fools, by name
    ("seen_clean", pa.list_(pa.int32())),  # the class that each gives the clean clip
    ("seen_attacked", pa.list_(pa.int32())),  # and the attacked one
])
"""Columns of ``video_attacks.parquet``. Only clips that the victim classifies correctly are attacked."""


class Training(Config):
    """One training of learned attackers."""

    attack: str
    seed: int
    iterations: int
    queries: int
    """Clips that the victim was asked about in it, as the ledger has them."""
    episodes: int
    infra_errors: int
    """Attacks of training that were cut short because the victim could not be reached."""
    failures: int
    """Iterations that were done again."""
    seconds: float
    learning: tuple[tuple[int, float, float], ...]
    """For each iteration: its number, the share of its attacks that flipped, and queries an attack."""


class Figure(Config):
    """A number with its 95 % bootstrap interval over clips of what the seeds reach on average; None where it is not defined."""

    mean: float | None
    low: float | None
    high: float | None
    seeds: tuple[float | None, ...] = ()
    """The same for each seed alone; of a difference each seed of the first against the mean over those of the second."""


class VideoAttackResult(Config):
    """One attack over all held-out clips and seeds."""

    attack: str
    kind: Literal["learned", "control"]
    description: str
    """One line: what it is and how it was set."""
    seeds: tuple[int, ...]
    attacked: int
    """Clips that the victim classifies correctly and that this attack was done with in every seed; figures are over these."""
    success: Figure
    """Share of these that were fooled within the budget."""
    queries: Figure
    """Mean queries until the flip; failures count the whole budget."""
    queries_median: float | None
    """Over clips and seeds."""
    removal_queries: Figure
    """Over those that were fooled."""
    l2: Figure
    linf: Figure
    mean_abs: Figure
    ssim: Figure
    flicker: Figure
    cells: Figure
    frames: Figure
    """Of the change, over clips that were fooled."""
    curve: tuple[tuple[int, float, float, float], ...]
    """Success against queries: queries, share fooled by then, and its interval; a step curve from the first query to the
    budget."""
    training_queries: int
    """Of one training, a mean over seeds; 0 for a control."""

    @property
    def amortised_queries(self) -> float | None:
        """Queries a clip when those of one training are shared out over the clips that were attacked."""
        if self.queries.mean is None or not self.attacked:
            return None
        return self.queries.mean + self.training_queries / self.attacked


class VideoContrast(Config):
    """Two attacks on the same clips: the first minus the second."""

    first: str
    second: str
    success: Figure
    queries: Figure
    """Fewer is better for an attack, so that a negative figure speaks for the first."""
    p_success: float | None
    p_queries: float | None
    """Sign-flip tests over clips of the differences of their means over seeds, with one seed each of success the exact McNemar
    test, after Holm's correction over both figures of all contrasts. They are about these attackers and these draws."""
    break_even_clips: int | None
    """Clips after which the queries that the first saves have paid for what its training cost more than the second's; None
    where it saves none, 0 where it cost no more."""


class VideoTransfer(Config):
    """Clips that fooled the victim, shown to another one that classifies their clean clips correctly."""

    attack: str
    victim: str
    shown: int
    fooled: Estimate


class VideoAttackCard(Config):
    """``card.json`` of `squall attack video`."""

    version: Literal[1] = 1
    kind: Literal["video_attack"] = "video_attack"
    name: str
    victim: dict[str, Any]
    """``name``, ``path``, ``hash``, ``classes``, ``accuracy`` (an `Estimate` over the held-out clips), and of one that was
    trained in the run ``training``."""
    data: dict[str, Any]
    """``path``, ``hash``, ``split`` (which clips are held out), ``clips``, ``train_clips``, ``shape`` [T, H, W, 3],
    ``source``."""
    asked: dict[str, Any]
    """``attack`` (grid, distortion, budget, reward), ``attacks`` with all their settings, by name, ``seeds``."""
    provenance: dict[str, Any]
    results: tuple[VideoAttackResult, ...]
    """Learned attacks first, both in the order of the configuration."""
    contrasts: tuple[VideoContrast, ...] = ()
    trainings: tuple[Training, ...] = ()
    transfers: tuple[VideoTransfer, ...] = ()
    ledger: dict[str, int] = {}
    """Clips that the victim was asked about: ``begun`` by its own counters, ``answered``, ``lost``, and by purpose."""
    lost: tuple[str, ...] = ()
    """What could not be done, a sentence each."""
    unreliable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
