"""`squall reward`: what rewards there are, how to write one, and what is wrong with one's own."""

from __future__ import annotations

from inspect import getdoc

from pydantic import model_validator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from squall.algorithms.reward_check import check_reward, find_reward, summary
from squall.algorithms.rewards import LEARNER_REWARDS, REWARDS, RewardConfig
from squall.jobs.console import print_checks, say
from squall.platform.config import Config

EXAMPLE = '''\
A reward of your own is a function; here in my_rewards.py, in the folder in which squall runs:

    def brief(context):
        """Short answers earn more than long ones."""
        return [1 / max(1, len(rollout.token_ids)) for rollout in context.group.rollouts]

It returns one finite number for each rollout, in their order. A rollout has text, token_ids and branch; the context has
group.sample (problem, solution, problem_type, options, metadata), answers (what stands in each answer tag, or None), accuracies
(0 to 1) and indices(branch), the places of the clean, corrupted or shuffled answers.

    squall reward my_rewards:brief --check
    squall train tgrpo rewards.weights="{accuracy: 1, format: 1, my_rewards:brief: 0.2}"'''


class RewardJobConfig(Config):
    """Look at rewards: all, or one."""

    function: str | None = None
    """FUNCTION: a reward's name, or module:function for one of your own; without it all are listed."""
    check: bool = False
    """Try FUNCTION on made-up groups of every kind: what it gets right, what is wrong and what to do."""

    @model_validator(mode="after")
    def _consistent(self) -> RewardJobConfig:
        if self.check and self.function is None:
            raise ValueError("--check needs a reward: squall reward my_rewards:brief --check")
        return self


def run(config: RewardJobConfig) -> int:
    """Do what was asked for. Returns 0 when all is well, 1 when a check failed."""
    console = Console()
    if config.function is None:
        return print_rewards(console)
    if config.check:
        return print_checks(config.function, tuple(check_reward(config.function)), console)
    reward = find_reward(config.function)
    say(console, f"{config.function}: {getdoc(reward) or 'no docstring'}")
    return 0


def print_rewards(console: Console) -> int:
    """Every built-in reward with the first line of its docstring and its weight by default, and how to write another."""
    weights = RewardConfig().weights
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("reward", no_wrap=True, style="bold")
    table.add_column("weight", justify="right")
    table.add_column("what it gives", overflow="fold")
    lines = {name: summary(reward) for name, reward in REWARDS.items()} | LEARNER_REWARDS
    for name, line in lines.items():
        table.add_row(name, f"{weights[name]:g}" if name in weights else "-", Text(line))
    console.print(table)
    say(console, f"\nWeights are the defaults of rewards.weights; 0 computes and logs, - does neither.\n\n{EXAMPLE}")
    return 0
