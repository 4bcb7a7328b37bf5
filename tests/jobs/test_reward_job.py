"""`squall reward`: the list of rewards, and the check of one, also of one in the working folder by the installed script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from squall.algorithms.reward_check import summary
from squall.algorithms.rewards import REWARDS
from squall.jobs import reward
from squall.jobs.arguments import load_job_config
from squall.jobs.registry import find_job
from squall.platform.errors import ConfigError

OWN = '''
def brief(context):
    """Short answers earn more."""
    return [1 / max(1, len(rollout.token_ids)) for rollout in context.group.rollouts]

def needs_a_tag(context):
    return [float(answer.startswith("B")) for answer in context.answers]
'''


def run(*words: str) -> int:
    return reward.run(load_job_config(find_job("reward"), list(words)))


def test_without_a_name_every_reward_is_listed_and_how_to_write_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, function in REWARDS.items():
        assert f" {name} " in said and summary(function) in said
    assert "accuracy 1 Right or wrong" in said and "temporal 0 1 for right answers" in said and "length - 1 for" in said
    assert "squall reward my_rewards:brief --check" in said


def test_the_example_that_it_prints_passes_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.removeprefix("    ") for line in reward.EXAMPLE.splitlines() if line.startswith("    ")]
    (tmp_path / "my_rewards.py").write_text("\n".join(line for line in lines if not line.startswith("squall")))
    monkeypatch.syspath_prepend(tmp_path)
    assert run("my_rewards:brief", "--check") == 0
    assert "my_rewards:brief: can be used: no check failed" in capsys.readouterr().out


def test_one_reward_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("format") == 0
    assert capsys.readouterr().out == "format: 1 for a think block, then an answer block, and nothing else.\n"
    with pytest.raises(ConfigError, match="unknown reward 'fromat'. Did you mean 'format'"):
        run("fromat")
    with pytest.raises(ConfigError, match="--check needs a reward: squall reward my_rewards:brief --check"):
        run("--check")


def test_a_reward_in_the_working_folder_is_checked(tmp_path: Path) -> None:
    (tmp_path / "own_rewards.py").write_text(OWN)
    script = Path(sys.executable).with_name("squall")
    done = subprocess.run([str(script), "reward", "own_rewards:brief", "--check"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "same elsewhere   ✓" in done.stdout and "own_rewards:brief: can be used: no check failed" in done.stdout


def test_the_exit_status_says_what_came_of_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad_rewards.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert run("bad_rewards:needs_a_tag", "--check") == 1
    said = capsys.readouterr().out
    assert "no answer tag    ✗" in said and "bad_rewards:needs_a_tag: 3 of 15 checks failed" in said
    assert run("bad_rewards:absent", "--check") == 1
    assert "1 of 1 checks failed; the others could not be tried" in capsys.readouterr().out
