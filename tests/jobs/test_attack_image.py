"""`squall attack image`: what is refused, and that runs that were killed end in the files of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from attacked_digits import save_model
from processes import Command, rows

from squall.actors.query_ledger import QueryLedger
from squall.jobs import attack_crew, attack_image, report
from squall.jobs.arguments import load_job_config
from squall.jobs.attack_examples import read_examples
from squall.jobs.attack_image_plan import AttackImageConfig, prepare
from squall.jobs.attack_report import read_attack_card, read_attacks
from squall.jobs.registry import find_job
from squall.platform.attack_card import ATTACKS
from squall.platform.errors import DataError, SquallError

SOURCE = """
import time

import torch
from torch import nn


class Odd(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.linspace(-1, 1, 640).view(10, 64))

    def forward(self, images):
        logits = nn.functional.linear(images.flatten(1), self.weight)
        if self.kind == "slow":
            time.sleep(0.004)
        return logits / 0 if self.kind == "nan" else logits


def nan():
    return Odd("nan")


def slow():
    return Odd("slow")
"""
CLASSES = ", ".join(f"'{number}'" for number in range(10))
STRANGE = f"models={{{{path: 'strange_models:{{}}', classes: [{CLASSES}], shape: [1, 8, 8]}}}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that know digits, a pickle, and models of strange behaviour."""
    made = tmp_path_factory.mktemp("attacks")
    for seed, name in enumerate(("first", "second")):
        save_model(made / name, seed)
    (made / "strange_models.py").write_text(SOURCE)
    (made / "model.pt").write_bytes(b"\x80\x04\x95pickle")
    facts = json.loads((made / "first" / "classifier.json").read_text())
    (made / "renamed").mkdir()
    (made / "renamed" / "model.safetensors").write_bytes((made / "first" / "model.safetensors").read_bytes())
    (made / "renamed" / "classifier.json").write_text(json.dumps(facts | {"classes": [*facts["classes"][:9], "ten"]}))
    return made


def config(*words: object) -> AttackImageConfig:
    """What the command line makes of its words."""
    return load_job_config(find_job("attack image"), [str(word) for word in words])




