"""A campaign of attacks without Ray: what is asked once, what is remembered, what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacked_digits import digits, save_model

from squall.actors.attack_pool import Failed
from squall.actors.attack_worker import Finished
from squall.actors.query_ledger import QueryLedger
from squall.algorithms.attacks.base import Threat
from squall.jobs.attack_battery import Battery, make_battery
from squall.jobs.attack_crew import Work
from squall.jobs.attack_memory import AttackMemory, Case, Targets
from squall.jobs.attack_models import AttackedModel, Campaign
from squall.platform.errors import DataError
from squall.platform.image_classifiers import ImageClassifier, ImageModelConfig, open_image_classifier

N, CHUNK = 24, 8
THREATS = [Threat(norm="linf", epsilon=0.1), Threat(norm="l2", epsilon=0.5)]


class Here:
    """Does work in this process, and counts it."""

    def __init__(self, models: Sequence[ImageClassifier], targets: Targets) -> None:
        self._models, self._data, self.done = models, targets.data, 0

    def do(self, what: str, todo: Sequence[Work[Any]]) -> Iterator[tuple[Any, Finished | Failed]]:
        for work in todo:
            task = work.make()
            self.done += 1
            try:
                yield work.key, Finished(task.run(self._models[task.model], self._data, "cpu"), 0.5)
            except DataError as error:
                yield work.key, Failed(error.reason, str(error))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> list[ImageClassifier]:
    folder = tmp_path_factory.mktemp("models")
    return [open_image_classifier(ImageModelConfig(path=str(save_model(folder / str(seed), seed)))) for seed in (0, 1)]


@pytest.fixture(scope="module")
def targets() -> Targets:
    positions = np.arange(5, 5 + 2 * N, 2)
    return Targets(digits().subset(positions, "some"), positions, 0, CHUNK)


def campaign(models: Sequence[ImageClassifier], targets: Targets, folder: Path, battery: Battery | None = None
             ) -> tuple[Campaign, Here, QueryLedger]:
    battery = battery or make_battery([{"kind": "pgd", "steps": 5}, "noise"], THREATS, targets.data.shape, masking=False,
                                      transfer=True)
    ledger, crew = QueryLedger(folder / "queries.sqlite"), Here(models, targets)
    attacked = [AttackedModel(f"m{number}", "path", ImageModelConfig(path="."), model.hash)
                for number, model in enumerate(models)]
    made = Campaign(attacked, targets, battery, AttackMemory(ledger, folder, targets), crew)
    for stage in (made.look, made.strike, made.show):
        stage()
    return made, crew, ledger


def test_what_the_ledger_knows_is_not_asked_again_and_other_settings_are(
        opened: list[ImageClassifier], targets: Targets, tmp_path: Path) -> None:
    first, crew, ledger = campaign(opened, targets, tmp_path)
    names = [("m0", opened[0].hash), ("m1", opened[1].hash)]
    table = first.record.table(names, ["pgd", "noise"])
    assert crew.done == 2 * 3 + 2 * 2 * 2 * 3 + 2 * 2 * 3 and first.lost() == ()
    again, idle, _ = campaign(opened, targets, tmp_path)
    assert idle.done == 0 and again.record.table(names, ["pgd", "noise"]).equals(table)
    assert ledger.count() == table.num_rows and ledger.total().gradients == sum(table["gradients"].to_pylist()) > 0
    assert list(dict.fromkeys(zip(*(table[name].to_pylist() for name in ("model", "norm", "epsilon", "attack")), strict=True)))[
        :6] == [("m0", None, None, "clean"), ("m0", "l2", 0.5, "pgd"), ("m0", "l2", 0.5, "noise"),
                ("m0", "l2", 0.5, "transfer:m1:pgd"), ("m0", "linf", 0.1, "pgd"), ("m0", "linf", 0.1, "noise")]
    assert table["image"].to_pylist()[:N] == targets.positions.tolist()
    longer = make_battery([{"kind": "pgd", "steps": 6}, "noise"], THREATS, targets.data.shape, masking=False)
    other, busy, _ = campaign(opened, targets, tmp_path, longer)
    assert busy.done == 2 * 2 * 3  # PGD at two budgets on two models, three chunks each, and nothing else
    seeded, all_of_it, _ = campaign(opened, replace(targets, seed=1), tmp_path)
    assert all_of_it.done == crew.done and seeded.lost() == other.lost() == ()


def test_a_model_under_two_names_is_asked_once(opened: list[ImageClassifier], targets: Targets, tmp_path: Path) -> None:
    twice, _, ledger = campaign([opened[0], opened[0]], targets, tmp_path)
    table = twice.record.table([("m0", opened[0].hash), ("m1", opened[0].hash)], ["pgd", "noise"])
    assert ledger.count() * 2 == table.num_rows
    halves = [table.filter([name == own for name in table["model"].to_pylist()]).drop_columns("model") for own in ("m0", "m1")]
    assert halves[0].equals(halves[1])


def test_a_replay_is_one_piece_of_work_over_all_its_images(
        opened: list[ImageClassifier], targets: Targets, tmp_path: Path) -> None:
    entry = {"kind": "autoattack", "mode": "replay", "components": [{"kind": "apgd-ce", "steps": 3}]}
    battery = make_battery([entry], THREATS[:1], targets.data.shape, masking=False, transfer=["autoattack"])
    made, crew, _ = campaign(opened, targets, tmp_path, battery)
    assert crew.done == 2 * 3 + 2 + 2
    (case,) = [one for one in made._cases(opened[0].hash)]
    assert made.record.of(case).known.sum() == made.record.right(opened[0].hash).sum() > CHUNK
    assert campaign(opened, targets, tmp_path, battery)[1].done == 0


class Fragile(torch.nn.Module):
    """A model with NaN for one image."""

    def __init__(self, module: torch.nn.Module, image: torch.Tensor) -> None:
        super().__init__()
        self._module, self._image = module, image

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self._module(images)
        logits[(images == self._image).flatten(1).all(1)] = torch.nan
        return logits


def test_a_chunk_that_a_model_has_no_answer_to_is_lost_by_name_and_the_others_go_on(
        opened: list[ImageClassifier], targets: Targets, tmp_path: Path) -> None:
    broken = replace(opened[0], module=Fragile(opened[0].module, targets.data.tensor([10])[0]), hash="fragile")
    made, _, ledger = campaign([broken, opened[1]], targets, tmp_path)
    assert made.lost() == ("m0, clean: 8 images lost: the model's logits are not finite",)
    known = made.record.of(Case("fragile")).known
    assert known.tolist() == [not 8 <= row < 16 for row in range(N)]
    assert ledger.count("clean", "fragile") == 16 and ledger.count("clean", opened[1].hash) == N
    assert 0 < ledger.count("pgd", "fragile") <= 2 * 16


def test_examples_are_read_again_and_their_loss_is_said(
        opened: list[ImageClassifier], targets: Targets, tmp_path: Path) -> None:
    made, _, ledger = campaign(opened, targets, tmp_path)
    memory = AttackMemory(ledger, tmp_path, targets)
    case = next(one for one in made._cases(opened[0].hash) if one.attack == "pgd")
    rows, examples = memory.examples(case, 1)
    assert rows.tolist() == [row for row in range(8, 16) if made.record.right(opened[0].hash)[row]]
    change = np.abs(examples - targets.data.tensor(rows).numpy()).max()
    assert examples.dtype == np.float32 and 0.05 < change <= 0.1 + 1e-6
    memory.path(case, 1).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"00001.safetensors: the examples cannot be read \(.*put the file back") as refused:
        memory.examples(case, 1)
    assert refused.value.reason == "damaged_examples"
    with pytest.raises(DataError, match="images of another run"):
        AttackMemory(ledger, tmp_path, replace(targets, positions=targets.positions + 1)).examples(case, 0)
