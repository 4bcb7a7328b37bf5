"""The page of attacks on clips."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from attacked_clip_cards import BUDGET, CONTROLS, LEARNED, TRAINING, attacked_clip, make_card, make_rows
from pages import Tags

from squall.platform.report.attack_subjects import measure
from squall.platform.report.evaluation import bounds, p_text, percent
from squall.platform.report.page import signed
from squall.platform.report.video_attack_by_clip import SHADES, STANDS, by_clip, shade_of
from squall.platform.report.video_attack_charts import amortisation_plot, learning_plots, per_clip, success_plot
from squall.platform.report.video_attack_headline import compared, headline, reading, turned
from squall.platform.report.video_attack_tables import asked_of, count, forest, ledger_table, share, spread, unaccounted
from squall.platform.report.video_attacks import budget_of, colours_of, write_video_attack_report
from squall.platform.video_attack_card import Figure, VideoAttackCard

FULL = make_card()
FEW = make_card(("pair", "random", "greedy"), 24)
HOSTILE = "<script>alert(1)</script>"
MOST_BYTES = 4_500_000


@pytest.fixture
def page_of(tmp_path: Path):
    def make(card: VideoAttackCard, *args: object, **kwargs: object) -> str:
        return write_video_attack_report(tmp_path / "run", card, *args, **kwargs).read_text(encoding="utf-8")
    return make


def headings(page: str) -> list[str]:
    return [re.sub("<[^>]+>", "", text) for text in re.findall(r"<(?:h2|summary class=\"h2\")>(.*?)</(?:h2|summary)>", page)
            if "<i " not in text]


def says(page: str) -> str:
    part = page.split('class="panel says">')[1].split("</section>")[0]
    return " ".join(html.unescape(re.sub("<[^>]+>", "", part)).split())


def with_contrast(card: VideoAttackCard, second: str, **changes: object) -> VideoAttackCard:
    """The card with another contrast of the first attack with `second`."""
    return card.model_copy(update={"contrasts": tuple(
        one.model_copy(update=changes) if (one.first, one.second) == (card.results[0].attack, second) else one
        for one in card.contrasts)})


def figure(mean: float, low: float, high: float) -> Figure:
    return Figure(mean=mean, low=low, high=high)


def test_the_page_is_well_formed_and_fetches_nothing(page_of) -> None:
    clips = [attacked_clip(), attacked_clip("nes", 4, cells=False), attacked_clip("greedy", 5, 224, fooled=False)]
    page, tags = page_of(FULL, make_rows(), clips, command="squall report runs/sweep"), Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.fetched) == 1 + 2 * len(clips) and all(link.startswith("data:") for link in tags.fetched)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page and "@media print" in page and 'name="viewport"' in page
    assert page.count("<script>") == 1 and ">None<" not in page and ">nan" not in page


def test_sections_stand_in_order(page_of) -> None:
    page = page_of(FULL.model_copy(update={"unreliable": ("few clips",), "lost": ("clip 7",)}), make_rows(), [attacked_clip()],
                   command="squall report runs/sweep")
    assert headings(page) == [
        "Do not rely on these figures", "All attacks", "Success against queries", "Clip by clip", "Contrasts", "Learning",
        "What training costs a clip", "Transfer", "Attacked clips", "Every query of the victim", "What could not be done",
        "Notes", "How it was asked and made"]
    assert page.index('class="panel says"') < page.index('role="alert"') < page.index("few clips") < page.index("All attacks")
    assert "squall report runs/sweep" in page and "clip 7" in page and FULL.notes[0] in page


def test_the_headline_sets_the_pair_against_random_and_the_best_control(page_of) -> None:
    pair, random, greedy = FEW.results
    text = says(page_of(FEW))
    against = {one.second: one for one in FEW.contrasts}
    fewer = [count(-against[name].queries.mean) for name in ("random", "greedy")]
    assert text.startswith(
        f"Within 300 queries a clip, pair, which learned on other clips, fools r3d on {percent(share(pair.success))} % "
        f"{bounds(share(pair.success))} of the 24 clips that it classifies correctly, with {count(pair.queries.mean)} "
        f"{spread(pair.queries)} queries on average. It needs {fewer[0]} [")
    assert f"it needs {fewer[1]} [" in text and "fewer than greedy, the control that needs fewest (SSIM" in text
    assert f"(SSIM with the clean clip {measure(greedy.ssim.mean)}; pair {measure(pair.ssim.mean)})." in text
    assert (f"Learning cost 12 400 queries more, a mean over 3 seeds, which no control needs: shared by these 24 "
            f"clips, {count(pair.queries.mean + TRAINING / 24)} queries a clip in all.") in text
    assert f"Against random it has paid for itself after {against['random'].break_even_clips} clips; against greedy" in text


@pytest.mark.parametrize(("changes", "words"), [
    ({"queries": figure(12.0, 5.0, 20.0), "break_even_clips": None},
     ("it needs 12.0 [5.0, 20.0] queries a clip more than greedy", "against greedy it never pays for itself")),
    ({"queries": figure(-3.0, -9.0, 2.5)},
     ("it is not shown to need fewer queries than greedy (−3.0 [−9.0, +2.5] a clip)", "it is not shown to pay for itself")),
    ({"queries": figure(-9.0, -17.0, -1.0), "p_queries": 0.06}, ("it is not shown to need fewer queries than greedy",)),
    ({"success": figure(-0.05, -0.08, -0.02), "p_success": 0.01}, ("and fools 5.0 points less of the clips",))])
def test_the_headline_is_honest_where_the_pair_does_not_win(page_of, changes: dict, words: tuple[str, ...]) -> None:
    text = says(page_of(with_contrast(FEW, "greedy", **changes)))
    assert all(one in text for one in words), text


def test_without_a_learned_attack_or_any_result_the_headline_says_so(page_of) -> None:
    controls = make_card(("random", "greedy"), 24)
    text = says(page_of(controls))
    assert text.startswith("Within 300 queries a clip, greedy fools r3d on") and "No attacker was trained" in text
    nothing = FEW.model_copy(update={"results": (), "contrasts": (), "trainings": (), "ledger": {}, "notes": ()})
    page = page_of(nothing)
    assert headings(page) == ["Transfer", "How it was asked and made"] and "No attack was finished" in says(page)
    bare = nothing.model_copy(update={"data": {}, "asked": {}, "provenance": {}, "victim": {}, "transfers": ()})
    assert headings(page_of(bare)) == ["How it was asked and made"]


def test_another_learned_attack_that_needs_fewest_is_named(page_of) -> None:
    text = says(page_of(make_card(("spatial-alone", "pair", "random"), 24)))
    assert "fools r3d" in text and "Of all attacks pair needs fewest queries" in text


def test_every_figure_of_every_attack_is_in_the_tables(page_of) -> None:
    page = html.unescape(page_of(FULL))
    table = page.split("<h2>All attacks</h2>")[1].split("<h2>")[0]
    for result in FULL.results:
        assert result.description in table and f"</i>{result.attack}" in table
        for text in (f"{percent(share(result.success))} %", bounds(share(result.success)), count(result.queries.mean),
                     spread(result.queries), count(result.queries_median), count(result.removal_queries.mean),
                     count(result.cells.mean), spread(result.frames), " · ".join(map(count, result.queries.seeds))):
            assert f">{text}<" in table or f">{text} <" in table, text
    assert table.count(f">{count(TRAINING)}<") == len(LEARNED) and table.count(">0<") == len(CONTROLS)


def test_colours_are_the_same_in_tables_and_charts(page_of) -> None:
    page = page_of(FULL)
    for attack, colour in colours_of(FULL).items():
        assert page.count(f'<i class="line {colour}"></i>{attack}') >= 4
        assert f'<i class="line {colour}"></i><span>{attack}</span>' in page
    assert len(set(colours_of(FULL).values())) == len(FULL.results) == 12


def test_success_rises_in_steps_within_its_band_and_is_named_at_its_end() -> None:
    card = make_card(("pair", "random"), 24)
    chart = success_plot(card, BUDGET, colours_of(card), ())
    assert [(tag.name, tag.text) for tag in chart.tags] == [
        (one.attack, f"{100 * one.curve[-1][1]:.1f} %") for one in sorted(card.results, key=lambda one: -one.curve[-1][1])]
    for line in chart.lines:
        points = np.array(re.findall(r"([\d.]+) ([\d.]+)", line.path), float)
        steps = np.diff(points, axis=0)
        assert ((steps == 0).any(1)).all() and (steps[:, 0] >= 0).all() and (steps[:, 1] <= 0).all()
        assert points[0].tolist() == [0, 1000] and points[-1, 0] == 1000
        assert line.band and line.thin == (line.name == "random")
    assert chart.x_ticks[-1][1] == "300" and chart.x_ticks[0][1] == "1"
    short = success_plot(card, 20, colours_of(card), ())
    assert [text for _, text in short.x_ticks] == ["0", "5", "10", "15", "20"], "few queries: no logarithms"


def test_of_many_attacks_only_those_that_are_compared_have_bands() -> None:
    chart = success_plot(FULL, BUDGET, colours_of(FULL), ("pair", "random"))
    assert {line.name for line in chart.lines if line.band} == {"pair", "random"} and len(chart.lines) == 12
    tops = [tag.top for tag in chart.tags]
    assert min(np.diff(sorted(tops))) > 5 and success_plot(FULL.model_copy(update={"results": ()}), 9, {}, ()) is None


def test_learning_has_a_line_for_each_seed_and_their_mean() -> None:
    queries, flipped = learning_plots(FEW.trainings, colours_of(FEW))
    assert [line.thin for line in queries.lines] == [True] * 3 + [False] and queries.x_ticks[-1][1] == "30"
    last = np.mean([one.learning[-1][2] for one in FEW.trainings])
    assert queries.tags[0].text == f"{last:.1f}" and flipped.title.endswith("%")
    single = learning_plots(FEW.trainings[:1], colours_of(FEW))[0]
    assert [line.thin for line in single.lines] == [False]
    gap = FEW.trainings[0].model_copy(update={"learning": ((1, 0.5, 40.0), (2, float("nan"), float("nan")), (3, 0.6, 30.0))})
    assert learning_plots([gap], colours_of(FEW))[0].lines[0].path.count("M") == 2
    assert learning_plots([], {}) == []


def test_training_is_shared_by_the_clips_until_it_has_paid() -> None:
    named = [("pair", "random")]
    chart = amortisation_plot(FEW, colours_of(FEW), FEW.contrasts, 24, named)
    pair, random, _ = FEW.results
    assert per_clip(pair, 100) == pytest.approx(pair.queries.mean + TRAINING / 100)
    assert per_clip(random, 1) == random.queries.mean
    assert [dot.label for dot in chart.dots] == [f"{FEW.contrasts[0].break_even_clips} against random", ""]
    line = next(line for line in chart.lines if line.name == "pair")
    points = np.array(re.findall(r"([\d.]+) ([\d.]+)", line.path), float)
    level = float(re.search(r"M[\d.]+ ([\d.]+)", next(one.path for one in chart.lines if one.name == "random"))[1])
    crossing = np.interp(level, points[:, 1], points[:, 0])
    assert chart.dots[0].left * 10.3 == pytest.approx(crossing, abs=4), "the mark is where the lines cross"
    assert chart.rules[0][1] == "this run" and chart.tags[-1].text == count(pair.queries.mean)
    controls = make_card(("random", "greedy"), 24)
    assert amortisation_plot(controls, colours_of(controls), (), 24) is None


def test_contrasts_stand_on_one_axis_with_their_p_values(page_of) -> None:
    page = page_of(FULL)
    rows = page.split("<h2>Contrasts</h2>")[1].split("</table>")[0]
    found = forest(FULL.contrasts)
    assert [name for name, _ in found.groups] == list(LEARNED) and rows.count('<th scope="rowgroup"') == 4
    assert rows.count('<div class="ci ') == 2 * len(FULL.contrasts)
    for one in FULL.contrasts:
        assert f"<b>{signed(one.queries.mean)}</b>" in rows and f"[{signed(100 * one.success.low)}, " in rows
        assert html.escape(p_text(one.p_queries)) in rows
        assert 0 <= found.queries.place(one.queries.low) <= found.queries.place(one.queries.high) <= 100
    assert [text for _, text in found.queries.ticks].count("0") == 1 and len(found.queries.ticks) <= 5
    assert "never" in rows and f"{FULL.contrasts[3].break_even_clips} clips" in rows
    assert forest(()).queries is None


def test_a_difference_speaks_for_the_first_only_beyond_its_interval_and_chance() -> None:
    fewer = figure(-5.0, -8.0, -2.0)
    assert reading(fewer, -1, 0.001) == "gain" and reading(fewer, 1, 0.001) == "loss" and reading(fewer, -1, None) == "gain"
    assert reading(fewer, -1, 0.05) == "unclear" and reading(figure(-5.0, -8.0, 0.0), -1, 0.001) == "unclear"
    assert reading(Figure(mean=-5.0, low=None, high=None), -1, 0.001) == "unclear"
    assert turned(fewer) == figure(5.0, 2.0, 8.0)
    pair, random, _ = FEW.results
    assert compared(FEW, random, pair).queries == turned(FEW.contrasts[0].queries)
    assert compared(FEW, random, FEW.results[2]) is None


def test_random_moves_are_told_by_kind_and_the_best_control_by_queries() -> None:
    asked = {"attacks": {"pair": {"kind": "learned"}, "random": {"control": "nes"}, "greedy": {"control": "random_cells"}}}
    head = headline(FEW.model_copy(update={"asked": asked}))
    assert (head.random.attack, head.best.attack) == ("greedy", "random")
    head = headline(FULL)
    assert [one.attack for one in (head.lead, head.soonest, head.random, head.best)] == ["pair", "square", "random", "square"]
    assert head.paid == (("pair", "random"),)


def test_clips_that_fall_soonest_stand_to_the_left() -> None:
    table = make_rows(("pair", "sva"), 24)
    found = by_clip(table, ["pair", "sva", "greedy"], BUDGET)
    assert [row.attack for row in found.rows] == ["pair", "sva"] and found.clips == 24 and found.bounds[-1] == BUDGET
    rows = table.to_pandas()
    rows["spent"] = rows["queries"].where(rows["fooled"], BUDGET)
    soonest = rows.groupby("clip")["spent"].mean().idxmin()
    own = rows[(rows["clip"] == soonest) & (rows["attack"] == "pair")]["spent"].mean()
    first = next(shade for shade, path in found.rows[0].paths if path.startswith("M0 0h1v1h-1z"))
    assert first == shade_of(own, BUDGET)
    standing = ~rows[rows["attack"] == "sva"].groupby("clip")["fooled"].any()
    assert dict(found.rows[1].paths)[STANDS].count("M") == standing.sum() > 0
    assert sum(path.count("M") for _, path in found.rows[1].paths) == 24
    assert (shade_of(1, BUDGET), shade_of(BUDGET, BUDGET)) == (0, SHADES - 1) and by_clip(None, ["pair"], BUDGET) is None


def test_transfer_has_a_column_for_each_victim(page_of) -> None:
    some = FEW.transfers[:3]
    rows = page_of(FEW.model_copy(update={"transfers": some})).split("<h2>Transfer</h2>")[1].split("</table>")[0]
    assert re.findall(r'class="num">(\w+)</th>', rows) == ["mc3", "mobilenetv2"]
    cells = [re.sub("<[^>]+>", "", cell) for cell in re.findall(r'<td class="num">(.*?)</td>', rows)]
    assert cells == [f"{percent(one.fooled)} % {bounds(one.fooled)} of 48" for one in some] + ["–"]


def test_the_ledger_is_told_by_attack_and_agrees_or_does_not(page_of) -> None:
    table = ledger_table(FEW.ledger, ["pair", "random", "greedy"])
    assert table.purposes == ("training", "attacks") and [name for name, _ in table.rows] == ["pair", "random", "greedy"]
    assert table.rows[0][1] == ((TRAINING, TRAINING + 100, TRAINING + 200),
                                tuple(FEW.ledger[f"attack/pair/{seed}"] for seed in range(3)))
    assert table.rows[1][1][0] == () and dict(table.others) == {"were for trying every process": 6,
                                                               "were held-out clips as they are": 64}
    odd = ledger_table({"transfer/a/b": 3, "attack/x": 1, "judge/y/0": 2}, [])
    assert odd.rows == (("a/b", ((), (3,), ())), ("x", ((1,), (), ())), ("y", ((), (), (2,)))) and odd.purposes[2] == "judge"
    assert unaccounted(FEW.ledger) == 0 and unaccounted({"begun": 3}) is None
    assert "the ledger agrees" in page_of(FEW)
    wrong = page_of(FEW.model_copy(update={"ledger": FEW.ledger | {"lost": 20}}))
    assert "4 of them are not accounted for" in wrong and "the ledger agrees" not in wrong


def test_clips_play_with_what_was_said_the_cells_and_the_trace(page_of) -> None:
    page = page_of(FEW, None, [attacked_clip(), attacked_clip("greedy", 4, fooled=False, cells=False)])
    fell, stood = re.findall(r'<article class="panel clip-case.*?</article>', page, re.DOTALL)
    assert "run&nbsp;✗" in fell and "after <b>23</b>" in fell and "4 of 64 cells" in fell and fell.count('class="off"') == 4
    assert "still walk" in stood and "when it gave up after" in stood and "no cells" in stood and "✗" not in stood
    assert "from 0.970 to 0.197" in fell and 'id="pause"' in page
    assert "Attacked clips" not in page_of(FEW)


def test_what_is_missing_leaves_no_heading(page_of) -> None:
    page = page_of(FEW.model_copy(update={"contrasts": (), "transfers": (), "trainings": (), "ledger": {}, "notes": ()}))
    assert headings(page) == ["All attacks", "Success against queries", "What training costs a clip",
                              "How it was asked and made"]
    assert "It needs" not in says(page)
    untrained = FEW.model_copy(update={"trainings": tuple(one.model_copy(update={"learning": ()}) for one in FEW.trainings)})
    assert "3 trainings one by one" in page_of(untrained)
    empty = Figure(mean=None, low=None, high=None)
    never = FEW.results[1].model_copy(update={
        "success": figure(0.0, 0.0, 0.1), "queries_median": None, "curve": (),
        **dict.fromkeys(("l2", "linf", "mean_abs", "removal_queries", "cells", "ssim", "frames", "flicker"), empty)})
    assert "–" in page_of(FEW.model_copy(update={"results": (FEW.results[0], never)}))


def test_names_and_messages_are_escaped(page_of) -> None:
    def hostile(one, **names: str):
        return one.model_copy(update={key: HOSTILE + value for key, value in names.items()})

    card = FEW.model_copy(update={
        "name": HOSTILE, "victim": {"name": HOSTILE, "path": HOSTILE}, "data": {"path": HOSTILE},
        "asked": {"attack": {"distortion": HOSTILE}, "attacks": [{"name": HOSTILE, "kind": HOSTILE}]},
        "provenance": {HOSTILE: HOSTILE}, "lost": (HOSTILE,), "notes": (HOSTILE,), "unreliable": (HOSTILE,),
        "results": tuple(hostile(one, attack=one.attack, description="") for one in FEW.results),
        "contrasts": tuple(hostile(one, first=one.first, second=one.second) for one in FEW.contrasts),
        "trainings": tuple(hostile(one, attack=one.attack) for one in FEW.trainings),
        "transfers": tuple(hostile(one, attack=one.attack, victim="") for one in FEW.transfers),
        "ledger": FEW.ledger | {f"attack/{HOSTILE}/0": 3, HOSTILE: 2}})
    clips = [replace(attacked_clip(HOSTILE), label=HOSTILE, prediction="<i>")]
    page = page_of(card, None, clips, command=HOSTILE)
    assert page.count("<script>") == 1 and "alert(1)</script>" not in page and "<i>" not in page
    assert page.count("&lt;script&gt;alert(1)") > 30


def test_what_attacks_share_is_listed_once() -> None:
    shared = {"block": 2, "cell": 16, "removal": True}
    asked = {"attack": shared, "attacks": [
        {"name": "pair", "kind": "learned", "attack": shared, "training": {"iterations": 20, "agents": "both"}},
        {"name": "alone", "kind": "learned", "attack": shared | {"removal": False},
         "training": {"iterations": 20, "agents": "spatial"}}, {"name": "nes", "kind": "nes", "samples": 8}]}
    assert asked_of(asked) == [("pair", "kind learned, training agents both"),
                               ("alone", "kind learned, attack removal False, training agents spatial"),
                               ("nes", "kind nes, samples 8"), ("all that learn", "iterations 20")]
    assert asked_of({"attacks": ["greedy"]}) == [("greedy", "")] and asked_of({}) == []
    assert budget_of(FEW) == BUDGET and budget_of(FEW.model_copy(update={"asked": {}})) == FEW.results[1].curve[-1][0]


def test_numbers_are_written_as_people_do() -> None:
    written = {None: "–", 0.0: "0.0", 31.24: "31.2", 99.96: "100", 1240.4: "1\u202f240", -12.0: "−12.0"}
    assert {one: count(one) for one in written} == written
    assert spread(figure(3.0, 2.0, 4.0)) == "[2.0, 4.0]" and spread(figure(3.0, 3.0, 3.0)) == ""


def test_the_page_stays_small_whatever_is_shown(page_of) -> None:
    photos = [attacked_clip("pair", number, side=224) for number in range(27)]
    page = page_of(FULL, make_rows(), photos)
    assert len(page) < MOST_BYTES and page.count('class="panel clip-case') == 24 and "3 more clips are in the run" in page
    noise = np.random.default_rng(0).integers(0, 256, (20, 224, 224, 3), dtype=np.uint8)
    clip = replace(photos[0], clean=noise, adversarial=noise[::-1], occupancy=None)
    page = page_of(FULL, make_rows(), [clip] * 24)
    assert len(page) < MOST_BYTES and 3 <= page.count('class="panel clip-case') < 24
