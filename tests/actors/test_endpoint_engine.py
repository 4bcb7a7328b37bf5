"""A chat endpoint in an actor: real HTTP that misbehaves, losses by reason, and a key that stays with its owner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from squall.actors.endpoint_engine import EndpointEngine, EndpointEngineConfig
from squall.actors.groups import GroupPlan, SamplerConfig, WorkersConfig
from squall.actors.rollout_engine import GenerateRequest
from squall.actors.sampling import GroupSampler
from squall.algorithms.rewards import RewardConfig
from squall.platform.config import validate
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.errors import ConfigError, DataError, SquallError
from squall.platform.manifest import load_manifest
from squall.platform.models import ModelConfig
from squall.platform.records import Branch, SamplingSpec
from squall.platform.video import FrameSampling

KEY = "sk-very-secret-8"
WITH_LOGPROBS = json.dumps({
    "id": "c", "object": "chat.completion", "created": 0, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "<answer>B</answer>"},
                 "logprobs": {"content": [{"token": "B", "logprob": -0.25, "bytes": None, "top_logprobs": []},
                                          {"token": ".", "logprob": -0.5, "bytes": None, "top_logprobs": []}]}}]}).encode()


def settings(url: str, **values: Any) -> EndpointEngineConfig:
    known = {"api_key_env": "ENGINE_KEY", "max_frames": 3, "max_attempts": 3, "backoff_s": 0.01, "timeout_s": 2.0}
    return EndpointEngineConfig(base_url=url, **known | values)


def test_settings_that_cannot_work_are_refused_and_the_key_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'base_url' = 'http://me:word@h/v1': no user, password or query"):
        validate(EndpointEngineConfig, {"base_url": "http://me:word@h/v1"}, "engine")
    config = settings("http://h/v1/")
    monkeypatch.delenv("ENGINE_KEY", raising=False)
    with pytest.raises(ConfigError, match="engine.api_key_env = ENGINE_KEY: this environment variable is not set"):
        config.read_key()
    monkeypatch.setenv("ENGINE_KEY", KEY)
    assert config.read_key().get_secret_value() == KEY and KEY not in repr(config.read_key())
    assert settings("http://h/v1", api_key_env=None).read_key() is None and config.base_url == "http://h/v1"
    assert settings("http://h/v1", max_attempts=4, backoff_s=2.0, timeout_s=90.0).longest_answer_s == 4 * 90 + 2 + 4 + 8


@pytest.fixture(scope="module")
def engine(ray_cluster: object, module_chat_server: Any) -> Iterator[Any]:
    from pydantic import SecretStr

    actor = EndpointEngine.options(num_cpus=0).remote("eyes-1", settings(module_chat_server.url), None, SecretStr(KEY))
    ray.get(actor.ready.remote(), timeout=120)
    yield actor
    ray.kill(actor)


def ask(engine: Any, clip: Any, n: int = 1, **sampling: Any) -> Any:
    request = GenerateRequest("Which?\nA. red\nB. blue", "s7", "s7#0", Branch.CLEAN, n, SamplingSpec(**sampling))
    try:
        return ray.get(engine.generate.remote(request, clip), timeout=60)
    except ray.exceptions.RayTaskError as error:
        return error.cause


@pytest.mark.cluster
def test_answers_come_with_what_is_known_of_them(engine: Any, module_chat_server: Any, random_clip: Any) -> None:
    server = module_chat_server
    server.bodies.clear()
    server.script = [WITH_LOGPROBS, ("cut", "length")]
    first, second = ask(engine, random_clip(1), n=2, temperature=0.1, top_p=0.001, seed=5, max_tokens=99)
    by_text = {rollout.text: rollout for rollout in (first, second)}
    known, cut = by_text["<answer>B</answer>"], by_text["cut"]
    assert (known.logprobs, known.finish_reason) == ((-0.25, -0.5), "stop")
    assert (cut.logprobs, cut.finish_reason, cut.token_ids) == ((), "length", ())
    assert {first.index, second.index} == {0, 1} and first.clip_hash == random_clip(1).content_hash
    body, other = server.bodies
    *pictures, text = body["messages"][-1]["content"]
    assert len(pictures) == 3 and text == {"type": "text", "text": "Which?\nA. red\nB. blue"}
    assert {name: body[name] for name in ("model", "temperature", "top_p", "max_tokens", "logprobs")} == {
        "model": "eyes-1", "temperature": 0.1, "top_p": 0.001, "max_tokens": 99, "logprobs": True}
    assert body["seed"] != other["seed"] and set(server.keys) == {f"Bearer {KEY}"}


@pytest.mark.cluster
@pytest.mark.parametrize(("script", "calls", "reason", "problem"), [
    ([500, 429], 3, None, ""),
    ([503, b"<html>", b"{}"], 3, "endpoint_failed", "failed after 3 attempts"),
    ([503, 503, None], 3, "endpoint_timeout", "failed after 3 attempts: no reply within 2 s"),
    ([422], 1, "endpoint_refused", "failed after 1 attempt: HTTP 422"),
    ([("", "content_filter")], 1, "endpoint_refused", "content filter held the answer back"),
])
def test_trouble_is_waited_out_and_then_counted(engine: Any, module_chat_server: Any, random_clip: Any, script: list[Any],
                                               calls: int, reason: str | None, problem: str) -> None:
    module_chat_server.bodies.clear()
    module_chat_server.script = script
    found = ask(engine, random_clip(2))
    assert len(module_chat_server.bodies) == calls
    if reason is None:
        assert found[0].text == "<answer>A</answer>"
        return
    assert isinstance(found, DataError) and (found.reason, found.sample_id) == (reason, "s7")
    assert problem in str(found) and KEY not in str(found)


@pytest.mark.cluster
def test_a_refused_key_is_no_loss_but_the_end_and_a_server_may_not_know_logprobs(
        engine: Any, module_chat_server: Any, random_clip: Any) -> None:
    server = module_chat_server
    server.script = [401]
    refused = ask(engine, random_clip(3))
    assert isinstance(refused, ConfigError) and "HTTP 401, the key was refused; see the model's name, engine.base_url" in str(
        refused) and KEY not in str(refused)
    server.bodies.clear()
    server.script = [400]
    assert ray.get(engine.ready.remote(), timeout=60) == ray.get(engine.ping.remote(), timeout=60)
    assert [body.get("logprobs") for body in server.bodies] == [True, None]
    server.script = [400]
    with pytest.raises(ray.exceptions.RayTaskError, match="does not take a picture") as failed:
        ray.get(engine.ready.remote(), timeout=60)
    assert isinstance(failed.value.cause, ConfigError)


@pytest.mark.cluster
def test_a_sampler_asks_an_endpoint_and_stops_when_the_key_is_refused(
        ray_cluster: object, module_chat_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", KEY)  # which the cluster was started without
    server = module_chat_server
    manifests = build_dataset(EmbeddedDataConfig(
        directory=tmp_path, train_clips=4, validation_clips=4, test_clips=4, question_types=("colour",), processes=1))
    plans = [GroupPlan(f"g{i}", sample, None, {Branch.CLEAN: 1}, SamplingSpec(0.0))
             for i, sample in enumerate(load_manifest(manifests["test"]).samples)]
    sampler = GroupSampler(SamplerConfig(
        run_id="endpoint-test", model_path="eyes-2", model=ModelConfig(), engine=settings(server.url), workers=WorkersConfig(),
        frames=FrameSampling(max_frames=4), cache=None, prompt_template="compact",
        rewards=RewardConfig(weights={"accuracy": 1.0})), EndpointEngine)
    server.script = []
    sampler.start()
    try:
        server.keys.clear()
        server.bodies.clear()
        outcomes = sampler.run(plans)
        assert [outcome.scored.rewards[0]["accuracy"] for outcome in outcomes] == [
            float(plan.sample.solution == "A") for plan in plans]
        assert set(server.keys) == {f"Bearer {KEY}"}
        text = server.bodies[0]["messages"][-1]["content"][-1]["text"]
        assert text in {"\n".join((plan.sample.problem, *plan.sample.options)) for plan in plans}
        server.script = [422]
        (lost,) = sampler.run(plans[:1])
        assert lost.failure.reason == "endpoint_refused"
        server.script = [401] * 4
        with pytest.raises(SquallError, match="HTTP 401, the key was refused"):
            sampler.run(plans)
    finally:
        server.script = []
        sampler.stop()
