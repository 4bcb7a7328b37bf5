"""T-GRPO: advantages by hand, the contrast that acts and the published one that does not, and the loss's gradient."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from squall.algorithms.rewards import RewardConfig, score_group
from squall.algorithms.tgrpo import TGRPOConfig, group_advantages, has_signal, preset, token_loss
from squall.platform.config import load_config, validate
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import (
    Branch,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    ScoredGroup,
    TrainGroup,
    VideoSample,
)

CLEAN, CORRUPTED, SHUFFLED = Branch.CLEAN, Branch.CORRUPTED, Branch.SHUFFLED
ACCURACY = {"accuracy": 1.0}
VIDEO_R1 = preset("video_r1")


def scored(accuracies: dict[Branch, list[float]], extra: dict[str, list[float]] | None = None) -> ScoredGroup:
    sample = VideoSample("clip-7", "clip-7.mp4", MediaType.VIDEO, "Which?", ProblemType.MULTIPLE_CHOICE, "B")
    rollouts, rewards = [], []
    for branch, values in accuracies.items():
        for index, value in enumerate(values):
            rollouts.append(
                Rollout(
                    sample.id, f"{branch}-{index}", branch, "0" * 32, index, SamplingSpec(), (1,), "", (0.0,), 0, "stop"
                )
            )
            rewards.append(
                {"accuracy": float(value)} | {name: column[len(rewards)] for name, column in (extra or {}).items()}
            )
    return ScoredGroup(SampledGroup("g0", sample, "prompt", None, {}, tuple(rollouts)), tuple(rewards))


def trained(group: TrainGroup) -> np.ndarray:
    return np.array([advantage for advantage in group.advantages if advantage is not None])


def config(**changes) -> TGRPOConfig:
    return validate(TGRPOConfig, changes, "test")


# --- advantages ---


def test_perturbed_trains_only_the_corrupted_answers():
    group = group_advantages(
        scored({CLEAN: [1, 1], CORRUPTED: [1, 1, 0, 0], SHUFFLED: [0, 1]}), config(contrast="off"), ACCURACY
    )
    assert [a is None for a in group.advantages] == [True] * 2 + [False] * 4 + [True] * 2
    scale = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert trained(group) == pytest.approx([scale, scale, -scale, -scale])
    assert group.statistics == pytest.approx(
        {
            "accuracy_clean": 1.0,
            "accuracy_corrupted": 0.5,
            "accuracy_shuffled": 0.5,
            "reward_mean": 0.5,
            "reward_std": math.sqrt(1 / 3),
            "zero_variance": 0.0,
            "contrast_gap": 0.0,
            "temporal_hit": 0.0,
            "contrast_effective": 0.0,
            "contrast_active": 0.0,
        }
    )


def test_clean_trains_the_clean_answers_against_shuffled_ones():
    group = group_advantages(scored({CLEAN: [1, 0, 0, 0], SHUFFLED: [0, 0]}), config(optimise="clean"), ACCURACY)
    assert [a is None for a in group.advantages] == [False] * 4 + [True] * 2
    assert group.statistics["contrast_gap"] == 0.25 and group.statistics["temporal_hit"] == 1.0


@pytest.mark.parametrize("shuffled, rewards", [([1, 0], [1.3, 1.3, 0, 0]), ([1, 1, 1, 0], [1, 1, 0, 0])])
def test_video_r1_bonus_fixture(shuffled, rewards):
    """Shuffled mean 0.5: 0.5 >= 0.8 * 0.5, bonus. Shuffled mean 0.75: 0.5 < 0.6, none."""
    group = group_advantages(scored({CLEAN: [1, 1, 0, 0], SHUFFLED: shuffled}), VIDEO_R1.tgrpo, ACCURACY)
    expected = np.array(rewards)
    assert trained(group) == pytest.approx((expected - expected.mean()) / (expected.std(ddof=1) + 1e-4), abs=1e-12)
    assert group.statistics["contrast_active"] == float(rewards[0] == 1.3)


@pytest.mark.parametrize("correct", range(1, 8))
def test_contrast_changes_binary_groups_by_default_and_cannot_as_published(correct):
    binary = [1] * correct + [0] * (8 - correct)
    data = {CLEAN: binary, CORRUPTED: binary, SHUFFLED: [0, 0, 0, 0]}
    share = correct / 8
    on, off = (group_advantages(scored(data), config(contrast=c), ACCURACY) for c in ("post_norm", "off"))
    change = trained(on) - trained(off)
    assert change == pytest.approx([0.3 * (1 - share)] * correct + [-0.3 * share] * (8 - correct))
    assert on.statistics["contrast_effective"] == pytest.approx(max(share, 1 - share) * 0.3)
    assert np.abs(change).max() > 0.1 and trained(on).sum() == pytest.approx(0.0, abs=1e-9)

    published = VIDEO_R1.tgrpo
    on = group_advantages(scored(data), published, ACCURACY)
    off = group_advantages(scored(data), published.model_copy(update={"contrast": "off"}), ACCURACY)
    assert on.statistics["contrast_active"] == 1.0
    assert 0.0 < np.abs(trained(on) - trained(off)).max() < 1e-3
    assert on.statistics["contrast_effective"] == pytest.approx(np.abs(trained(on) - trained(off)).max())


def test_published_bonus_acts_on_graded_rewards():
    group = group_advantages(scored({CLEAN: [0.9, 0.5, 0.2, 0.05], SHUFFLED: [0, 0]}), VIDEO_R1.tgrpo, ACCURACY)
    assert group.statistics["contrast_effective"] > 0.05


def test_unnormalised_contrast_weighs_a_binary_group_by_one_plus_alpha():
    data = scored({CORRUPTED: [1, 1, 0, 0], SHUFFLED: [0, 0]})
    on = group_advantages(data, config(contrast="unnormalised", normalise="none"), ACCURACY)
    off = group_advantages(data, config(contrast="off", normalise="none"), ACCURACY)
    assert trained(off) == pytest.approx([0.5, 0.5, -0.5, -0.5])
    assert trained(on) == pytest.approx(1.3 * trained(off))


@pytest.mark.parametrize("shuffled, active", [([0, 0, 0, 1], 1.0), ([0, 1], 0.0), ([1, 1], 0.0)])
def test_default_threshold_is_strict(shuffled, active):
    group = group_advantages(scored({CORRUPTED: [1, 1, 0, 0], SHUFFLED: shuffled}), config(), ACCURACY)
    assert group.statistics["contrast_active"] == active
    assert (group.statistics["contrast_effective"] > 0.1) == bool(active)


def test_an_image_has_no_contrast():
    group = group_advantages(scored({CORRUPTED: [1, 0]}), config(), ACCURACY)
    assert group.statistics["contrast_effective"] == 0.0
    assert "contrast_gap" not in group.statistics and "temporal_hit" not in group.statistics


def test_a_group_that_is_all_wrong_is_no_temporal_hit():
    group = group_advantages(scored({CORRUPTED: [0, 0], SHUFFLED: [0, 0]}), config(), ACCURACY)
    assert group.statistics["contrast_gap"] == 0.0 and "temporal_hit" not in group.statistics
    assert group.statistics["contrast_active"] == 0.0


@pytest.mark.parametrize("accuracies", [[1, 1, 1, 1], [0, 0, 0, 0], [0.1] * 4])
@pytest.mark.parametrize("changes", [{}, {"contrast": "unnormalised", "normalise": "none"}, {"contrast": "video_r1"}])
def test_equal_rewards_carry_no_signal(accuracies, changes):
    group = group_advantages(scored({CORRUPTED: accuracies, SHUFFLED: [0, 0]}), config(**changes), ACCURACY)
    assert not has_signal(group)
    assert group.statistics["zero_variance"] == 1.0
    assert has_signal(group_advantages(scored({CORRUPTED: [1, 0], SHUFFLED: [0]}), config(**changes), ACCURACY))


def test_weights_scale_the_rewards():
    data = scored({CORRUPTED: [1, 0, 0], SHUFFLED: [0]}, {"format": [0, 1, 0, 1]})
    group = group_advantages(data, config(contrast="off", normalise="none"), {"accuracy": 1.0, "format": 0.5})
    assert trained(group) == pytest.approx([0.5, 0.0, -0.5])
    with pytest.raises(
        ConfigError, match="reward 'length' has a weight but was not computed. Computed: accuracy, format"
    ):
        group_advantages(data, config(), {"length": 1.0})


def test_clean_anchors_are_normalised_within_themselves():
    data = scored({CLEAN: [1, 0], CORRUPTED: [0, 0, 0, 1], SHUFFLED: [0]})
    with_anchors = group_advantages(data, config(optimise="both"), ACCURACY)
    without = group_advantages(data, config(), ACCURACY)
    scale = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert with_anchors.advantages[:2] == pytest.approx((scale, -scale))
    assert without.advantages[:2] == (None, None)
    assert with_anchors.advantages[2:6] == without.advantages[2:6]


def test_a_group_without_the_trained_branch_is_dropped_by_name():
    with pytest.raises(DataError, match="group g0: no rollout of the trained branch 'corrupted'") as error:
        group_advantages(scored({CLEAN: [1]}), config(), ACCURACY)
    assert error.value.reason == "empty_branch"


# --- configuration ---


def test_video_r1_preset_scores_like_the_published_code():
    """a = [1, 1, 0, 0], lengths 320, 513, 400, 400, shuffled 0.5: rewards 1 + .3 + .2, 1 + .3, 0, 0, format equal."""
    sample = VideoSample("clip-7", "clip-7.mp4", MediaType.VIDEO, "Which?", ProblemType.MULTIPLE_CHOICE, "B")
    answers = [
        (CLEAN, "B", 320),
        (CLEAN, "B", 513),
        (CLEAN, "A", 400),
        (CLEAN, "A", 400),
        (SHUFFLED, "B", 9),
        (SHUFFLED, "A", 9),
    ]
    rollouts = tuple(
        Rollout(
            sample.id,
            str(i),
            branch,
            "0" * 32,
            i,
            SamplingSpec(),
            (1,) * n,
            f"<think>x</think><answer>{a}</answer>",
            (0.0,) * n,
            0,
            "stop",
        )
        for i, (branch, a, n) in enumerate(answers)
    )
    rewarded = score_group(SampledGroup("g0", sample, "p", None, {}, rollouts), VIDEO_R1.rewards)
    group = group_advantages(rewarded, VIDEO_R1.tgrpo, VIDEO_R1.rewards.weights)
    expected = np.array([2.5, 2.3, 1.0, 1.0])
    assert trained(group) == pytest.approx((expected - expected.mean()) / (expected.std(ddof=1) + 1e-4))
    assert (VIDEO_R1.tgrpo.kl_beta, VIDEO_R1.tgrpo.samples_per_group, VIDEO_R1.tgrpo.shuffled_samples) == (0.04, 8, 4)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown preset 'video-r1'. Did you mean 'video_r1'?"):
        preset("video-r1")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"normalise": "none"}, "contrast: post_norm needs normalise: std"),
        ({"contrast": "unnormalised"}, "contrast: unnormalised needs normalise: none"),
        ({"shuffled_samples": 0}, "needs shuffled_samples >= 1"),
        ({"optimise": "both", "clean_samples": 1}, "clean_samples >= 2, not 1"),
        ({"corrupted_samples": 2}, "beside a trained clean branch"),
        ({"clip_hi": 0.3}, "Did you mean 'clip_high'"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_branch_sizes():
    assert config().branch_sizes() == {CLEAN: 2, CORRUPTED: 8, SHUFFLED: 4}
    assert config(optimise="clean").branch_sizes() == {CLEAN: 8, CORRUPTED: 0, SHUFFLED: 4}
    assert load_config(TGRPOConfig, None, ["importance_cap=null"]).importance_cap is None
    assert set(RewardConfig().weights) <= {"accuracy", "format", "consistency", "temporal"}


# --- loss ---


def batch(rows: int = 4, length: int = 5, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logprobs = -torch.rand(rows, length, generator=generator) * 3
    noise = torch.randn(3, rows, length, generator=generator)
    mask = torch.arange(length)[None] < torch.randint(1, length + 1, (rows, 1), generator=generator)
    return {
        "logprobs_BL": logprobs,
        "old_logprobs_BL": logprobs + 0.3 * noise[0],
        "engine_logprobs_BL": logprobs + 0.3 * noise[0] + 0.6 * noise[1],
        "reference_logprobs_BL": logprobs + 0.5 * noise[2],
        "advantages_B": torch.randn(rows, generator=generator),
        "mask_BL": mask,
    }


def by_hand(data: dict[str, torch.Tensor], c: TGRPOConfig) -> tuple[float, np.ndarray]:
    """Loss sum and its gradient with respect to the log-probabilities, one token at a time."""
    rows, length = data["mask_BL"].shape
    loss, gradient = 0.0, np.zeros((rows, length))
    for i in range(rows):
        scale = 1.0 if c.loss_aggregation == "token" else 1.0 / int(data["mask_BL"][i].sum())
        for t in range(length):
            if not data["mask_BL"][i, t]:
                continue
            lp, old, engine, ref = (float(data[f"{k}logprobs_BL"][i, t]) for k in ("", "old_", "engine_", "reference_"))
            a, ratio, w = (
                float(data["advantages_B"][i]),
                math.exp(lp - old),
                min(c.importance_cap or 1.0, math.exp(old - engine)),
            )
            clipped = min(max(ratio, 1 - c.clip_low), 1 + c.clip_high)
            x = ref - lp
            loss += scale * (-w * min(ratio * a, clipped * a) + c.kl_beta * (math.exp(x) - x - 1))
            flows = ratio * a <= clipped * a
            gradient[i, t] = scale * (-w * a * ratio * flows + c.kl_beta * (1 - math.exp(x)))
    return loss, gradient


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_loss_and_gradient_match_a_computation_by_hand(aggregation):
    c, data = config(loss_aggregation=aggregation, kl_beta=0.1, importance_cap=1.2, clip_high=0.28), batch()
    logprobs = data["logprobs_BL"].clone().requires_grad_()
    terms = token_loss(**(data | {"logprobs_BL": logprobs}), config=c)
    terms.loss_sum.backward()
    loss, gradient = by_hand(data, c)
    assert terms.loss_sum.item() == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(logprobs.grad.numpy(), gradient, atol=1e-6)
    assert terms.clipped_tokens > 0 and terms.importance_capped_tokens > 0  # else the check would not reach them
    assert terms.importance_max > 1.2


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_parts_of_a_batch_add_up_to_the_whole(aggregation):
    c, data = config(loss_aggregation=aggregation), batch(rows=6)
    whole = token_loss(**data, config=c)
    parts = [token_loss(**{k: v[rows] for k, v in data.items()}, config=c) for rows in (slice(0, 1), slice(1, 6))]
    assert set(whole.sums()) == {f.name for f in fields(whole)} - {"importance_max"}
    for name, value in whole.sums().items():
        assert float(sum(part.sums()[name] for part in parts)) == pytest.approx(float(value), rel=1e-5), name
    assert float(whole.importance_max) == pytest.approx(max(float(part.importance_max) for part in parts))
    assert int(whole.tokens) == int(data["mask_BL"].sum()) and int(whole.sequences) == 6


def test_padding_never_counts():
    c, data = config(), batch()
    data["mask_BL"][1] = False  # a row without tokens
    outside = ~data["mask_BL"]
    spoiled = {k: v.masked_fill(outside, math.nan) if k.endswith("logprobs_BL") else v for k, v in data.items()}
    spoiled["logprobs_BL"] = spoiled["logprobs_BL"].requires_grad_()
    for aggregation in ("token", "sequence"):
        c = config(loss_aggregation=aggregation)
        terms = token_loss(**spoiled, config=c)
        (gradient,) = torch.autograd.grad(terms.loss_sum, spoiled["logprobs_BL"])
        assert torch.isfinite(gradient).all() and (gradient[outside] == 0).all()
        assert terms.loss_sum.item() == pytest.approx(token_loss(**data, config=c).loss_sum.item(), rel=1e-6)
        assert int(terms.sequences) == 3


def test_on_policy_gradient_is_the_score_function():
    """With ratio 1 and no engine mismatch the gradient of a token is -A, clip range or not (Video-R1's loss)."""
    data = batch()
    logprobs = data["logprobs_BL"].requires_grad_()
    c = config(kl_beta=0.0)
    terms = token_loss(logprobs, logprobs.detach(), None, None, data["advantages_B"], data["mask_BL"], c)
    terms.loss_sum.backward()
    np.testing.assert_allclose(logprobs.grad, -data["advantages_B"][:, None] * data["mask_BL"], atol=1e-6)
    assert float(terms.mismatch_sum) == float(terms.mismatch_kl_sum) == 0.0
    assert float(terms.kl_sum) == 0.0 and int(terms.clipped_tokens) == 0
    assert float(terms.ratio_sum) == float(terms.importance_sum) == float(terms.tokens)


def test_importance_weight_is_constant_and_capped():
    logprobs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    engine = torch.tensor([[-1.5, -3.0]])  # weights e^0.5 = 1.65 and e^2 = 7.39, capped at 2
    arguments = (logprobs, logprobs.detach(), engine, None, torch.tensor([1.0]), torch.ones(1, 2))
    terms = token_loss(*arguments, config(kl_beta=0.0))
    terms.loss_sum.backward()
    np.testing.assert_allclose(logprobs.grad, [[-math.exp(0.5), -2.0]], rtol=1e-6)
    assert float(terms.mismatch_sum) == pytest.approx(2.5) and int(terms.importance_capped_tokens) == 1
    assert float(terms.mismatch_kl_sum) == pytest.approx((math.exp(0.5) - 1.5) + (math.exp(2.0) - 3.0))
    assert float(terms.importance_max) == pytest.approx(math.exp(2.0))
    uncorrected = token_loss(*arguments, config(kl_beta=0.0, importance_cap=None))
    assert float(uncorrected.importance_sum) == 2.0 and float(uncorrected.mismatch_sum) == pytest.approx(2.5)


def test_extreme_log_probabilities_stay_finite():
    lp = torch.tensor([[-500.0, 0.0]], requires_grad=True)
    other = torch.tensor([[0.0, -500.0]])
    terms = token_loss(lp, other, other.flip(1), other, torch.tensor([-1.0]), torch.ones(1, 2), config())
    terms.loss_sum.backward()
    assert all(math.isfinite(float(value)) for value in terms.sums().values()) and torch.isfinite(lp.grad).all()


def test_a_missing_reference_is_refused_when_it_is_needed():
    data = batch() | {"reference_logprobs_BL": None}
    with pytest.raises(ValueError, match="kl_beta = 0.01 needs reference"):
        token_loss(**data, config=config())
