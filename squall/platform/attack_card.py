"""What attacks on image classifiers leave behind: a row for every image and attack, and the card that is computed from them.

`squall attack image` writes ``attacks.parquet`` (`ATTACKS`) and ``card.json`` (`AttackCard`) into its run directory; a trial
(`squall trial`) writes the same over all its models, and its card says which belong together. The card follows from the rows
and from what was measured once per model; neither holds a time of day.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa

from squall.platform.config import Config
from squall.platform.report_card import Estimate

CLEAN = "clean"
"""Stands for the attack that leaves images as they are."""

ATTACKS = pa.schema([
    ("model", pa.string()),  # its name in the run; rows are in the order of model, norm, epsilon, attack, image
    ("attack", pa.string()),  # "clean", the attack's name, or "transfer:SOURCE:ATTACK"
    ("norm", pa.string()),  # "linf" or "l2"; null for clean
    ("epsilon", pa.float64()),  # with pixels in [0, 1]; null for clean
    ("image", pa.int32()),  # position in the data set
    ("label", pa.int32()),
    ("prediction", pa.int32()),  # class that the model gives the attacked image
    ("fooled", pa.bool_()),  # prediction is not the label; for clean: wrong as it is
    ("by", pa.string()),  # which attack of a schedule fooled it; null where it stands
    ("queries", pa.int64()),  # forward passes of this image
    ("gradients", pa.int64()),  # backward passes of this image
    ("l2", pa.float64()),  # length of the change
    ("linf", pa.float64()),
])
"""Columns of ``attacks.parquet``. All images have a row for clean; only those that are right when clean are attacked."""


class AttackResult(Config):
    """One attack at one budget on one model."""

    attack: str
    norm: Literal["linf", "l2"]
    epsilon: float
    robust_accuracy: Estimate
    """Images that are right as they are and stay right, over all images."""
    attacked: int
    """Images that are right as they are."""
    queries_mean: float | None
    queries_median: float | None
    gradients_mean: float | None
    """Passes per attacked image."""


class Budget(Config):
    """The worst that any attack of the run did at one budget: the only figure to be called robust accuracy."""

    norm: Literal["linf", "l2"]
    epsilon: float
    robust_accuracy: Estimate
    """Images that no attack fooled, transfer included, over all images."""
    worst_attack: str | None
    """The single attack that left the fewest."""


class IndicatorCurve(Config):
    """A gradient indicator along something: PGD steps, counted from 0, or radii."""

    name: Literal["agn", "gsua", "sign_consistency", "spread", "igv", "digv"]
    """The first four go along the steps (the second and third from step 1 on), ``igv`` and ``digv`` along the radii."""
    x: tuple[float, ...]
    y: tuple[float | None, ...]


class EntropyRow(Config):
    """Mean predictive entropy of a group of images."""

    images: Literal["clean", "attacked"]
    group: Literal["all", "correct", "wrong"]
    """Right or wrong as these images are: an attacked image is `wrong` where the attack fools the model."""
    bits: float | None
    """Between 0 and log2 of the number of classes; None for a group without images."""
    count: int


class Indicators(Config):
    """Gradient statistics of a model (docs/attacks.md defines them; operational definitions of Squall's own)."""

    images: int
    agn: float | None
    igv: float | None
    digv: float | None
    gsua: float | None
    """Means over their curves; `agn` is the one of the unchanged images."""
    sign_consistency: float | None
    """Mean over its curve."""
    spread_steps: float | None
    """How far the mean directions of PGD's steps lie apart: 1 - their mean cosine."""
    zero_gradients: float
    """Fraction of images whose cross-entropy gradient is exactly zero in float32."""
    zero_gradients_float64: float | None
    """The same in float64; None where the model does not run in it."""
    float32_agreement: float | None
    """Mean cosine between the gradients of float32 and of float64; below 1 where float32 rounds the gradient away."""
    entropy: tuple[EntropyRow, ...]
    curves: tuple[IndicatorCurve, ...] = ()


class MaskingCheck(Config):
    """One of the seven checks for gradient masking."""

    name: Literal["unbounded", "monotone", "black_box", "one_step", "zero_gradients", "noise", "worst_case"]
    passed: bool | None
    """None where the run did not measure what it needs."""
    value: float | None
    """What was seen, as a fraction of the attacked images; docs/attacks.md says of which for each check."""
    bound: float | None
    """The largest value that chance or a weak attack explains: above it the check fails."""
    message: str
    """One sentence: what was seen, and what it means."""


class ModelResult(Config):
    """Everything about one model."""

    name: str
    path: str
    hash: str
    arm: str | None = None
    """Of a trial: which method trained it."""
    seed: int | None = None
    clean: Estimate
    budgets: tuple[Budget, ...]
    """The run's main one first."""
    results: tuple[AttackResult, ...]
    indicators: Indicators | None = None
    landscape: str | None = None
    """The loss around an image: a file of the run directory, as `report.attack_landscape.read_landscape` says."""
    checks: tuple[MaskingCheck, ...] = ()
    unreliable: tuple[str, ...] = ()
    """Reasons why this model's robust accuracy should not be trusted, each a sentence."""
    training: dict[str, Any] = {}
    """Of a trial: ``objective``, ``passes``, ``seconds``, ``steps``, ``validation``."""


class Transfer(Config):
    """Examples made on one model, shown to another."""

    source: str
    target: str
    attack: str
    norm: Literal["linf", "l2"]
    epsilon: float
    accuracy: Estimate
    """Of the target, over all images; where the source is wrong as it is, the image is shown as it is."""


class ArmFigure(Config):
    """A figure of a trial's arm over its seeds."""

    figure: str
    """``clean``, an attack's name, ``worst``, or an indicator's name."""
    norm: Literal["linf", "l2"] | None = None
    epsilon: float | None = None
    mean: float
    low: float
    high: float
    """95 % interval over images of what the seeds reach on average; for indicators the range over seeds."""
    seeds: tuple[float, ...]


class Arm(Config):
    """One method of a trial."""

    name: str
    description: str
    figures: tuple[ArmFigure, ...]
    passes: float
    """Forward and backward passes of a training image that one run used."""
    seconds: float
    """Wall time of one run's training, a mean over seeds."""


class ArmContrast(Config):
    """Two arms on the same images and seeds: the second minus the first."""

    first: str
    second: str
    figure: str
    """As in `ArmFigure`, at the run's main budget."""
    change: Estimate
    p_value: float | None
    """Exact McNemar test, each image one coin, after Holm's correction over all contrasts; None with fewer than three seeds."""


class AttackCard(Config):
    """``card.json`` of `squall attack image` and of a trial."""

    version: Literal[1] = 1
    kind: Literal["attack"] = "attack"
    name: str
    data: dict[str, Any]
    """``format``, ``path``, ``split``, ``hash``, ``images``, ``classes``, ``shape``."""
    asked: dict[str, Any]
    """``attacks`` with all their settings, ``budgets``, ``seed``, ``chunk``."""
    provenance: dict[str, Any]
    models: tuple[ModelResult, ...]
    transfers: tuple[Transfer, ...] = ()
    arms: tuple[Arm, ...] = ()
    contrasts: tuple[ArmContrast, ...] = ()
    lost: tuple[str, ...] = ()
    """What could not be done, a sentence each."""
    unreliable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def transfer_name(source: str, attack: str) -> str:
    """What `ATTACKS` calls an attack that another model's examples are."""
    return f"transfer:{source}:{attack}"


def transfer_parts(attack: str) -> tuple[str, str] | None:
    """(source, attack) of such a name; None for any other attack. Names of models and attacks hold no colon."""
    kind, _, rest = attack.partition(":")
    source, _, name = rest.partition(":")
    return (source, name) if kind == "transfer" else None


CARD_FILE, ATTACKS_FILE = "card.json", "attacks.parquet"
