"""What an autoencoder and its sampler are worth on held-out clips: masks, reconstruction, and a linear probe.

Masks follow from (part, draw, place in the part) alone: every sampler and every seed is measured on the same clips under the
same chance, and random masks are the same sets for all.
Shapes: B clips, N tokens, V visible ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from squall.algorithms.classifier_training import Share
from squall.algorithms.feature_head import fit_head
from squall.algorithms.masked_video.autoencoder import Reconstruction
from squall.algorithms.masked_video.monitors import MaskMonitor
from squall.algorithms.masked_video.samplers.fixed import RandomSampler
from squall.algorithms.masked_video.samplers.plans import MaskPlan, Sampler
from squall.algorithms.masked_video.step import JointTraining
from squall.algorithms.masked_video.subsets import gumbel_noise
from squall.platform.seeds import derive_seed

COLUMNS = ("visible_motion", "sampled_motion", "motion", "loss_own", "loss_random", "loss_moving", "loss_still")
"""Numbers of each held-out clip, means over draws. Shares on true motion: of visible tokens, of drawn ones, and of all, which
is chance. Losses: under its sampler's masks, under random ones, and under those of masked tokens on true motion and off it."""


@dataclass(frozen=True)
class HeldOut:
    """Clips that no training saw."""

    part: str
    """Its name: `still` or `pan` for clips of known motion, `data` for others."""
    clips: np.ndarray
    """uint8 (B, C, T, H, W)."""
    motion: np.ndarray | None = None
    """bool (B, N): tokens on true motion, where that is known."""
    labels: np.ndarray | None = None
    """int64 (B,), for a probe."""


@dataclass(frozen=True)
class MaskSample:
    """How a sampler masks one clip."""

    clip: np.ndarray
    """uint8 (T, H, W, C)."""
    visible: np.ndarray
    """bool (draws, N)."""
    probabilities: np.ndarray | None
    """float32 (N,): of each token in one draw; None where all are alike."""
    motion: np.ndarray | None
    """bool (N,)."""
    part: str


@dataclass(frozen=True)
class Measured:
    """What was found."""

    columns: Mapping[str, np.ndarray]
    """By clip: `part`, `clip` (its place in the part), `COLUMNS` and `blind_motion` as float64 (NaN where unknown), and
    `probe_correct` as object (True, False, or None where there is no probe). `blind_motion` is the share, of what is drawn for
    the part's other clips, that is on this clip's true motion: what places and times tell without looking."""
    entropy_share: float
    """Entropy of whole actions over that of drawing at random; 1 is no preference."""
    overlap: float
    """Of what two clips draw: 0 at random, 1 for a sampler that does not look."""
    collapsed: bool
    """By the configuration's thresholds."""
    constant_loss: float
    """Loss under the random masks of predicting for every token the mean one."""
    probe_accuracy: float | None
    """Share of labelled held-out clips that the probe gets right."""
    examples: tuple[MaskSample, ...]

    def rows(self) -> list[dict[str, object]]:
        """One object a clip, None where a number is unknown."""
        lists = {name: [None if value != value else value for value in values.tolist()]
                 for name, values in self.columns.items()}
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def measure(training: JointTraining, held: Sequence[HeldOut], probe: HeldOut | None = None, classes: int = 0, draws: int = 4,
            examples: int = 2, batch_clips: int = 16) -> Measured:
    """Measure the autoencoder and the sampler as they are, at the configuration's mask ratio (an adaptive one's first).

    Args:
        held: parts, each of one clip or more.
        probe: labelled clips on which a linear probe is fitted; held-out clips with labels are then classified.
        classes: labels are in [0, `classes`).
        draws: masks of each clip, of each sort.
        examples: clips of each part whose masks are returned.
        batch_clips: clips at a time.
    """
    gauge = _Gauge(training, draws, batch_clips)
    tables = [gauge.part(part) for part in held]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    correct = _probe(training, held, probe, classes, batch_clips)
    columns["probe_correct"] = correct
    known = [each for each in correct if each is not None]
    figures = gauge.monitor.figures(len(correct), Share(), training.config.collapse, moving=False)
    return Measured(columns, figures["sequence_entropy_share"], figures["overlap"], bool(figures["collapsed"]),
                    gauge.constant_loss(), float(np.mean(known)) if known else None,
                    tuple(sample for part in held for sample in gauge.examples(part, examples)))


def features(training: JointTraining, clips: np.ndarray, batch_clips: int = 16) -> torch.Tensor:
    """Means over all tokens of what the encoder makes of whole clips, float32 (B, D) on the CPU."""
    found = []
    with torch.no_grad(), training.precise():
        for part in _batches(clips, batch_clips):
            tokens = training.autoencoder.embed(_pixels(part, training.device))
            found.append(training.autoencoder.encode(tokens).float().mean(1).cpu())
    return torch.cat(found)


