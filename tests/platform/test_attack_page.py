"""The page of an attack: of one model, of several, of a trial."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from attack_cards import (
    BUDGETS,
    attacked_images,
    make_card,
    make_model,
    make_rows,
    one_model,
    save_landscape,
    several_models,
    trial,
    write_landscape,
)
from pages import Tags
from PIL import Image

from squall.platform.attack_card import AttackCard, Transfer
from squall.platform.errors import DataError
from squall.platform.report.attack_charts import Scale, near, query_panels, robustness_panels
from squall.platform.report.attack_examples import AttackedImage, amplified, example_cards
from squall.platform.report.attack_export import FIGURES, attack_figures, attacks_to_markdown, export_attacks
from squall.platform.report.attack_indicators import indicator_panels
from squall.platform.report.attack_landscape import EDGE, SIDE, contour, landscapes, read_landscape
from squall.platform.report.attack_subjects import (
    TRANSFER,
    WORST,
    compact,
    main_threat,
    measure,
    standing,
    subjects,
    threat_text,
)
from squall.platform.report.attack_tables import ladder, pivot, transfer_matrices
from squall.platform.report.attacks import write_attack_report
from squall.platform.report.evaluation import bounds, percent, points
from squall.platform.report_card import Estimate

ONE, SEVERAL, TRIAL = one_model(), several_models(), trial()
MAIN = BUDGETS[0]
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def page_of(tmp_path: Path):
    def make(card: AttackCard, *args: object, **kwargs: object) -> str:
        return write_attack_report(tmp_path / "run", card, *args, **kwargs).read_text(encoding="utf-8")
    return make


def headings(page: str) -> list[str]:
    return [re.sub("<[^>]+>", "", text) for text in re.findall(r"<(?:h2|summary class=\"h2\")>(.*?)</(?:h2|summary)>", page)]


def text_of(page: str) -> str:
    return " ".join(re.sub("<[^>]+>", " ", page.split("<body", 1)[1]).split())


def says(page: str) -> str:
    return text_of("<body" + page.split('class="panel says">')[1].split("</section>")[0])


@pytest.mark.parametrize("card", [ONE, SEVERAL, TRIAL], ids=["one", "several", "trial"])
def test_the_page_is_well_formed_and_fetches_nothing(page_of, tmp_path: Path, card: AttackCard) -> None:
    name = write_landscape(tmp_path / "run", "landscapes/first.json")
    models = (card.models[0].model_copy(update={"landscape": name}), *card.models[1:])
    page, tags = page_of(card.model_copy(update={"models": models}), make_rows(one_model()), attacked_images()), Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.fetched) == 1 + 3 * 6 and all(link.startswith("data:") for link in tags.fetched)
    assert re.findall(r'<image href="(.{14})', page) == ["data:image/png"]
    assert not re.search(r"https?://|@import|url\(", page) and "prefers-color-scheme: dark" in page and "@media print" in page


def test_one_model_is_told_by_its_worst_case_beside_what_pgd_would_say(page_of) -> None:
    page = page_of(ONE)
    assert says(page) == (
        "Of 500 images, rl gives 88.4 % their own class as they are. When each is changed by at most L∞ 8/255, by whichever "
        "of 6 attacks does most, 7.2 % [4.9, 9.5] keep it: its robust accuracy. PGD alone would say 65.0 % : 57.8 points of "
        "that are the attack's weakness, not the model's strength. 4 alarms for gradient masking : gradients that hide the way "
        "to adversarial examples, which other attacks then find.")
    assert "1 of 7 checks could not be made." in says(page_of(one_model("sl-adv")))
    honest = says(page_of(one_model("sl")))
    assert "PGD alone would say 8.2 % ." in honest and "weakness" not in honest and "No check for gradient masking" in honest
    model = ONE.models[0]
    alone = model.model_copy(update={"results": tuple(one for one in model.results if not one.attack.startswith("pgd")
                                                      and one.attack != "fgsm")})
    assert "PGD alone" not in says(page_of(make_card([alone])))


def test_every_figure_of_the_models_is_on_the_page(page_of) -> None:
    page = html.unescape(page_of(SEVERAL))
    for model in SEVERAL.models:
        table = pivot(SEVERAL, model, MAIN)
        assert f"{percent(model.clean)} <small>{bounds(model.clean)}" in page
        for result in model.results:
            row = next(values for name, values, _ in table.rows if name == result.attack)
            assert row[table.threats.index((result.norm, result.epsilon))] == result.robust_accuracy
            assert f"{percent(result.robust_accuracy)} <small>{bounds(result.robust_accuracy)}" in page
            if (result.norm, result.epsilon) == MAIN:
                assert f"{compact(result.queries_mean)} <small>({compact(result.queries_median)})" in page
                assert f'<td class="num">{compact(result.gradients_mean)}</td>' in page
        assert all(f"{percent(one.robust_accuracy)} <small>{bounds(one.robust_accuracy)}" in page for one in model.budgets)
        assert all(check.message in page and (check.value is None or f"seen {measure(check.value)}" in page)
                   for check in model.checks)
        own = model.indicators
        for value in (own.agn, own.igv, own.digv, own.gsua, own.sign_consistency, own.spread_steps, own.zero_gradients,
                      own.float32_agreement, *(row.bits for row in own.entropy)):
            assert f'<td class="num">{measure(value)}</td>' in page
        assert model.path in page and model.hash in page
    for text in ("5d41402abc4b2a76", "bd63222", "2.9.1", "L∞ 2/255", "L2 0.5", "mode fast", "one class for sure, 3.32 all"):
        assert text in page, text


def test_the_trial_shows_arms_seeds_compute_and_contrasts(page_of) -> None:
    page = page_of(TRIAL, command="squall report runs/trial")
    table = page.split("<h2>Arms</h2>")[1].split("</table>")[0]
    for arm, row in zip(TRIAL.arms, re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", table, re.DOTALL), strict=True):
        worst = next(one for one in arm.figures if (one.figure, one.norm, one.epsilon) == ("worst", *MAIN))
        cells = [re.sub("<[^>]+>", " ", one) for one in re.findall(r"<td class=\"num[^>]*>(.*?)</td>", row)]
        assert arm.description in row and cells[4].split()[0] == percent(worst.mean)
        assert " · ".join(map(percent, worst.seeds)) in cells[4] and cells[5:] == ["3", "3.6 M", "8 min 32 s"]
    rows = page.split("<h3>Contrasts")[1].split("</table>")[0]
    for contrast in TRIAL.contrasts:
        assert f'<td class="num strong">{points(contrast.change)}</td><td class="num"><small>{bounds(contrast.change)}' in rows
    assert rows.count("<0.001") + rows.count("&lt;0.001") == 3 and rows.count(">0.310<") == 6
    assert "PGD alone would say 65.1 % of rl, whose worst case is 7.1 %, and would rank rl first" in says(page)
    assert page.count('class="mark each"') == 4 * 3 + 1 and "squall report runs/trial" in page
    assert "the same for all arms" in page
    unequal = TRIAL.model_copy(update={"arms": (TRIAL.arms[0].model_copy(update={"passes": 9e6}), *TRIAL.arms[1:])})
    assert "not the same for all arms" in page_of(unequal)


def test_a_failed_check_is_an_alarm_and_one_without_data_is_none(page_of) -> None:
    checks = page_of(make_card([make_model("rl")])).split("<h2>Checks for")[1].split("</section>")[0]
    items = re.findall(r"<li>.*?</li>", checks, re.DOTALL)
    assert [re.search(r"alarm|passed|not measured", item)[0] for item in items] == [
        "alarm", "passed", "alarm", "passed", "alarm", "passed", "alarm"]
    assert "leaves 21.2 % of the images standing" in items[0] and "seen 0.212, bound 0" in items[0]
    unmeasured = page_of(one_model("sl-adv")).split("<h2>Checks for")[1].split("</section>")[0]
    assert "not measured" in unmeasured and "No attack at random was run." in unmeasured and "alarm" not in unmeasured
    several = page_of(SEVERAL).split("<h2>Checks for")[1].split("</section>")[0]
    assert several.split("</table>")[0].count('class="alarm"') == 4 and "4 of 7 checks raise an alarm" in several


def test_what_is_unreliable_stands_before_any_table(page_of) -> None:
    page = page_of(TRIAL.model_copy(update={"unreliable": ("Only 40 images were attacked.",)}))
    alert = page.index('role="alert"')
    assert alert < page.index("Only 40 images were attacked.") < page.index("the gradients lead PGD astray")
    assert alert < page.index('<div class="ladder">') and 'role="alert"' not in page_of(one_model("sl"))
    assert page.split('role="alert"')[1].split("</section>")[0].count("<h3>") == 4


def test_names_and_messages_are_escaped(page_of, tmp_path: Path) -> None:
    def hostile(model):
        return model.model_copy(update={
            "name": "<b>", "path": HOSTILE, "unreliable": (HOSTILE,), "landscape": "<i>.json",
            "checks": tuple(check.model_copy(update={"message": HOSTILE, "passed": False}) for check in model.checks),
            "results": tuple(one.model_copy(update={"attack": f"{HOSTILE}{one.attack}"}) for one in model.results)})

    changes = {"name": HOSTILE, "lost": (HOSTILE,), "notes": (HOSTILE,), "data": {"path": HOSTILE},
               "provenance": {HOSTILE: HOSTILE}, "asked": {"attacks": [{"kind": HOSTILE, "name": HOSTILE}], HOSTILE: HOSTILE}}
    image = attacked_images()[0]
    example = AttackedImage(image.clean, image.adversarial, HOSTILE, "<i>", HOSTILE, "linf", 0.1, HOSTILE)
    card = make_card([hostile(make_model("rl"))], **changes)
    other = SEVERAL.model_copy(update=changes | {"models": (hostile(SEVERAL.models[0]), *SEVERAL.models[1:])})
    arm = TRIAL.model_copy(update={"arms": (TRIAL.arms[0].model_copy(update={"name": HOSTILE, "description": HOSTILE}),)})
    for page in (page_of(card, None, [example], command=HOSTILE), page_of(other, None, [example]), page_of(arm)):
        assert page.count("<script") == 1 and "<b>" + "</" not in page and "<i>.json" not in page
        assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt; under attack" in page_of(card)


def test_missing_parts_leave_no_heading(page_of) -> None:
    model = make_model("sl", indicators=None, checks=(), results=(), budgets=())
    bare = make_card([model], data={"path": None}, asked={}, provenance={})
    page = page_of(bare)
    assert headings(page) == ["How it was asked and made"] and "No attack was finished" in says(page)
    assert not re.search(r"<h[123][^>]*>\s*</h", page) and ">None<" not in page and ">nan" not in page
    full = headings(page_of(SEVERAL, make_rows(SEVERAL), attacked_images()))
    assert full == [
        "Do not rely on these figures", "PGD against the worst case, within L∞ 8/255", "Every attack at every budget",
        "Accuracy over the budget", "Checks for gradient masking", "Gradient indicators", "Predictive entropy", "Transfer",
        "What it takes to fool an image", "Attacked images", "How it was asked and made"]
    assert page_of(SEVERAL.model_copy(update={"models": (), "transfers": ()})).count("<h2>") == 0


def test_curves_start_clean_fall_with_the_budget_and_end_on_the_worst_case() -> None:
    panels = robustness_panels(subjects(SEVERAL))
    assert [panel.title for panel in panels][:5] == ["sl, L∞", "rl, L∞", "rl-adv, L∞", "sl-adv, L∞", "sl, L2"]
    rl = panels[1]
    lines = {classes: np.array(re.findall(r"([\d.]+) ([\d.]+)", path), float) for classes, path, _ in rl.lines}
    worst = lines[WORST]
    assert worst[:, 0] == pytest.approx([40, 74, 108, 176, 312]) and (np.diff(worst[:, 1]) >= 0).all()
    budget = SEVERAL.models[1].budgets[0].robust_accuracy.value
    assert worst[3, 1] == pytest.approx(152 - 142 * budget, abs=0.06)
    assert all((line[: len(worst), 1] <= worst[: len(line), 1] + 0.06).all() for line in lines.values() if len(line) == 5)
    upper, lower = np.split(np.array(re.findall(r"([\d.]+) ([\d.]+)", rl.bands[0][1]), float), 2)
    assert (upper[:, 1] <= worst[:, 1]).all() and (lower[::-1, 1] >= worst[:, 1]).all()
    assert near([8, 2, 16, 255]) == [2, 8, 16] and near([1, 255]) == [1]


def test_indicator_curves_are_of_all_models_in_one_chart_with_pale_seeds() -> None:
    panels = dict((panel.title, panel) for _, panel in indicator_panels(subjects(TRIAL)))
    assert list(panels) == ["IGV", "dIGV", "GSUA", "AGN"]
    seeds = [line for line in panels["dIGV"].lines if line[0].endswith("seed")]
    assert len(seeds) == 12 and len(panels["dIGV"].lines) == 16
    assert [text for _, text in panels["IGV"].y_ticks][0].startswith("10⁻")
    alone = indicator_panels(subjects(one_model("rl")))
    assert alone[0][1].title == "IGV × 10⁻⁷" and alone[0][0] == "radius"


def test_queries_count_the_fallen_of_all_attacked() -> None:
    panel = query_panels(subjects(ONE), make_rows(ONE), MAIN)[0]
    result = next(one for one in ONE.models[0].results if one.attack == "square" and (one.norm, one.epsilon) == MAIN)
    fallen = (result.attacked - round(500 * result.robust_accuracy.value)) / result.attacked
    text = next(text for _, _, text in panel.lines if ", square:" in text)
    assert text == f"rl, square: {100 * fallen:.1f} % fooled within 1,000 passes"
    assert query_panels(subjects(ONE), None, MAIN) == [] and query_panels(subjects(TRIAL), make_rows(ONE), MAIN) == []
    assert Scale(1.0, 1000.0, True).x(10.0) == pytest.approx(40 + 272 / 3, abs=0.01)


def test_the_landscape_is_drawn_with_its_contour(page_of, tmp_path: Path) -> None:
    axis, folder = np.array([-0.2, -0.1, 0.0, 0.1, 0.2]), tmp_path / "run"
    loss = np.repeat(np.linspace(0, 5, 5)[:, None], 5, 1)
    loss[0, 4] = 2.5
    save_landscape(folder, "l.json", 0.1, axis, loss, loss < 3, roughness=0.0123, plateau=0.25, wrong=0.4)
    model = ONE.models[0].model_copy(update={"landscape": "l.json"})
    (drawn,), top, problems = landscapes(folder, subjects(make_card([model])))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn.picture.split(",")[1]))).convert("RGB")).astype(int)
    assert (top, problems, pixels.shape) == (5.0, [], (5, 5, 3))
    assert [tuple(pixels[at]) for at in ((2, 0), (2, 4), (0, 0))] == [(68, 1, 84), (253, 231, 37), (33, 145, 140)]
    assert [text for _, text in drawn.x_ticks] == ["−2", "−1", "0", "1", "2"] and drawn.origin == (EDGE + 120, 120)
    xs = {float(x) for x, _ in re.findall(r"([\d.]+) ([\d.]+)", drawn.contour)}
    assert xs == {EDGE + 3 * SIDE / 5} and drawn.figures == "roughness 0.0123 nats · flat 25 % · wrong 40 %"
    page = page_of(make_card([model]))
    assert drawn.picture in page and drawn.contour in page and "along the attack, ε" in page and drawn.figures in page


def test_the_contour_closes_around_an_island() -> None:
    correct = np.ones((7, 7), bool)
    correct[2:5, 3] = correct[3, 2:5] = False
    ends = re.findall(r"[ML]([\d.]+ [\d.]+)", contour(correct))
    assert len(ends) == 2 * 12 and all(ends.count(end) == 2 for end in ends)
    assert contour(np.ones((3, 3), bool)) == contour(np.zeros((3, 3), bool)) == ""


@pytest.mark.parametrize(("content", "message"), [
    (None, "cannot be read"), ("[", "is no landscape"), ('{"epsilon": 0}', "is no landscape: 'alphas'"),
    (json.dumps({"epsilon": 1, "alphas": [0, 1], "betas": [0, 1], "loss": [[1, 2]], "correct": [[1, 1]]}), r"loss \(1, 2\)"),
    (json.dumps({"epsilon": 0, "alphas": [0, 1], "betas": [0, 1], "loss": [[1, 2]] * 2, "correct": [[1, 1]] * 2}), "epsilon")])
def test_a_landscape_that_cannot_be_drawn_is_said(page_of, tmp_path: Path, content: str | None, message: str) -> None:
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / "run" / "l.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_landscape(tmp_path / "run", "l.json")
    page = page_of(make_card([make_model("rl", landscape="l.json")]))
    assert "The loss landscape of rl is not shown: l.json" in page and "Loss landscapes" in headings(page)


def test_a_landscape_outside_the_run_is_not_read(page_of, tmp_path: Path) -> None:
    write_landscape(tmp_path, "secret.json")
    page = page_of(make_card([make_model("rl", landscape="../secret.json")]))
    assert "../secret.json lies outside the run folder" in page and "data:image/png" not in page


def test_transfer_has_the_own_attack_on_its_diagonal_and_means_over_an_arms_pairs() -> None:
    first, second = transfer_matrices(SEVERAL, subjects(SEVERAL), MAIN)
    assert (first.threat, second.threat, first.names) == (MAIN, BUDGETS[1], ("sl", "rl", "rl-adv", "sl-adv"))
    rows = dict(first.rows)
    assert [own for _, own in rows["rl"]] == [False, True, False, False] and rows["rl"][1][0] == 0.65
    shown = next(one.accuracy.value for one in SEVERAL.transfers
                 if (one.source, one.target, one.epsilon) == ("rl", "sl", 8 / 255))
    assert rows["rl"][0] == (shown, False)
    arms = dict(transfer_matrices(TRIAL, subjects(TRIAL), MAIN)[0].rows)
    pairs = [one.accuracy.value for one in TRIAL.transfers
             if one.source.startswith("rl-adv-") and one.target.startswith("sl-") and "adv" not in one.target
             and one.epsilon == 8 / 255]
    assert len(pairs) == 9 and arms["rl-adv"][0][0] == pytest.approx(np.mean(pairs))


def test_transfer_counts_as_the_source_that_left_fewest() -> None:
    few = Estimate(value=0.01, low=0.0, high=0.02, n=500)
    card = SEVERAL.model_copy(update={"transfers": (Transfer(
        source="outside", target="sl", attack="pgd", norm="linf", epsilon=8 / 255, accuracy=few), *SEVERAL.transfers)})
    sl = subjects(card)[0]
    assert sl.under(TRANSFER, MAIN) == few and standing(card, sl, MAIN)["transfer"] == (TRANSFER, few)
    assert [name for name, _, _ in pivot(card, card.models[0], MAIN).rows][-2:] == [TRANSFER, WORST]


def test_pgd_alone_is_the_attack_on_trial() -> None:
    assert standing(ONE, subjects(ONE)[0], MAIN)["pgd"][0] == "pgd"
    other = ONE.model_copy(update={"asked": ONE.asked | {"headline": "fgsm"}})
    assert standing(other, subjects(other)[0], MAIN)["pgd"][0] == "fgsm"
    (rung,) = ladder(other, subjects(other), main_threat(other))
    assert rung.overstated == pytest.approx(100 * (0.732 - 0.072))


def test_images_stand_beside_what_was_changed(page_of) -> None:
    clean = np.full((4, 4, 1), 0.5)
    changed = clean.copy()
    changed[0, 0] += 8 / 255
    picture, factor = amplified(clean, changed)
    assert (factor, picture[0, 0, 0]) == (16, 255)
    assert picture[1, 1, 0] == 128 and amplified(clean, clean)[1] == 1
    fell, stood = example_cards(attacked_images())
    assert (fell[0], len(fell[1]), stood[0], len(stood[1])) == ("Fell", 3, "Stood", 3)
    shown = fell[1][0]
    assert [caption for caption, *_ in shown["pictures"]] == ["as it is", "attacked", "change × 16"]
    assert shown["most"] == pytest.approx(8 / 255, abs=1e-6) and shown["pictures"][0][3:] == (28, 28)
    page = page_of(ONE, None, attacked_images(clip=True))
    assert page.count('alt="attacked: sneaker"') == 3 and page.count('class="attacked wide"') == 2
    assert example_cards(attacked_images(clip=True))[0][1][0]["pictures"][0][3:] == (8 * 28 + 7, 28)


def test_wide_tables_scroll_in_their_own_box(page_of) -> None:
    for card in (ONE, SEVERAL, TRIAL):
        page = page_of(card)
        for table in re.finditer(r"<table class=\"grid-table", page):
            assert page[:table.start()].rfind('class="panel scroll"') > page[:table.start()].rfind("<section")
        assert 'name="viewport"' in page


def test_budgets_and_numbers_are_written_as_people_do() -> None:
    radii = [("linf", 8 / 255), ("linf", 0.5 / 255), ("linf", 0.1), ("l2", 0.5), ("linf", 1.0)]
    assert list(map(threat_text, radii)) == ["L∞ 8/255", "L∞ 0.5/255", "L∞ 0.1", "L2 0.5", "L∞ 1"]
    assert [measure(one) for one in (None, 0.0, 5.884e-07, -0.25, 1234.0)] == ["–", "0", "5.88·10⁻⁷", "−0.25", "1.23e+03"]
    assert [compact(one) for one in (0.5, 950, 12_345, 3.6e6, 1.2e9)] == ["0.5", "950", "12.3 k", "3.6 M", "1.2 G"]


def test_the_figures_are_exported_and_read_back(tmp_path: Path) -> None:
    paths = export_attacks(TRIAL, tmp_path / "out")
    table = pq.read_table(paths[1])
    assert table.schema == FIGURES and table.num_rows == 12 * (1 + 6 * 6 + 11 * 2 + 6)
    model = TRIAL.models[4]
    row = next(row for row in table.to_pylist() if (row["model"], row["attack"], row["norm"], row["epsilon"]) == (
        model.name, "pgd", *MAIN))
    result = next(one for one in model.results if (one.attack, one.norm, one.epsilon) == ("pgd", *MAIN))
    assert (row["arm"], row["seed"], row["accuracy"], row["queries_median"], row["data_hash"]) == (
        "rl", 1, result.robust_accuracy.value, result.queries_median, "5d41402abc4b2a76")
    assert csv.read_csv(paths[0])["accuracy"].to_pylist() == attack_figures(TRIAL)["accuracy"].to_pylist()
    lines = paths[2].read_text(encoding="utf-8").splitlines()
    assert lines[0] == "| arm | clean | PGD | transfer | AutoAttack | worst case, L∞ 8/255 |" and len(lines) == 6 + 1 + 1 + 6
    assert lines[3].startswith("| rl | 88.5 [84.9, 92.2] | 65.1 [")
    assert "a\\|b" in attacks_to_markdown(make_card([make_model("rl", name="a|b")]))
