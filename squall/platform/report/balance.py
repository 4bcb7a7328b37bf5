"""What keeps the steps of a run from being shorter, and the one change that would help most, from what its steps measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

WAITING = 0.15
"""Share of a step above which waiting is worth a change."""
SATURATED = 0.85
"""Workers that are busy for this share of the time in which anything was sampled keep the others waiting."""
MOST_TIMES = 4
"""More than so many times what there is is not advised: the figures do not reach that far."""


@dataclass(frozen=True, slots=True)
class Balance:
    """What bounds a step."""

    by: str
    """``rollout``, ``learner``, ``corruption``, ``reward``, ``weights``, ``turns`` (sampling and learning alternate) or
    ``nothing``."""
    sentence: str
    """What bounds it, by which figures, and what to change."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of a step, means over its recent ones."""

    seconds: float
    """Length of a step."""
    learner_waits: float
    nothing_sampled: float
    sync: float
    """Handing weights to the engines."""
    busy: Mapping[str, float]
    """Of ``engine``, ``corruption`` and ``reward`` workers, where it was measured."""

    @property
    def engines_wait(self) -> float:
        return max(self.nothing_sampled, 1.0 - self.busy["engine"]) if "engine" in self.busy else self.nothing_sampled

    def used(self, role: str) -> float:
        """Share of the time with something under way in which a role's workers were busy; 1 for engines not measured."""
        under_way = max(1e-6, 1.0 - self.nothing_sampled)
        return min(1.0, self.busy.get(role, 1.0 if role == "engine" else 0.0) / under_way)


