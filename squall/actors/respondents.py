"""Who replies to a question: a chat endpoint of OpenAI's kind, or engines of ours. One question, one attempt."""

from __future__ import annotations

import base64
import io
import itertools
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import numpy as np
import ray
from pydantic import SecretStr
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from squall.actors.rollout_engine import Completion
from squall.platform.errors import ConfigError, DataError, cause
from squall.platform.records import Clip, SamplingSpec

RESTART_POLL_S = 1.0
LONGEST_BACKOFF_S = 30.0
JPEG_QUALITY = 90
_REFUSED = {401: "the key was refused", 403: "the key does not allow this", 404: "no such address or model"}
_PASSING = (408, 409, 425, 429)
"""HTTP statuses below 500 after which another attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Question:
    """Chat messages, of texts alone, and the clip that the last one is about."""

    messages: Sequence[Mapping[str, Any]]
    sample_id: str
    pattern: str | None = None
    """Regular expression of the replies asked for, if there is one; engines are held to it."""
    clip: Clip | None = None


class Unanswered(Exception):
    """An attempt that brought no reply."""

    def __init__(self, reason: Literal["timeout", "failed", "refused"], message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """What is ``refused`` once is refused again; after the other two another attempt may succeed."""


def backoff(attempt: int, first_s: float) -> float:
    """Seconds to wait after a failed attempt, counted from 1; they double with each, up to 30."""
    return min(LONGEST_BACKOFF_S, first_s * 2 ** (attempt - 1))


class Respondent(Protocol):
    """Whoever can be asked. Safe to use from several threads."""

    name: str
    """Model and address, without secrets; the same for replies that can stand for each other."""

    def answer(self, question: Question, sampling: SamplingSpec, timeout_s: float) -> Completion:
        """One reply.

        Raises:
            Unanswered: this attempt failed.
            ConfigError: every attempt would: the key, the address or the model is wrong.
        """
        ...


class Endpoint:
    """A model behind ``/chat/completions``; a clip goes as pictures, at most `max_frames` of it, evenly spaced."""

    def __init__(self, base_url: str, model: str, key: SecretStr | None, max_frames: int, *, section: str = "judge",
                 logprobs: bool = False) -> None:
        """`key` is the endpoint's; None for one that needs none. `section` of the configuration is named in errors."""
        from openai import OpenAI

        self._key = key.get_secret_value() if key is not None else ""
        self._client = OpenAI(api_key=self._key or "none", base_url=base_url, max_retries=0)
        self._model, self._max_frames, self._section = model, max_frames, section
        self.asks_logprobs = logprobs
        # OpenAI's newer models refuse the older name, and few other servers know the newer one.
        self._limit = "max_completion_tokens" if urlsplit(base_url).hostname == "api.openai.com" else "max_tokens"
        self.name = f"{model} at {base_url}"

    def answer(self, question: Question, sampling: SamplingSpec, timeout_s: float) -> Completion:
        """See `Respondent`. `timeout_s` is for each wait for the server."""
        import openai

        try:
            reply = self._client.chat.completions.create(
                model=self._model, messages=self._with_pictures(question), temperature=sampling.temperature,
                timeout=timeout_s, **self._options(sampling))
            return _completion(reply)
        except openai.APITimeoutError:
            raise Unanswered("timeout", f"no reply within {timeout_s:g} s") from None
        except openai.APIStatusError as error:
            raise self._refusal(error.status_code, error.message) from None
        except (openai.OpenAIError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise Unanswered("failed", self._without_key(f"{type(error).__name__}: {error}")) from None

    def _options(self, sampling: SamplingSpec) -> dict[str, Any]:
        """What is said only where it is needed: not every server knows it."""
        return {self._limit: sampling.max_tokens} | ({} if sampling.seed is None else {"seed": sampling.seed}) | (
            {} if sampling.top_p == 1.0 else {"top_p": sampling.top_p}) | ({"logprobs": True} if self.asks_logprobs else {})

    def _with_pictures(self, question: Question) -> list[dict[str, Any]]:
        pictures = [] if question.clip is None else [
            {"type": "image_url", "image_url": {"url": url}} for url in _pictures(question.clip, self._max_frames)]
        return _with_media(question.messages, pictures)

    def _refusal(self, status: int, message: str) -> Exception:
        if status in _REFUSED:
            return ConfigError(f"{self._section} {self.name}: HTTP {status}, {_REFUSED[status]}; see the model's name, "
                               f"{self._section}.base_url and the environment variable that {self._section}.api_key_env names")
        return Unanswered("failed" if status in _PASSING or status >= 500 else "refused",
                          f"HTTP {status}: {self._without_key(message)}")

    def _without_key(self, message: str) -> str:
        shown = message.replace(self._key, "***") if self._key else message
        return " ".join(shown.split())[:200]


class Engines:
    """Local vLLM models in `RolloutEngine` actors, asked in turn. Whoever started them ends them."""

    def __init__(self, model: str, engines: Sequence[Any], restart_timeout_s: float) -> None:
        """`restart_timeout_s` is how long an engine that died may take to come back, if it is the only one."""
        self._turns, self._count = itertools.cycle(engines), len(engines)
        self._restart_timeout_s = restart_timeout_s
        self.name = f"engine {model}"

    def answer(self, question: Question, sampling: SamplingSpec, timeout_s: float) -> Completion:
        """See `Respondent`."""
        engine = next(self._turns)
        media = [] if question.clip is None else [{"type": str(question.clip.media_type)}]
        reference = engine.complete.remote(_with_media(question.messages, media), sampling, f"judge-{uuid.uuid4().hex}",
                                           question.sample_id, question.clip, question.pattern)
        try:
            return ray.get(reference, timeout=timeout_s)
        except GetTimeoutError:
            with suppress(RayError):
                ray.cancel(reference)
            raise Unanswered("timeout", f"no reply within {timeout_s:g} s") from None
        except RayTaskError as error:  # whose own text is the whole trace
            raise Unanswered("refused" if isinstance(error.cause, DataError) else "failed", cause(error.cause)) from None
        except RayActorError as error:
            if self._count == 1:
                self._await_restart(engine)
            raise Unanswered("failed", cause(error)) from None
        except RayError as error:
            raise Unanswered("failed", cause(error)) from None

    def _await_restart(self, engine: Any) -> None:
        """Until Ray has started a dead engine anew every call fails at once."""
        deadline = time.monotonic() + self._restart_timeout_s
        while time.monotonic() < deadline:
            try:
                ray.get(engine.ready.remote(), timeout=self._restart_timeout_s)
                return
            except RayError:
                time.sleep(RESTART_POLL_S)


def _with_media(messages: Sequence[Mapping[str, Any]], media: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with pictures or a clip before the text of the last."""
    *before, last = (dict(message) for message in messages)
    items = list(media)
    return [*before, {**last, "content": [*items, {"type": "text", "text": last["content"]}]} if items else last]


def _pictures(clip: Clip, count: int) -> Iterable[str]:
    from PIL import Image

    for index in np.linspace(0, len(clip.frames) - 1, min(count, len(clip.frames))).round().astype(int):
        data = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(clip.frames[index])).save(data, "JPEG", quality=JPEG_QUALITY)
        yield "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _completion(reply: Any) -> Completion:
    choice, usage = reply.choices[0], reply.usage
    text = (choice.message.content or "").encode("utf-8", "replace").decode()
    given = getattr(choice, "logprobs", None)  # which some servers leave out altogether
    logprobs = tuple(float(token.logprob) for token in (given.content or ())) if given else ()
    return Completion(text, usage and usage.prompt_tokens, usage and usage.completion_tokens, choice.finish_reason or "",
                      logprobs)
