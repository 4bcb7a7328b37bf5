"""One joint training step of an autoencoder and its sampler, for one process or a worker among several.

A step: the sampler looks at the clips' tokens and draws what is visible; the autoencoder predicts the rest and learns; the
sampler remembers what it did and what the loss was, and when its buffer is full it learns too. The sampler sees tokens without
their graph and losses without theirs, so that the autoencoder is trained by reconstruction alone. Draws follow from (seed,
step, place in the batch): microbatches and workers change results by no more than rounding.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from squall.algorithms.classifier_training import Share
from squall.algorithms.masked_video.autoencoder import MaskedAutoencoder
from squall.algorithms.masked_video.gradients import DescentMaker, PlainDescent, adamw
from squall.algorithms.masked_video.learner import Experience, SamplerLearner
from squall.algorithms.masked_video.mask_ratio import MaskRatio
from squall.algorithms.masked_video.monitors import MaskMonitor
from squall.algorithms.masked_video.samplers.config import build_sampler
from squall.algorithms.masked_video.samplers.fixed import RandomSampler
from squall.algorithms.masked_video.samplers.learned import LearnedSampler
from squall.algorithms.masked_video.samplers.plans import Sampler
from squall.algorithms.masked_video.subsets import gumbel_noise
from squall.algorithms.masked_video.training_config import MaskedVideoConfig
from squall.platform.errors import ConfigError
from squall.platform.seeds import derive_seed


class JointTraining:
    """Autoencoder and sampler in training. Every worker makes one, with the same configuration."""

    def __init__(self, config: MaskedVideoConfig, total_steps: int, device: str | torch.device = "cpu",
                 share: Share | None = None, descent: DescentMaker = PlainDescent) -> None:
        """`descent` is who follows the autoencoder's gradients."""
        self.config, self.total_steps, self.share = config, total_steps, share or Share()
        if config.batch_clips < self.share.workers:
            raise ConfigError(f"batch_clips {config.batch_clips} does not go round {self.share.workers} workers; "
                              "make it larger")
        self.device, self.step = torch.device(device), 0
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(config.seed, "autoencoder"))
            self.autoencoder = MaskedAutoencoder(config.autoencoder).to(device)
            torch.manual_seed(derive_seed(config.seed, "sampler"))
            self.sampler = build_sampler(config.sampler, self.autoencoder.grid, config.autoencoder.width).to(device)
        self.optimiser = adamw(self.autoencoder, config.optimiser)
        self.descent = descent(self.autoencoder, self.optimiser, config.optimiser, self.share, "the autoencoder")
        self.ratio = MaskRatio(config.mask_ratio)
        self.learner = self._learner()
        self._warm = RandomSampler(self.autoencoder.grid)

    def advance(self, clips: torch.Tensor, motion: torch.Tensor | None = None) -> dict[str, float]:
        """One step.

        Args:
            clips: this worker's part of the batch, (b, C, T, H, W), float32 in [0, 1] or uint8.
            motion: bool (b, N), true where a token is on true motion, where that is known; on all workers or none.

        Returns:
            Figures of the whole batch: `MaskMonitor.figures`, ``mask_ratio``, ``visible_tokens``, ``grad_norm``, and after an
            update of the sampler ``sampler/...``.

        Raises:
            ConfigError: clips of another shape or number. SquallError: a loss, gradient or logit that is not finite.
        """
        self._check(clips)
        visible, sampler = self.autoencoder.grid.visible(self.ratio.value), self.acting
        noise = self.noise().unflatten(0, (-1, self.config.masks_per_clip))[self.share.of(self.config.batch_clips)]
        monitor = MaskMonitor(self.autoencoder.grid.tokens, self.device, self.config.masks_per_clip)
        experiences, parts = [], self._microbatches(len(clips))
        for rows in parts:
            part = _unit(clips[rows].to(self.device))
            moving = None if motion is None else motion[rows].to(self.device)
            experience = self._reconstruct(sampler, part, visible, noise[rows].flatten(0, 1), monitor, moving,
                                           last=rows is parts[-1])
            experiences.append(experience)
        norm = self.descent.step(self.step, self.total_steps)
        figures = monitor.figures(self.config.batch_clips, self.share, self.config.collapse, motion is not None)
        figures |= {"mask_ratio": self.ratio.value, "visible_tokens": float(visible), "grad_norm": norm}
        self.ratio.update(figures["loss"])
        self.step += 1
        return figures | self._learn([each for each in experiences if each is not None])

    @property
    def acting(self) -> Sampler:
        """Who draws in this step: while a learned sampler warms up, chance does."""
        warm = self.sampler.learns and self.step < self.config.sampler_training.warmup_steps
        return self._warm if warm else self.sampler

    @property
    def settled(self) -> bool:
        """Whether nothing waits in the sampler's buffer: a checkpoint taken now loses nothing."""
        return self.learner is None or not self.learner.buffer

    def noise(self) -> torch.Tensor:
        """Gumbel noise (batch_clips * masks_per_clip, N) of this step, clip by clip, the same on every worker."""
        generator = torch.Generator().manual_seed(derive_seed(self.config.seed, "mask", self.step))
        return gumbel_noise(self.config.batch_clips * self.config.masks_per_clip, self.autoencoder.grid.tokens, generator)

    def precise(self) -> AbstractContextManager[None]:
        """The arithmetic of forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def numbers(self) -> dict[str, float]:
        """What a checkpoint holds beside the weights and moments of `autoencoder`, `sampler` and their optimisers."""
        own = {"step": float(self.step), "mask_ratio": self.ratio.value}
        if self.learner is None:
            return own
        return own | {"updates": float(self.learner.updates)} | {
            f"rewards.{name}": value for name, value in self.learner.scale.state().items()}

    def load_numbers(self, numbers: dict[str, float]) -> None:
        """Go on from what `numbers` returned."""
        self.step, self.ratio.value = int(numbers["step"]), numbers["mask_ratio"]
        if self.learner is not None:
            self.learner.updates = int(numbers["updates"])
            self.learner.scale.load({name: numbers[f"rewards.{name}"] for name in self.learner.scale.state()})

    def _learner(self) -> SamplerLearner | None:
        config, training = self.config, self.config.sampler_training
        if not isinstance(self.sampler, LearnedSampler):
            return None
        updates = max(1, (self.total_steps - training.warmup_steps) // training.buffer_steps)
        epochs = training.epochs if config.sampler.rule == "ppo" else 1
        return SamplerLearner(self.sampler, config.sampler, training, config.batch_clips, updates * epochs, self.share,
                              config.microbatch_clips, self.precise)

    def _reconstruct(self, sampler: Sampler, clips: torch.Tensor, visible: int, noise: torch.Tensor, monitor: MaskMonitor,
                     motion: torch.Tensor | None, last: bool = True) -> Experience | None:
        """Act on a microbatch, add the gradient of its reconstruction, and return what the sampler may learn from."""
        masks = self.config.masks_per_clip
        with self.precise():
            tokens = self.autoencoder.embed(clips)
            with torch.no_grad():
                plan = sampler.plan(clips, tokens, visible, noise)
            made = self.autoencoder.reconstruct(repeated(clips, masks), repeated(tokens, masks), plan.visible, plan.masked)
        self.descent.backward(made.losses.sum() / (self.config.batch_clips * masks), last)
        monitor.add(plan, made, None if motion is None else repeated(motion, masks))
        return Experience.of(tokens, plan, made.token_losses) if sampler.learns else None

    def _learn(self, experiences: list[Experience]) -> dict[str, float]:
        if self.learner is None or not experiences:
            return {}
        self.learner.remember(experiences)
        figures = self.learner.update() if self.learner.full else {}
        return {f"sampler/{name}": value for name, value in figures.items()}

    def _microbatches(self, count: int) -> list[slice]:
        size = self.config.microbatch_clips or count
        return [slice(start, start + size) for start in range(0, count, size)]

    def _check(self, clips: torch.Tensor) -> None:
        own = self.share.of(self.config.batch_clips)
        if len(clips) != own.stop - own.start:
            raise ConfigError(f"{len(clips)} clips; this worker's part of batch_clips {self.config.batch_clips} is "
                              f"{own.stop - own.start}")
        self.autoencoder.grid.check(clips)


def repeated(rows: torch.Tensor, masks: int) -> torch.Tensor:
    """Each row `masks` times, one after the other."""
    return rows if masks == 1 else rows.repeat_interleave(masks, 0)


def _unit(clips: torch.Tensor) -> torch.Tensor:
    return clips.float() / 255 if clips.dtype == torch.uint8 else clips
