"""A few attacked images of each model for the page, in a file of their own, so that the page needs neither model nor data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from squall.jobs.attack_battery import Battery
from squall.jobs.attack_memory import AttackMemory, Case, Targets
from squall.jobs.attack_table import Record
from squall.platform.report.attacks import AttackedImage
from squall.platform.video import replacing

EXAMPLES_FILE = "examples.safetensors"
FELL, STOOD = 3, 1
"""Of each model, where there are so many."""
MODELS = 8
"""The first so many are shown."""


def choose_examples(models: Sequence[tuple[str, str]], targets: Targets, battery: Battery, memory: AttackMemory,
                    record: Record) -> list[AttackedImage]:
    """The first images that fell, and that stood, at the main budget under the attack on trial or the first that there is.

    Args:
        models: (name, hash), in their order.
    """
    budget = battery.budgets[0]
    made = [name for name, threat in battery.strikes if threat == budget and not battery.attacks[name].indivisible]
    if not made:
        return []
    attack = battery.headline if battery.headline in made else made[0]
    found = []
    for name, hash_ in models[:MODELS]:
        case = Case(hash_, attack, battery.settings(attack), budget)
        found += list(_of_model(name, case, targets, memory, record))
    return found


def _of_model(name: str, case: Case, targets: Targets, memory: AttackMemory, record: Record) -> Iterator[AttackedImage]:
    answered, data = record.of(case), targets.data
    stood = answered.right(data.labels)
    rows = [*np.flatnonzero(answered.known & ~stood)[:FELL], *np.flatnonzero(stood)[:STOOD]]
    assert case.threat is not None
    for row in rows:
        places, examples = memory.examples(case, int(row) // targets.chunk)
        adversarial = np.moveaxis(examples[np.searchsorted(places, row)], 0, -1)
        yield AttackedImage(data.images[row], adversarial, data.classes[data.labels[row]],
                            data.classes[answered.prediction[row]], case.attack, case.threat.norm, case.threat.epsilon, name)


def write_examples(folder: Path, examples: Sequence[AttackedImage]) -> None:
    """Keep examples in the run directory; without any there is no file."""
    from safetensors.numpy import save_file

    if not examples:
        return
    words = [[getattr(one, name) for name in _WORDS] for one in examples]
    with replacing(folder / EXAMPLES_FILE) as temporary:
        save_file({"clean": np.stack([one.clean for one in examples]),
                   "adversarial": np.stack([np.ascontiguousarray(one.adversarial) for one in examples])}, temporary,
                  {"words": json.dumps(words)})


def read_examples(folder: Path) -> list[AttackedImage]:
    """What is kept in a run directory; none where the file is gone or damaged, since they are pictures alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / EXAMPLES_FILE, "numpy") as file:
            clean, adversarial = file.get_tensor("clean"), file.get_tensor("adversarial")
            words = json.loads(file.metadata()["words"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return []
    return [AttackedImage(*pair, **dict(zip(_WORDS, row, strict=True)))
            for *pair, row in zip(clean, adversarial, words, strict=True)]


_WORDS = ("label", "prediction", "attack", "norm", "epsilon", "model")
