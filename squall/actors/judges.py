"""Judges: how alike two lines of reasoning are, how good one is, and whether a clip shows enough to answer its question.

Four kinds behind one interface: a rule, a sentence embedding, a local vLLM model, a chat endpoint. What a model replies
is kept in a ledger and never asked for twice. What it does not reply is tried again, counted, and in the end an error:
never a score of 0, and never the score of another pair.
"""

from __future__ import annotations

import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from squall.actors.embedding import Embedding
from squall.actors.judge_config import POLICY, JudgeConfig
from squall.actors.query_ledger import Call, QueryLedger, call_key
from squall.actors.respondents import Endpoint, Engines, Question, Respondent, Unanswered, backoff
from squall.actors.rollout_engine import Completion
from squall.algorithms.judging import (
    ANSWERABLE_PATTERN,
    UnreadableReply,
    Verdict,
    answerable_question,
    parse_answerable,
    parse_similarities,
    remind,
    similarities_pattern,
    similarity_messages,
)
from squall.algorithms.reasoning import rule_similarity
from squall.algorithms.rubrics import SCORES_PATTERN, parse_scores, rubric_messages
from squall.platform.errors import ConfigError, DataError
from squall.platform.records import Clip, SamplingSpec, VideoSample
from squall.platform.rubric_labels import ReasoningTrace, RubricScores

Pairs = Sequence[tuple[str, str]]
Parsed = TypeVar("Parsed")

CHECK_TIMEOUT_S = 20.0
_CHECK_PAIR = ("The car stops at the crossing.", "At the crossing the car comes to a halt.")


class JudgeError(DataError):
    """A judge that did not judge. Reasons: ``judge_unparsed``, ``judge_timeout``, ``judge_failed``, and ``judge_refused`` for
    a question that it will not take, such as one that is too long."""


class Judge(ABC):
    """The interface of all kinds. Safe to use from several threads."""

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._usage: Counter[str] = Counter()
        self._lock = threading.Lock()

    def similarities(self, pairs: Pairs, sample_id: str) -> list[float]:
        """0, 0.5 or 1 for each pair of reasoning texts, in their order. Equal texts are 1, equal pairs judged once.

        Raises:
            JudgeError: the judge failed on one of them; the rest is lost too.
        """
        return self._distinct(pairs, partial(self._judge, sample_id=sample_id))

    def graded_similarities(self, pairs: Pairs, sample_id: str) -> list[float]:
        """As `similarities`, but anywhere in [0, 1] where a judge can: an embedding's is the cosine, 0 if it is negative."""
        return self._distinct(pairs, partial(self._grade, sample_id=sample_id))

    def answerable(self, sample: VideoSample, clip: Clip) -> Verdict:
        """Whether a clip shows enough to answer its question.

        Raises:
            JudgeError: the judge failed.
            ConfigError: this kind cannot look at clips.
        """
        raise ConfigError(f"judge.kind = {self._config.kind} cannot look at clips; whether they can be answered is for kind "
                          "engine or endpoint")

    def rubric_scores(self, trace: ReasoningTrace) -> RubricScores:
        """The five scores of a trace (squall.algorithms.rubrics).

        Raises:
            JudgeError: the judge failed.
            ConfigError: this kind cannot grade.
        """
        raise ConfigError(f"judge.kind = {self._config.kind} cannot grade reasoning; rubrics are for kind engine or endpoint")

    def check(self) -> None:
        """Find out within seconds, before any training, whether the judge can judge. Raises ConfigError if not."""
        self._judge([_CHECK_PAIR], "check")

    def take_usage(self) -> Counter[str]:
        """Since this was last asked: pairs, calls, cached, retries, unparsed, failures, seconds, prompt_tokens, reply_tokens.

        `pairs` are the different texts that were compared, by rule too; `calls` the requests that were sent, retries among
        them; `cached` those that the ledger saved; `unparsed` the replies that could not be read; `failures` the questions
        given up, also those that were then put pair by pair. What did not occur is not in it.
        """
        with self._lock:
            usage, self._usage = self._usage, Counter()
        return usage

    @abstractmethod
    def _judge(self, pairs: Pairs, sample_id: str) -> list[float]: ...

    def _grade(self, pairs: Pairs, sample_id: str) -> list[float]:
        return self._judge(pairs, sample_id)

    def _distinct(self, pairs: Pairs, judge: Callable[[Pairs], list[float]]) -> list[float]:
        def counted(distinct: Pairs) -> list[float]:
            self._count(pairs=len(distinct))
            return judge(distinct)

        return _each_once(pairs, counted)

    def _count(self, **amounts: float) -> None:
        with self._lock:
            self._usage.update({name: amount for name, amount in amounts.items() if amount})