class _Gauge:
    """Draws masks over held-out clips and looks at what the autoencoder makes of them."""

    def __init__(self, training: JointTraining, draws: int, batch_clips: int) -> None:
        self.training, self.draws, self.batch_clips = training, draws, batch_clips
        self.grid = training.autoencoder.grid
        self.visible = self.grid.visible(training.config.mask_ratio.ratio)
        self.random = RandomSampler(self.grid).to(training.device)
        self.monitor = MaskMonitor(self.grid.tokens, training.device)
        self._targets = torch.zeros(self.grid.values, dtype=torch.float64, device=training.device)
        self._squares = self._count = 0.0

    def constant_loss(self) -> float:
        """Over all random masks so far."""
        return self._squares / (self._count * self.grid.values) - float((self._targets / self._count).square().mean())

    def part(self, part: HeldOut) -> dict[str, np.ndarray]:
        count, drawn = len(part.clips), torch.zeros(len(part.clips), self.grid.tokens, device=self.training.device)
        sums = {name: np.zeros(count) for name in COLUMNS}
        for draw in range(self.draws):
            noise = self._noise(part, draw)
            for start, clips in zip(range(0, count, self.batch_clips), _batches(part.clips, self.batch_clips), strict=True):
                rows = slice(start, start + len(clips))
                motion = None if part.motion is None else torch.from_numpy(part.motion[rows]).to(self.training.device)
                for name, values in self._batch(clips, motion, noise[rows], drawn[rows], draw == 0).items():
                    sums[name][rows] += values.double().cpu().numpy()
        return {"part": np.full(count, part.part, dtype=object), "clip": np.arange(count),
                "blind_motion": _blind(drawn.cpu().numpy(), part.motion),
                **{name: values / self.draws for name, values in sums.items()}}

    def examples(self, part: HeldOut, count: int) -> Iterator[MaskSample]:
        clips = part.clips[:count]
        if not len(clips):
            return
        plans = [self._plan(self.training.sampler, clips, self._noise(part, draw)[:len(clips)]) for draw in range(self.draws)]
        for row, clip in enumerate(clips):
            seen = [np.isin(np.arange(self.grid.tokens), plan.visible[row].cpu().numpy()) for plan in plans]
            alike = isinstance(self.training.sampler, RandomSampler)
            yield MaskSample(np.moveaxis(clip, 0, -1), np.stack(seen),
                             None if alike else plans[0].probabilities[row].float().cpu().numpy(),
                             None if part.motion is None else part.motion[row], part.part)

    def _noise(self, part: HeldOut, draw: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derive_seed(0, "held-out mask", part.part, draw))
        return gumbel_noise(len(part.clips), self.grid.tokens, generator)

    def _plan(self, sampler: Sampler, clips: np.ndarray, noise: torch.Tensor) -> MaskPlan:
        with torch.no_grad(), self.training.precise():
            pixels = _pixels(clips, self.training.device)
            return sampler.plan(pixels, self.training.autoencoder.embed(pixels), self.visible, noise)

    def _batch(self, clips: np.ndarray, motion: torch.Tensor | None, noise: torch.Tensor, drawn: torch.Tensor,
               first: bool) -> dict[str, torch.Tensor]:
        """Numbers of a batch; what is drawn is counted in `drawn` (b, N), in place."""
        own, random = (self._plan(sampler, clips, noise) for sampler in (self.training.sampler, self.random))
        made, common = (self._reconstruct(clips, plan) for plan in (own, random))
        drawn.scatter_add_(1, own.action, torch.ones_like(own.action, dtype=drawn.dtype))
        self._count += common.target.shape[0] * common.target.shape[1]
        self._squares += float(common.target.double().square().sum())
        self._targets += common.target.double().sum((0, 1))
        if first:
            self.monitor.add(own, made)
        found = {"loss_own": made.losses, "loss_random": common.losses}
        unknown = torch.full_like(made.losses, torch.nan)
        if motion is None:
            return found | {name: unknown for name in COLUMNS if name not in found}
        moving = motion.gather(1, random.masked)
        return found | {"visible_motion": motion.gather(1, own.visible).float().mean(1), "motion": motion.float().mean(1),
                        "sampled_motion": motion.gather(1, own.action).float().mean(1),
                        "loss_moving": _mean_where(common.token_losses, moving),
                        "loss_still": _mean_where(common.token_losses, ~moving)}

    def _reconstruct(self, clips: np.ndarray, plan: MaskPlan) -> Reconstruction:
        with torch.no_grad(), self.training.precise():
            return self.training.autoencoder(_pixels(clips, self.training.device), plan.visible, plan.masked)


def _probe(training: JointTraining, held: Sequence[HeldOut], probe: HeldOut | None, classes: int, batch_clips: int
           ) -> np.ndarray:
    """Whether the probe is right about each held-out clip, object (all clips,)."""
    none: list[np.ndarray] = [np.full(len(part.clips), None, dtype=object) for part in held]
    if probe is None or probe.labels is None:
        return np.concatenate(none)
    weight, bias = fit_head(features(training, probe.clips, batch_clips), probe.labels, classes)
    for place, part in enumerate(held):
        if part.labels is not None:
            said = (features(training, part.clips, batch_clips) @ weight.T + bias).argmax(1).numpy()
            none[place] = (said == part.labels).astype(object)
    return np.concatenate(none)


def _blind(drawn: np.ndarray, motion: np.ndarray | None) -> np.ndarray:
    """`Measured.columns`' ``blind_motion`` (B,), from how often each token of each clip was drawn (B, N)."""
    if motion is None or len(drawn) < 2:
        return np.full(len(drawn), np.nan)
    others = drawn.sum(0) - drawn
    return (others * motion).sum(1) / others.sum(1)


def _mean_where(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mean (B,) of values (B, M) that are chosen (B, M); NaN where none is."""
    return (values * chosen).sum(1) / chosen.sum(1)


def _batches(clips: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (clips[start:start + size] for start in range(0, len(clips), size))


def _pixels(clips: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(clips).to(device).float() / 255
