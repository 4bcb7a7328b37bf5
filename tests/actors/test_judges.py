"""Judges of all kinds: real weights, a real server that misbehaves, a real engine."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image

from squall.actors.judge_config import JudgeConfig
from squall.actors.judges import Judge, JudgeError, open_judge
from squall.actors.query_ledger import QueryLedger
from squall.actors.rollout_engine import Completion, EngineConfig
from squall.algorithms.judging import Verdict
from squall.platform.config import validate
from squall.platform.errors import ConfigError
from squall.platform.records import MediaType, ProblemType, VideoSample

KEY = "sk-very-secret-7"
PAIRS = [("a b", "1 alike"), ("a", "half"), ("a", "other"), ("a", "1 as well")]
SAMPLE = VideoSample("s1", "v.mp4", MediaType.VIDEO, "Which way?", ProblemType.MULTIPLE_CHOICE, "A", ("A. left", "B. right"))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)


def endpoint(url: str, ledger: Path | None = None, **values: Any) -> Judge:
    settings = {"model": "judge-1", "api_key_env": "JUDGE_KEY", "backoff_s": 0.01} | values
    return open_judge(JudgeConfig(kind="endpoint", base_url=url, **settings), ledger)


def failure(judge: Judge, pairs: list[tuple[str, str]], reason: str, match: str) -> JudgeError:
    with pytest.raises(JudgeError, match=match) as failed:
        judge.similarities(pairs, "s7")
    assert (failed.value.reason, failed.value.sample_id) == (reason, "s7")
    return failed.value


@pytest.mark.parametrize(("values", "problem"), [
    ({"kind": "endpoint", "model": "m"}, "kind endpoint needs a base_url"),
    ({"kind": "endpoint", "base_url": "http://h/v1"}, "kind endpoint needs a model"),
    ({"kind": "engine"}, "kind engine needs a model"),
    ({"kind": "rules", "model": "m"}, "kind rules has no model, got 'm'"),
    ({"kind": "embedding", "base_url": "http://h/v1"}, "base_url belongs to kind endpoint, and kind is embedding"),
    ({"kind": "endpoint", "model": "m", "base_url": "ftp://h"}, "'base_url' = 'ftp://h': expected an http or https address"),
    ({"kind": "endpoint", "model": "m", "base_url": "http://me:word@h/v1"}, "no user, password or query in the address"),
    ({"kind": "engine", "model": "@policy", "engine": {"count": 2}}, "engine belongs to kind engine with a model of its own"),
    ({"similar_above": [0.7, 0.4]}, r"similar_above \[0.7, 0.4\]: two cosines"),
])
def test_what_does_not_go_together_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        validate(JudgeConfig, values, "judge")


def test_rules_judge_without_calls_and_cannot_look_at_clips(random_clip: Any) -> None:
    judge = open_judge(JudgeConfig())
    judge.check()
    texts = [("", ""), ("the car stops", "the car stops not"), ("the red car stops", "a red car stops")]
    assert judge.similarities(texts, "s1") == judge.graded_similarities(texts, "s1") == [1.0, 0.0, 1.0]
    assert list(judge.take_usage()) == ["pairs"] and not JudgeConfig().can_see
    with pytest.raises(ConfigError, match="judge.kind = rules cannot look at clips"):
        judge.answerable(SAMPLE, random_clip(1))


# --- embedding ---


def test_an_embedding_puts_paraphrases_above_unrelated_texts() -> None:
    judge = open_judge(JudgeConfig(kind="embedding"))
    judge.check()
    original = "The camera turns left at the crossing because the road ahead is blocked."
    texts = [(original, "The road in front is blocked, so at the junction the camera turns to the left."),
             (original, "A traffic light stands at the crossing."), (original, "Bananas ripen faster in a paper bag."),
             (original, original)]
    close, related, far, same = judge.graded_similarities(texts, "s1")
    assert close > 0.7 > related > 0.3 > far >= 0.0 and same == 1.0
    assert judge.similarities(texts, "s1") == [1.0, 0.5, 0.0, 1.0]
    assert judge.graded_similarities([texts[2], texts[0]], "s1") == pytest.approx([far, close], abs=1e-5)
    assert judge.take_usage()["calls"] == 4


def test_an_embedding_serves_threads() -> None:
    judge = open_judge(JudgeConfig(kind="embedding"))
    texts = [("a car " * i, "a dog " * i) for i in range(1, 13)]
    alone = judge.graded_similarities(texts, "s1")
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda pair: judge.graded_similarities([pair], "s1")[0], texts))
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_folder_without_an_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"judge.model = {tmp_path}: cannot be loaded as a sentence embedding"):
        open_judge(JudgeConfig(kind="embedding", model=str(tmp_path))).check()


# --- endpoint ---


def test_pairs_are_asked_once_in_calls_of_a_size_and_scored_in_order(chat_server: Any) -> None:
    judge = endpoint(chat_server.url, pairs_per_call=3)
    asked = [PAIRS[1], ("same", "same"), PAIRS[0], PAIRS[1], PAIRS[2], PAIRS[3]]
    assert judge.similarities(asked, "s1") == [0.5, 1.0, 1.0, 0.5, 0.0, 1.0]
    assert [body["messages"][0]["content"].count('{"pair"') for body in chat_server.bodies] == [3, 1]
    assert chat_server.keys == [f"Bearer {KEY}"] * 2
    assert {name: chat_server.bodies[0][name] for name in ("model", "temperature", "max_tokens")} == {
        "model": "judge-1", "temperature": 0.0, "max_tokens": 256}
    usage = judge.take_usage()
    assert usage.pop("seconds") > 0
    assert usage == {"pairs": 4, "calls": 2, "prompt_tokens": 40, "reply_tokens": 10} and not judge.take_usage()


def test_prose_is_asked_again_with_a_reminder(chat_server: Any) -> None:
    chat_server.script = ["Both agree, I think.", "[1]", "<think>hm</think>```json\n[1, 0.5]\n```"]
    judge = endpoint(chat_server.url)
    assert judge.similarities(PAIRS[:2], "s1") == [1.0, 0.5]
    contents = [body["messages"][-1]["content"] for body in chat_server.bodies]
    assert "could not be used: no JSON array in 'Both agree, I think.'" in contents[1]
    assert "1 score for 2 pairs" in contents[2] and "no JSON array" not in contents[2]
    usage = judge.take_usage()
    assert (usage["calls"], usage["retries"], usage["unparsed"], usage["failures"]) == (3, 2, 2, 0)


def test_lists_of_another_length_never_shift_scores_and_pairs_are_then_asked_alone(chat_server: Any) -> None:
    chat_server.script = ["[0, 0.5, 1]", "[0, 0, 0, 0, 0]"]
    judge = endpoint(chat_server.url, max_attempts=2)
    assert judge.similarities(PAIRS, "s1") == [1.0, 0.5, 0.0, 1.0]
    assert len(chat_server.bodies) == 2 + 4
    assert judge.take_usage()["failures"] == 1


def test_a_judge_that_never_keeps_to_the_form_fails_by_name_and_leaves_nothing_behind(chat_server: Any, tmp_path: Path) -> None:
    chat_server.script = ["They agree."] * 2 + [("[", "length")] * 2
    ledger = tmp_path / "ledger.sqlite"
    judge = endpoint(chat_server.url, ledger, max_attempts=2, max_tokens=9)
    failure(judge, PAIRS[:2], "judge_unparsed", rf"sample s7: judge judge-1 at {chat_server.url} failed after 2 attempts: "
                                                r"no JSON array in '\[', expected one, cut off at judge.max_tokens 9")
    usage = judge.take_usage()
    assert (usage["calls"], usage["unparsed"], usage["failures"]) == (4, 4, 2)
    assert QueryLedger(ledger).count() == 0


def test_trouble_of_the_server_is_waited_out_and_then_reported(chat_server: Any) -> None:
    judge = endpoint(chat_server.url, backoff_s=0.1)
    chat_server.script = [500, 429]
    start = time.monotonic()
    assert judge.similarities(PAIRS[:1], "s1") == [1.0]
    assert 0.3 <= time.monotonic() - start < 30
    assert judge.take_usage()["retries"] == 2
    chat_server.script = [503, b"<html>", b"{}"]
    failure(judge, PAIRS[1:2], "judge_failed", "failed after 3 attempts")
    assert len(chat_server.bodies) == 6


def test_a_judge_that_hangs_is_given_up_after_its_time(chat_server: Any) -> None:
    chat_server.script = [None, None]
    judge = endpoint(chat_server.url, timeout_s=0.3, max_attempts=2)
    start = time.monotonic()
    failure(judge, PAIRS[:1], "judge_timeout", "failed after 2 attempts: no reply within 0.3 s")
    assert time.monotonic() - start < 3


def test_an_endpoint_that_is_not_there_fails_and_its_check_says_so(chat_server: Any) -> None:
    gone = endpoint("http://127.0.0.1:9/v1")
    failure(gone, PAIRS[:1], "judge_failed", "APIConnectionError")
    with pytest.raises(ConfigError, match="judge judge-1 at http://127.0.0.1:9/v1 cannot be used: APIConnectionError"):
        gone.check()
    judge = endpoint(chat_server.url)
    judge.check()
    chat_server.script = ["Prose.", "Prose."]
    judge.check()  # it needs a reminder, and then it can
    chat_server.script = ["Prose."] * 4
    with pytest.raises(ConfigError, match="cannot be used: .* no JSON array in 'Prose.'"):
        endpoint(chat_server.url).check()


@pytest.mark.parametrize(("status", "problem"), [
    (401, "HTTP 401, the key was refused"), (403, "HTTP 403"), (404, "HTTP 404, no such address or model")])
def test_what_no_attempt_can_mend_fails_at_once_and_shows_no_key(chat_server: Any, status: int, problem: str) -> None:
    chat_server.script = [status]
    with pytest.raises(ConfigError, match=problem) as refused:
        endpoint(chat_server.url).similarities(PAIRS, "s1")
    assert len(chat_server.bodies) == 1 and KEY not in str(refused.value)


def test_a_question_that_is_refused_is_not_repeated_and_its_pairs_are_tried_alone(chat_server: Any) -> None:
    chat_server.script = [400]
    judge = endpoint(chat_server.url)
    assert judge.similarities(PAIRS[:2], "s1") == [1.0, 0.5]
    assert len(chat_server.bodies) == 3
    chat_server.script = [422]
    refused = failure(judge, PAIRS[2:3], "judge_refused", r"after 1 attempt: HTTP 422: .*trouble with Bearer \*\*\*")
    assert KEY not in str(refused)


def test_a_key_that_is_not_set_is_named_and_an_endpoint_may_need_none(chat_server: Any) -> None:
    with pytest.raises(ConfigError, match="judge.api_key_env = NO_SUCH_KEY: this environment variable is not set"):
        endpoint(chat_server.url, api_key_env="NO_SUCH_KEY")
    assert endpoint(chat_server.url, api_key_env=None).similarities(PAIRS[:1], "s1") == [1.0]


ASK = """
import sys
from pathlib import Path
from squall.actors.judges import open_judge
from squall.actors.judge_config import JudgeConfig
config = JudgeConfig(kind="endpoint", base_url=sys.argv[1], model="judge-1", api_key_env="JUDGE_KEY")
judge = open_judge(config, Path(sys.argv[2]))
print(judge.similarities([("a b", "1 alike"), ("a", "half")], "s2"), judge.take_usage())
"""


def test_replies_are_kept_for_other_judges_and_processes_and_the_key_is_not(chat_server: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    chat_server.script = [500]
    assert endpoint(chat_server.url, ledger).similarities(PAIRS[:2], "s1") == [1.0, 0.5]
    again = endpoint(chat_server.url, ledger)
    assert again.similarities(PAIRS[:2], "s2") == [1.0, 0.5]
    assert again.take_usage() == {"pairs": 2, "cached": 1}
    done = subprocess.run([sys.executable, "-c", ASK, chat_server.url, str(ledger)], capture_output=True, text=True,
                          timeout=120, env=os.environ | {"JUDGE_KEY": "another"})
    assert done.stdout.strip() == "[1.0, 0.5] Counter({'pairs': 2, 'cached': 1})", done.stderr
    assert len(chat_server.bodies) == 2
    assert endpoint(chat_server.url, ledger, temperature=0.5).similarities(PAIRS[:2], "s1") == [1.0, 0.5]
    assert (len(chat_server.bodies), chat_server.bodies[-1]["seed"]) == (3, 1)
    (row,) = QueryLedger(ledger)._execute("SELECT attempts, prompt_tokens, purpose FROM calls ORDER BY time LIMIT 1", ())
    assert row == (2, 20, "similarity")
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.iterdir())


def test_threads_get_the_scores_of_their_own_pairs(chat_server: Any, tmp_path: Path) -> None:
    judge = endpoint(chat_server.url, tmp_path / "ledger.sqlite")
    batches = [[(f"text {i}", f"{start}{i}") for start in ("1 ", "h ", "x ")[i % 3:]] for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(lambda batch: judge.similarities(batch, "s1"), batches))
    assert scores == [[1.0, 0.5, 0.0][i % 3:] for i in range(24)]
    assert judge.take_usage()["calls"] == 24


def test_an_endpoint_is_shown_frames_of_the_clip(chat_server: Any, tmp_path: Path, random_clip: Any) -> None:
    chat_server.script = ["Well, YES. 0.75", "NO 0.2"]
    judge = endpoint(chat_server.url, tmp_path / "ledger.sqlite", max_frames=3)
    clip = random_clip(1, frames=9)
    assert judge.answerable(SAMPLE, clip) == Verdict(True, 0.75)
    *pictures, text = chat_server.bodies[0]["messages"][0]["content"]
    assert "Which way?\nA. left" in text["text"] and len(pictures) == 3
    for picture, index in zip(pictures, (0, 4, 8), strict=True):
        kind, data = picture["image_url"]["url"].split(",")
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=float)
        own, others = (np.abs(decoded - clip.frames[i]).mean() for i in (index, index - 1))
        assert kind == "data:image/jpeg;base64" and own < 0.7 * others
    assert judge.answerable(SAMPLE, clip) == Verdict(True, 0.75)
    assert judge.answerable(SAMPLE, random_clip(2, frames=1)) == Verdict(False, 0.2)
    assert len(chat_server.bodies) == 2 and len(chat_server.bodies[1]["messages"][0]["content"]) == 2


# --- engine ---


def engine_judge(engines: list[Any], ledger: Path | None = None, **values: Any) -> Judge:
    settings = {"model": "@embedded", "max_tokens": 64, "backoff_s": 0.1} | values
    return open_judge(JudgeConfig(kind="engine", **settings), ledger, engines)


def test_an_engine_judge_needs_engines() -> None:
    with pytest.raises(ConfigError, match="no engine with @embedded was started"):
        engine_judge([])


@pytest.mark.cluster
def test_an_untrained_engine_keeps_to_the_form(engine: Any, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    judge = engine_judge([engine], ledger, temperature=2.0)
    judge.check()
    texts = [(f"it turns {i}", f"it stops {i}") for i in range(3)]
    scores = judge.similarities(texts, "s1")
    assert len(scores) == 3 and set(scores) <= {0.0, 0.5, 1.0}
    usage = judge.take_usage()
    assert usage["calls"] == 2 and usage["unparsed"] == 0 and usage["prompt_tokens"] > 100 and usage["reply_tokens"] >= 6
    assert engine_judge([engine], ledger, temperature=2.0).similarities(texts, "s1") == scores
    assert QueryLedger(ledger).count("similarity", "engine @embedded") == 1


@pytest.mark.cluster
def test_an_engine_looks_at_clips_and_the_policy_is_asked_anew(engine: Any, random_clip: Any) -> None:
    verdict = engine_judge([engine]).answerable(SAMPLE, random_clip(1))
    assert 0.0 <= verdict.confidence <= 1.0
    policy = engine_judge([engine], model="@policy")
    assert policy.answerable(SAMPLE, random_clip(1)) == policy.answerable(SAMPLE, random_clip(1)) == verdict
    assert policy.take_usage()["calls"] == 2
    image = VideoSample("s2", "v.png", MediaType.IMAGE, "Which?", ProblemType.FREE_FORM, "red")
    assert 0.0 <= engine_judge([engine]).answerable(image, random_clip(2, frames=1)).confidence <= 1.0


@pytest.mark.cluster
def test_what_is_too_long_for_an_engine_is_asked_in_parts_and_else_refused(engine: Any) -> None:
    judge = engine_judge([engine])
    assert len(judge.similarities([(f"{i} " * 60, f"{i} . " * 40) for i in range(1, 4)], "s7")) == 3
    assert judge.take_usage()["calls"] == 4
    failure(judge, [("it turns " * 300, "it stops")], "judge_refused", r"after 1 attempt: sample s7: prompt of \d+ tokens")


@ray.remote(num_cpus=0, max_restarts=-1)
class MortalEngine:
    """Dies in its first answer, as an engine does that runs out of memory."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def ready(self) -> int:
        return os.getpid()

    def complete(self, *arguments: Any) -> Completion:
        if not self._marker.exists():
            self._marker.touch()
            os._exit(1)
        return Completion("[0.5]", 1, 1, "stop")


@pytest.mark.cluster
def test_an_engine_that_dies_is_asked_again_once_it_is_back(ray_cluster: object, tmp_path: Path) -> None:
    mortal = MortalEngine.remote(tmp_path / "died")
    judge = engine_judge([mortal], engine=EngineConfig(startup_timeout_s=60))
    assert judge.similarities([("a", "b")], "s1") == [0.5]
    assert judge.take_usage()["retries"] == 1
    ray.kill(mortal)