class RuleJudge(Judge):
    """`rule_similarity`: no model, no cost."""

    def _judge(self, pairs: Pairs, sample_id: str) -> list[float]:
        return [rule_similarity(first, second) for first, second in pairs]


class EmbeddingJudge(Judge):
    """Cosine of sentence embeddings; computed anew each time, which is cheaper than keeping it."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__(config)
        self._embedding = Embedding(config.model)

    def _judge(self, pairs: Pairs, sample_id: str) -> list[float]:
        low, high = self._config.similar_above
        return [1.0 if cosine >= high else 0.5 if cosine >= low else 0.0 for cosine in self._cosines(pairs)]

    def _grade(self, pairs: Pairs, sample_id: str) -> list[float]:
        return [min(1.0, max(0.0, cosine)) for cosine in self._cosines(pairs)]

    def _cosines(self, pairs: Pairs) -> list[float]:
        start = time.monotonic()
        cosines = self._embedding.cosines(pairs)
        self._count(calls=1, seconds=time.monotonic() - start)
        return cosines


class ModelJudge(Judge):
    """A language model that is asked, and asked again, until its reply can be read."""

    def __init__(self, config: JudgeConfig, respondent: Respondent, ledger: QueryLedger) -> None:
        super().__init__(config)
        self._respondent, self._ledger = respondent, ledger

    def answerable(self, sample: VideoSample, clip: Clip) -> Verdict:
        messages = [{"role": "user", "content": answerable_question(sample)}]
        return self._ask(Question(messages, sample.id, ANSWERABLE_PATTERN, clip), "answerable", parse_answerable)

    def rubric_scores(self, trace: ReasoningTrace) -> RubricScores:
        return self._ask(Question(rubric_messages(trace), trace.sample_id, SCORES_PATTERN), "rubrics", parse_scores)

    def check(self) -> None:
        question = _similarity_question([_CHECK_PAIR], "check")
        try:
            reply = self._attempt(question, 1, min(CHECK_TIMEOUT_S, self._config.timeout_s))
            with suppress(UnreadableReply):
                parse_similarities(reply.text, 1)
                return
            self._score([_CHECK_PAIR], "check")  # it replies, but has to be asked twice
        except (Unanswered, JudgeError) as error:
            raise ConfigError(f"judge {self._respondent.name} cannot be used: {error}") from None

    def _judge(self, pairs: Pairs, sample_id: str) -> list[float]:
        size = self._config.pairs_per_call
        return [score for start in range(0, len(pairs), size) for score in self._score(pairs[start:start + size], sample_id)]

    def _score(self, pairs: Pairs, sample_id: str) -> list[float]:
        """The scores of one question; where it is too much for the judge, each pair gets a question of its own."""
        parse = partial(parse_similarities, count=len(pairs))
        try:
            return self._ask(_similarity_question(pairs, sample_id), "similarity", parse)
        except JudgeError as error:
            if len(pairs) == 1 or error.reason not in ("judge_unparsed", "judge_refused"):
                raise
        return [score for pair in pairs for score in self._score([pair], sample_id)]

    def _ask(self, question: Question, purpose: str, parse: Callable[[str], Parsed]) -> Parsed:
        key = self._key(question)
        stored = self._ledger.find(key)
        if stored is not None:
            self._count(cached=1)
            return parse(stored.reply)
        start = time.monotonic()
        reply, parsed, attempts = self._insist(question, parse)
        self._ledger.store(Call(key, self._respondent.name, purpose, reply.text, attempts, time.monotonic() - start,
                                reply.prompt_tokens, reply.reply_tokens))
        return parsed

    def _insist(self, question: Question, parse: Callable[[str], Parsed]) -> tuple[Completion, Parsed, int]:
        """A reply that can be read, what it says, and the attempts that it took."""
        asked = question
        for attempt in range(1, self._config.max_attempts + 1):
            last = attempt == self._config.max_attempts
            try:
                reply = self._attempt(asked, attempt, self._config.timeout_s)
                return reply, parse(reply.text), attempt
            except Unanswered as error:
                if last or error.reason == "refused":
                    raise self._failure(question, attempt, f"judge_{error.reason}", str(error)) from None
                time.sleep(backoff(attempt, self._config.backoff_s))
            except UnreadableReply as error:
                self._count(unparsed=1)
                cut = f", cut off at judge.max_tokens {self._config.max_tokens}" if reply.finish_reason == "length" else ""
                if last:
                    raise self._failure(question, attempt, "judge_unparsed", f"{error}{cut}") from None
                asked = replace(question, messages=remind(question.messages, str(error)))
            self._count(retries=1)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, question: Question, attempt: int, timeout_s: float) -> Completion:
        config, start = self._config, time.monotonic()
        seed = attempt if config.temperature else None
        sampling = SamplingSpec(config.temperature, max_tokens=config.max_tokens, seed=seed)
        try:
            reply = self._respondent.answer(question, sampling, timeout_s)
        finally:
            self._count(calls=1, seconds=time.monotonic() - start)
        self._count(prompt_tokens=reply.prompt_tokens or 0, reply_tokens=reply.reply_tokens or 0)
        return reply

    def _failure(self, question: Question, attempts: int, reason: str, problem: str) -> JudgeError:
        self._count(failures=1)
        tried = f"{attempts} attempt{'s' * (attempts != 1)}"
        return JudgeError(f"sample {question.sample_id}: judge {self._respondent.name} failed after {tried}: {problem}",
                          sample_id=question.sample_id, reason=reason)

    def _key(self, question: Question) -> str:
        if self._config.model == POLICY:  # it learns: the same question gets another reply
            return uuid.uuid4().hex
        clip = question.clip and question.clip.content_hash
        parameters: dict[str, Any] = self._config.model_dump(include={"temperature", "max_tokens"})
        if question.clip is not None and self._config.kind == "endpoint":
            parameters["max_frames"] = self._config.max_frames
        return call_key(self._respondent.name, list(question.messages), parameters, clip)


def open_judge(config: JudgeConfig, ledger_path: Path | None = None, engines: Sequence[Any] = (),
               key: SecretStr | None = None) -> Judge:
    """The judge of a configuration.

    Args:
        ledger_path: where calls are kept if the configuration does not say; None is in memory.
        engines: handles of the `RolloutEngine` actors of kind ``engine``, started by the caller and holding its model, or
            for ``@policy`` the policy's own.
        key: of an endpoint, where this process does not have it in its environment.

    Raises:
        ConfigError: the key of an endpoint is not set, or there is no engine.
        SquallError: the ledger cannot be opened.
    """
    if config.kind == "rules":
        return RuleJudge(config)
    if config.kind == "embedding":
        return EmbeddingJudge(config)
    return ModelJudge(config, _respondent(config, engines, key), QueryLedger(config.cache or ledger_path))


def _respondent(config: JudgeConfig, engines: Sequence[Any], key: SecretStr | None) -> Respondent:
    model = config.model or ""
    if config.kind == "endpoint":
        return Endpoint(config.base_url or "", model, config.read_key() if key is None else key, config.max_frames)
    if not engines:
        raise ConfigError(f"judge.kind = engine: no engine with {model} was started to be asked")
    return Engines(model, engines, config.engine.startup_timeout_s)


def _similarity_question(pairs: Pairs, sample_id: str) -> Question:
    return Question(similarity_messages(pairs), sample_id, similarities_pattern(len(pairs)))


def _each_once(pairs: Pairs, judge: Callable[[Pairs], list[float]]) -> list[float]:
    asked = list(dict.fromkeys((first, second) for first, second in pairs if first != second))
    scores = dict(zip(asked, judge(asked), strict=True)) if asked else {}
    return [1.0 if first == second else scores[first, second] for first, second in pairs]