def shares(metrics: Sequence[Mapping[str, Any]]) -> Shares | None:
    """Shares over the last half of the steps that have ``idle/trainer`` and ``idle/rollout``; None without any."""
    rows = [row for row in metrics if row.get("idle/trainer") is not None and row.get("idle/rollout") is not None]
    rows = rows[len(rows) // 2:]
    if not rows:
        return None

    def mean(name: str) -> float:
        return fmean(row.get(name) or 0.0 for row in rows)

    seconds = mean("seconds_per_step")
    roles = [role for role in ("engine", "corruption", "reward") if any(row.get(f"busy/{role}") is not None for row in rows)]
    return Shares(seconds, mean("idle/trainer"), mean("idle/rollout"), mean("time/sync") / seconds if seconds else 0.0,
                  {role: mean(f"busy/{role}") for role in roles})


def balance(metrics: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Balance | None:
    """What bounds the step; None without idle metrics. `settings` is the run's configuration, as YAML holds it."""
    found = shares(metrics)
    if found is None:
        return None
    waits = f"the learner waits for {found.learner_waits:.0%} of a step, the engines for {found.engines_wait:.0%}"
    learns = 1.0 - found.learner_waits
    if found.sync >= max(WAITING, learns, found.learner_waits - found.sync):
        return Balance("weights", f"Weight transfer bounds the step: {found.sync:.0%} of it, {found.sync * found.seconds:.1f} s"
                       f". {_advise_transfer(found, settings)}")
    turns = 0.0 if settings.get("max_staleness", 0) else min(found.learner_waits, found.nothing_sampled)
    for role in ("corruption", "reward"):
        starved = (1.0 - found.nothing_sampled) * (1.0 - found.used("engine"))
        if found.used(role) >= SATURATED and found.learner_waits >= WAITING and starved > max(turns, WAITING):
            return Balance(role, f"{role.capitalize()} bounds the step: its workers are busy for {found.busy[role]:.0%} of it, "
                                 f"and {waits}. {_advise_workers(found, settings, role)}")
    if max(found.learner_waits, found.engines_wait) < WAITING:
        return Balance("nothing", f"Neither side bounds the step: {waits}. Shorter steps take more of both, engine.count and "
                                  "learner.workers.")
    if turns >= WAITING:
        return Balance("turns", f"Sampling and learning take turns: {waits}. max_staleness=1 lets the engines sample while the "
                                f"learner learns, and would shorten the step by up to {turns:.0%}.")
    if found.learner_waits >= found.nothing_sampled and found.learner_waits >= WAITING:
        return Balance("rollout", f"Rollouts bound the step: {waits}. {_advise_engines(found, settings)}")
    return Balance("learner", f"Learning bounds the step: {waits}. {_advise_learner(found, settings)}")


def bound(metrics: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """One sentence or two on what bounds the step and what would change it; empty without idle metrics."""
    found = balance(metrics, settings)
    return "" if found is None else found.sentence


def moved(kept: int, count: int, gives: float, takes: float) -> int:
    """How many takers the devices of `count - kept` givers make room for."""
    return int((count - kept) * gives / takes + 1e-9) if takes else 0


def _advise_transfer(found: Shares, settings: Mapping[str, Any]) -> str:
    half = found.sync / (2.0 - found.sync)
    each = f"groups_per_step={2 * settings['groups_per_step']}" if "groups_per_step" in settings else "groups_per_step doubled"
    text = f"Twice as much between two transfers, {each}, makes that {half:.0%}"
    engine = _section(settings, "engine")
    if engine.get("gpus") and engine.get("weight_transfer", "shared_memory") == "shared_memory":
        text += "; engine.weight_transfer=nccl takes another way, from GPU to GPU"
    return text + "."


def _advise_workers(found: Shares, settings: Mapping[str, Any], role: str) -> str:
    now = int(_section(settings, "workers").get(f"{role}_count", 1))
    wanted = min(math.ceil(now / max(1e-6, found.used("engine")) - 1e-9), MOST_TIMES * now)
    return f"workers.{role}_count={wanted} in place of {now} would keep the engines at work."


def _advise_engines(found: Shares, settings: Mapping[str, Any]) -> str:
    engines, workers, device = _sizes(settings)
    if engines is None or workers is None:
        return "More engines (engine.count) shorten it, or fewer or shorter answers (max_sampled_groups, max_tokens)."
    kept = _keep(workers, found.learner_waits)
    if gained := moved(kept, workers, _each(settings, "learner", device), _each(settings, "engine", device)):
        return (f"The learner waits {found.learner_waits:.0%} of a step: {_fewer(workers - kept, 'learner worker')} would keep "
                f"the pace; give their {device} to engines: engine.count={engines + gained} learner.workers={kept}.")
    wanted = min(math.ceil(engines / max(1e-6, 1.0 - found.learner_waits) - 1e-9), MOST_TIMES * engines)
    return (f"engine.count={wanted} in place of {engines} would come to the learner's pace, or fewer or shorter answers "
            "(max_sampled_groups, max_tokens).")


def _advise_learner(found: Shares, settings: Mapping[str, Any]) -> str:
    engines, workers, device = _sizes(settings)
    if engines is None or workers is None:
        return "More learner workers (learner.workers) shorten it, or larger micro-batches (learner.tokens_per_microbatch)."
    kept = _keep(engines, found.engines_wait)
    if gained := moved(kept, engines, _each(settings, "engine", device), _each(settings, "learner", device)):
        return (f"Engines wait {found.engines_wait:.0%} of a step: {_fewer(engines - kept, 'engine')} would keep the pace; "
                f"give their {device} to the learner: engine.count={kept} learner.workers={workers + gained}.")
    saved = min((1.0 - found.learner_waits) / (workers + 1), found.engines_wait)
    return (f"learner.workers={workers + 1} in place of {workers} would shorten it by up to {saved:.0%}, or larger "
            "micro-batches (learner.tokens_per_microbatch).")


def _keep(count: int, waiting: float) -> int:
    """How many of `count` have as much to do as all of them have now."""
    return max(1, math.ceil(count * (1.0 - waiting) - 1e-9))


def _fewer(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count > 1 else ''} fewer"


def _sizes(settings: Mapping[str, Any]) -> tuple[int | None, int | None, str]:
    """Engines, learner workers and what they are counted in."""
    engine, learner = _section(settings, "engine"), _section(settings, "learner")
    device = "GPUs" if engine.get("gpus") and learner.get("gpus") else "CPUs"
    return engine.get("count"), learner.get("workers"), device


def _each(settings: Mapping[str, Any], side: str, device: str) -> float:
    return float(_section(settings, side).get(device.lower()) or 0.0)


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = settings.get(name)
    return found if isinstance(found, Mapping) else {}


def lines(metrics: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Iterator[str]:
    """Shares of a step by role, and what bounds it: for a terminal."""
    if (found := shares(metrics)) is not None:
        measured = {"learner": 1.0 - found.learner_waits, **found.busy, "weights": found.sync}
        yield "at work, of a step: " + ", ".join(f"{role} {share:.0%}" for role, share in measured.items())
        yield bound(metrics, settings)
