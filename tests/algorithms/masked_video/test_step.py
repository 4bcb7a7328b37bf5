"""The joint step: nothing leaks, nothing depends on how a batch is cut, and figures are what they say."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from squall.algorithms.classifier_training import Share
from squall.algorithms.masked_video.step import JointTraining
from squall.algorithms.masked_video.training_config import MaskedVideoConfig
from squall.platform.config import validate
from squall.platform.errors import ConfigError, SquallError

AUTOENCODER = {"frames": 4, "image_height": 16, "image_width": 16, "patch": 4, "width": 24, "depth": 1, "heads": 2,
               "decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}
NETWORK = {"width": 12, "heads": 2}
CLIPS = torch.rand(6, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
MOTION = torch.rand(6, 32, generator=torch.Generator().manual_seed(1)) < 0.2


def config_of(kind: str = "tats", **keys: Any) -> MaskedVideoConfig:
    values = {"autoencoder": AUTOENCODER, "sampler": {"kind": kind, "network": NETWORK}, "batch_clips": 6,
              "sampler_training": {"warmup_steps": 0}, "mask_ratio": {"ratio": 0.8},
              "optimiser": {"learning_rate": 1e-3, "schedule": "constant"}}
    return validate(MaskedVideoConfig, values | keys, "tats")


def weights(training: JointTraining) -> torch.Tensor:
    modules = (training.autoencoder, training.sampler)
    return torch.cat([weight.detach().flatten() for module in modules for weight in module.parameters()])


def run(steps: int = 2, **keys: Any) -> tuple[list[dict[str, float]], torch.Tensor]:
    training = JointTraining(config_of(**keys), steps)
    return [training.advance(CLIPS, MOTION) for _ in range(steps)], weights(training)


@pytest.mark.parametrize("kind", ["random", "tube", "flow", "adamae", "tats", "reinforce"])
def test_every_sampler_trains_and_tells(kind: str) -> None:
    figures, _ = run(kind=kind)
    assert {"loss", "entropy_share", "overlap", "collapsed", "motion/sampled", "loss/moving"} <= set(figures[0])
    assert figures[0]["visible_tokens"] == 6 and figures[0]["motion/chance"] == pytest.approx(MOTION.float().mean().item())
    assert ("sampler/policy_loss" in figures[0]) == (kind in ("adamae", "tats", "reinforce"))
    assert all(torch.isfinite(torch.tensor(list(each.values()))).all() for each in figures)


@pytest.mark.parametrize("kind", ["tats", "adamae"])
def test_microbatches_change_neither_figures_nor_weights(kind: str) -> None:
    (whole, end), (cut, cut_end) = run(kind=kind), run(kind=kind, microbatch_clips=4)
    for one, other in zip(whole, cut, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert torch.allclose(end, cut_end, atol=2e-5)


def test_two_workers_agree_with_one() -> None:
    whole, end = run()
    parts: list[tuple[list[dict[str, float]], torch.Tensor]] = together(2)
    for figures, weight in parts:
        for one, other in zip(whole, figures, strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
        assert torch.allclose(end, weight, atol=2e-5)


@pytest.mark.parametrize("kind", ["tats", "reinforce", "adamae", "tube"])
def test_several_masks_of_a_clip_do_not_depend_on_how_the_batch_is_cut(kind: str) -> None:
    keys = {"kind": kind, "masks_per_clip": 3, "sampler_training": {"warmup_steps": 0, "baseline": "group"}}
    (whole, end), (cut, cut_end) = run(**keys), run(**keys, microbatch_clips=4)
    parts = together(2, **keys)
    for figures, weight in ((cut, cut_end), *parts):
        for one, other in zip(whole, figures, strict=True):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
        assert torch.allclose(end, weight, atol=2e-5)


def test_masks_of_a_clip_are_those_of_as_many_equal_clips() -> None:
    """The autoencoder learns the same from three masks of two clips as from two clips that come three times each."""
    ends = []
    for clips, masks in ((2, 3), (6, 1)):
        training = JointTraining(config_of("random", batch_clips=clips, masks_per_clip=masks), 2)
        figures = training.advance(CLIPS[:2] if masks > 1 else CLIPS[:2].repeat_interleave(3, 0))
        ends.append((figures["loss"], weights(training)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5) and torch.allclose(ends[0][1], ends[1][1], atol=1e-6)


def test_a_group_of_one_mask_is_refused() -> None:
    with pytest.raises(ConfigError, match="baseline group compares a mask with others of its clip; set masks_per_clip to 2"):
        config_of(sampler_training={"baseline": "group"})


def together(workers: int, **keys: Any) -> list[Any]:
    """The run on threads that add up tensors at a barrier."""
    barrier, slots, results = threading.Barrier(workers), [None] * workers, [None] * workers

    def add(rank: int) -> Any:
        def sum_over_workers(values: torch.Tensor) -> None:
            slots[rank] = values.clone()
            barrier.wait()
            total = sum(slots)  # type: ignore[arg-type]
            barrier.wait()
            values.copy_(total)
        return sum_over_workers

    trainings = [JointTraining(config_of(**keys), 2, share=Share(rank, workers, add(rank))) for rank in range(workers)]

    def work(rank: int) -> None:
        training, own = trainings[rank], Share(rank, workers).of(6)
        results[rank] = ([training.advance(CLIPS[own], MOTION[own]) for _ in range(2)], weights(training))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


def test_no_gradient_goes_from_the_reward_to_the_autoencoder() -> None:
    training = JointTraining(config_of(), 4)
    training.advance(CLIPS)
    before = {name: value.clone() for name, value in training.autoencoder.state_dict().items()}
    with torch.no_grad():
        plan = training.sampler.plan(CLIPS, training.autoencoder.embed(CLIPS), 6, training.noise())
    tokens = training.autoencoder.embed(CLIPS)
    made = training.autoencoder.reconstruct(CLIPS, tokens, plan.visible, plan.masked)
    experience = type(training)._reconstruct(training, training.sampler, CLIPS, 6, training.noise(), quiet(), None)
    training.optimiser.zero_grad()
    training.learner.remember([experience])
    training.learner.update()
    assert made.token_losses.requires_grad and not experience.token_losses.requires_grad
    assert all(weight.grad is None for weight in training.autoencoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in training.autoencoder.state_dict().items())


def quiet() -> Any:
    class Nothing:
        def add(self, *of: Any) -> None:
            pass

    return Nothing()


def test_the_autoencoder_learns_as_it_would_from_the_masks_alone() -> None:
    """The first step's weights are the same whether or not the sampler learns in it."""
    ends = []
    for keys in ({}, {"sampler_training": {"warmup_steps": 0, "buffer_steps": 5}}):
        training = JointTraining(config_of(**keys), 2)
        training.advance(CLIPS)
        ends.append([weight.detach().clone() for weight in training.autoencoder.parameters()])
        assert training.settled == (not keys)
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_while_it_warms_up_masks_are_random_and_the_sampler_stays() -> None:
    training = JointTraining(config_of(sampler_training={"warmup_steps": 2}), 4)
    start = [weight.detach().clone() for weight in training.sampler.parameters()]
    random = JointTraining(config_of("random"), 4)
    for _ in range(2):
        assert training.advance(CLIPS)["loss"] == random.advance(CLIPS)["loss"]
        assert all(torch.equal(one, other) for one, other in zip(start, training.sampler.parameters(), strict=True))
    assert "sampler/reward" in training.advance(CLIPS)


