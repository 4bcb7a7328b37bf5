"""Attacks on clips by several processes: the same rows however many, nothing done twice, every query accounted for."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import cell_source
import cell_victim
import numpy as np
import pyarrow as pa
import pytest
import ray
from cell_source import CellSource
from cell_victim import cell_victim as ask_here
from spot_victim import noise_clip

from squall.actors.attackers import load_attacker, save_attackers
from squall.actors.clip_attack_store import AttackStore
from squall.actors.clip_attacks import (
    Assault,
    ClipAttackersConfig,
    ClipAttackRun,
    Step,
    abandoned,
    attack_clips,
    purposes,
)
from squall.actors.victim_config import AskingConfig
from squall.actors.victim_pool import VictimPool, VictimPoolConfig
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.greedy import Greedy
from squall.algorithms.video_attack.controls.random_cells import RandomCells
from squall.algorithms.video_attack.episode import Episode
from squall.algorithms.video_attack.learned import Learned
from squall.algorithms.video_attack.policy import Actor, AttackerPolicy, agent_shapes
from squall.platform.errors import ConfigError
from squall.platform.seeds import derive_seed
from squall.platform.video_attack_card import VIDEO_ATTACKS

pytestmark = pytest.mark.cluster
for helper in (cell_source, cell_victim):  # victims cannot import what stands among the tests
    ray.cloudpickle.register_pickle_by_value(helper)

ATTACK = AttackConfig(block=2, cell=8, max_queries=60)
POSITIONS = (3, 5, 8, 13, 21)
CLIPS = np.stack([noise_clip(position) for position in POSITIONS])
LABELS = [0] * len(CLIPS)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Attackers that have learned nothing yet."""
    folder = tmp_path_factory.mktemp("attackers")
    shapes = agent_shapes(Episode(CLIPS[0], 0, ATTACK, 0))
    save_attackers(AttackerPolicy({agent: Actor(shape, 8) for agent, shape in shapes.items()}), folder, {})
    return folder


@pytest.fixture(scope="module")
def assaults(policy: Path) -> list[Assault]:
    bare = ATTACK.model_copy(update={"removal": False})
    return [Assault("pair", 1, ATTACK, policy=policy), Assault("pair", 0, ATTACK, policy=policy),
            Assault("no-removal", 0, bare, policy=policy), Assault("greedy", 0, ATTACK, Greedy()),
            Assault("random", 0, ATTACK, RandomCells()), Assault("random", 1, ATTACK, RandomCells())]


class Stage:
    """A pool with a ledger and a store in a folder."""

    def __init__(self, folder: Path, **values: Any) -> None:
        self.folder = folder
        (folder / "model").mkdir(parents=True)
        self.source = CellSource(folder / "model")
        self.pool = VictimPool(VictimPoolConfig(**{"cpus": 0.5, **values}), self.source, folder / "ledger.sqlite", folder.name)
        self.pool.start()
        self.steps: list[Step] = []

    def attack(self, assaults: list[Assault], name: str = "attacks", labels: list[int] = LABELS, others: Any = None,
               until: Event | None = None, **values: Any) -> ClipAttackRun:
        """Attack; after the first attack that is done nothing is looked at `until` an event has happened."""
        def on_done(step: Step) -> None:
            self.steps.append(step)
            assert until is None or until.wait(120)

        return attack_clips(assaults, CLIPS, POSITIONS, labels, self.pool.client("nothing"), others or {},
                            ClipAttackersConfig(**{"cpus": 0.5} | values), self.folder / f"{name}.sqlite", on_done,
                            run_id=f"{self.folder.name}-{name}-{time.time_ns()}", victim_hash="cell", logs=self.folder)


@pytest.fixture(scope="module")
def stage(ray_cluster: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("stage"), wait_ms=2)
    yield made
    made.pool.stop()


@pytest.fixture(scope="module")
def undisturbed(stage: Stage, assaults: list[Assault]) -> ClipAttackRun:
    return stage.attack(assaults, others={"twin": stage.pool.client("nothing")}, clips_at_once=3, examples=2)


def test_rows_are_what_each_attack_gives_by_itself(undisturbed: ClipAttackRun, assaults: list[Assault]) -> None:
    table = undisturbed.table
    assert table.schema == VIDEO_ATTACKS and undisturbed.lost == () and undisturbed.retries == {}
    rows = table.to_pylist()
    wanted = [(assault.name, assault.seed, position) for assault in assaults for position in POSITIONS]
    assert [(row["attack"], row["seed"], row["clip"]) for row in rows] == wanted
    for row, (assault, place) in zip(rows, [(assault, place) for assault in assaults for place in range(5)], strict=True):
        attack = assault.control or Learned(load_attacker(assault.policy))
        outcome = attack.run(ask_here, CLIPS[place], 0, assault.attack, derive_seed(assault.seed, "clip", POSITIONS[place]),
                             derive_seed(0, "palette", POSITIONS[place]))
        assert (row["queries"], row["removal_queries"], row["fooled"]) == (
            outcome.queries, outcome.removal_queries, outcome.fooled)
        assert (row["trace_queries"], row["p_clean"]) == (list(range(1, outcome.queries + 1)), pytest.approx(row["trace_p"][0]))
        assert row["prediction"] == int(row["fooled"]) and row["p_attacked"] == pytest.approx(min(row["trace_p"]), abs=0.1)
    by_attack = {name: [row["queries"] for row in rows if (row["attack"], row["seed"]) == name]
                 for name in {(row["attack"], row["seed"]) for row in rows}}
    assert by_attack["random", 0] != by_attack["random", 1] and by_attack["pair", 0] != by_attack["pair", 1]
    assert sum(row["fooled"] for row in rows) > 20


