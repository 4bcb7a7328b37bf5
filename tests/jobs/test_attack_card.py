"""The card of an attack: known figures from rows that are made by hand, and what speaks against them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from squall.algorithms.attacks.base import Threat
from squall.jobs.attack_battery import make_battery
from squall.jobs.attack_card import build_attack_card, facts_of
from squall.platform.attack_card import ATTACKS, AttackCard, ModelResult
from squall.platform.errors import DataError

N, CHUNK, EPSILON = 40, 10, 0.1
LABEL = 3
THREAT = Threat(norm="linf", epsilon=EPSILON)


def rows(model: str, attack: str, fooled: Sequence[int], images: Sequence[int], threat: Threat | None = THREAT,
         **passes: int) -> list[dict[str, Any]]:
    """A row for each of the images; those that are fooled get class 5."""
    norm, epsilon = (None, None) if threat is None else (threat.norm, threat.epsilon)
    return [{"model": model, "attack": attack, "norm": norm, "epsilon": epsilon, "image": image, "label": LABEL,
             "prediction": 5 if image in fooled else LABEL, "fooled": image in fooled,
             "by": attack if image in fooled else None, "queries": 1, "gradients": 0,
             "l2": 0.0, "linf": 0.0, **passes} for image in images]


def clean(model: str, wrong: Sequence[int], images: Sequence[int] = range(N)) -> list[dict[str, Any]]:
    return rows(model, "clean", wrong, images, None)


def card(found: list[dict[str, Any]], names: Sequence[str] = ("m",), attacks: Sequence[Any] = ("pgd", "square"),
         **changes: Any) -> AttackCard:
    battery = make_battery(attacks, [THREAT], (1, 8, 8), masking=False)
    facts = {"name": "run", "data": {"classes": list("0123456789"), "shape": [1, 8, 8]}, "provenance": {},
             "asked": {**battery.asked, "chunk": CHUNK, "seed": 0},
             "models": [{"name": name, "path": name, "hash": f"hash of {name}"} for name in names]}
    return build_attack_card(pa.Table.from_pylist(found, ATTACKS), facts | changes)


def only(found: AttackCard) -> ModelResult:
    (model,) = found.models
    return model


def whole() -> list[dict[str, Any]]:
    """4 of 40 wrong; PGD fools 8 to 15, Square 14 to 17: of the 36 that are right 26 stand against both."""
    right = range(4, N)
    return [*clean("m", range(4)), *rows("m", "pgd", range(8, 16), right, queries=21, gradients=20),
            *rows("m", "square", range(14, 18), right, queries=100)]


def test_the_headline_is_the_worst_case_image_by_image() -> None:
    model = only(card(whole()))
    assert (model.clean.value, model.clean.n) == (0.9, 40) and 0.75 < model.clean.low < 0.88 and 0.94 < model.clean.high <= 1
    assert {one.attack: (one.robust_accuracy.value, one.attacked) for one in model.results} == {
        "pgd": (28 / 40, 36), "square": (32 / 40, 36)}
    (budget,) = model.budgets
    assert (budget.robust_accuracy.value, budget.worst_attack) == (26 / 40, "pgd")
    assert 0.45 < budget.robust_accuracy.low < 0.6 < 0.7 < budget.robust_accuracy.high < 0.85
    pgd = model.results[0]
    assert (pgd.queries_mean, pgd.queries_median, pgd.gradients_mean) == (21, 21, 20)


def test_a_card_is_made_again_from_its_rows_and_its_own_facts() -> None:
    first = card(whole(), lost=("a sentence",))
    again = build_attack_card(pa.Table.from_pylist(whole(), ATTACKS), facts_of(first))
    assert again == first == AttackCard.model_validate_json(first.model_dump_json())


def test_examples_of_other_models_count_in_the_worst_case_and_where_there_are_none_the_image_is_shown_as_it_is() -> None:
    found = [*whole(), *clean("n", range(30, 40)), *rows("n", "pgd", range(2), range(30)), *rows("n", "square", (), range(30)),
             *rows("n", "transfer:m:pgd", (10, 11, 12), range(4, 30))]
    made = card(found, ("m", "n"))
    (transfer,) = made.transfers
    assert (transfer.source, transfer.target, transfer.attack, transfer.epsilon) == ("m", "n", "pgd", EPSILON)
    assert (transfer.accuracy.value, transfer.accuracy.n) == (27 / 40, 40)
    assert made.models[1].budgets[0].robust_accuracy.value == 25 / 40
    assert made.models[1].budgets[0].worst_attack == "transfer:m:pgd"
    assert all(not one.attack.startswith("transfer") for one in made.models[1].results)


def test_a_chunk_that_was_lost_is_left_out_whole_and_makes_the_figure_unreliable() -> None:
    found = [row for row in whole() if not (row["attack"] == "square" and row["image"] < CHUNK)]
    model = only(card(found))
    square = next(one for one in model.results if one.attack == "square")
    # Of the other 30 images, all right, Square fools four; of the lost chunk PGD's two are known to fall, the others are not.
    assert (square.robust_accuracy.value, square.robust_accuracy.n, square.attacked) == (round(26 / 30, 6), 30, 30)
    assert (model.budgets[0].robust_accuracy.value, model.budgets[0].robust_accuracy.n) == (round(22 / 30, 6), 30)
    assert any("the work of square on 6 images was lost: robust accuracy is over 30 of 40 images" in reason
               for reason in model.unreliable)


def test_an_attack_that_was_lost_altogether_leaves_no_worst_case() -> None:
    model = only(card([row for row in whole() if row["attack"] != "square"]))
    assert model.budgets[0].robust_accuracy.value is None and model.budgets[0].worst_attack == "pgd"
    assert [one.attacked for one in model.results] == [36, 0] and model.results[1].robust_accuracy.value is None
    assert "square on 36 images was lost" in model.unreliable[-1]


def test_a_model_that_answered_nothing_stays_on_the_card() -> None:
    second = card(whole(), ("m", "silent")).models[1]
    assert (second.name, second.clean.value, second.budgets) == ("silent", None, ())
    assert second.unreliable == ("It answered nothing about the images as they are.",)


@pytest.mark.parametrize(("attacks", "reason"), [
    (["pgd"], "At linf 0.1 robust accuracy rests on pgd alone, on following gradients"),
    (["pgd", {"kind": "pgd", "name": "long", "steps": 100}, "noise"], "rests on pgd, long alone"),
    (["noise"], "At linf 0.1 the model was not attacked by anything but noise."),
])
def test_attacks_that_follow_gradients_alone_are_not_believed(attacks: list[Any], reason: str) -> None:
    names = [one if isinstance(one, str) else one["name"] for one in attacks]
    found = [*clean("m", range(4)), *(row for name in names for row in rows("m", name, range(8, 16), range(4, N)))]
    assert any(reason in doubt for doubt in only(card(found, attacks=attacks)).unreliable)
    assert not any("rests on" in doubt or "noise" in doubt for doubt in only(card(whole())).unreliable)


def test_few_images_guessing_and_masking_are_said() -> None:
    made = card(whole())
    assert made.unreliable == ("Only 40 images were looked at: with fewer than 100 no figure is known to ten points.",)
    guess = only(card([*clean("m", range(5, N)), *rows("m", "pgd", (), range(5)), *rows("m", "square", (), range(5))]))
    assert any("is not above chance (0.100): there is nothing to attack" in doubt for doubt in guess.unreliable)
    masked = [*clean("m", ()), *rows("m", "pgd", (), range(N)), *rows("m", "square", range(30), range(N))]
    doubts = only(card(masked)).unreliable
    assert any(doubt.startswith("Sign of gradient masking (black_box): ") for doubt in doubts)
    assert any(doubt.startswith("Sign of gradient masking (worst_case): ") for doubt in doubts)
    assert not any("masking" in doubt for doubt in only(made).unreliable)


@pytest.mark.parametrize("extra", [
    rows("m", "pgd", (), [20]), rows("m", "pgd", (), [2]), rows("m", "pgd", (), [99]), clean("m", (), [7])])
def test_rows_that_do_not_belong_together_are_refused(extra: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="an image is there twice") as refused:
        card([*whole(), *extra])
    assert refused.value.reason == "damaged_attacks"
