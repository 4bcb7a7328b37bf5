"""The sampler: groups in order, losses counted by reason, a killed engine replaced and every answer counted once."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError

from squall.actors.engine_config import EngineActorsConfig
from squall.actors.groups import GroupPlan, SampledOutcome, SamplerConfig, Work, WorkersConfig
from squall.actors.judge_config import JudgeConfig
from squall.actors.placement import Placement
from squall.actors.resources import Demand, ResourcePlan
from squall.actors.rollout_engine import EngineConfig, GenerateRequest
from squall.actors.sampling import GroupSampler
from squall.actors.weight_transfer import EngineFleet, open_sender
from squall.algorithms.corruption import make_spec
from squall.algorithms.difficulty import Difficulty, DifficultyConfig
from squall.algorithms.rewards import RewardConfig
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.manifest import load_manifest
from squall.platform.models import ModelConfig, load_policy
from squall.platform.records import Branch, Clip, Rollout, SamplingSpec
from squall.platform.video import FrameSampling

pytestmark = pytest.mark.cluster
BRANCHES = {Branch.CLEAN: 1, Branch.CORRUPTED: 2, Branch.SHUFFLED: 1}


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> list[GroupPlan]:
    folder = tmp_path_factory.mktemp("clips")
    manifests = build_dataset(EmbeddedDataConfig(directory=folder, train_clips=12, validation_clips=4, test_clips=4))
    (folder / "train" / "000004.mp4").write_text("not a video")
    return [GroupPlan(f"g{i}", sample, make_spec("heavy_rain", 0.5, i), BRANCHES, SamplingSpec(max_tokens=12, seed=i))
            for i, sample in enumerate(load_manifest(manifests["train"]).samples)]


@pytest.fixture(scope="module")
def sampler(ray_cluster: object, policy_dir: Path, module_chat_server):
    judge = JudgeConfig(kind="endpoint", base_url=module_chat_server.url, model="judge-1", api_key_env="SAMPLER_KEY",
                        backoff_s=0.0)
    made = GroupSampler(SamplerConfig(
        run_id="sampling-test", model_path=str(policy_dir), model=ModelConfig(), engine=EngineConfig(max_model_len=1024),
        workers=WorkersConfig(max_groups_in_flight=4), frames=FrameSampling(max_frames=8, max_pixels=56 * 56), cache=None,
        prompt_template="compact", rewards=RewardConfig(weights={"accuracy": 1.0, "reasoning": 0.5}), judge=judge,
        needs_judge=True))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SAMPLER_KEY", "the driver's")  # which the cluster was started without
        made.start()
    yield made
    made.stop()


def test_outcomes_stand_in_order_and_a_broken_file_is_counted(sampler: GroupSampler, plans: list[GroupPlan]) -> None:
    outcomes = sampler.run(plans)
    assert [outcome.plan.group_id for outcome in outcomes] == [plan.group_id for plan in plans]
    assert [i for i, outcome in enumerate(outcomes) if outcome.scored is None] == [4]
    failure, sample = outcomes[4].failure, plans[4].sample
    assert failure.reason == "decode_error" and "\n" not in failure.message
    assert failure.message.startswith(f"{sample.media}: sample {sample.id}: not a readable video")
    group = outcomes[0].scored.sampled
    assert [rollout.branch for rollout in group.rollouts] == [Branch.CLEAN, *[Branch.CORRUPTED] * 2, Branch.SHUFFLED]
    assert len(set(group.clip_hashes.values())) == 3
    assert {clip.content_hash for clip in ray.get(list(outcomes[0].clips.values()))} == set(group.clip_hashes.values())


@pytest.mark.parametrize("role", ["corruption", "reward"])
def test_a_worker_killed_at_work_comes_back_and_nothing_is_lost_or_doubled(sampler: GroupSampler, plans: list[GroupPlan],
                                                                           role: str) -> None:
    before = sampler.run(plans[:2])
    worker = ray.get_actor(f"{role}-0", namespace="squall-sampling-test")
    for _ in range(2):  # the second time before the sampler has asked
        os.kill(process_of(worker), signal.SIGKILL)
    outcomes = sampler.run([plan for plan in plans if plan.group_id != "g4"])
    assert all(outcome.scored is not None for outcome in outcomes)
    assert len({outcome.plan.group_id for outcome in outcomes}) == len(plans) - 1
    assert all(len(outcome.scored.sampled.rollouts) == 4 for outcome in outcomes)
    texts = [[rollout.text for rollout in outcome.scored.sampled.rollouts] for outcome in (*before, *outcomes[:2])]
    assert texts[:2] == texts[2:]
    assert sampler.take_retries().total() > 0
    states = [(change.worker, str(change.after)) for change in sampler.take_changes()]
    assert states.count((f"{role}-0", "dead")) == 2 and {name for name, _ in states} == {f"{role}-0"}


def test_difficulty_is_asked_first_and_spares_the_answers(sampler: GroupSampler, plans: list[GroupPlan],
                                                        module_chat_server) -> None:
    sampler.take_work()
    asked = [replace(plan, difficulty=DifficultyConfig(reading="judge"), group_id=f"{plan.group_id}-judged")
             for plan in plans[:4]]
    found = []
    for plan, script in zip(asked, (["YES 0.9"], ["YES 0.5"], ["NO 0.3"], ["prose", "more prose", "and more"]), strict=True):
        module_chat_server.script = [*script]
        found += sampler.run([plan])
    assert [outcome.assessment and outcome.assessment.difficulty for outcome in found] == [
        Difficulty.EASY, Difficulty.INFORMATIVE, Difficulty.DIFFICULT, None]
    assert [outcome.scored is not None for outcome in found] == [False, True, False, True]
    assert all(outcome.failure is None for outcome in found) and found[2].assessment.confidence == 0.3
    work = sampler.take_work()
    assert work.amounts["answers"] == 8 and work.judged["unparsed"] == 3 and work.judged["failures"] == 1
    pictures = [part for body in module_chat_server.bodies for message in body["messages"]
                for part in (message["content"] if isinstance(message["content"], list) else ()) if part["type"] == "image_url"]
    assert pictures, "the judge was shown the clip"
    assert set(module_chat_server.keys) == {"Bearer the driver's"}


def test_the_policy_assesses_itself_in_the_form_that_is_asked_for(sampler: GroupSampler, plans: list[GroupPlan]) -> None:
    sampler.take_work()
    asked = [replace(plan, difficulty=DifficultyConfig(reading="self", confident_above=1.0)) for plan in plans[:3]]
    found, again = sampler.run(asked), sampler.run(asked)
    assert [outcome.assessment for outcome in found] == [outcome.assessment for outcome in again]
    for outcome in found:
        assert outcome.assessment.confidence in {i / 10 for i in range(11)}
        assert (outcome.scored is None) is (outcome.assessment.difficulty is Difficulty.DIFFICULT)
    assert sampler.take_work().judged["unreadable"] == 0


def test_a_judge_that_gives_no_verdict_loses_the_group_with_its_reason(sampler: GroupSampler, plans: list[GroupPlan],
                                                                     module_chat_server) -> None:
    module_chat_server.script = ["prose"] * 50
    (outcome,) = sampler.run([replace(plans[5], sampling=replace(plans[5].sampling, seed=99))])
    module_chat_server.script = []
    assert outcome.scored is None and outcome.failure.reason == "judge_unparsed"
    assert plans[5].sample.id in outcome.failure.message and "\n" not in outcome.failure.message


@ray.remote
class NamedEngine:
    """Answers with the name of its actor."""

    def __init__(self, model_path: str, config: EngineActorsConfig, log: Path | None = None) -> None:
        self._name = ray.get_runtime_context().get_actor_name()

    def ready(self) -> int:
        return os.getpid()

    def ping(self) -> int:
        return os.getpid()

    def generate(self, request: GenerateRequest, clip: Clip) -> tuple[Rollout, ...]:
        time.sleep(0.05)
        return tuple(Rollout(request.sample_id, request.attempt_id, request.branch, clip.content_hash, number, request.sampling,
                             (1,), self._name, (0.0,), 0, "stop") for number in range(request.n))


def test_all_branches_of_a_group_are_asked_of_one_engine_in_its_reserved_place(ray_cluster, policy_dir: Path,
                                                                              plans: list[GroupPlan]) -> None:
    placement = Placement("branches")
    placement.reserve(ResourcePlan([Demand("engine", 3, 0.2), Demand("corruption worker", 1, 0.2)]), ray_cluster, 60)
    made = GroupSampler(SamplerConfig(
        run_id="branches", model_path=str(policy_dir), model=ModelConfig(), engine=EngineActorsConfig(count=3, cpus=0.2),
        workers=WorkersConfig(corruption_cpus=0.2), frames=FrameSampling(max_frames=8, max_pixels=56 * 56), cache=None,
        prompt_template="compact", rewards=RewardConfig(weights={"accuracy": 1.0})), NamedEngine, placement=placement)
    try:
        made.start()
        began = time.monotonic()
        outcomes = made.run([plan for plan in plans if plan.group_id != "g4"])
        busy = made.take_work().metrics(time.monotonic() - began)
        engines = [{rollout.text for rollout in outcome.scored.sampled.rollouts} for outcome in outcomes]
        held = ray.util.placement_group_table()
        assert all(len(names) == 1 for names in engines)
        assert set.union(*engines) == {"engine-0", "engine-1", "engine-2"}
        assert [entry["state"] for entry in held.values() if entry["name"].startswith("squall-branches")] == ["CREATED"] * 2
        assert all(0 < busy[f"busy/{role}"] <= 1 for role in ("engine", "corruption", "reward"))
        # three branches of 50 ms, one after the other, for each of the groups over three engines
        assert busy["busy/engine"] * (time.monotonic() - began) > 0.15 * len(outcomes) / 3
    finally:
        made.stop()
        placement.remove()


def test_the_time_of_engines_counts_once() -> None:
    work, covered = Work(answering={"engine-0": [(12.0, 14.0), (10.0, 13.0)], "engine-1": [(10.0, 11.0)]}), Counter()
    work.count_answering(2, covered)
    assert work.busy_s["engine"] == (4.0 + 1.0) / 2
    later = Work(answering={"engine-0": [(13.0, 15.0)]})
    later.count_answering(2, covered)
    assert later.metrics(1.0)["busy/engine"] == 0.5


def process_of(worker) -> int:
    """The worker's process id, once it answers."""
    while True:
        try:
            return ray.get(worker.ping.remote(), timeout=30)
        except RayActorError:
            time.sleep(0.1)