def test_a_resumed_run_goes_on_as_the_whole_one() -> None:
    adaptive = {"ratio": 0.8, "adaptive": {"lowest": 0.5, "highest": 0.9, "gain": 0.05}}
    whole = JointTraining(config_of(mask_ratio=adaptive), 4)
    first, second = (JointTraining(config_of(mask_ratio=adaptive), 4) for _ in range(2))
    for _ in range(2):
        whole.advance(CLIPS)
        first.advance(CLIPS)
    for name in ("autoencoder", "sampler"):
        getattr(second, name).load_state_dict(getattr(first, name).state_dict())
    second.optimiser.load_state_dict(first.optimiser.state_dict())
    second.learner.optimiser.load_state_dict(first.learner.optimiser.state_dict())
    second.load_numbers(first.numbers())
    assert second.ratio.value != 0.8 and whole.advance(CLIPS) == second.advance(CLIPS)


def test_bytes_are_taken_as_pixels() -> None:
    bytes_ = (CLIPS * 255).round().to(torch.uint8)
    first, second = (JointTraining(config_of(), 2).advance(clips)["loss"] for clips in (bytes_, bytes_.float() / 255))
    assert first == second


def test_half_precision_comes_close_and_keeps_the_first_ratio() -> None:
    (full, _), (half, _) = run(1), run(1, precision="bfloat16")
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.05) and half[0]["sampler/first_ratio_deviation"] < 1e-5


@pytest.mark.parametrize(("keys", "message"), [
    ({"mask_ratio": {"ratio": 0.99}}, "leaves no visible token of 32"),
    ({"mask_ratio": {"ratio": 0.0}}, "leaves no masked token of 32"),
    ({"autoencoder": AUTOENCODER | {"frames": 1}}, "clips of 1 frames of 16x16 pixels are smaller than a tubelet of 2 frames"),
    ({"autoencoder": AUTOENCODER | {"image_height": 18}}, "are not divided by a tubelet"),
])
def test_what_cannot_be_trained_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(**keys)


def test_batches_that_do_not_fit_are_refused() -> None:
    training = JointTraining(config_of(), 2)
    with pytest.raises(ConfigError, match="5 clips; this worker's part of batch_clips 6 is 6"):
        training.advance(CLIPS[:5])
    with pytest.raises(ConfigError, match="batch_clips 6 does not go round 7 workers"):
        JointTraining(config_of(), 2, share=Share(0, 7))
    with pytest.raises(SquallError, match="the autoencoder: the length of the gradient is nan"):
        JointTraining(config_of("random"), 2).advance(CLIPS * torch.nan)
