"""The learned attackers of a run: every arm with every seed, each in a folder of its own, gone on with where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from squall.actors.attacker_config import Iteration, Labelled, env_maker
from squall.actors.attacker_training import train_attackers
from squall.actors.attackers import save_attackers
from squall.algorithms.video_attack.blind import TrainedOn
from squall.jobs.attack_video_arms import Arm, trained_as
from squall.jobs.attack_video_plan import VideoAttackPlan, attackers_folder
from squall.jobs.stopping import StopFlag, Stopped, stops_well
from squall.platform.attacker_files import DESCRIPTION
from squall.platform.hosting import current_host
from squall.platform.runs import RunDirectory, append_line, checkpoint_step, read_json, to_json
from squall.platform.tracking import Tracker, read_metrics
from squall.platform.video_attack_card import Training
from squall.platform.work_progress import WorkProgress

TRAININGS = "training"
"""Folder of what trainings leave behind: NAME/seed-S below it, with checkpoints, metrics and logs."""
RECORD = "training.json"


def purpose_of(name: str, seed: int) -> str:
    """Under which the ledger counts what a training asks."""
    return f"training/{name}/{seed}"


class AttackerTrainings:
    """Trains what has not been trained yet."""

    def __init__(self, plan: VideoAttackPlan, folder: RunDirectory, victim: Any, tracker: Tracker, console: Console) -> None:
        """`victim` is a client of the pool."""
        self._plan, self._folder, self._victim, self._tracker, self._console = plan, folder, victim, tracker, console
        self._step = 0

    def run(self, clips: Sequence[Labelled]) -> None:
        """Train all, seed by seed.

        Raises:
            Stopped: it was asked to stop.
            SquallError: as of `train_attackers`; attackers that are finished are kept.
        """
        todo = [(arm, seed, self._left(arm, seed)) for arm, seed in self._plan.trainings]
        waiting = sum(left for _, _, left in todo)
        if not waiting:
            return
        with WorkProgress("iterations of training", waiting, waiting, console=self._console) as progress, \
                stops_well(progress.note) as stop:
            for arm, seed, left in todo:
                if left:
                    self._train(arm, seed, clips, progress, stop)
                self._step += arm.training.iterations

    def records(self, asked: Mapping[str, int]) -> list[Training]:
        """What the card says of each; `asked` are the ledger's clips by purpose."""
        return [self._record(arm.name, trained_as(arm, self._plan.arms).name, seed, asked)
                for arm in self._plan.arms for seed in self._plan.config.seeds]

    def _record(self, name: str, trained: str, seed: int, asked: Mapping[str, int]) -> Training:
        record = read_json(self._work(trained, seed).path / RECORD)
        return Training(**record | {"attack": name}, queries=asked[purpose_of(trained, seed)])

    def _work(self, name: str, seed: int) -> RunDirectory:
        return RunDirectory(self._folder.path / TRAININGS / name / f"seed-{seed}")

    def _left(self, arm: Arm, seed: int) -> int:
        """Iterations that are to be done; those since the last checkpoint are done again."""
        if (attackers_folder(self._folder.path, arm.name, seed) / DESCRIPTION).is_file():
            return 0
        return max(arm.training.iterations - _done(self._work(arm.name, seed)), 1)

    def _train(self, arm: Arm, seed: int, clips: Sequence[Labelled], progress: WorkProgress, stop: StopFlag) -> None:
        work, name = self._work(arm.name, seed), f"{arm.name}, seed {seed}"
        work.logs.mkdir(parents=True, exist_ok=True)
        work.sweep()
        work.rewind(_done(work))
        config = arm.training.model_copy(update={"seed": seed})
        frames, height, width, _ = clips[0][0].shape
        trained_on = TrainedOn(attack=arm.attack, frames=frames, height=height, width=width)
        about = {**trained_on.model_dump(mode="json"), "greedy": arm.greedy, "training": config.model_dump(mode="json"),
                 "run": self._folder.name}

        def told(iteration: Iteration) -> bool:
            self._note(arm, seed, work, iteration)
            progress.advance(self._step + iteration.number, 1.0, failed=iteration.failures)
            return not stop

        policy = train_attackers(config, env_maker(arm.attack, config), clips,
                                 self._victim.for_purpose(purpose_of(arm.name, seed)).ask, work, told, about=about)
        record = make_record(arm.name, seed, read_metrics(work.metrics))
        if record["iterations"] < config.iterations:
            raise Stopped
        work.write_json(RECORD, record)
        save_attackers(policy, attackers_folder(self._folder.path, arm.name, seed), about)
        self._folder.event("trained", model=name, iterations=record["iterations"], seconds=record["seconds"])
        progress.note(f"{name}: {_shown(record)}")

    def _note(self, arm: Arm, seed: int, work: RunDirectory, iteration: Iteration) -> None:
        metrics = iteration.metrics
        append_line(work.metrics, to_json({"step": iteration.number, "seconds": iteration.seconds, **metrics}))
        prefix = f"{arm.name}.s{seed}"
        self._tracker.log(self._step + iteration.number, {f"{prefix}/{key}": value for key, value in metrics.items()})
        current_host().settled()


def _done(work: RunDirectory) -> int:
    """Iterations up to the last checkpoint."""
    latest = work.latest_checkpoint()
    return 0 if latest is None else checkpoint_step(latest)


def make_record(name: str, seed: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of `Training` but the queries, from the rows of all iterations; one done again counts once."""
    counts = {key: int(sum(row[f"attackers/{key}"] for row in rows)) for key in ("episodes", "infra_errors", "failures")}
    learning = [(row["step"], row["attackers/success"], row["attackers/queries_per_episode"]) for row in rows
                if row.get("attackers/success") is not None]
    return {"attack": name, "seed": seed, "iterations": len(rows), **counts, "learning": learning,
            "seconds": round(sum(row["seconds"] for row in rows), 1)}


def _shown(record: Mapping[str, Any]) -> str:
    if not record["learning"]:
        return f"trained in {record['seconds']:.0f} s; no attack came to its end"
    (_, first, before), (_, last, after) = record["learning"][0], record["learning"][-1]
    return (f"trained in {record['seconds']:.0f} s; an iteration's attacks fool {first:.0%} at first, {last:.0%} at last, with "
            f"{before:.1f} and {after:.1f} queries each")