def test_an_engine_that_comes_back_samples_from_the_current_weights(sampler: GroupSampler, plans: list[GroupPlan],
                                                                    policy_dir: Path) -> None:
    weights = {name: tensor * 1.05 for name, tensor in load_policy(str(policy_dir)).state_dict().items()}
    fleet = EngineFleet(sampler.engines, 1, vision_changed=True, timeout_s=120)

    early: list[SampledOutcome] = []

    def take_in() -> None:
        early.extend(outcome for _, outcome in sampler.poll(0.5))

    def publish(version: int, engines: Sequence[int], *, reconnect: bool, meanwhile: Callable[[], None]) -> dict[int, str]:
        while version == 3 and not early:  # what was asked before comes in while the new weights are on their way
            meanwhile()
        fleet.aim(version, engines)
        open_sender("shared_memory", 0, fleet, weights.items()).send_weights()
        return fleet.lost

    sampler.connect(publish)
    sampler.submit("early", plans[0])
    sampler.update_weights(3, take_in)
    assert {rollout.weight_version for rollout in early[0].scored.sampled.rollouts} == {0}
    before = sampler.run(plans[:2])
    os.kill(ray.get(sampler.engines[0].ready.remote()), signal.SIGKILL)  # while nothing is asked
    sampler.update_weights(4)
    after = sampler.run(plans[:2])
    versions = [{rollout.weight_version for outcome in outcomes for rollout in outcome.scored.sampled.rollouts}
                for outcomes in (before, after)]
    assert versions == [{3}, {4}]
    texts = [[rollout.text for rollout in outcome.scored.sampled.rollouts] for outcome in (*before, *after)]
    assert texts[:2] == texts[2:]
