from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import ray

from squall.actors.corruption_worker import CorruptionWorker, Rendering
from squall.actors.judge_config import JudgeConfig
from squall.actors.reward_worker import RewardWorker
from squall.algorithms.corruption import make_spec
from squall.algorithms.rewards import RewardConfig
from squall.platform.errors import DataError
from squall.platform.records import (
    Branch,
    MediaType,
    ProblemType,
    Rollout,
    SamplingSpec,
    VideoSample,
    hash_clip,
)
from squall.platform.video import FrameSampling, encode_video

pytestmark = pytest.mark.cluster
BRANCHES = (Branch.CLEAN, Branch.CORRUPTED, Branch.SHUFFLED)
SPEC = make_spec("heavy_rain", 0.8, seed=3)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "ramp.mp4"
    frames = np.stack([np.full((56, 56, 3), 20 * i, np.uint8) for i in range(12)])
    encode_video(path, frames, fps=12.0)
    return path


@pytest.fixture(scope="module")
def corruption_worker(ray_cluster):
    actor = CorruptionWorker.options(num_cpus=0.5).remote(0.5, FrameSampling(max_frames=8, resize=(56, 56)), None)
    yield actor
    ray.kill(actor)


def sample(media: Path, sample_id: str = "s1") -> VideoSample:
    return VideoSample(sample_id, str(media), MediaType.VIDEO, "Which?", ProblemType.MULTIPLE_CHOICE, "A",
                       ("A. red", "B. blue"))


def prepare(worker, question: VideoSample, seed: int = 1):
    return worker.prepare.options(num_returns=1 + len(BRANCHES)).remote(question, SPEC, BRANCHES, seed)


def test_each_branch_is_an_object_of_its_own_with_the_hash_of_its_pixels(corruption_worker, video: Path):
    rendering, *clips = ray.get(prepare(corruption_worker, sample(video)))
    hashes = rendering.clip_hashes
    assert rendering.frames == 3 * 8 and rendering.corruption_s > 0
    assert list(hashes) == list(BRANCHES) and len(set(hashes.values())) == 3
    for branch, clip in zip(BRANCHES, clips, strict=True):
        assert clip.frames.shape == (8, 56, 56, 3)
        assert hash_clip(clip.frames, clip.fps) == clip.content_hash == hashes[branch]
    ordered, corrupted, shuffled = (clip.frames for clip in clips)
    assert not np.array_equal(ordered, corrupted)
    assert sorted(frame.tobytes() for frame in corrupted) == sorted(frame.tobytes() for frame in shuffled)


def test_the_same_call_gives_the_same_pixels_and_another_seed_another_order(corruption_worker, video: Path):
    first, again, other = (ray.get(prepare(corruption_worker, sample(video), seed)[0]).clip_hashes for seed in (1, 1, 2))
    assert first == again
    assert first[Branch.CORRUPTED] == other[Branch.CORRUPTED] and first[Branch.SHUFFLED] != other[Branch.SHUFFLED]


def test_missing_media_is_an_error_with_the_sample_id(corruption_worker, video: Path):
    with pytest.raises(DataError, match="gone-3") as failed:
        ray.get(prepare(corruption_worker, sample(video.with_name("gone.mp4"), "gone-3"))[0])
    assert (failed.value.reason, failed.value.sample_id) == ("missing_media", "gone-3")


def rollout(branch: Branch, index: int, text: str) -> Rollout:
    return Rollout("s1", "s1#1", branch, "0" * 32, index, SamplingSpec(), (1, 2), text, (-0.1, -0.2), 0, "stop")


def score(weights: dict[str, float], video: Path):
    worker = RewardWorker.options(num_cpus=0.25).remote(0.25, RewardConfig(weights=weights), JudgeConfig())
    clean = (rollout(Branch.CLEAN, 0, "<think>x</think><answer>A</answer>"), rollout(Branch.CLEAN, 1, "A"))
    corrupted = (rollout(Branch.CORRUPTED, 0, "<think>x</think><answer>B</answer>"),)
    try:
        scored = worker.score.remote("g1", sample(video), "prompt", SPEC, Rendering({}, 0, 0.0), clean, corrupted)
        return ray.get(scored, timeout=60).scored
    finally:
        ray.kill(worker)


def test_a_group_is_put_together_and_scored(ray_cluster, video: Path):
    scored = score({"accuracy": 1.0, "format": 1.0}, video)
    assert [r.branch for r in scored.sampled.rollouts] == [Branch.CLEAN, Branch.CLEAN, Branch.CORRUPTED]
    assert [dict(reward) for reward in scored.rewards] == [
        {"accuracy": 1.0, "format": 1.0}, {"accuracy": 0.0, "format": 0.0}, {"accuracy": 0.0, "format": 1.0}]


def test_a_reward_that_raises_is_a_failure_and_not_a_zero(ray_cluster, video: Path):
    with pytest.raises(DataError, match="reward 'operator:truediv' failed on sample s1: TypeError") as failed:
        score({"operator:truediv": 1.0}, video)
    assert failed.value.reason == "reward_error"


@ray.remote(num_cpus=0)
def answers_after(seconds: float) -> tuple[Rollout, ...]:
    time.sleep(seconds)
    return (Rollout("s1", "s1#0", Branch.CLEAN, "h", 0, SamplingSpec(), (1,), "<answer>A</answer>", (-0.5,), 0, "stop"),)


def test_a_reward_worker_answers_and_scores_while_an_earlier_group_waits_for_its_answers(ray_cluster, video: Path):
    worker = RewardWorker.options(num_cpus=0.1).remote(0.1, RewardConfig(weights={"accuracy": 1.0}), JudgeConfig())
    arguments = ("g", sample(video), "prompt", None, Rendering({Branch.CLEAN: "h"}, 8, 0.0))
    slow = worker.score.remote(*arguments, answers_after.remote(12.0))
    fast = worker.score.remote(*arguments, answers_after.remote(0.0))
    assert ray.get(worker.ping.remote(), timeout=10) > 0
    assert ray.get(fast, timeout=10).scored.rewards[0]["accuracy"] == 1.0
    assert ray.wait([slow], timeout=0)[0] == []
    ray.kill(worker)
