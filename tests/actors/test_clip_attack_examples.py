"""Which clips are kept does not depend on what was done first."""

from __future__ import annotations

from contextlib import closing
from itertools import permutations
from pathlib import Path

import numpy as np
from spot_victim import noise_clip

from squall.actors.clip_attack_examples import Examples
from squall.actors.clip_attack_store import AttackStore
from squall.actors.clip_attack_tasks import Assault, HeldOut, Kept
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.random_cells import RandomCells

ATTACK = AttackConfig(block=2, cell=8)
CLIPS = [noise_clip(seed) for seed in range(4)]
KEYS = {f"{seed}/{number}": (Assault("random", seed, ATTACK, RandomCells()), number) for number in range(4) for seed in (5, 2)}
ROWS = {key: {"label": 0, "prediction": 1, "clip": 10 + number, "queries": 2, "trace_queries": [1, 2], "trace_p": [0.9, 0.2]}
        for key, (_, number) in KEYS.items()}


def test_the_first_that_the_first_seed_fooled_are_kept_in_whatever_order_they_come(tmp_path: Path) -> None:
    for place, order in enumerate(permutations([0, 1, 3])):
        with closing(AttackStore(tmp_path / f"{place}.sqlite")) as store:
            examples = Examples(2, store, KEYS)
            assert not examples.wants("2/0")
            for number in order:
                key = f"5/{number}"
                if examples.wants(key):
                    store.put(key, ROWS[key], Kept(255 - CLIPS[number], None))
                    examples.stored(key)
            assert store.kept_keys() == {"5/0", "5/1"} and not examples.wants("5/3")
            taken_up = Examples(2, store, KEYS)
            for found in (examples, taken_up):
                clips = found.read(ROWS, HeldOut(CLIPS, (10, 11, 12, 13), (0,) * 4, 0), ("smooth", "rough"))
                assert [(one.clip, one.seed, one.prediction, one.trace) for one in clips] == [
                    (10, 5, "rough", ((1, 0.9), (2, 0.2))), (11, 5, "rough", ((1, 0.9), (2, 0.2)))]
                assert np.array_equal(clips[1].adversarial, 255 - CLIPS[1]) and np.array_equal(clips[1].clean, CLIPS[1])
            assert Examples(0, store, KEYS).read(ROWS, HeldOut(CLIPS, (0,) * 4, (0,) * 4, 0), ()) == ()
            assert store.kept_keys() == set()