@pytest.mark.parametrize(("words", "message"), [
    (["models=nope"], "nope: no such folder; expected a checkpoint folder"),
    (["models=model.pt"], "a file, and a checkpoint is a folder"),
    (["models=[]"], "give a model: models=runs/NAME/model"),
    (["models=[first, {path: second, name: first}]"], "models: two are called 'first'"),
    (["models={path: first, name: a:b}"], "should match pattern"),
    ([STRANGE.format("nan")], "model nan (strange_models:nan): the model's logits are not finite; it cannot be attacked"),
    ([STRANGE.format("slow").replace("8, 8", "4, 16")], "takes images of shape [1, 4, 16], and these are [1, 8, 8]"),
    ([STRANGE.format("slow").replace("'9'", "'9', 'none'")], "strange_models"),
    (["models=renamed"], "model renamed: class 9 is 'ten', and in the data '9'"),
    (["data.size=16"], "takes images of shape [1, 8, 8], and these are [1, 16, 16]"),
    (["epsilons=[0]"], "epsilons: 0 is no budget"),
    (["epsilons=[]"], "how far may an image be changed? Give epsilons=[0.03]"),
    (["epsilons=[8]"], "epsilon = 8 for linf is above the box"),
    (["norms=l2", "epsilons=[9]"], "epsilon = 9 for l2 is above the box"),
    (["epsilons=[]", "budgets=[{epsilon: 0}]"], "greater than 0"),
    (["budgets=[{epsilon: 0.1}]"], "give budgets, or norms and epsilons; not both"),
    (["attacks=[pgdd]"], "unknown attack 'pgdd'. Did you mean 'pgd'?"),
    (["attacks=[{kind: pgd, stepz: 3}]"], "unknown key 'stepz'. Did you mean 'steps'?"),
    (["models=[first, second]", "transfer=[fab]", "masking=false"], "transfer: no attack 'fab' in this run"),
    (["images=5000"], "images = 5,000: the test split has 360"),
    (["images=1"], "greater than or equal to 2"),
    (["--resume"], "resume needs the run"),
    (["name=none", "--resume"], "no run directory of that name to resume"),
])
def test_what_cannot_be_done_is_one_line_before_anything_is_started(
        words: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(attack_crew, "start_ray", lambda *_: pytest.fail("Ray was started"))
    with pytest.raises(SquallError) as refused:
        attack_image.run(config("models=first", "epsilons=[0.1]", "output=refused", *words))
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (folder / "refused").exists()


def test_images_are_the_first_or_follow_from_the_seed(folder: Path) -> None:
    def chosen(*words: str) -> np.ndarray:
        return prepare(config(f"models={folder / 'first'}", "epsilons=[0.1]", "images=30", *words)).targets.positions

    assert chosen().tolist() == list(range(30))
    seeded = chosen("choice=seeded", "seed=1")
    assert np.array_equal(seeded, chosen("choice=seeded", "seed=1")) and not np.array_equal(seeded, chosen("choice=seeded"))
    assert sorted(set(seeded.tolist())) == seeded.tolist() and seeded.max() > 30
    whole = prepare(config(f"models={folder / 'first'}", "epsilons=[0.1]", "images=null"))
    few = prepare(config(f"models={folder / 'first'}", "epsilons=[0.1]", "images=30", "choice=seeded"))
    assert len(whole.targets.positions) == 360 and few.data["hash"] == whole.data["hash"]
    assert {few.targets.seeds[0]} <= set(whole.targets.seeds)  # an image keeps its seed, whichever images stand beside it


def asked(run: Path) -> int:
    """Rows of the ledger of a run that may be going on."""
    if not (run / "queries.sqlite").exists():
        return 0
    try:
        ledger = sqlite3.connect(f"file:{run / 'queries.sqlite'}?mode=ro", uri=True)
        return int(ledger.execute("SELECT COUNT(*) FROM calls").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def kill_worker(run: Path, at: int) -> None:
    """Kill a worker that started last, when so many rows are in the ledger."""
    deadline = time.monotonic() + 240
    while asked(run) < at and time.monotonic() < deadline:
        time.sleep(0.02)
    started = [row["process"] for row in rows(run / "events.jsonl") if row["kind"] == "worker"]
    os.kill(started[-1], signal.SIGKILL)


WORDS = ("images=48", "chunk=8", "attacks=[{kind: pgd, steps: 30}, {kind: square, queries: 60}, {kind: noise, draws: 3}]",
         "budgets=[{epsilon: 0.1}, {norm: l2, epsilon: 0.5}]",
         "diagnosis={images: 16, indicators: {steps: 3, samples: 2}, landscape: {points_per_side: 2}}",
         "workers.cpus=0.5", "name=run")
FILES = ("attacks.parquet", "card.json", "examples.safetensors", "landscapes/first.json")


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_run_that_was_killed_ends_in_the_files_of_an_undisturbed_one_and_counts_every_query_once(
        folder: Path, ray_cluster: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    slow = STRANGE.format("slow").removeprefix("models=")
    models = f"models=[first, second, {slow}]"
    killed, calm = folder / "killed" / "run", folder / "calm" / "run"
    command = Command(folder, "attack", "image", models, *WORDS, "output=killed")
    deadline = time.monotonic() + 240
    while command.poll() is None and asked(killed) < 200 and time.monotonic() < deadline:
        time.sleep(0.02)
    command.signal(signal.SIGKILL)
    assert command.wait(60) == -signal.SIGKILL, command.printed
    before = asked(killed)
    assert 200 <= before and not (killed / "card.json").exists(), command.printed

    killer = threading.Thread(target=kill_worker, args=(killed, before + 100))
    killer.start()
    assert attack_image.run(config("killed/run/config.yaml", "--resume")) == 0
    killer.join()
    assert [row["reason"] for row in rows(killed / "events.jsonl") if row["kind"] == "retried"] == ["attack_died"]
    assert attack_image.run(config(models, *WORDS, "output=calm", "workers.count=2")) == 0
    for name in FILES:
        assert (killed / name).read_bytes() == (calm / name).read_bytes(), name

    table, totals = read_attacks(killed), []
    assert table.schema.equals(ATTACKS)
    for run in (killed, calm):
        ledger = QueryLedger(run / "queries.sqlite")
        diagnosed = [ledger.total(purpose) for purpose in ("indicators", "landscape")]
        totals.append([getattr(ledger.total(), name) - sum(getattr(one, name) for one in diagnosed)
                       for name in ("queries", "gradients")])
        assert ledger.count() == table.num_rows + 2 * 3  # a row for each image and attack, two for each model's diagnosis
    assert totals == [[pc.sum(table["queries"]).as_py(), pc.sum(table["gradients"]).as_py()]] * 2

    card = read_attack_card(killed)
    first = card.models[0]
    assert [model.name for model in card.models] == ["first", "second", "slow"] and card.lost == ()
    assert {one.source for one in card.transfers} == {"first", "second", "slow"}
    assert first.clean.value > 0.9 and [budget.norm for budget in first.budgets] == ["linf", "l2"]
    assert first.budgets[0].robust_accuracy.value < first.clean.value - 0.1
    assert next(check for check in first.checks if check.name == "unbounded").passed
    assert all(check.passed is not None for check in first.checks) and first.indicators.images == 16
    examples = list((killed / "adversarial").rglob("*.safetensors"))
    assert len(examples) == len(list((calm / "adversarial").rglob("*.safetensors"))) > 50

    capsys.readouterr()
    page = (killed / "report.html").read_bytes()
    shown = read_examples(killed)
    assert [one.model for one in shown] == ["first"] * 4 + ["second"] * 4 + ["slow"] * len(shown[8:])
    assert [one.label == one.prediction for one in shown[:4]] == [False] * 3 + [True]
    assert 0.05 < np.abs(shown[0].adversarial - shown[0].clean / 255).max() <= 0.1 + 1e-6
    for name in ("card.json", "report.html"):
        (calm / name).unlink()
    with pytest.raises(DataError, match="no card.json; it is written when all is attacked: squall attack image"):
        report.run(report.ReportConfig(runs=(calm,)))
    (killed / "report.html").unlink()
    assert report.run(report.ReportConfig(runs=(killed,))) == 0
    assert (killed / "report.html").read_bytes() == page and "first: clean" in capsys.readouterr().out

    monkeypatch.setattr(attack_crew, "start_ray", lambda *_: pytest.fail("asked again"))
    assert attack_image.run(config("calm/run/config.yaml", "--resume")) == 0
    assert (calm / "card.json").read_bytes() == (killed / "card.json").read_bytes()
    for word, message in (("seed=1", "other settings (asked.seed differs)"),
                          ("images=40", "other images (data.images differs)"),
                          ("models=[first, second]", "other models (models.slow differs)")):
        with pytest.raises(SquallError, match="was begun with") as refused:
            attack_image.run(config("calm/run/config.yaml", "--resume", word))
        assert message in str(refused.value)
