"""The card of attacks on clips: figures whose truth is known, from rows that are made by hand or drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from squall.algorithms.statistics import mcnemar_exact
from squall.jobs.video_attack_card import build_video_attack_card, facts_of, say_video_attack_card
from squall.platform.errors import DataError
from squall.platform.video_attack_card import VIDEO_ATTACKS, VideoAttackCard

BUDGET, LABEL = 100, 2
SEEDS = (1, 2, 3)
Play = Callable[[int, int], tuple[bool, int]]
"""(seed, clip) -> whether it is fooled, after how many queries."""


def rows(attack: str, play: Play, clips: Sequence[int] = range(40), seeds: Sequence[int] = SEEDS, **same: Any
         ) -> list[dict[str, Any]]:
    found = []
    for seed in seeds:
        for clip in clips:
            fooled, queries = play(seed, clip)
            found.append({
                "attack": attack, "seed": seed, "clip": clip, "label": LABEL, "prediction": 0 if fooled else LABEL,
                "fooled": fooled, "queries": queries, "removal_queries": 3 if fooled else 0, "p_clean": 0.99, "p_attacked": 0.4,
                "l2": 2.0 + seed, "linf": 0.5, "mean_abs": 0.01, "ssim": 0.9, "flicker": 0.2, "cells": 4, "frames": 2,
                "trace_queries": [1], "trace_p": [0.9], "seen_by": [], "seen_clean": [], "seen_attacked": [], **same})
    return found


def facts(kinds: Mapping[str, str], made: Sequence[Mapping[str, Any]] = (), **other: Any) -> dict[str, Any]:
    """Of a run whose ledger agrees with its rows."""
    ledger: dict[str, int] = {}
    for row in made:
        purpose = f"attack/{row['attack']}/{row['seed']}"
        ledger[purpose] = ledger.get(purpose, 0) + row["queries"] + row["removal_queries"]
    trainings = [{"attack": name, "seed": seed, "iterations": 2, "queries": 900 + 100 * seed, "episodes": 9, "infra_errors": 0,
                  "failures": 0, "seconds": 1.0, "learning": [(1, 0.5, 40.0)]}
                 for name, kind in kinds.items() if kind == "learned" for seed in SEEDS]
    attacks = {name: {"kind": kind, **({"control": name} if kind == "control" else {})} for name, kind in kinds.items()}
    return {"name": "run", "victim": {"name": "v", "accuracy": {"value": 0.95, "low": 0.9, "high": 1.0, "n": 42}},
            "data": {"hash": "d1", "shape": [8, 32, 32, 3], "clips": 42}, "provenance": {"squall": "1"},
            "asked": {"attack": {"max_queries": BUDGET, "block": 2, "cell": 8}, "attacks": attacks, "seeds": list(SEEDS)},
            "trainings": trainings, "lost": (), "budget": BUDGET,
            "ledger": {"begun": 5000, "answered": 4990, "lost": 10, **ledger},
            "descriptions": {name: (kind, f"{name} as it is") for name, kind in kinds.items()}, **other}


def card_of(plays: Mapping[str, tuple[str, Play]], **other: Any) -> tuple[VideoAttackCard, pa.Table]:
    made = [row for name, (_, play) in plays.items() for row in rows(name, play)]
    table = pa.Table.from_pylist(made, schema=VIDEO_ATTACKS)
    return build_video_attack_card(table, facts({name: kind for name, (kind, _) in plays.items()}, made, **other)), table


def drawn(chance: float, queries: float, seed: int) -> Play:
    """Falls with this chance, after so many queries on average, each clip in its own way."""
    rng = np.random.default_rng(seed)
    hard = {clip: rng.gamma(2.0, queries / 2) for clip in range(400)}
    return lambda seed, clip: ((fell := rng.random() < chance), int(np.clip(2 + rng.gamma(2.0, hard[clip] / 2), 2, BUDGET))
                               if fell else BUDGET - 7)


@pytest.fixture(scope="module")
def known() -> tuple[VideoAttackCard, pa.Table]:
    """`pair` fools three of four clips, in 10 to 12 queries; random moves half of them, in 40; greedy all, in 30."""
    return card_of({
        "random_cells": ("control", lambda seed, clip: (clip % 2 == 0, 40 if clip % 2 == 0 else 60)),
        "pair": ("learned", lambda seed, clip: (clip % 4 > 0, 9 + seed)),
        "greedy": ("control", lambda seed, clip: (True, 30)),
        "spatial": ("learned", lambda seed, clip: (clip % 4 > 0, 20))})


def test_a_clips_value_is_its_mean_over_seeds_and_failures_count_the_whole_budget(known) -> None:
    card, _ = known
    pair, spatial, random, greedy = card.results
    assert [one.attack for one in card.results] == ["pair", "spatial", "random_cells", "greedy"], "learned ones first"
    assert (pair.attacked, pair.seeds, pair.description) == (40, SEEDS, "pair as it is")
    assert pair.success.mean == 0.75 and pair.success.seeds == (0.75, 0.75, 0.75)
    assert pair.queries.mean == pytest.approx(0.75 * 11 + 0.25 * BUDGET) and pair.queries.seeds == (32.5, 33.25, 34.0)
    assert random.queries.mean == 0.5 * 40 + 0.5 * BUDGET, "not the 60 after which it gave up"
    assert (pair.queries_median, random.queries_median, greedy.queries_median) == (11.5, 70.0, 30.0)
    assert pair.l2.mean == 4.0 and pair.l2.seeds == (3.0, 4.0, 5.0) and pair.removal_queries.mean == 3.0
    assert pair.success.low < 0.75 < pair.success.high and pair.queries.low < 33.25 < pair.queries.high
    assert (pair.training_queries, random.training_queries) == (1100, 0)
    assert pair.amortised_queries == pytest.approx(33.25 + 1100 / 40)
    assert greedy.success.mean == greedy.success.high == 1.0 and 0.85 < greedy.success.low < 0.95, "all of 40 is not certainty"


def test_the_curve_rises_from_the_first_query_to_the_budget_within_its_bounds(known) -> None:
    card, _ = card_of({"pair": ("learned", drawn(0.8, 30, 5)), "random_cells": ("control", drawn(0.4, 60, 6))})
    for result in card.results:
        queries, share, low, high = map(np.array, zip(*result.curve, strict=True))
        assert (queries[0], queries[-1]) == (1, BUDGET) and share[0] == 0 and share[-1] == result.success.mean
        assert (np.diff(queries) > 0).all() and all((np.diff(one) >= 0).all() for one in (share, low, high))
        assert (low <= share).all() and (share <= high).all() and (low >= 0).all() and (high <= 1).all()
    pair = known[0].results[0]
    assert [(q, share) for q, share, _, _ in pair.curve] == [(1, 0.0), (10, 0.25), (11, 0.5), (12, 0.75), (BUDGET, 0.75)]


def test_the_first_learned_attack_is_set_against_all_others_and_every_learned_one_against_random_moves(known) -> None:
    card, _ = known
    found = {(one.first, one.second): one for one in card.contrasts}
    assert list(found) == [("pair", "spatial"), ("pair", "random_cells"), ("pair", "greedy"), ("spatial", "random_cells")]
    greedy = found["pair", "greedy"]
    assert greedy.success.mean == -0.25 and greedy.queries.mean == pytest.approx(3.25) and greedy.break_even_clips is None
    assert greedy.queries.seeds == (2.5, 3.25, 4.0), "each seed of the pair against the mean of the other"
    random = found["pair", "random_cells"]
    assert random.queries.mean == pytest.approx(-36.75) and random.break_even_clips == 30, "1,100 / 36.75"
    assert random.queries.high < 0 and random.p_queries < 0.01 < 0.05 < random.p_success, "half against three quarters of 40"
    assert found["pair", "spatial"].break_even_clips == 0, "it was trained as long"


def test_p_values_are_after_holm_over_all_contrasts_and_both_figures(known) -> None:
    card, _ = known
    alone, _ = card_of({"random_cells": ("control", lambda seed, clip: (clip % 2 == 0, 40)),
                        "pair": ("learned", lambda seed, clip: (clip % 4 > 0, 9 + seed))})
    (one,), four = alone.contrasts, card.contrasts[1]
    assert one.p_success == pytest.approx(mcnemar_exact([0] * 20 + [1] * 10, [1] * 20 + [0] * 10)), "the larger of two stays"
    assert (four.first, four.second) == ("pair", "random_cells")
    assert four.p_queries == pytest.approx(7 * one.p_queries / 2)
    assert four.p_success == pytest.approx(4 * one.p_success), "the fifth of eight, as good as another"


def test_a_planted_difference_is_found_and_a_null_is_not() -> None:
    card, _ = card_of({"pair": ("learned", drawn(0.9, 15, 1)), "random_cells": ("control", drawn(0.6, 45, 2)),
                       "greedy": ("control", drawn(0.9, 15, 3))})
    random, greedy = card.contrasts
    assert random.p_success < 0.01 and random.p_queries < 0.001 and random.success.low > 0.1 and random.queries.high < -10
    assert greedy.p_success > 0.2 and greedy.p_queries > 0.2 and greedy.queries.low < 0 < greedy.queries.high
    beaten, equal = card.notes[:2]
    assert beaten.startswith("pair beats random_cells: it fools ") and "(1,100 queries) shared out over 40 attacked" in beaten
    assert equal.startswith("pair does not beat greedy, these clips do not tell them apart: ")
    assert ("if what it saves is no chance, its training is paid for" in equal) == (greedy.queries.mean < 0)
    assert ("no number of clips pays for its training" in equal) == (greedy.queries.mean >= 0)


def test_intervals_cover_the_truth_and_nulls_are_rejected_as_often_as_they_say() -> None:
    rng, truth, covered, rejected = np.random.default_rng(0), 0.7, 0, 0
    for _ in range(40):
        chances = rng.beta(7, 3, 40)  # of other clips in every run

        def play(seed: int, clip: int, chances: np.ndarray = chances) -> tuple[bool, int]:
            return (fell := bool(rng.random() < chances[clip])), 20 if fell else BUDGET

        card, _ = card_of({"pair": ("learned", play), "random_cells": ("control", play)})
        success = card.results[0].success
        covered += success.low <= truth <= success.high
        rejected += card.contrasts[0].p_success < 0.05
    assert covered >= 35 and rejected <= 4, "95 % and 5 % of 40 are 38 and 2; Holm makes fewer of these"


def test_sentences_say_who_wins_and_what_training_comes_to(known) -> None:
    notes = known[0].notes
    assert notes[1].startswith("pair beats random_cells: it fools 75.0 % of the clips against 50.0 % (+25.0 points [")
    assert "with 33.2 queries a clip against 70.0 (-36.8 [" in notes[1]
    assert "; its changes have an L2 of 4.00 against 4.00 and an SSIM of 0.900 against 0.900. " in notes[1]
    assert notes[1].endswith("With one training (1,100 queries) shared out over 40 attacked clips that is 60.8 queries a clip "
                             "against 70.0; its training is paid for after 30 clips.")
    assert notes[0].endswith("(1,100 queries against 1,100) shared out over 40 attacked clips that is 60.8 queries a clip "
                             "against 67.5.")
    assert notes[2].startswith("pair does not beat greedy, it is worse: ")
    assert notes[2].endswith(" against 30.0; no number of clips pays for its training.") and len(notes) == 4


def test_disturbed_trainings_are_noted() -> None:
    made = rows("pair", lambda seed, clip: (True, 10))
    known = facts({"pair": "learned"}, made)
    known["trainings"][1] |= {"failures": 2, "infra_errors": 1}
    card = build_video_attack_card(pa.Table.from_pylist(made, schema=VIDEO_ATTACKS), known)
    assert card.notes == ("Training was disturbed (pair seed 2): 2 iterations done again, 1 attack ended early because the "
                          "victim could not be reached; nothing was learned from these.",)


def test_with_two_trainings_the_run_claims_nothing_about_training() -> None:
    made = [*rows("pair", lambda seed, clip: (True, 5), seeds=SEEDS[:2]), *rows("greedy", lambda seed, clip: (True, 9))]
    card = build_video_attack_card(pa.Table.from_pylist(made, schema=VIDEO_ATTACKS),
                                   facts({"pair": "learned", "greedy": "control"}, made))
    assert any(note.startswith("Fewer than 3 trainings of pair (2)") and "nothing about training in general" in note
               for note in card.notes)
    assert card.unreliable == ("pair has nothing of seed 3: its figures are over the other seeds.",)
    assert card.contrasts[0].p_queries == pytest.approx(2 * 2 * 2.0**-40, abs=0, rel=1e-9), "all 40 agree; Holm doubles it"


@pytest.mark.parametrize(("change", "reason"), [
    ({"victim": {"name": "v", "accuracy": {"value": 0.85, "low": 0.7, "high": 0.9, "n": 42}}},
     "The victim is right about 85.0% of the held-out clips, fewer than 90%"),
    ({"ledger": {}}, "There is no ledger of what the victim was asked"),
    ({"ledger": {"begun": 9, "answered": 7, "lost": 1}}, "The victim's own counters say 9 clips, the ledger 8"),
    ({"ledger": {"begun": 9, "answered": 8, "lost": 1, "attack/pair/1": 500, "attack/pair/2": 9}},
     "The rows hold 520 queries of attack/pair/1, the ledger 500: some are counted that nobody asked."),
    ({"ledger": {"begun": 9, "answered": 8, "lost": 1, "attack/pair/1": 600, "attack/pair/2": 520, "attack/pair/3": 520}},
     "The ledger holds 1,640 queries of attacks, the rows 1,560: attacks asked more than they say, or many were broken off."),
])
def test_what_speaks_against_all_figures_is_said(change: dict[str, Any], reason: str) -> None:
    card, _ = card_of({"pair": ("learned", lambda seed, clip: (True, 10))})
    assert card.unreliable == ()
    card, _ = card_of({"pair": ("learned", lambda seed, clip: (True, 10))}, **change)
    assert any(one.startswith(reason) for one in card.unreliable), card.unreliable


@pytest.mark.parametrize("purpose", ["attack/pair/2", "abandoned/pair/2"])
def test_queries_of_attacks_that_were_broken_off_are_noted_and_counted_nowhere(purpose: str) -> None:
    made = rows("pair", lambda seed, clip: (True, 10))
    known = facts({"pair": "learned"}, made)
    known["ledger"][purpose] = known["ledger"].get(purpose, 0) + 12
    card = build_video_attack_card(pa.Table.from_pylist(made, schema=VIDEO_ATTACKS), known)
    assert card.unreliable == () and card.results[0].queries.mean == 10
    assert card.notes[-1].startswith("The ledger holds 12 queries more than the rows: of attacks that were broken off")


def test_few_clips_lost_clips_and_a_spent_budget_are_said() -> None:
    made = rows("pair", lambda seed, clip: (True, 120), clips=range(12))
    made += [row for row in rows("greedy", lambda seed, clip: (clip > 0, 30), clips=range(12))
             if (row["seed"], row["clip"]) != (2, 4)]
    card = build_video_attack_card(pa.Table.from_pylist(made, schema=VIDEO_ATTACKS),
                                   facts({"pair": "learned", "greedy": "control", "nes": "control"}, made))
    assert [one.attacked for one in card.results] == [12, 11, 0]
    assert card.results[1].success.mean == pytest.approx(10 / 11), "over the clips of which all seeds are known"
    assert card.contrasts[0].success.mean == pytest.approx(1 / 11) and card.contrasts[1].p_success is None
    assert card.results[2].success.mean is None and card.results[2].curve == () and card.results[2].queries_median is None
    assert [one.split(":")[0] for one in card.unreliable] == [
        "Only 12 clips were attacked", "Of greedy the attacks on 1 of 12 clips are lost, in one seed or more",
        "nes has no figures", "pair spent up to 123 queries on a clip, more than the budget of 100"]
    assert "pair and nes have no clip in common" in card.notes[1]


@pytest.mark.parametrize(("play", "reason"), [
    (lambda seed, clip: (True, 2), "Every attack fools the victim on every clip at its first attempt"),
    (lambda seed, clip: (False, 90), "No attack fools the victim on any clip")])
def test_attacks_that_cannot_be_told_apart_are_said_to_be_so(play: Play, reason: str) -> None:
    card, _ = card_of({"pair": ("learned", play), "greedy": ("control", play)})
    assert len(card.unreliable) == 1 and card.unreliable[0].startswith(reason)


def test_transfer_counts_clips_that_fool_and_that_the_other_victim_knows_when_clean() -> None:
    def shown(clip: int) -> dict[str, Any]:
        return {"seen_by": ["other"], "seen_clean": [LABEL if clip < 30 else 0], "seen_attacked": [0 if clip < 6 else LABEL]}

    made = [row | (shown(row["clip"]) if row["fooled"] else {}) for row in rows("pair", lambda seed, clip: (clip != 5, 10))]
    made += rows("greedy", lambda seed, clip: (False, 10))
    card = build_video_attack_card(pa.Table.from_pylist(made, schema=VIDEO_ATTACKS),
                                   facts({"pair": "learned", "greedy": "control"}, made))
    pair, greedy = card.transfers
    assert (pair.attack, pair.victim, pair.shown) == ("pair", "other", 29)
    assert pair.fooled.value == pytest.approx(5 / 29, abs=1e-6)
    assert pair.fooled.low < 5 / 29 < pair.fooled.high and (greedy.shown, greedy.fooled.value) == (0, None)


def test_a_row_that_is_there_twice_or_of_another_attack_is_refused() -> None:
    made = rows("pair", lambda seed, clip: (True, 10))
    known = facts({"pair": "learned"}, made)
    with pytest.raises(DataError, match="attack 'pair' with seed 2 has two rows for clip 7"):
        build_video_attack_card(pa.Table.from_pylist([*made, made[47]], schema=VIDEO_ATTACKS), known)
    with pytest.raises(DataError, match="an attack 'nes' that the run has not; it has pair"):
        build_video_attack_card(pa.Table.from_pylist([made[0] | {"attack": "nes"}], schema=VIDEO_ATTACKS), known)


def test_a_card_is_the_same_when_it_is_made_again_and_in_whatever_order_rows_come(known) -> None:
    card, table = known
    again = build_video_attack_card(table.take(np.random.default_rng(0).permutation(len(table))), facts_of(
        VideoAttackCard.model_validate_json(card.model_dump_json())))
    assert again.model_dump_json() == card.model_dump_json()


def test_the_terminal_shows_attacks_and_how_the_first_learned_one_stands_however_narrow_it_is(known) -> None:
    console = Console(width=40, record=True, file=StringIO())
    say_video_attack_card(known[0], console)
    text = console.export_text()
    assert "40 clips attacked, failures counted at the budget" in text
    line = next(one for one in text.splitlines() if one.startswith("pair "))
    assert line.split()[1] == "75.0" and " 33.2 [" in line and line.split()[-3:] == ["1,100", "4.0", "0.900"]
    assert text.count("pair does not beat greedy, it is worse") == 1 and "spatial beats random_cells" not in text
