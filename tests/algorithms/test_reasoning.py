"""The rule of similarity, the segments of a text and the edit distance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squall.algorithms.reasoning import edit_distance, rule_similarity, segments

TEXTS = st.text(max_size=60) | st.lists(
    st.sampled_from("The camera turns left right not two 2 3 car stops, doesn't near 2.0 the .".split())).map(" ".join)


@pytest.mark.parametrize(("first", "second", "expected"), [
    ("A red car stops at the crossing.", "At the crossing, a red car stops!", 1.0),
    ("There are three cars.", "I see 3 cars", 1.0),
    ("The red car stops at the crossing in rain.", "The red car passes a bus in fog.", 0.5),
    ("The red car stops.", "A dog sleeps on the sofa.", 0.0),
    ("The car stops at the crossing.", "The car does not stop at the crossing.", 0.0),
    ("The car stops at the crossing.", "The car doesn’t stop at the crossing.", 0.0),
    ("There are 3 red cars on the road.", "There are four red cars on the road.", 0.0),
    ("The 2 cars wait for 10 seconds.", "The 2 cars wait.", 1.0),
    ("It drove 1,000 metres.", "It drove 1000.0 metres.", 1.0),
    ("The camera pans to the left.", "The camera pans to the right.", 0.0),
    ("The camera pans left, then right.", "The camera pans to the right, then.", 1.0),
    ("STRASSE", "straße", 1.0),
    ("汽车向左转", "汽车向左转弯", 1.0),
])
def test_contradictions_are_0_and_common_words_decide_the_rest(first: str, second: str, expected: float) -> None:
    assert rule_similarity(first, second) == rule_similarity(second, first) == expected


def test_a_text_without_content_is_like_another_one_alone() -> None:
    assert rule_similarity("", "") == rule_similarity("", " the ...") == 1.0
    assert rule_similarity("", "A car.") == rule_similarity("A car.", "") == 0.0
    assert rule_similarity("", "never") == 0.0


@given(TEXTS, TEXTS)
def test_similarity_has_three_values_no_order_and_is_1_for_a_text_and_itself(first: str, second: str) -> None:
    assert rule_similarity(first, second) == rule_similarity(second, first)
    assert rule_similarity(first, second) in (0.0, 0.5, 1.0)
    assert rule_similarity(first, first) == 1.0


@pytest.mark.parametrize(("text", "expected"), [
    ("Observation: a car. Reasoning: it is fast.\nAction: brake", ("a car.", "it is fast.", "brake")),
    ("**Observations:** fog.\n\n- **Reasoning**: hidden\nConclusion: B", ("fog.", "hidden", "B")),
    ("Fog everywhere.\nReasoning: hidden.\nObservation: a bus.\nreasoning: so no.",
     ("Fog everywhere. a bus.", "hidden. so no.", "")),
    ("I see fog. My reasoning: it hides. So B.", ("I see fog.", "My reasoning: it hides.", "So B.")),
    ("One. Two! Three? Four", ("One.", "Two! Three?", "Four")),
    ("First line\nsecond line\nthird line", ("First line", "second line", "third line")),
    ("It moves 2.5 m. Then it stops.", ("It moves 2.5 m.", "It moves 2.5 m. Then it stops.", "Then it stops.")),
    ("Only this", ("Only this", "Only this", "Only this")),
    ("有雾。看不见。选B。", ("有雾。", "看不见。", "选B。")),
    (" \n", ("", "", "")),
])
def test_segments_follow_labels_and_else_sentences(text: str, expected: tuple[str, str, str]) -> None:
    assert segments(text) == expected


@given(TEXTS)
def test_a_text_that_says_something_without_labels_has_no_empty_segment(text: str) -> None:
    assert all(segments(text)) == bool(text.strip())


def test_edit_distance_counts_words_by_the_longer_text() -> None:
    assert edit_distance("the car stops", "The  car\nturns left") == pytest.approx(2 / 4)
    assert edit_distance("a b c", "a b c") == edit_distance("", "") == 0.0
    assert edit_distance("a b", "") == edit_distance("a b", "c d") == 1.0


@given(TEXTS, TEXTS)
def test_edit_distance_is_symmetric_and_in_the_unit_interval(first: str, second: str) -> None:
    assert 0.0 <= edit_distance(first, second) == edit_distance(second, first) <= 1.0
