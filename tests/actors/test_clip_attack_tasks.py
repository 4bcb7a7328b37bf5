"""One attack on one clip: an attack whose words and the victim's differ has no row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cell_victim import cell_victim
from spot_victim import noise_clip

from squall.actors.clip_attack_tasks import Assault, ClipTask, HeldOut, Struck, Victims, Witness, strike
from squall.actors.victim_client import VictimUnavailable
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.controls.greedy import Greedy
from squall.algorithms.video_attack.measures import measure
from squall.algorithms.video_attack.outcome import VideoOutcome
from squall.platform.errors import DataError

ATTACK = AttackConfig(block=2, cell=8, max_queries=60)
CLIPS = [noise_clip(seed) for seed in range(3)]
HELD_OUT = HeldOut(CLIPS, (4, 7, 9), (0, 0, 0), seed=0)
TASK = ClipTask(Assault("greedy", 3, ATTACK, Greedy()), 1, keep=True)


class Local:
    """A client of a victim in this process."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.asked: dict[str, list[np.ndarray]] = {}

    def for_purpose(self, purpose: str) -> Asking:
        return Asking(self, purpose)


@dataclass
class Asking:
    local: Local
    purpose: str

    def ask(self, clips: np.ndarray) -> np.ndarray:
        if self.local.failure is not None:
            raise self.local.failure
        self.local.asked.setdefault(self.purpose, []).extend(clips)
        return cell_victim(clips)


def test_a_row_says_what_the_victims_said_and_what_was_changed() -> None:
    victim, twin, away = Local(), Local(), Local(VictimUnavailable("away"))
    struck = strike(Greedy(), TASK, HELD_OUT, Victims(victim, {"twin": twin, "away": away, "unasked": away},
                                                      {"twin": [5, 6, 7], "away": [0, 0, 0]}))
    row, asked = struck.row, victim.asked["attack/greedy/3"]
    assert list(victim.asked) == ["attack/greedy/3"] and len(asked) == row["queries"] + row["removal_queries"]
    assert np.array_equal(asked[0], CLIPS[1]) and row["p_clean"] == cell_victim(asked[0][None])[0, 0]
    (shown,) = twin.asked["transfer/twin"]
    assert np.array_equal(shown, struck.kept.adversarial)
    assert row["p_attacked"] == cell_victim(shown[None])[0, 0] < 0.5
    assert (row["attack"], row["seed"], row["clip"], row["label"], row["prediction"], row["fooled"]) == (
        "greedy", 3, 7, 0, 1, True)
    assert (row["seen_by"], row["seen_clean"], row["seen_attacked"]) == (["twin"], [6], [1])
    found = measure(CLIPS[1], shown, ATTACK.grid(8, 32, 32))
    assert (row["cells"], row["frames"], row["l2"], row["ssim"]) == (1, 2, found.l2, found.ssim)
    unkept = strike(Greedy(), replace(TASK, keep=False), HELD_OUT, Victims(Local(), {}, {}))
    assert unkept == Struck({**row, "seen_by": [], "seen_clean": [], "seen_attacked": []})


@dataclass
class Liar:
    """Asks about the clean clip, and tells what it is told to."""

    told: VideoOutcome

    def run(self, ask: Any, clip: np.ndarray, *_: Any) -> VideoOutcome:
        ask(clip[None])
        return self.told


@pytest.mark.parametrize("told", [
    VideoOutcome(CLIPS[1], True, 1), VideoOutcome(CLIPS[1], False, 2), VideoOutcome(255 - CLIPS[1], False, 1)])
def test_an_attack_that_tells_otherwise_than_the_victim_is_none(told: VideoOutcome) -> None:
    with pytest.raises(DataError, match="clip 7: greedy: the attack tells of . queries and fooled = ") as refused:
        strike(Liar(told), TASK, HELD_OUT, Victims(Local(), {}, {}))
    assert refused.value.reason == "broken_attack"
    honest = strike(Liar(VideoOutcome(CLIPS[1], False, 1)), TASK, HELD_OUT, Victims(Local(), {}, {}))
    assert honest.kept is None and honest.row["p_attacked"] == honest.row["p_clean"] and honest.row["l2"] == 0


def test_what_the_victim_under_attack_cannot_answer_is_raised() -> None:
    for failure in (VictimUnavailable("away"), DataError("values that are not finite", reason="bad_output")):
        with pytest.raises(type(failure), match=str(failure)):
            strike(Greedy(), TASK, HELD_OUT, Victims(Local(failure), {}, {}))


def test_a_witness_knows_the_clip_that_fooled_last_or_came_nearest() -> None:
    answers = {0: 0.9, 1: 0.6, 2: 0.7, 3: 0.4, 4: 0.3, 5: 0.8, 6: 0.45}

    def ask(clips: np.ndarray) -> np.ndarray:
        p = np.array([answers[int(clip.flat[0])] for clip in clips])
        return np.stack([p, 1 - p], 1)

    clip = [np.full((1, 1, 1, 3), value, np.uint8) for value in answers]
    witness = Witness(ask, 0)
    for asked, known in (([0], [0]), ([2, 1], [1]), ([5], [1]), ([3, 0, 4], [3, 4]), ([0], [3, 4]), ([6], [6])):
        witness(np.stack([clip[number] for number in asked]))
        assert [number for number in answers if witness.of(clip[number]) is not None] == known
    assert witness.asked == 9 and witness.first[0] == 0.9 and witness.of(clip[6])[0] == 0.45


def test_an_assault_is_a_control_or_a_policy() -> None:
    with pytest.raises(ValueError, match="assault x: expected a control or the folder of a policy"):
        Assault("x", 0, ATTACK)
    with pytest.raises(ValueError, match="expected a control or the folder"):
        Assault("x", 0, ATTACK, Greedy(), Path("attackers"))
    settings = [Assault("x", 0, attack, control).settings for attack in (ATTACK, AttackConfig()) for control in
                (Greedy(), Greedy(at_once=2))]
    assert len({str(one) for one in settings}) == 4
