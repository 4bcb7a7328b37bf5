"""The page of masked video trainings, its charts and exports."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from pages import Tags
from tats_runs import ARMS, facts, mask_example, measures, rows, table_of

from squall.jobs.tats_card import build_tats_card
from squall.platform.report.tats import write_tats_report
from squall.platform.report.tats_charts import learning_plots, strips
from squall.platform.report.tats_export import export_tats, figure_text, mean_text, memory_text, tats_to_markdown
from squall.platform.report.tats_tables import contrast_reading, cost_rows, listed, standings
from squall.platform.tats_card import TatsCard
from squall.platform.video_attack_card import Figure

CARD = build_tats_card(table_of(rows(ARMS)), measures(ARMS), facts(ARMS))
MASKS = [mask_example(arm, part) for arm in ARMS for part in ("still", "pan")]
HOSTILE = "<script>alert(1)</script>"
MOST_BYTES = 4_500_000
COLOURS = {arm: f"p{number}" for number, arm in enumerate(ARMS)}


@pytest.fixture
def page_of(tmp_path: Path):
    def make(card: TatsCard, *args: object, **kwargs: object) -> str:
        return write_tats_report(tmp_path / "run", card, *args, **kwargs).read_text(encoding="utf-8")
    return make


def says(page: str) -> str:
    part = page.split('class="panel says">')[1].split("</section>")[0]
    return " ".join(html.unescape(re.sub("<[^>]+>", "", part)).split())


def test_the_page_is_well_formed_and_fetches_nothing(page_of) -> None:
    page, tags = page_of(CARD, MASKS, command="squall report runs/tats"), Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.fetched) == 1 + 2 * (len(MASKS) + 2) and all(link.startswith("data:") for link in tags.fetched)
    assert not re.search(r"https?://|@import|url\(", page) and len(page) < MOST_BYTES
    assert "prefers-color-scheme: dark" in page and "@media print" in page and 'name="viewport"' in page
    assert page.count("<script>") == 1 and ">None<" not in page and ">nan" not in page and "squall report runs/tats" in page


def test_sections_stand_in_order_and_what_is_not_there_is_left_out(page_of) -> None:
    def headings(page: str) -> list[str]:
        found = re.findall(r"<(?:h2|summary class=\"h2\")>(.*?)</(?:h2|summary)>", page)
        return [re.sub("<[^>]+>", "", text) for text in found]

    assert headings(page_of(CARD, MASKS)) == [
        "Masks over held-out clips", "What each sampler reaches", "tats against its controls", "Learning", "What it costs",
        "All figures, still scene", "All figures, pan of the camera", "In words", "How it was asked and made"]
    empty = build_tats_card(table_of([]), [], facts(ARMS))
    page = page_of(empty)
    assert headings(page) == ["Do not rely on these figures", "How it was asked and made"]
    assert "No training was finished" in says(page)


def test_the_headline_says_what_is_found_and_which_controls_are_not_beaten(page_of) -> None:
    text = says(page_of(CARD, MASKS))
    assert "tats finds true motion over a still scene: 30.0 % [" in text
    assert "3.00× [" in text and "which is 10.0 %" in text
    assert "its masks for other clips would find 12.0 %, so that it looks." in text
    assert "Motion over a still scene: beats random; does not beat reinforce (no difference is shown); " in text
    assert "; is worse than flow Motion under a pan" in text
    assert "The linear probe: beats random, flow and reinforce" in text
    blind = build_tats_card(table_of(rows(ARMS | {"tats": replace(ARMS["tats"], motion=0.1)})), measures(ARMS), facts(ARMS))
    assert "tats is not shown to find true motion over a still scene" in says(page_of(blind))
    alone = {name: ARMS[name] for name in ("random", "flow")}
    assert "No arm has the sampler tats" in says(page_of(build_tats_card(table_of(rows(alone)), measures(alone), facts(alone))))


def test_doubts_are_told_before_figures(page_of) -> None:
    one = build_tats_card(table_of(rows(ARMS, seeds=(1,))), measures(ARMS, (1,)), facts(ARMS, (1,)))
    page = page_of(one, MASKS)
    assert page.index("Do not rely on these figures") < page.index("Masks over held-out clips")
    assert "Do not rely on" not in page_of(CARD, MASKS)


def test_text_of_users_is_escaped(page_of) -> None:
    arms = {HOSTILE: ARMS["tats"], "random": ARMS["random"]}
    card = build_tats_card(table_of(rows(arms)), measures(arms), facts(arms, name=HOSTILE, lost=(HOSTILE,)))
    page = page_of(card, [mask_example(HOSTILE)], command=HOSTILE)
    assert HOSTILE not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_strips_draw_chance_seeds_and_what_is_found_without_looking() -> None:
    still, pan, loss, probe = strips(CARD)
    assert (still.title, pan.title) == ("Motion over a still scene", "Motion under a pan of the camera")
    assert [mark.arm for mark in still.marks] == list(ARMS) and still.chance_text == "chance 10.0"
    tats = still.marks[0]
    assert tats.low < tats.place < tats.high and len(tats.seeds) == 3 and still.chance < tats.blind < tats.place
    low, high = still.ticks[0], still.ticks[-1]
    assert (low[0], high[0]) == (0, 100) and tats.place == pytest.approx(100 * 30 / float(high[1]), abs=0.1)
    assert loss.chance_text == "constant 1.0000"
    assert probe.chance_text == "chance 25.0" and probe.marks[0].text.startswith("70.0 [")


def test_learning_is_drawn_for_all_seeds_with_a_loss_that_fell_far_on_a_logarithmic_axis() -> None:
    loss, motion, entropy, overlap = learning_plots(CARD, COLOURS)
    assert loss.title == "Loss under own masks" and len(loss.lines) == len(ARMS) * 4
    assert sum(line.thin for line in loss.lines) == len(ARMS) * 3
    texts = {tag.name: tag.text for tag in motion.tags}
    assert texts["tats"].startswith("3.0") and texts["random"].startswith("1.0")
    assert [text for _, text in loss.y_ticks] == ["0.5", "1", "2"], "from 0.4 to 3"
    assert len(entropy.tags) == len(overlap.tags) == len(ARMS)
    without = CARD.model_copy(update={"measures": tuple(one.model_copy(update={"learning": ()}) for one in CARD.measures)})
    assert learning_plots(without, COLOURS) == []


def test_duels_hold_every_question_and_what_the_first_costs_more() -> None:
    (standing,) = standings(CARD)
    assert [duel.second for duel in standing.duels] == ["random", "flow", "reinforce"]
    assert standing.duels[0].time == 3.0 and standing.duels[0].memory == 1.0
    assert [contrast_reading(one) for one in standing.duels[1].answers] == ["loss", "loss", "unclear", "gain"]
    assert cost_rows(CARD)[0]["shares"]["seconds"] == 100 and cost_rows(CARD)[1]["shares"]["seconds"] == 33.3


def test_figures_are_written() -> None:
    figure = Figure(mean=-0.0512, low=-0.1, high=0.00001)
    assert figure_text(figure, 100) == "−5.1 [−10.0, 0.0]" and figure_text(figure, 100, signed=True) == "−5.1 [−10.0, 0.0]"
    assert figure_text(Figure(mean=0.5, low=None, high=None), signed=True) == "+0.5"
    assert figure_text(Figure(mean=None, low=None, high=None)) == "–"
    assert memory_text((2**29, 2**29)) == "512 MiB" and memory_text((3 * 2**30,)) == "3.0 GiB" and memory_text(()) == "–"
    assert mean_text((-0.001, 0.0), 2) == "0.00" and listed(["a", "b", "c"]) == "a, b and c" and listed(["a"]) == "a"


def test_exports_hold_every_figure(tmp_path: Path) -> None:
    paths = {path.name: path for path in export_tats(CARD, tmp_path / "figures")}
    figures = csv.read_csv(paths["figures.csv"]).to_pylist()
    assert [(row["arm"], row["part"]) for row in figures] == [(arm, part) for arm in ARMS for part in ("still", "pan")]
    assert figures[0]["sampled_motion"] == pytest.approx(0.3)
    assert figures[0]["times_chance_low"] < 3 < figures[0]["times_chance_high"]
    assert pq.read_table(paths["figures.parquet"]).num_rows == len(figures)
    arms, contrasts = (csv.read_csv(paths[name]).to_pylist() for name in ("arms.csv", "contrasts.csv"))
    assert arms[0]["seconds"] == 30 and arms[0]["probe"] == pytest.approx(0.7) and len(contrasts) == len(CARD.contrasts)
    text = paths["card.md"].read_text(encoding="utf-8")
    assert text == tats_to_markdown(CARD)
    assert "| tats | 30.0 [" in text
    assert "| *chance* | 10.0 | 1.00 | 10.0 | 1.00 | – | 25.0 |" in re.sub(r" \[[^]]*\]", "", text)
    assert "tats − flow | motion, still | −30.0 [" in text and "- In the linear probe tats beats" in text
