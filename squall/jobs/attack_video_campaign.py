"""The victims of a run, and all that is asked of them: a look at the held-out clips, the training of attackers, the attacks."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from squall.actors.clip_attack_store import AttackStore
from squall.actors.clip_attacks import ClipAttackRun, Step, attack_clips, purposes
from squall.actors.gauges import RayGauges
from squall.actors.victim_config import VictimPoolConfig
from squall.actors.victim_ledger import Tally
from squall.actors.victim_pool import VictimPool
from squall.jobs.attack_video_clips import CHOICE_SEED
from squall.jobs.attack_video_language import start_language_victim
from squall.jobs.attack_video_plan import VideoAttackPlan
from squall.jobs.attack_video_training import AttackerTrainings, purpose_of
from squall.jobs.attack_video_victims import VideoVictim, fit_victim, train_victim
from squall.jobs.console import counted, phase, say
from squall.jobs.stopping import Stopped
from squall.platform.errors import SquallError
from squall.platform.hosting import current_host
from squall.platform.image_data.images import divide
from squall.platform.runs import RunDirectory, read_json
from squall.platform.tracking import Tracker, open_tracker
from squall.platform.work_progress import WorkProgress

LEDGER_FILE, STORE_FILE, CLEAN_FILE = "queries.sqlite", "attacks.sqlite", "clean.json"
VICTIM, CLEAN = "victim", "clean"
"""The pool of the victim under attack, and the purpose of held-out clips as they are, from which its accuracy follows."""
LOOKED_AT_ONCE = 64


def make_victim(plan: VideoAttackPlan, folder: RunDirectory, console: Console, stack: ExitStack) -> VideoVictim:
    """The victim that is given, or one that is made now; engines of a language model end when `stack` is closed."""
    config, train = plan.config, plan.clips.train
    if config.victim_training is not None:
        return train_victim(config.victim_training, train, config.making, folder, console)
    if config.victim_features is not None:
        return fit_victim(config.victim_features, train, config.making.gpus, folder, console)
    if config.language is not None:
        return start_language_victim(config.language, train.classes, folder, console, stack)
    assert plan.victim is not None
    return plan.victim


class Campaign:
    """The victims of a run, and all that is asked of them."""

    def __init__(self, plan: VideoAttackPlan, folder: RunDirectory, console: Console, stack: ExitStack) -> None:
        """Make and start the victim; what is started ends when `stack` is closed."""
        self.plan, self.folder, self.console, self._stack = plan, folder, console, stack
        self._run_id = f"attack-video-{time.time_ns()}"
        self.victim = make_victim(plan, folder, console, stack)
        self._pools: dict[str, VictimPool] = {}
        self._start(self.victim, plan.config.victims, VICTIM)
        self.tracker = self._open_tracker()
        self.trainings = AttackerTrainings(plan, folder, self._pools[VICTIM].client(CLEAN), self.tracker, console)
        self.assaults = plan.assaults(folder.path)

    def look(self) -> np.ndarray:
        """Which held-out clips the victim classifies correctly, bool (N,); a resumed run knows.

        Raises:
            SquallError: none of those that are to be attacked.
        """
        held_out, path = self.plan.clips.held_out, self.folder.path / CLEAN_FILE
        if not path.is_file():
            ask, firsts = self._pools[VICTIM].client(CLEAN).ask, range(0, len(held_out), LOOKED_AT_ONCE)
            with phase(self.console, f"showing the victim {counted(len(held_out), 'held-out clip')}", "look", {}):
                answers = [ask(held_out.images[first:first + LOOKED_AT_ONCE]) for first in firsts]
            self.folder.write_json(CLEAN_FILE, {"classes": np.concatenate(answers).argmax(1).tolist()})
        right = np.array(read_json(path)["classes"]) == held_out.labels
        say(self.console, f"{self.victim.name}: right about {right.mean():.1%} of {counted(len(right), 'held-out clip')}")
        if not right[self.plan.clips.chosen].any():
            raise SquallError(f"victim {self.victim.name} is wrong about all {len(self.plan.clips.chosen)} clips that are to "
                              "be attacked; train it longer, or see that labels and classes belong together")
        return right

    def train(self) -> None:
        """Train what is not trained. Errors as of `AttackerTrainings.run`."""
        clips = self.plan.clips.train
        rows = divide(clips.labels, self.plan.train_count, CHOICE_SEED)[0]
        self.trainings.run([(clips.images[row], int(clips.labels[row])) for row in rows])

    def attack(self, right: np.ndarray) -> ClipAttackRun:
        """Attack what is not attacked. Errors as of `attack_clips`."""
        plan, config, store = self.plan, self.plan.config, self.folder.path / STORE_FILE
        held_out, positions = plan.clips.held_out, [int(row) for row in plan.clips.chosen if right[row]]
        for other in plan.others:
            self._start(other, config.other_victims, other.name)
        others = {other.name: self._pools[other.name].client(CLEAN) for other in plan.others}
        total = len(positions) * len(self.assaults) - attacked_before(store)
        with WorkProgress("attacks on clips", total, total, console=self.console) as progress:
            found = attack_clips(
                self.assaults, held_out.images[positions], positions, held_out.labels[positions].tolist(),
                self._pools[VICTIM].client(CLEAN), others, config.attack_workers, store, partial(self._tell, progress),
                run_id=self._run_id, victim_hash=self._victim_hash(), seed=config.seed, logs=self.folder.logs)
        for reason, number in found.retries.items():
            self.folder.event("retried", reason=reason, count=number)
        return found

    def close(self) -> Tally:
        """End all victims; their accounts are then true to the clip. Returns that of the victim under attack."""
        for pool in self._pools.values():
            pool.stop()
        asked = [purpose_of(arm.name, seed) for arm, seed in self.plan.trainings]
        return self._pools[VICTIM].tally([CLEAN, *asked, *purposes(self.assaults, ())])

    def _start(self, victim: VideoVictim, config: VictimPoolConfig, name: str) -> None:
        pool = VictimPool(config, victim.source, self.folder.path / LEDGER_FILE, f"{self._run_id}-{name}", name=name,
                          logs=self.folder.logs)
        self._pools[name] = pool
        self._stack.callback(pool.stop)
        with phase(self.console, f"starting {counted(config.count, 'process')} of {victim.name}", "victim", {}):
            pool.start()
        for process, number in pool.processes.items():
            self.folder.event("worker", worker=process, process=number)

    def _open_tracker(self) -> Tracker:
        tracker = open_tracker(self.folder.path, self.plan.config.tracking, self.plan.config.model_dump(mode="json"),
                               [RayGauges(self.folder.name)], current_host().sinks)
        self._stack.callback(tracker.close)
        return tracker

    def _victim_hash(self) -> str:
        told = [self.plan.victim_asked, self.victim.hash]
        return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _tell(self, progress: WorkProgress, step: Step) -> None:
        for change in step.changes:
            self.folder.event("state", worker=change.worker, before=change.before, after=change.after, reason=change.reason)
        progress.advance(step.done, 1.0, lost=step.failed is not None)
        if current_host().stop.is_set():
            raise Stopped


def attacked_before(store: Path) -> int:
    """Attacks that an earlier start of the run has finished."""
    if not store.is_file():
        return 0
    with closing(AttackStore(store)) as book:
        return len(book.rows())