def test_all_attacks_distort_a_clip_alike(undisturbed: ClipAttackRun) -> None:
    # removal leaves all of them the one cell that matters, so that the same pixels give the same probability
    rows = [row for row in undisturbed.table.to_pylist() if row["fooled"] and row["cells"] == 1]
    left = {position: {row["p_attacked"] for row in rows if row["clip"] == position} for position in POSITIONS}
    assert len(rows) > 15 and all(len(found) == 1 for found in left.values()) and len(set.union(*left.values())) == 5


def test_what_fools_is_shown_to_others_and_the_first_of_each_attack_is_kept(undisturbed: ClipAttackRun, stage: Stage,
                                                                          assaults: list[Assault]) -> None:
    rows = undisturbed.table.to_pylist()
    for row in rows:
        shown = (["twin"], [0], [1]) if row["fooled"] else ([], [], [])
        assert (row["seen_by"], row["seen_clean"], row["seen_attacked"]) == shown
    fooled = [(row["attack"], row["seed"], row["clip"]) for row in rows if row["fooled"]]
    first = [[one for one in fooled if one[:2] == pair][:2] for pair in
             (("pair", 1), ("no-removal", 0), ("greedy", 0), ("random", 0))]
    assert [(one.attack, one.seed, one.clip) for one in undisturbed.examples] == sum(first, [])
    for one in undisturbed.examples:
        clip = CLIPS[POSITIONS.index(one.clip)]
        assert np.array_equal(one.clean, clip) and (one.label, one.prediction) == ("smooth", "rough")
        touched = (one.adversarial != clip).any(-1).reshape(4, 2, 4, 8, 4, 8).any((1, 3, 5))
        assert np.array_equal(touched, one.occupancy > 0) and ask_here(one.adversarial[None]).argmax() == 1
    tally = stage.pool.tally(purposes(assaults, ["twin"]))
    assert tally.purposes["transfer/twin"] == len(fooled) + 5
    asked = {assault.purpose: tally.purposes[assault.purpose] for assault in assaults}
    assert sum(asked.values()) == sum(row["queries"] + row["removal_queries"] for row in rows)
    assert abandoned(undisturbed.table, asked) == {}
    assert max(stage.source.batches) > 1  # the victim answers several attacks at once


def test_one_process_that_attacks_clip_by_clip_finds_the_same_and_what_is_done_is_not_done_again(
        stage: Stage, undisturbed: ClipAttackRun, assaults: list[Assault]) -> None:
    others = {"twin": stage.pool.client("nothing")}
    alone = stage.attack(assaults, "alone", others=others, count=1, clips_at_once=1, examples=2)
    assert alone.table.equals(undisturbed.table)
    before = sum(stage.source.batches)
    again = stage.attack(assaults, "alone", others=others, examples=2)
    assert again.table.equals(undisturbed.table) and sum(stage.source.batches) == before
    for one, other, kept in zip(alone.examples, again.examples, undisturbed.examples, strict=True):
        assert np.array_equal(one.adversarial, other.adversarial) and np.array_equal(one.adversarial, kept.adversarial)
        assert (one.clip, one.trace) == (other.clip, other.trace) == (kept.clip, kept.trace)


def stored(path: Path) -> int:
    with closing(AttackStore(path)) as store:
        return len(store.rows())


def attacking_process(folder: Path) -> int:
    """The first attacker's, by its log."""
    return int(re.findall(r"--- process (\d+)", (folder / "attack-0.log").read_text())[-1])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@ray.remote(num_cpus=0, max_restarts=0)
class Driver:
    """Attacks in a process that can be killed."""

    def process(self) -> int:
        return os.getpid()

    def attack(self, *what: Any, **values: Any) -> None:
        attack_clips(*what, **values)


