"""What speaks against the figures of masked video trainings is said, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tats_runs import ARMS, SEEDS, Made, facts, measures, rows, table_of

from squall.jobs.tats_card import build_tats_card


def doubts(arms: Mapping[str, Made] = ARMS, seeds: tuple[int, ...] = SEEDS, **changes: Any) -> tuple[str, ...]:
    return build_tats_card(table_of(rows(arms, seeds=seeds)), measures(arms, seeds, **changes), facts(arms, seeds)).unreliable


def with_tats(**changes: Any) -> dict[str, Made]:
    return ARMS | {"tats": replace(ARMS["tats"], **changes)}


def test_a_good_run_has_none() -> None:
    assert doubts() == ()


def test_an_autoencoder_that_predicts_no_better_than_a_constant() -> None:
    (text,) = doubts(with_tats(loss=0.97))
    assert "hardly learned" in text and "tats (0.9700 against 1.0000)" in text and "random" not in text
    assert doubts(with_tats(loss=0.97), constant_loss=None) == ()


def test_a_sampler_that_never_left_its_warm_up() -> None:
    (text,) = doubts(with_tats(updates=0))
    assert text.startswith("The sampler of tats (seed 1), tats (seed 2), tats (seed 3) never learned")
    assert "warmup_steps" in text


def test_a_sampler_that_collapsed() -> None:
    found = doubts(with_tats(collapsed=120))
    assert len(found) == 3 and found[0].startswith("tats (seed 1) collapsed in 120 of 400 steps")


def test_arms_of_different_mask_ratios() -> None:
    told = facts(ARMS)
    for name, arm in told["asked"]["arms"].items():
        arm["mask_ratio"] = {"ratio": 0.95 if name == "tats" else 0.75}
    (text,) = build_tats_card(table_of(rows(ARMS)), measures(ARMS), told).unreliable
    assert text.startswith("Arms have different mask ratios (") and "tats 0.95" in text and "random 0.75" in text


def test_one_training_of_each_arm() -> None:
    (text,) = doubts(seeds=(1,))
    assert text.startswith("One training of each arm")


def test_probes_at_chance() -> None:
    arms = {name: replace(own, probe=0.2) for name, own in ARMS.items()}
    (text,) = doubts(arms)
    assert text.startswith("No linear probe is above chance (1 in 4)")
    assert doubts(arms | {"flow": replace(ARMS["flow"], probe=0.6)}) == ()


def test_few_clips_others_clips_and_trainings_without_rows() -> None:
    few = build_tats_card(table_of(rows(ARMS, clips=19)), measures(ARMS), facts(ARMS)).unreliable
    assert [text.split(":")[0] for text in few] == ["Only 19 held-out clips of 'still'", "Only 19 held-out clips of 'pan'"]
    made = [row | ({"motion": 0.2} if row["arm"] == "flow" else {}) for row in rows(ARMS)]
    (text,) = build_tats_card(table_of(made), measures(ARMS), facts(ARMS)).unreliable
    assert "not measured on the same clips" in text
    kept = [row for row in rows(ARMS) if (row["arm"], row["seed"]) != ("flow", 3)]
    (text,) = build_tats_card(table_of(kept), measures(ARMS), facts(ARMS)).unreliable
    assert text.startswith("flow has nothing of seed 3")
