"""How victims are laid out and asked."""

from __future__ import annotations

from pydantic import Field

from squall.actors.resources import Demand
from squall.platform.config import Config


class AskingConfig(Config):
    """How victims are asked."""

    max_batch: int = Field(8, ge=1)
    """Clips that go through the model together at most, those of different callers too. With 1 an answer does not depend, in
    its last digits, on what else is asked at the time."""
    pass_timeout_s: float = Field(300.0, gt=0)
    """How long one batch may take in the model; past it its process is killed, started anew and asked again."""
    ask_timeout_s: float = Field(1800.0, gt=0)
    """How long an answer may take in all, waiting, restarts and repetition included, before it is given up with an error."""


class VictimPoolConfig(Config):
    """Processes that hold the model under attack."""

    count: int = Field(1, ge=1)
    """Processes; each holds the model."""
    cpus: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for each, and torch threads that each runs."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for each; 0 runs the model on the CPU."""
    label_only: bool = False
    """Tell callers the likeliest class alone: probability 1, and 0 for the others."""
    wait_ms: float = Field(1.0, ge=0)
    """How long a batch that is not full waits for other callers' clips, in milliseconds."""
    startup_timeout_s: float = Field(300.0, gt=0)
    """How long the processes may take to load the model."""
    asking: AskingConfig = AskingConfig()
    """Batches and deadlines."""

    def demand(self, name: str = "victim") -> Demand:
        """What the processes reserve on the cluster."""
        return Demand(name, self.count, self.cpus, self.gpus)
