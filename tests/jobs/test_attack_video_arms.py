"""Learned attackers by name: what differs, and which of them share a training."""

from __future__ import annotations

import pytest

from squall.actors.attacker_config import AttackerTrainingConfig
from squall.algorithms.video_attack.config import AttackConfig
from squall.jobs.attack_video_arms import ARMS, Arm, make_arm, trained_as, try_arm
from squall.platform.errors import ConfigError

ATTACK, TRAINING = AttackConfig(cell=14, lam2=0.5), AttackerTrainingConfig(iterations=7)


def arms(**own: dict[str, object]) -> dict[str, Arm]:
    return {name: make_arm(name, values, ATTACK, TRAINING) for name, values in own.items()}


def test_the_default_arms_are_the_controls_that_agents_are_compared_with() -> None:
    found = arms(**{name: dict(own) for name, own in ARMS.items()})
    assert {name: (arm.training.trained, arm.training.companion, arm.attack.removal) for name, arm in found.items()} == {
        "pair": (("spatial", "temporal"), "random", True), "spatial": (("spatial",), "fixed", True),
        "temporal": (("temporal",), "random", True), "pair-no-removal": (("spatial", "temporal"), "random", False)}
    assert all((arm.attack.lam2, arm.training.iterations) == (0.5, 7) for arm in found.values())
    assert found["spatial"].description == ("spatial agent alone, fixed companion; drawn choices; PPO, 7 iterations of 512 "
                                            "queries")
    assert found["pair-no-removal"].description.endswith("no removal")


def test_arms_that_differ_in_their_choices_alone_are_trained_once() -> None:
    found = list(arms(pair={}, slow={"learning_rate": 1e-4}, sure={"greedy": True}, wide={"cells_per_step": 2}).values())
    assert [trained_as(arm, found).name for arm in found] == ["pair", "slow", "pair", "wide"]
    assert found[2].greedy and found[2].asked["greedy"] and not found[0].asked["greedy"]


@pytest.mark.parametrize(("own", "message"), [
    ({"cell": 7}, "attackers.a: cell is the same for all attacks, or they could not be compared; set attack.cell"),
    ({"removl": True}, "attackers.a: unknown key 'removl'. Did you mean 'removal'"),
    ({"seed": 3}, "attackers.a: unknown key 'seed'"),
    ({"iterations": 0}, "attackers.a: 'iterations' = 0"),
    ({"minibatch_steps": 1024}, "minibatch_steps 1024 is more than steps_per_iteration 512"),
])
def test_what_an_arm_cannot_say_is_one_line(own: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        arms(a=own)
    assert message in str(refused.value)


def test_an_arm_is_tried_on_a_clip_of_the_right_shape() -> None:
    arm = arms(pair={})["pair"]
    try_arm(arm, (4, 28, 28, 3))
    with pytest.raises(ConfigError, match="cell = 14 does not divide"):
        try_arm(arm, (4, 30, 30, 3))
