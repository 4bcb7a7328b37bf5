"""`squall attack video`: a run that is stopped in training and killed in attacks ends with a card that agrees with its ledger.

And what is refused before anything starts.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from squall.actors.attackers import about_attacker, load_attacker
from squall.algorithms.corruption.registry import find_kind
from squall.jobs import attack_video, report
from squall.jobs.arguments import load_job_config
from squall.jobs.attack_video_config import AttackVideoConfig, demands, steps
from squall.jobs.registry import find_job
from squall.platform.attacker_files import attackers_hash
from squall.platform.errors import ConfigError, SquallError
from squall.platform.hosting import Host, hosted
from squall.platform.runs import read_lines
from squall.platform.video_attack_card import VIDEO_ATTACKS, VideoAttackCard

ROOT = Path(__file__).parents[2]
TINY = """
job: attack video
victim_training: {network: {architecture: cnn3d}, epochs: 60, batch_size: 8, optimiser: {learning_rate: 0.01}, device: cpu}
data: {train_clips: 24, test_clips: 12, size: 28, frames: 4, question_type: colour}
clips: null
attack: {cell: 14, max_queries: 12}
training: {iterations: 3, steps_per_iteration: 8, minibatch_steps: 8, epochs: 1, runners: 0, checkpoint_every: 1}
attackers: {pair: {}, pair-greedy: {greedy: true}}
controls: [random_cells, {kind: square_video, name: square-005, epsilon: 0.05}]
seeds: [1]
attack_workers: {count: 1, examples: 1}
tracking: {tensorboard: false}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has the configuration of a tiny run, and models of strange behaviour."""
    made = tmp_path_factory.mktemp("attack-video")
    (made / "tiny.yaml").write_text(TINY)
    (made / "strange_victims.py").write_text(STRANGE)
    return made


def config(*words: object) -> AttackVideoConfig:
    """What the command line makes of its words."""
    return load_job_config(find_job("attack video"), [str(word) for word in words])


def calls(run: Path) -> dict[str, int]:
    """Clips in the ledger by purpose."""
    with sqlite3.connect(run / "queries.sqlite") as ledger:
        return dict(ledger.execute("SELECT purpose, SUM(queries) FROM calls GROUP BY purpose"))


def attacked(run: Path) -> int:
    """Finished attacks of a run that may be going on."""
    try:
        with sqlite3.connect(f"file:{run / 'attacks.sqlite'}?mode=ro", uri=True) as store:
            return int(store.execute("SELECT COUNT(*) FROM attacks").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def wait_for_orphans(run: Path) -> None:
    """Until the processes of a killed run have seen that it is gone."""
    found = {row["process"] for row in read_lines(run / "events.jsonl") if row["kind"] == "worker"} - {os.getpid()}
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{process}").exists() for process in found) and time.monotonic() < deadline:
        time.sleep(0.05)


class Recorder:
    """Hears a run's metrics as a sweep does."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.seen |= {**metrics, "step": step}

    def close(self) -> None:
        """Nothing is held open."""


@contextmanager
def stopped_after(iterations: int) -> Iterator[None]:
    """A host that asks the run to stop after so many iterations of training."""
    stop, left = threading.Event(), iter(range(iterations - 1))
    with hosted(Host(settled=lambda: None if next(left, None) is not None else stop.set(), stop=stop)):
        yield


