"""What every engine's configuration says, whatever model it holds."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SecretStr

from squall.platform.config import Config


class EngineActorsConfig(Config):
    """How many actors hold the model, and how long they may take."""

    takes_chat_text: ClassVar[bool] = False
    """Whether prompts go through the chat template of the model's own processor, or are the bare text of the question."""

    count: int = Field(1, ge=1)
    """Engines; each is a Ray actor of its own."""
    cpus: float = Field(1.0, gt=0)
    """CPUs that Ray reserves for each engine; without a GPU its whole part is the number of compute threads."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for each engine; 0 runs on the CPU."""
    startup_timeout_s: float = Field(300.0, gt=0)
    """How long an engine may take to load."""
    request_timeout_s: float = Field(600.0, gt=0)
    """How long one request may take before the engine counts as suspect."""

    def patience_s(self, on_one_node: int) -> float:
        """How long engines may take to start where so many do on one node."""
        return self.startup_timeout_s

    def read_key(self) -> SecretStr | None:
        """The key that engines need and this process has in its environment; None for those that need none."""
        return None
