"""A classifier on a video encoder: all of it trained (arXiv 2203.12602, appendix), or a linear layer on frozen features.

Written once for a single process and for any number of workers: what layers drop follows from (seed, step, place in the batch)
and features are normalised by the whole batch, so that losses agree to rounding whatever the number of workers.
Shapes: B clips, N tokens, D the encoder's width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from squall.algorithms.classifier_training import Share
from squall.algorithms.masked_video.finetune_config import FinetuneConfig
from squall.algorithms.masked_video.gradients import descend, restore_state, state_of
from squall.algorithms.masked_video.videomae import to_videomae
from squall.algorithms.schedules import learning_rate_at
from squall.platform.errors import ConfigError
from squall.platform.seeds import derive_seed

if TYPE_CHECKING:
    from squall.algorithms.masked_video.autoencoder import MaskedAutoencoder

SCALE_EPSILON = 1e-6
"""Of the batch normalisation before a linear probe (arXiv 2111.06377, appendix A.1)."""
SCALE_MOMENTUM = 0.1
HEAD_STD = 0.02


class ClipClassifier(nn.Module):
    """An encoder, the mean over its tokens, a norm and a linear layer: Hugging Face's VideoMAEForVideoClassification."""

    mean: torch.Tensor
    std: torch.Tensor
    positions: torch.Tensor
    scale_mean: torch.Tensor
    scale_variance: torch.Tensor

    def __init__(self, autoencoder: MaskedAutoencoder, classes: int, seed: int) -> None:
        """`autoencoder` gives its encoder away; its last norm, which this model has no place for, is left behind."""
        super().__init__()
        self.config, self.grid, width = autoencoder.config, autoencoder.grid, autoencoder.config.width
        self.embedding, self.encoder = autoencoder.embedding, autoencoder.encoder
        for name in ("mean", "std", "positions"):
            self.register_buffer(name, getattr(autoencoder, name), persistent=False)
        self.fc_norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "head"))
            nn.init.trunc_normal_(self.classifier.weight, std=HEAD_STD)
        nn.init.zeros_(self.classifier.bias)
        self.register_buffer("scale_mean", torch.zeros(width), persistent=False)
        self.register_buffer("scale_variance", torch.ones(width), persistent=False)

    def features(self, clips: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        """(B, D), normalised, of clips (B, channels, frames, height, width), in [0, 1] or uint8.

        Args:
            kept: factors (B, depth, 2) of the branches of every block.
        """
        self.grid.check(clips)
        pixels = clips.float() / 255 if clips.dtype == torch.uint8 else clips
        tokens = self.embedding((pixels - self.mean) / self.std).flatten(2).transpose(1, 2) + self.positions
        for number, block in enumerate(self.encoder):
            tokens = block(tokens, None if kept is None else kept[:, number])
        return self.fc_norm(tokens.mean(1))

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """Features as the linear layer of a probe sees them; of a network that was trained whole they are as they were."""
        return (features - self.scale_mean) / (self.scale_variance + SCALE_EPSILON).sqrt()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits (B, K)."""
        return self.classifier(self.scaled(self.features(clips)).float())

    def to_videomae(self) -> dict[str, torch.Tensor]:
        """The state dict of VideoMAEForVideoClassification; what a probe normalises features by goes into its linear layer."""
        deviation = (self.scale_variance + SCALE_EPSILON).sqrt()
        weight = self.classifier.weight.detach() / deviation
        bias = self.classifier.bias.detach() - weight @ self.scale_mean
        return {**to_videomae(self, "pretraining"), "classifier.weight": weight, "classifier.bias": bias}


class FinetuneTraining:
    """A classifier in training. Every worker makes one, with the same configuration and an encoder of the same weights."""

    def __init__(self, config: FinetuneConfig, module: ClipClassifier, total_steps: int,
                 device: str | torch.device = "cpu", share: Share | None = None) -> None:
        """Raises ConfigError where there are more workers than clips in a batch."""
        self.config, self.total_steps, self.share, self.step = config, total_steps, share or Share(), 0
        if config.batch_clips < self.share.workers:
            raise ConfigError(f"batch_clips {config.batch_clips} does not go round {self.share.workers} workers; "
                              "make it larger")
        self.device, self.module = torch.device(device), module.to(device)
        self.optimiser = torch.optim.AdamW(parameter_groups(module, config), lr=config.optimiser.learning_rate,
                                           betas=config.optimiser.betas)

    def advance(self, clips: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """One step.

        Args:
            clips: this worker's part of the batch, (b, C, T, H, W), float32 in [0, 1] or uint8.
            labels: int64 (b,).

        Returns:
            Of the whole batch ``loss``, ``accuracy/train`` (on clips as they were learned from), ``grad_norm`` and
            ``learning_rate``.

        Raises:
            ConfigError: clips of another shape. SquallError: a gradient that is not finite.
        """
        self.module.train()
        clips, labels = clips.to(self.device), labels.to(self.device)
        own = self.share.of(self.config.batch_clips)
        sums = self._probe(clips, labels, own) if self.config.mode == "linear" else self._whole(clips, labels, own)
        self.share.add(sums)
        loss, right = (sums / self.config.batch_clips).tolist()
        rate = learning_rate_at(self.config.optimiser, self.step, self.total_steps)
        norm = descend(self.module, self.optimiser, self.config.optimiser, self.step, self.total_steps, self.share,
                       "the classifier")
        self.step += 1
        return {"loss": loss, "accuracy/train": right, "grad_norm": norm, "learning_rate": rate}

    def probabilities(self, clips: torch.Tensor) -> torch.Tensor:
        """float32 (n, K), on the CPU, of clips as `advance` takes them."""
        self.module.eval()
        size = self.config.microbatch_clips or self.config.batch_clips
        with torch.no_grad(), self._precise():
            return torch.cat([self.module(part.to(self.device)).float().softmax(1).cpu() for part in clips.split(size)])

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What a checkpoint holds beside `step`."""
        yield from state_of(self.module, self.optimiser)
        yield from (("scale_mean", self.module.scale_mean), ("scale_variance", self.module.scale_variance))

    def restore(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Go on from `tensors` after so many steps. Raises SquallError where they are of another size."""
        restore_state(self.module, self.optimiser, tensors, step)
        self.module.scale_mean.copy_(tensors["scale_mean"])
        self.module.scale_variance.copy_(tensors["scale_variance"])
        self.step = step

    def _whole(self, clips: torch.Tensor, labels: torch.Tensor, own: slice) -> torch.Tensor:
        kept, left = self._kept(own)
        sums = torch.zeros(2, device=self.device)
        for rows in self._microbatches(len(clips)):
            with self._precise():
                features = self.module.features(clips[rows], kept[rows])
            sums += self._learn(self.module.scaled(features.float()) * left[rows], labels[rows])
        return sums

    def _probe(self, clips: torch.Tensor, labels: torch.Tensor, own: slice) -> torch.Tensor:
        with torch.no_grad(), self._precise():
            features = torch.cat([self.module.features(clips[rows]) for rows in self._microbatches(len(clips))]).float()
        return self._learn(self._scale(features) * self._kept(own)[1], labels)

    def _scale(self, features: torch.Tensor) -> torch.Tensor:
        """Features over the deviation of the whole batch, whose moments are followed for later."""
        count, module = self.config.batch_clips, self.module
        mean = features.sum(0) / count
        self.share.add(mean)
        variance = (features - mean).square().sum(0) / count
        self.share.add(variance)
        for moment, value in ((module.scale_mean, mean), (module.scale_variance, variance)):
            moment.lerp_(value, SCALE_MOMENTUM if self.step else 1.0)
        return (features - mean) / (variance + SCALE_EPSILON).sqrt()

    def _learn(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Add the gradient of some clips; returns their losses and right predictions, added up."""
        logits = self.module.classifier(features)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.config.label_smoothing)
        (loss / self.config.batch_clips).backward()
        return torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()])

    def _kept(self, own: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of branches (b, depth, 2) and of features (b, D), which are 0 where something is dropped."""
        config, sizes = self.config, self.module.config
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "dropped", self.step))
        chance = torch.rand(config.batch_clips, 2 * sizes.depth + sizes.width, generator=generator)[own].to(self.device)
        rates = torch.linspace(0, config.drop_path, sizes.depth, device=self.device).repeat_interleave(2)
        branches = (chance[:, :2 * sizes.depth] >= rates) / (1 - rates)
        return branches.unflatten(1, (-1, 2)), (chance[:, 2 * sizes.depth:] >= config.fc_dropout) / (1 - config.fc_dropout)

    def _microbatches(self, count: int) -> list[slice]:
        size = self.config.microbatch_clips or count
        return [slice(start, start + size) for start in range(0, count, size)]

    def _precise(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")


def parameter_groups(module: ClipClassifier, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Parameters by layer: the ``scale`` of the rate falls by `layer_decay` from one block to the one below it
    (arXiv 2003.10555), and vectors do not decay."""
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, weight in module.named_parameters():
        above, decay = _layers_above(name, module.config.depth), config.optimiser.weight_decay if weight.ndim > 1 else 0.0
        group = groups.setdefault((above, weight.ndim > 1), {
            "params": [], "scale": config.layer_decay**above, "weight_decay": decay})
        group["params"].append(weight)
    return list(groups.values())


def _layers_above(name: str, depth: int) -> int:
    """How many layers lie above that of a parameter: none above the head."""
    part, _, rest = name.partition(".")
    if part == "encoder":
        return depth - int(rest.partition(".")[0])
    return depth + 1 if part == "embedding" else 0