def test_killed_victims_attackers_and_drivers_change_no_row_and_lose_no_query(
        undisturbed: ClipAttackRun, assaults: list[Assault], tmp_path: Path) -> None:
    stage = Stage(tmp_path / "killed", count=2, asking=AskingConfig(max_batch=2))
    others = {"twin": stage.pool.client("nothing")}
    try:
        driver = Driver.remote()
        process = ray.get(driver.process.remote(), timeout=60)
        lost = driver.attack.remote(assaults, CLIPS, POSITIONS, LABELS, stage.pool.client("nothing"), others,
                                    ClipAttackersConfig(cpus=0.5), stage.folder / "attacks.sqlite", run_id="killed-driver",
                                    victim_hash="cell")
        stage.source.wait(200)
        os.kill(process, signal.SIGKILL)
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(lost, timeout=60)
        done = stored(stage.folder / "attacks.sqlite")
        assert 0 < done < len(undisturbed.table)
        struck = Event()
        with ThreadPoolExecutor(1) as thread:
            going_on = thread.submit(stage.attack, assaults, others=others, examples=2, until=struck)
            wait_until(lambda: bool(stage.steps))
            os.kill(stage.pool.processes["victim-0"], signal.SIGKILL)
            os.kill(killed := attacking_process(stage.folder), signal.SIGKILL)
            wait_until(lambda: attacking_process(stage.folder) != killed)  # else the other might end all before that is missed
            struck.set()
            found = going_on.result(timeout=240)
    finally:
        stage.pool.stop()
    assert found.table.equals(undisturbed.table) and found.lost == ()
    assert sum(found.retries.values()) > 0
    assert {change.worker for step in stage.steps for change in step.changes} == {"attack-0"}
    assert stage.steps[0].done == done + 1 and stage.steps[-1].done == stage.steps[-1].total == len(undisturbed.table)
    tally = stage.pool.tally(purposes(assaults, others))
    assert tally.begun == tally.entered == sum(stage.source.batches)
    rows = sum(sum(found.table[name].to_pylist()) for name in ("queries", "removal_queries"))
    given_up = abandoned(found.table, {assault.purpose: tally.purposes[assault.purpose] for assault in assaults})
    assert sum(given_up.values()) > 0 and min(given_up.values()) > 0
    assert tally.answered == rows + sum(given_up.values()) + tally.purposes["transfer/twin"] + tally.purposes["probe"]


def test_a_victim_that_cannot_be_reached_makes_no_row_but_a_sentence_and_is_attacked_later(
        stage: Stage, tmp_path: Path) -> None:
    gone = Stage(tmp_path / "gone", asking=AskingConfig(ask_timeout_s=0.2))
    client = gone.pool.client("nothing")
    gone.pool.stop()
    assault = Assault("random", 0, ATTACK, RandomCells())
    store = gone.folder / "attacks.sqlite"

    def attack(victim: Any, others: Any) -> ClipAttackRun:
        return attack_clips([assault], CLIPS, POSITIONS, LABELS, victim, others, ClipAttackersConfig(cpus=0.5, max_attempts=2),
                            store, gone.steps.append, run_id=f"gone-{time.time_ns()}", victim_hash="cell")

    lost = attack(client, {})
    assert lost.table.num_rows == stored(store) == 0 and lost.table.schema == VIDEO_ATTACKS
    (sentence,) = lost.lost
    assert re.fullmatch(r"random, seed 0: 5 of 5 clips could not be attacked \(3, 5, 8, 13, 21\): 2 attempts failed: victim "
                        r"cell: (no answer about 1 clips|none of its 1 processes is left).*", sentence)
    assert lost.retries == {"unavailable": 5} and {step.failed.reason for step in gone.steps} == {"infrastructure"}
    found = attack(stage.pool.client("nothing"), {"gone": client})
    assert found.table.num_rows == 5 and set(map(len, found.table["seen_by"].to_pylist())) == {0}
    (sentence,) = found.lost
    assert sentence.startswith("transfer to gone was not measured: victim cell: no")


def test_what_a_victim_cannot_be_attacked_for_is_told(ray_cluster: object, stage: Stage, tmp_path: Path) -> None:
    random, greedy = Assault("random", 0, ATTACK, RandomCells()), Assault("greedy", 0, ATTACK, Greedy())
    wrong = stage.attack([random], "wrong", labels=[0, 1, 0, 1, 0])
    assert wrong.lost == ("random, seed 0: 2 of 5 clips could not be attacked (5, 13): clip 5: random: the victim gives the "
                          "clean clip class 0, and its label is 1",)
    assert wrong.table["clip"].to_pylist() == [3, 8, 21]
    blunt = Stage(tmp_path / "blunt", label_only=True)
    try:
        with pytest.raises(ConfigError, match="control 'greedy' compares probabilities, and the victim tells labels alone"):
            blunt.attack([random, greedy])
        rows = blunt.attack([random]).table.to_pylist()
    finally:
        blunt.pool.stop()
    assert len(rows) == 5 and {(row["p_clean"], row["p_attacked"]) for row in rows if row["fooled"]} == {(1.0, 0.0)}


def test_abandoned_queries_are_those_beyond_the_rows() -> None:
    blank = {field.name: None for field in VIDEO_ATTACKS}
    rows = [blank | {"attack": name, "seed": seed, "queries": 10, "removal_queries": 2}
            for name, seed in (("a", 0), ("a", 0), ("a", 1), ("b", 0))]
    table = pa.Table.from_pylist(rows, schema=VIDEO_ATTACKS)
    assert abandoned(table, {"attack/a/0": 31, "attack/a/1": 12, "attack/b/0": 12, "attack/c/0": 3}) == {
        "attack/a/0": 7, "attack/c/0": 3}
