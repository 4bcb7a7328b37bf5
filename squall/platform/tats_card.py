"""What trainings of masked autoencoders leave behind: a row for every held-out clip, what each training cost, and the card.

`squall train tats` writes ``clips.parquet`` (`TATS_CLIPS`), ``measures.jsonl`` (`TatsMeasure`, one an arm and seed) and
``tats_card.json`` (`TatsCard`) into its run directory. The card follows from the other two; none holds a time of day.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa

from squall.platform.config import Config
from squall.platform.video_attack_card import Figure

CARD_FILE, ROWS_FILE, MEASURES_FILE, MASKS_FOLDER = "tats_card.json", "clips.parquet", "measures.jsonl", "masks"

PARTS = ("still", "pan", "data")
"""Held-out clips: shapes that move over static texture, the same under a pan of the camera, and a user's own."""

TATS_CLIPS = pa.schema([
    ("arm", pa.string()),  # its name in the run; rows are in the order of arm, seed, part, clip
    ("seed", pa.int64()),
    ("part", pa.string()),  # one of `PARTS`
    ("clip", pa.int32()),  # position in the part; the same for all arms and seeds
    ("visible_motion", pa.float64()),  # share of the visible tokens that are on true motion; null where it is not known
    ("sampled_motion", pa.float64()),  # share of the drawn tokens
    ("motion", pa.float64()),  # share of all tokens, which is chance
    ("blind_motion", pa.float64()),  # share of what it drew for the part's other clips that is on this clip's motion
    ("loss_own", pa.float64()),  # reconstruction under the arm's own masks
    ("loss_random", pa.float64()),  # and under random masks, which are the same for all arms and seeds
    ("loss_moving", pa.float64()),  # of masked tokens on true motion, under those random masks
    ("loss_still", pa.float64()),  # and of the others
    ("probe_correct", pa.bool_()),  # a linear probe on frozen features names the class; null where there is none
])
"""Columns of ``clips.parquet``."""


class LearningPoint(Config):
    """Means over some steps of a training, those after the point before."""

    step: int
    """The last of them, from 1."""
    loss: float
    """Under the arm's own masks."""
    entropy_share: float | None = None
    """`sequence_entropy_share` of `MaskMonitor`: 1 at random."""
    overlap: float | None = None
    motion_sampled: float | None = None
    motion_visible: float | None = None
    motion_chance: float | None = None


class TatsMeasure(Config):
    """One training, and what it cost: a line of ``measures.jsonl``."""

    arm: str
    seed: int
    kind: str
    """Of the sampler."""
    chooses: Literal["visible", "masked"] = "visible"
    """What the tokens that it draws become."""
    steps: int
    clips: int
    """That it was trained on, each as often as it was shown."""
    seconds: float
    """Of training steps, over all workers at once; without start, data that was waited for before the first, and measuring."""
    tokens_per_second: float
    """All tokens of its clips, masked ones too, over these seconds."""
    peak_memory_bytes: int
    """Of the worker that needed most: of its device where that is a GPU, else of its process."""
    parameters: int
    """Of the autoencoder."""
    sampler_parameters: int
    """0 for one that does not learn."""
    sampler_updates: int = 0
    """Updates that it learned from; 0 where warm-up was all."""
    entropy_share: float
    """Entropy of its actions on held-out clips over that of drawing at random (`MaskMonitor`'s `sequence_entropy_share`)."""
    overlap: float
    """Of what it draws for two held-out clips, chance taken off."""
    collapsed_steps: int
    """Steps of training after warm-up that `MaskMonitor` calls collapsed."""
    constant_loss: float | None = None
    """Loss on the held-out clips of predicting the same everywhere, which knows nothing; None where it was not measured."""
    probe_accuracy: float | None = None
    probe_classes: int | None = None
    mask_ratio: float
    """At the end."""
    learning: tuple[LearningPoint, ...] = ()


class TatsPart(Config):
    """One arm on one part of the held-out clips, over all seeds."""

    part: str
    clips: int
    sampled_motion: Figure
    visible_motion: Figure
    chance: Figure
    """Share of all tokens on true motion."""
    blind: Figure
    """Share on a clip's true motion of what the arm draws for other clips: what it finds without looking, by places and times
    where motion is often."""
    times_chance: Figure
    """`sampled_motion` over `chance`, of all clips together."""
    gain: Figure
    """`sampled_motion` minus `chance`, clip by clip."""
    p_gain: float | None
    """Sign-flip test of the gain, after Holm's correction over arms and parts; `p_looks` too."""
    looks: Figure
    """`sampled_motion` minus `blind`."""
    p_looks: float | None
    loss_own: Figure
    loss_random: Figure
    loss_moving: Figure
    loss_still: Figure


class TatsResult(Config):
    """One arm over all held-out clips and seeds."""

    arm: str
    kind: str
    chooses: Literal["visible", "masked"]
    seeds: tuple[int, ...]
    parts: tuple[TatsPart, ...]
    loss_random: Figure
    """Over all parts."""
    probe: Figure
    probe_clips: int
    probe_classes: int | None
    seconds: tuple[float, ...]
    """Of each seed, as are the lists below."""
    tokens_per_second: tuple[float, ...]
    peak_memory_bytes: tuple[int, ...]
    entropy_share: tuple[float, ...]
    overlap: tuple[float, ...]
    collapsed_steps: tuple[int, ...]
    steps: int
    parameters: int
    sampler_parameters: int


class TatsContrast(Config):
    """An arm minus a control on the same clips."""

    first: str
    second: str
    about: Literal["motion", "reconstruction", "probe"]
    part: str | None
    """Of the motion; None for what is about all clips."""
    difference: Figure
    p_value: float | None
    """Sign-flip test over clips of means over seeds, after Holm's correction over all contrasts of the card. It is about these
    trained models."""

    @property
    def better(self) -> Literal[-1, 1]:
        """The sign of a difference that speaks for the first."""
        return -1 if self.about == "reconstruction" else 1


class TatsCard(Config):
    """``tats_card.json`` of `squall train tats`."""

    version: Literal[1] = 1
    kind: Literal["tats"] = "tats"
    name: str
    data: dict[str, Any]
    """``source``, ``hash``, ``shape`` [T, H, W, 3], ``tokens``, ``train_clips``, ``parts`` {part: held-out clips}."""
    asked: dict[str, Any]
    """``arms`` with their settings by name, ``seeds``, ``steps``, ``batch_clips``, ``mask_ratio``, ``autoencoder``, and what
    else the run was told."""
    provenance: dict[str, Any]
    results: tuple[TatsResult, ...]
    """In the order of the configuration."""
    contrasts: tuple[TatsContrast, ...] = ()
    """Of every arm of kind `tats` against every other kind."""
    measures: tuple[TatsMeasure, ...] = ()
    lost: tuple[str, ...] = ()
    """What could not be done, a sentence each."""
    says: tuple[str, ...] = ()
    """What the run shows, in words: does TATS find motion, and does it beat each control."""
    unreliable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