@pytest.mark.cluster
def test_a_run_that_is_stopped_and_killed_ends_with_a_card_that_agrees_with_its_ledger(
        folder: Path, ray_cluster: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    run = folder / "runs" / "life"
    with pytest.raises(KeyboardInterrupt), stopped_after(1):
        attack_video.run(config("tiny.yaml", "name=life"))
    assert "go on with: squall attack video runs/life/config.yaml --resume" in capsys.readouterr().out
    assert [path.name for path in (run / "training/pair/seed-1/checkpoints").iterdir()] == ["step-000001"]
    assert not (run / "attackers").exists()

    process = subprocess.Popen([sys.executable, "-m", "squall", "attack", "video", "runs/life/config.yaml", "--resume"],
                               env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
                               stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while attacked(run) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9 and attacked(run) >= 3
    wait_for_orphans(run)
    assert load_attacker(run / "attackers/pair/seed-1").companion == "random"
    assert find_kind(f"learned:{run}/attackers/pair/seed-1").checkpoint == attackers_hash(run / "attackers/pair/seed-1")

    recorder = Recorder()
    with hosted(Host(sinks=[recorder])):
        assert attack_video.run(config("runs/life/config.yaml", "--resume")) == 0
    card, table = check_files(run)
    assert recorder.seen["step"] == steps(config("tiny.yaml")) == 4
    for one in card.results:
        assert recorder.seen[f"attack/{one.attack}/queries"] == one.queries.mean
        assert recorder.seen[f"attack/{one.attack}/success"] == one.success.mean
    check_ledger(run, card, table)
    before = (run / "card.json").read_bytes()
    asked = calls(run)
    assert attack_video.run(config("runs/life/config.yaml", "--resume")) == 0  # all is there
    after = calls(run)
    assert after.pop("probe") == asked.pop("probe") + 1 and after == asked
    changed = [key for key, value in json.loads(before).items() if json.loads((run / "card.json").read_text())[key] != value]
    assert changed in ([], ["ledger"])  # one more probe
    page = run / "report.html"
    page.unlink()
    report.run(report.ReportConfig(runs=(run,)))
    assert page.is_file()
    with pytest.raises(ConfigError, match=r"was begun with other settings \(asked.attack differs\)"):
        attack_video.run(config("runs/life/config.yaml", "--resume", "attack.max_queries=11"))


def check_files(run: Path) -> tuple[VideoAttackCard, Any]:
    """All that a finished run leaves behind is there."""
    expected = {"attackers", "attacks.sqlite", "card.json", "clean.json", "config.yaml", "events.jsonl", "examples", "figures",
                "logs", "metrics.jsonl", "plan.txt", "provenance.json", "queries.sqlite", "report.html", "settings.json",
                "training", "victim", "victim-passes", "video_attacks.parquet"}
    assert expected <= {path.name for path in run.iterdir()}
    card = VideoAttackCard.model_validate_json((run / "card.json").read_text())
    table = pq.read_table(run / "video_attacks.parquet")
    assert table.schema.names == VIDEO_ATTACKS.names
    classes = json.loads((run / "clean.json").read_text())["classes"]
    right = round(card.victim["accuracy"]["value"] * len(classes))
    assert card.victim["accuracy"]["n"] == len(classes) == 12 and right > 0
    assert table.num_rows == 4 * right and {one.attacked for one in card.results} == {right}
    about = about_attacker(run / "attackers/pair/seed-1")
    assert about["attack"]["max_queries"] == 12 and about["training"]["seed"] == 1
    assert [path.name for path in (run / "attackers").iterdir()] == ["pair"]  # the greedy ones are the same attackers
    return card, table


def check_ledger(run: Path, card: VideoAttackCard, table: Any) -> None:
    """Card, rows and ledger tell the same story."""
    asked, ledger = calls(run), dict(card.ledger)
    rows = table.to_pylist()
    for one in card.results:
        own = [row for row in rows if row["attack"] == one.attack]
        spent = sum(row["queries"] + row["removal_queries"] for row in own)
        assert ledger[f"attack/{one.attack}/1"] == spent
        assert spent + ledger.get(f"abandoned/{one.attack}/1", 0) == asked[f"attack/{one.attack}/1"]
    assert ledger["begun"] == ledger["answered"] + ledger["lost"] == sum(asked.values())
    assert ledger["clean"] == asked["clean"] == 12
    first, second = card.trainings
    assert (first.attack, second.attack) == ("pair", "pair-greedy") and first.queries == second.queries
    assert first.queries == asked["training/pair/1"] >= 3 * 8 and first.iterations == 3
    assert all(number <= 3 and queries <= 12 for number, _, queries in first.learning)


STRANGE = """
import numpy as np


def good(clips):
    rows = np.stack([clips[..., channel % 3].reshape(len(clips), -1).mean(1) + channel for channel in range(6)], 1)
    return rows / rows.sum(1, keepdims=True)


def nan(clips):
    return good(clips) * np.nan


def narrow(clips):
    return good(clips)[:, :5]


def logits(clips):
    return good(clips) * 7


def broken(clips):
    raise RuntimeError("no such layer")
"""
COLOURS = "[blue, green, purple, red, white, yellow]"


def strange(name: str, classes: str = COLOURS) -> list[str]:
    """A victim of the user's own."""
    return ["victim_training=null", f"victim={{path: 'strange_victims:{name}', kind: callable, classes: {classes}}}"]


@pytest.mark.parametrize(("words", "message"), [
    (["attack.cell=5"], "cell = 5 does not divide a clip of 4 frames of 28x28; allowed: 1, 2, 4, 7, 14, 28"),
    (["attack.block=8"], "block = 8 frames, and the clip has 4"),
    (["attack.max_queries=6"], "max_queries = 6 is below one sweep over the grid"),
    (["attack.distortion=gausian_noise"], "unknown distortion 'gausian_noise'. Did you mean 'gaussian_noise'?"),
    (["controls=[sva]"], "max_queries = 12 is below one sweep of control 'sva', 126 queries"),
    (["controls=[greeedy]"], "unknown control 'greeedy'. Did you mean 'greedy'?"),
    (["controls=[greedy]", "victims.label_only=true"], "control 'greedy' compares probabilities"),
    (["controls=[{kind: greedy, name: pair}]"], "controls: two attacks are called 'pair'"),
    (["attackers={a b: {}}"], "should match pattern"),
    (["attackers={pair: {agent: both}}"], "attackers.pair: unknown key 'agent'. Did you mean 'agents'?"),
    (["attackers={pair: {max_queries: 50}}"], "attackers.pair: max_queries is the same for all attacks"),
    (["attackers={pair: {agents: three}}"], "attackers.pair: 'agents' = 'three'"),
    (["attackers={pair: {greedy: 1}}"], "attackers.pair.greedy = 1: expected true or false"),
    (["attackers={}", "controls=[]"], "nothing attacks; give attackers or controls"),
    (["seeds=[1, 1]"], "seeds: name each once"),
    (["training.seed=3"], "training.seed: every training has one of `seeds`"),
    (["clips=13"], "clips = 13: 12 clips are held out"),
    (["split=validation", "clips=5"], "clips = 5: 4 clips are held out"),
    (["train_clips=30"], "train_clips = 30: there are 20 training clips"),
    (["data.size=30"], "size 30: embedded clips are of 28, 56, 84"),
    (["data.question_type=color"], "Did you mean 'colour'?"),
    (["data.path=nowhere.jsonl"], "nowhere.jsonl: no such"),
    (["victim_training=null"], "what is attacked? Give one of victim, victim_training, victim_features, language; given: none"),
    (["victim=model"], "given: victim and victim_training"),
    (["victim_training.network.architecture=small_cnn"], "no such network for clips"),
    (["victim_training=null", "victim_features={weights: none.pth}"], "victim_features.weights = none.pth: no such file"),
    (["victim_training=null", "language={question: 'Which?', options: [blue, green]}"], "'purple' of"),
    (["victim_training=null", "victim=./nowhere"], "./nowhere: no such directory"),
    (strange("nan"), "victim nan (strange_victims:nan): "),
    (strange("narrow"), "returned shape (4, 5) for 4 clips and 6 classes"),
    (strange("logits"), "victim logits (strange_victims:logits): "),
    (strange("broken"), "cannot classify clips of shape [4, 28, 28, 3]: RuntimeError: no such layer"),
    (strange("good", "[blue, green, violet, red, white, yellow]"), "victim good: 'purple' of"),
    ([*strange("good"), f"others=[{{path: 'strange_victims:good', kind: callable, classes: {COLOURS}}}]"],
     "others: two victims are called 'good'"),
    ([f"others=[{{path: 'strange_victims:good', kind: callable, classes: {COLOURS.replace('blue, green', 'green, blue')}}}]"],
     "they differ from class 0 on"),
    (["--resume"], "resume needs the run"),
    (["name=none", "--resume"], "no run directory of that name to resume"),
])
def test_what_cannot_be_done_is_one_line_before_anything_is_started(
        words: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(attack_video, "start_ray", lambda *_: pytest.fail("Ray was started"))
    with pytest.raises(SquallError) as refused:
        attack_video.run(config("tiny.yaml", "output=refused", *words))
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (folder / "refused").exists()


def test_a_run_reserves_what_its_largest_part_does() -> None:
    def reserved(*words: str) -> list[tuple[str, int, float]]:
        return [(one.role, one.count, one.cpus) for one in demands(config(*words))]

    assert reserved("training.runners=3") == [("victim", 1, 1.0), ("attacker", 3, 1.0)]
    assert reserved("training.runners=0", "attack_workers.count=4") == [("victim", 1, 1.0), ("attack", 4, 0.5)]
    assert reserved("making.cpus=8")[0][2] == 8.0
    arms = "attackers={a: {}, b: {greedy: true}, c: {removal: false}}"
    assert steps(config("seeds=[1,2]", "training.iterations=5", arms)) == 21
