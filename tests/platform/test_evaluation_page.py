"""The page of an evaluation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from evaluations import FAMILIES, RUBRICS, compare, make_card
from pages import Tags

from squall.platform.records import MediaType, ProblemType, VideoSample
from squall.platform.report.evaluation import bounds, percent, points, write_evaluation_report
from squall.platform.report.evaluation_charts import family_curve, kind_bars, reliability, severity_panels
from squall.platform.report.evaluation_tables import comparison_table, figures, losses
from squall.platform.report.examples import MAX_OPTIONS, ClipPair, ExampleAnswer, WorstCase
from squall.platform.report_card import Estimate, Loss, ReportCard

CARD = make_card()
OTHER = make_card("t-grpo", 2, 1.5)
ATTACK = "<script>alert(1)</script>"


def worst_case(text: str = "<think>It is red.</think><answer>A</answer>", problem: str = "What colour?",
               options: tuple[str, ...] = ("A. red", "B. blue")) -> WorstCase:
    frames = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    sample = VideoSample("film-1", "f.mp4", MediaType.VIDEO, problem, ProblemType.MULTIPLE_CHOICE, "B", options)
    return WorstCase("tiny-policy", sample, "heavy_rain", 0.7, ClipPair(frames, frames, 4.0),
                     ExampleAnswer("<think>It is blue.</think><answer>B</answer>", True), ExampleAnswer(text, False),
                     0.987, 9, 24)


@pytest.fixture
def page_of(tmp_path: Path):
    def make(cards: list[ReportCard], *args: object, **kwargs: object) -> str:
        return write_evaluation_report(tmp_path / "new" / "report.html", cards, *args, **kwargs).read_text(encoding="utf-8")
    return make


def headings(page: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(?:<i[^>]*></i>)?([^<]+)", page)


@pytest.mark.parametrize("cards", [[CARD], [CARD, OTHER]])
def test_the_page_is_well_formed_and_fetches_nothing(page_of, cards: list[ReportCard]) -> None:
    page, tags = page_of(cards, [compare(*cards)] if len(cards) > 1 else [], [worst_case()]), Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.fetched) == 5 and all(link.startswith("data:") for link in tags.fetched)
    assert not re.search(r"https?://|@import|url\(", page)


def test_every_figure_of_the_card_is_on_the_page(page_of) -> None:
    page = page_of([CARD], command="squall report runs/baseline")
    summary = CARD.summary
    for estimate in (summary.clean, summary.mpc, summary.rpc, summary.worst, summary.relative_robustness,
                     summary.absolute_robustness, summary.pvr_drop, summary.flip_rate, summary.consistency):
        assert percent(estimate) in page and bounds(estimate) in page
    table = page.split("All conditions</h2>")[1]
    rows = dict(re.findall(r'<tr><th scope="row">([^<]+)</th>(.*?)</tr>', table, re.DOTALL))
    for result in CARD.conditions[1:]:
        row = rows[result.condition.replace("_", " ")]
        assert [percent(result.accuracy), points(result.change), percent(result.flip_rate), percent(result.consistency)] == [
            re.sub("<[^>]+>", "", cell) for cell in re.findall(r'<td class="num">(.*?) <small>', row)]
        assert all(bounds(estimate) in row for estimate in (result.accuracy, result.change, result.flip_rate))
    for group in (*CARD.by_kind, *CARD.by_family, *CARD.by_severity, *CARD.by_question_type):
        assert percent(group.corrupted) in page and group.name.replace("_", " ") in page
    for calibration in (CARD.calibration_clean, CARD.calibration_corrupted):
        assert f"{percent(calibration.ece)} <small>{bounds(calibration.ece)}" in page
        assert all(f">{percent(one.accuracy)}</td>" in page for one in calibration.bins)
    for score, agreement in zip(CARD.reasoning.scores, CARD.reasoning.agreement, strict=True):
        assert f"{score.corrupted.value:.2f} <small>[{score.corrupted.low:.2f}, " in page
        assert f">{agreement.weighted_kappa:.2f}</td>" in page and f">{percent(agreement.exact)}</td>" in page
    for text in ("gpt-4o-2024-11-20", "5d41402abc4b2a76", "0.14.0", "squall report runs/baseline", "test-000017",
                 "the media file cannot be decoded", "decoded greedily", "corrected for 72 tests", ">40.2</td>", *RUBRICS):
        assert text in page, text


def test_a_card_that_is_not_to_be_trusted_says_so_before_any_figure(page_of) -> None:
    page = page_of([CARD.model_copy(update={"unreliable": ("12 % of the questions were lost.",)})])
    assert page.index("12 % of the questions were lost.") < page.index(percent(CARD.summary.clean))
    assert 'role="alert"' in page and 'role="alert"' not in page_of([CARD])


def test_runs_on_different_data_are_flagged(page_of) -> None:
    other = OTHER.model_copy(update={"data": OTHER.data | {"hash": "another"}})
    assert "They answered different questions" in page_of([CARD, other])
    assert "They answered different questions" not in page_of([CARD, OTHER])
    assert re.search(r'data hash<span class="tag differ">differs</span></th><td class="messages">5d41402abc4b2a76</td>'
                     r'<td class="messages">another', page_of([CARD, other]))


def test_text_from_data_model_and_card_is_escaped(page_of) -> None:
    hostile = CARD.model_copy(update={
        "name": ATTACK, "model": {"label": ATTACK, ATTACK: ATTACK}, "data": {"manifest": ATTACK, "rejected": {ATTACK: 1}},
        "unreliable": (ATTACK,), "notes": (ATTACK,), "reported": {ATTACK: 0.5},
        "provenance": {ATTACK: ATTACK}, "lost": (Loss(question=0, sample_id=ATTACK, condition=ATTACK, reason=ATTACK,
                                                      message=ATTACK),)})
    case = worst_case(f"<think>{ATTACK}</think><answer>{ATTACK}</answer>", ATTACK, (ATTACK,))
    for page in (page_of([hostile], (), [case], command=ATTACK), page_of([hostile, CARD], [compare(hostile, CARD)], [case])):
        assert page.count("<script") == 1 and "&lt;script&gt;alert(1)" in page


def test_missing_parts_leave_their_sections_out(page_of) -> None:
    bare = CARD.model_copy(update={
        "by_kind": (), "by_family": (), "by_severity": (), "by_question_type": (), "curves": (), "calibration_clean": None,
        "calibration_corrupted": None, "reasoning": None, "reported": {}, "lost": (), "notes": (), "provenance": {},
        "conditions": CARD.conditions[:1], "data": {}, "model": {}})
    assert headings(page_of([bare]))[-3:] == ["All figures", "All conditions", "How it was asked and made"]
    full = headings(page_of([CARD], (), [worst_case()]))
    assert {"Accuracy over severity", "Accuracy by kind of corruption", "Worst cases", "Calibration", "Reasoning",
            "Questions that were lost", "Notes"} <= set(full)
    assert "reported" not in page_of([bare]).split("All figures")[1].split("</table>")[0]


def test_undefined_figures_are_dashes(page_of) -> None:
    nothing = Estimate(value=None, low=None, high=None, n=0)
    summary = CARD.summary.model_copy(update={"clean": nothing, "rpc": nothing, "pvr_drop": nothing})
    page = page_of([CARD.model_copy(update={"summary": summary})])
    assert '<p class="big">–<small>' in page and ">nan" not in page


def test_curves_start_clean_and_bands_hold_their_line() -> None:
    panels = severity_panels([CARD])
    assert [panel.title for panel in panels] == list(FAMILIES) and panels[0].tag[2] == "shadow"
    for family, panel in zip(FAMILIES, panels, strict=True):
        kinds = [line for line in panel.lines if line[0] == "kind"]
        assert len(kinds) == len(FAMILIES[family])
        assert panel.dots[0][4].startswith("tiny-policy baseline, clean: 74.5 %, 95 % interval 68.4 to 80.6")
        upper, lower = np.split(np.array(re.findall(r"([\d.]+) ([\d.]+)", panel.bands[0][1]), float), 2)
        middle = np.array([(x, y) for _, x, y, _, _ in panel.dots])
        assert (upper[:, 0] == middle[:, 0]).all() and (lower[::-1, 0] == middle[:, 0]).all()
        assert (upper[:, 1] < middle[:, 1]).all() and (middle[:, 1] < lower[::-1, 1]).all()


def test_without_curves_a_family_is_the_mean_of_its_kinds() -> None:
    severity, mean = family_curve(CARD.model_copy(update={"curves": ()}), "occlusion")[1]
    own = [result.accuracy.value for result in CARD.conditions if result.family == "occlusion" and result.severity == 0.3]
    assert severity == 0.3 and mean.value == pytest.approx(np.mean(own)) and mean.low is None
    assert mean.value == pytest.approx(family_curve(CARD, "occlusion")[1][1].value)


def test_bars_put_the_worst_kind_first_and_keep_cards_apart() -> None:
    bars = kind_bars([CARD, OTHER])
    assert [one.family for one in bars] == list(FAMILIES)
    for one in bars:
        first = [values[0].value for _, values in one.kinds]
        assert first == sorted(first) and all(values[1].value > values[0].value for _, values in one.kinds)


def test_reliability_places_confidence_and_accuracy() -> None:
    panel = reliability("x", [("clean", "p0", CARD.calibration_clean)])
    last = CARD.calibration_clean.bins[-1]
    _, x, y, radius, _ = max(panel.dots, key=lambda dot: dot[1])
    assert x == pytest.approx(40 + 272 * last.confidence, abs=0.1) and y == pytest.approx(282 - 272 * last.accuracy, abs=0.1)
    assert radius == 9.0 and len(panel.dots) == 8 and reliability("x", [("clean", "p0", None)]) is None


def test_contrasts_tell_a_difference_from_none(page_of) -> None:
    same = compare(CARD, CARD)
    table = comparison_table(same)
    assert (table.tested, table.differing) == (72, 0) and {contrast.name for contrast, _ in table.main} == {"clean", "mpc"}
    page = page_of([CARD, CARD], [same])
    assert "no difference is shown" in page and "72 conditions; 0 of them differ" in page
    page = page_of([CARD, OTHER], [compare(CARD, OTHER)])
    assert "▲ gain" in page and f"{percent(CARD.summary.mpc)} → {percent(OTHER.summary.mpc)} % over 200 questions" in page
    for contrast in compare(CARD, OTHER).contrasts:
        assert points(contrast.change) in page and bounds(contrast.change) in page


def test_reported_figures_stand_beside_the_measured_ones() -> None:
    rows = {figure.name: figure for figure in figures([CARD])}
    assert rows["Clean accuracy"].reported == (0.51,) and rows["Relative to clean (rPC)"].reported == (None,)
    fog = next(group for group in CARD.by_kind if group.name == "fog")
    assert rows["fog"].measured == (fog.corrupted,) and rows["fog"].reported == (0.402,)


def test_losses_are_counted_by_reason_and_name_their_conditions() -> None:
    too_long, broken, rejected = losses(CARD)
    assert (rejected.reason, rejected.count, rejected.message) == ("not json", 2, "")
    assert (too_long.count, broken.count) == (9, 1) and too_long.conditions.endswith("and 3 more")
    assert broken.conditions == "storm 0.7 (1)" and broken.message.startswith("test-000017: test/000017.mp4")


def test_worst_cases_play_with_options_answers_and_reasoning(page_of) -> None:
    case = page_of([CARD], (), [worst_case()]).split('<article class="panel case">')[1].split("</article>")[0]
    assert case.count("data:image/webp") == 6 and '<li class="solution">B. blue' in case
    assert re.findall(r"✓ right|✗ wrong", case) == ["✓ right", "✗ wrong"]
    assert "<p>It is blue.</p>" in case and "<p>It is red.</p>" in case
    assert "wrong under 9 of 24 kinds · 98.7 % sure when clean · film-1" in case
    many = page_of([CARD], (), [worst_case(options=tuple(f"{i}. label" for i in range(MAX_OPTIONS + 1)))])
    assert "Correct answer: B" in many and "7. label" not in many
    assert "I cannot tell" in page_of([CARD], (), [worst_case("I cannot tell")])


def test_wide_tables_scroll_in_their_own_box(page_of) -> None:
    page = page_of([CARD, OTHER], [compare(CARD, OTHER)])
    for table in re.finditer(r'<table class="(grid-table|figures-table)', page):
        before = page[:table.start()]
        assert before.rfind('class="panel scroll"') > before.rfind("<section"), page[table.start():table.start() + 200]
    assert ".scroll { overflow-x: auto; }" in page and 'name="viewport"' in page
    assert not re.search(r"(?<!min-)(?<!max-)width: ?(3[6-9]\d|[4-9]\d\d|\d{4})px", page)
