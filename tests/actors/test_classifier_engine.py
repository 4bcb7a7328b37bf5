"""A classifier in an actor: the same answers alone and in batches, from a sampler as a policy's, and losses by reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from squall.actors.classifier_engine import ClassifierEngine, ClassifierEngineConfig
from squall.actors.groups import GroupPlan, SamplerConfig, WorkersConfig
from squall.actors.rollout_engine import GenerateRequest
from squall.actors.sampling import GroupSampler
from squall.actors.supervisor import Supervisor
from squall.algorithms.corruption import make_spec
from squall.algorithms.rewards import RewardConfig
from squall.platform.class_list import candidates, choose
from squall.platform.classifiers import ClassifierConfig, open_classifier
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.embedded.scenes import COLOURS
from squall.platform.errors import DataError, SquallError
from squall.platform.manifest import load_manifest
from squall.platform.models import ModelConfig
from squall.platform.records import Branch, SamplingSpec
from squall.platform.video import FrameSampling

pytestmark = pytest.mark.cluster
OPTIONS = ("A. green", "B. red", "C. white")


@pytest.fixture(scope="module")
def engine(ray_cluster: object, colours: Path) -> Iterator[Any]:
    actor = ClassifierEngine.options(num_cpus=0).remote(str(colours), ClassifierEngineConfig(max_batch=8, wait_ms=50))
    ray.get(actor.ready.remote(), timeout=300)
    yield actor
    ray.kill(actor)


def request(index: int, options: tuple[str, ...] = OPTIONS, n: int = 1) -> GenerateRequest:
    return GenerateRequest("Which?", f"s{index}", f"s{index}#0", Branch.CLEAN, n, SamplingSpec(), options)


def test_answers_are_the_same_alone_and_in_a_batch_and_stand_for_their_own_clips(
        engine: Any, colours: Path, random_clip: Any) -> None:
    clips = [random_clip(i, frames=3 + i) for i in range(8)]
    together = ray.get([engine.generate.remote(request(i), clip) for i, clip in enumerate(clips)], timeout=60)
    alone = [ray.get(engine.generate.remote(request(i), clip), timeout=60) for i, clip in enumerate(clips)]
    assert [(r[0].text, r[0].token_ids) for r in together] == [(r[0].text, r[0].token_ids) for r in alone]
    classifier = open_classifier(str(colours), ClassifierConfig())
    for i, (clip, (rollout,)) in enumerate(zip(clips, together, strict=True)):
        (found,) = classifier.probabilities(clip.frames[None])
        answer, classes, logs = choose(found, candidates("s", OPTIONS, tuple(COLOURS)))
        assert (rollout.sample_id, rollout.clip_hash, rollout.finish_reason) == (f"s{i}", clip.content_hash, "stop")
        assert (rollout.text, rollout.token_ids) == (f"<answer>{answer}</answer>", classes)
        assert rollout.logprobs == pytest.approx(logs, abs=1e-4) and len(classes) == 5
    assert len({r[0].logprobs for r in together}) == 8


def test_a_question_may_have_no_options_and_one_with_an_unknown_one_is_lost_by_name(engine: Any, random_clip: Any) -> None:
    first, second = ray.get(engine.generate.remote(request(1, (), n=2), random_clip(1)), timeout=60)
    assert first.text == f"<answer>{list(COLOURS)[first.token_ids[0]]}</answer>" and first.logprobs == tuple(
        sorted(first.logprobs, reverse=True))
    assert (first.index, second.index) == (0, 1) and replace(second, index=0) == first
    with pytest.raises(ray.exceptions.RayTaskError) as failed:
        ray.get(engine.generate.remote(request(2, ("A. teal", "B. red")), random_clip(1)), timeout=60)
    assert isinstance(failed.value.cause, DataError) and failed.value.cause.reason == "unknown_class"
    assert ray.get(engine.ping.remote(), timeout=60) == ray.get(engine.ready.remote(), timeout=60)


def sampler_of(model: str, engine: ClassifierEngineConfig) -> GroupSampler:
    return GroupSampler(SamplerConfig(
        run_id="classifier-test", model_path=model, model=ModelConfig(), engine=engine,
        workers=WorkersConfig(max_groups_in_flight=8), frames=FrameSampling(max_frames=8), cache=None,
        prompt_template="compact", rewards=RewardConfig(weights={"accuracy": 1.0})), ClassifierEngine)


def test_a_sampler_asks_a_classifier_as_it_asks_a_policy(ray_cluster: object, colours: Path, tmp_path: Path) -> None:
    manifests = build_dataset(EmbeddedDataConfig(
        directory=tmp_path, train_clips=4, validation_clips=4, test_clips=4, question_types=("colour", "shape"), processes=1))
    plans = [GroupPlan(f"g{i}", sample, make_spec("night", 0.5, i), {Branch.CLEAN: 1, Branch.CORRUPTED: 1}, SamplingSpec())
             for i, sample in enumerate(load_manifest(manifests["test"]).samples)]
    sampler = sampler_of(str(colours), ClassifierEngineConfig())
    sampler.start()
    try:
        outcomes = sampler.run(plans)
    finally:
        sampler.stop()
    for plan, outcome in zip(plans, outcomes, strict=True):
        if plan.sample.metadata["question_type"] == "shape":
            assert outcome.failure.reason == "unknown_class" and plan.sample.id in outcome.failure.message
            continue
        group = outcome.scored.sampled
        assert group.prompt == "\n".join((plan.sample.problem, *plan.sample.options))
        for rollout, rewards in zip(group.rollouts, outcome.scored.rewards, strict=True):
            assert rewards["accuracy"] == float(rollout.text == f"<answer>{plan.sample.solution}</answer>")
            assert 1 / len(plan.sample.options) <= np.exp(rollout.logprobs[0]) <= 1.0
            assert np.exp(rollout.logprobs[1:]).sum() < 1.0 + 1e-5


def test_a_model_that_cannot_be_used_is_refused_with_its_reason_as_it_starts(ray_cluster: object, colours: Path,
                                                                           tmp_path: Path) -> None:
    from transformers import VideoMAEImageProcessor

    for file in colours.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    VideoMAEImageProcessor(size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42}).save_pretrained(tmp_path)
    actor = ClassifierEngine.options(num_cpus=0).remote(str(tmp_path), ClassifierEngineConfig())
    with pytest.raises(SquallError, match=r"engine-0 could not start: .*cannot classify a clip of shape \(4, 64, 64, 3\): "
                                          r"ValueError: Input image size \(42\*42\)"):
        Supervisor(startup_timeout_s=300).add("engine", [actor])
    ray.kill(actor)
