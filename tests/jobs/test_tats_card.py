"""The card of masked video trainings: figures, tests and words whose truth is known, from rows that are made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tats_runs import ARMS, CHANCE, SEEDS, Made, facts, measures, rows, table_of

from squall.jobs.tats_card import build_tats_card, facts_of, say_tats_card
from squall.platform.errors import DataError
from squall.platform.tats_card import TatsCard, TatsContrast, TatsPart


def card_of(arms: Mapping[str, Made] = ARMS, seeds: tuple[int, ...] = SEEDS, changes: Mapping[str, Any] | None = None,
            **asked: Any) -> TatsCard:
    return build_tats_card(table_of(rows(arms, seeds=seeds, **asked)), measures(arms, seeds, **(changes or {})),
                           facts(arms, seeds))


CARD = card_of()


def part(card: TatsCard, arm: str, name: str = "still") -> TatsPart:
    return next(own for one in card.results if one.arm == arm for own in one.parts if own.part == name)


def contrast(card: TatsCard, second: str, about: str, name: str | None = None) -> TatsContrast:
    return next(one for one in card.contrasts if (one.second, one.about, one.part) == (second, about, name))


def test_shares_on_motion_stand_beside_chance_with_every_seed() -> None:
    found = part(CARD, "tats")
    assert found.sampled_motion.mean == pytest.approx(0.3) and found.chance.mean == CHANCE and found.clips == 40
    assert found.sampled_motion.seeds == pytest.approx((0.29, 0.30, 0.31))
    assert found.times_chance.mean == pytest.approx(3.0) and found.times_chance.seeds == pytest.approx((2.9, 3.0, 3.1))
    assert 2.7 < found.times_chance.low < 3 < found.times_chance.high < 3.3
    assert found.gain.mean == pytest.approx(0.2) and found.looks.mean == pytest.approx(0.18)
    assert found.p_gain < 0.01 and found.p_looks < 0.01
    assert (found.loss_random.mean, found.loss_moving.mean, found.loss_still.mean) == (0.4, 0.8, 0.2)


def test_samplers_that_look_at_nothing_are_not_tested_for_motion() -> None:
    random = part(CARD, "random")
    assert (random.p_gain, random.p_looks) == (None, None) and random.times_chance.mean == pytest.approx(1.0)


def test_tats_is_compared_with_every_control_and_nobody_else_is() -> None:
    assert [(one.first, one.second) for one in CARD.contrasts] == [("tats", name) for name in ("random", "flow", "reinforce")
                                                                    for _ in range(4)]
    against = contrast(CARD, "random", "motion", "pan")
    assert against.difference.mean == pytest.approx(0.2) and against.p_value < 0.01
    assert against.difference.seeds == pytest.approx((0.19, 0.20, 0.21)), "each seed against the mean over the control's"
    assert contrast(CARD, "flow", "reconstruction").difference.mean == pytest.approx(0.0)
    assert contrast(CARD, "flow", "reconstruction").p_value == 1.0
    assert contrast(CARD, "reinforce", "reconstruction").difference.mean == pytest.approx(-0.2)
    assert contrast(CARD, "random", "probe").difference.mean == pytest.approx(0.2)


def test_holm_corrects_over_all_contrasts() -> None:
    lone = card_of({name: ARMS[name] for name in ("tats", "random")})
    smallest = contrast(lone, "random", "motion", "still").p_value
    assert contrast(CARD, "random", "motion", "still").p_value == pytest.approx(3 * smallest, rel=0.01)


def test_words_say_where_tats_does_not_beat_its_controls() -> None:
    text = " ".join(CARD.says)
    assert "tats finds true motion over a still scene: 30.0 [" in text and "3.00 [" in text and "times chance (10.0 %" in text
    assert "it looks at clips" in text
    motion = next(one for one in CARD.says if one.startswith("In motion over a still scene"))
    assert "tats beats random (+20.0" in motion and "it does not beat, nor is it shown to be worse than, reinforce" in motion
    assert "it is worse than flow (−30.0" in motion
    reconstruction = next(one for one in CARD.says if "reconstruction" in one)
    assert "beats random (−0.1000" in reconstruction and "reinforce" in reconstruction.split(";")[0]
    assert "Training tats took 3.00 times the time and 1.00 times the memory of random" in text


def test_a_bias_for_places_where_motion_is_often_is_told_from_looking() -> None:
    arms = ARMS | {"tats": replace(ARMS["tats"], blind=0.3)}
    text = card_of(arms).says[0]
    assert "finds true motion" in text and "it may know where motion is often, not where it is" in text
    unknown = card_of(ARMS | {"tats": replace(ARMS["tats"], blind=None)})
    assert part(unknown, "tats").blind.mean is None and part(unknown, "tats").p_looks is None
    assert "other clips" not in unknown.says[0]


def test_chance_is_not_called_motion_that_is_found() -> None:
    arms = ARMS | {"tats": replace(ARMS["tats"], motion=CHANCE)}
    assert card_of(arms).says[0].startswith("tats is not shown to find true motion over a still scene")


def test_masked_sets_are_not_compared_with_visible_ones() -> None:
    arms = ARMS | {"tats": replace(ARMS["tats"], chooses="masked")}
    card = card_of(arms)
    assert {one.about for one in card.contrasts} == {"reconstruction", "probe"}
    assert any("tats draws what is masked" in note for note in card.notes)
    assert "of the masked tokens that it draws" in card.says[0]


def test_few_seeds_claim_nothing_about_training_in_general() -> None:
    two = card_of(seeds=(1, 2))
    assert any("claims nothing about training in general" in note for note in two.notes)
    assert not any("claims nothing" in note for note in CARD.notes)


def test_clips_that_a_seed_lacks_are_left_out_of_all_seeds_and_of_contrasts() -> None:
    made = [row for row in rows(ARMS) if not (row["arm"] == "tats" and row["seed"] == 2 and row["clip"] >= 30)]
    card = build_tats_card(table_of(made), measures(ARMS), facts(ARMS))
    assert part(card, "tats").clips == 30 and part(card, "random").clips == 40
    own = [row for row in made if row["arm"] == "tats" and row["part"] == "still" and row["clip"] < 30]
    kept = np.mean([row["sampled_motion"] for row in own])
    assert part(card, "tats").sampled_motion.mean == pytest.approx(kept, abs=1e-6)
    assert any("Of tats 20 held-out clips are not measured in every seed" in one for one in card.unreliable)


def test_clips_without_known_motion_and_without_a_probe_have_the_rest() -> None:
    made = [row | {"part": "data", "visible_motion": None, "sampled_motion": None, "motion": None, "blind_motion": None,
                   "loss_moving": None, "probe_correct": None} for row in rows(ARMS, parts=("still",))]
    card = build_tats_card(table_of(made), measures(ARMS, probe_accuracy=None, probe_classes=None), facts(ARMS))
    own = part(card, "tats", "data")
    assert own.sampled_motion.mean is None and own.times_chance.mean is None and own.p_gain is None
    assert own.loss_random.mean == 0.4 and card.results[0].probe.mean is None
    assert {one.about for one in card.contrasts} == {"reconstruction"}


def test_a_card_is_the_same_from_rows_in_any_order_and_from_its_file() -> None:
    shuffled = [rows(ARMS)[place] for place in np.random.default_rng(0).permutation(len(rows(ARMS)))]
    assert build_tats_card(table_of(shuffled), measures(ARMS)[::-1], facts(ARMS)) == CARD
    kept = TatsCard.model_validate(json.loads(CARD.model_dump_json()))
    assert kept == CARD
    assert build_tats_card(table_of(rows(ARMS)), kept.measures, facts_of(kept)) == CARD


def test_rows_that_cannot_be_are_refused() -> None:
    def build(**changes: Any) -> None:
        made = rows(ARMS)
        build_tats_card(table_of([*made, made[0] | changes]), measures(ARMS), facts(ARMS))

    with pytest.raises(DataError, match="arm 'tats' with seed 1 has two rows for clip 0 of 'still'"):
        build()
    with pytest.raises(DataError, match="an arm 'other' that the run has not; it has tats, random, flow, reinforce"):
        build(arm="other")
    with pytest.raises(DataError, match="a part 'zoom'; there are still, pan, data"):
        build(part="zoom")
    with pytest.raises(DataError, match="the measures hold an arm 'flow'"):
        build_tats_card(table_of([]), measures(ARMS), facts({name: ARMS[name] for name in ("tats", "random", "reinforce")}))


def test_a_run_without_rows_still_has_a_card() -> None:
    card = build_tats_card(table_of([]), measures(ARMS), facts(ARMS))
    assert card.results[0].parts == () and card.contrasts == () and card.results[0].loss_random.mean is None
    assert build_tats_card(table_of([]), [], facts(ARMS)).results == ()


def test_the_terminal_shows_figures_verdicts_and_doubts_whole() -> None:
    console = Console(file=StringIO(), width=60)
    say_tats_card(card_of(seeds=(1,)), console)
    out = console.file.getvalue()
    line = next(line for line in out.splitlines() if line.startswith("tats "))
    assert "29.0 [" in line and "2.90" in line and "0.4000" in line and "70.0 [" in line and "…" not in out
    assert "80 held-out clips" in out and "In the linear probe tats" in out and "unreliable: One training of each arm" in out
