"""A run directory as a training job leaves it, small, with clips on disk, and without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from squall.algorithms.corruption import make_spec, render_clip
from squall.jobs.tgrpo import TGRPOJobConfig
from squall.platform.config import dump_yaml, load_config
from squall.platform.records import (
    Branch,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    ScoredGroup,
    TrainGroup,
    VideoSample,
)
from squall.platform.runs import RunDirectory
from squall.platform.store import RolloutStore
from squall.platform.video import FrameSampling, encode_video, load_clip

FRAMES = FrameSampling(max_frames=4, max_pixels=28 * 28)
KINDS = ("night", "heavy_rain", "fog")

GroupMaker = Callable[..., ScoredGroup]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 8 frames."""
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    encode_video(path, np.random.default_rng(0).integers(0, 256, (8, 56, 56, 3), dtype=np.uint8), 8.0)
    return path


@pytest.fixture
def make_group(media: Path) -> GroupMaker:
    """Make a scored group: `right` of two corrupted answers are right, one clean answer is."""
    def make(number: int, kind: str | None, severity: float, right: int, text: str = "") -> ScoredGroup:
        sample = VideoSample(f"clip-{number}", str(media), MediaType.VIDEO, "What colour?", ProblemType.MULTIPLE_CHOICE, "B",
                             ("A. red", "B. blue"))
        spec = make_spec(kind, severity, number) if kind else None
        clip = load_clip(media, FRAMES, sample_id=sample.id)
        seen = {Branch.CLEAN: clip} | ({Branch.CORRUPTED: render_clip(clip, spec)} if spec else {})
        hashes = {branch: shown.content_hash for branch, shown in seen.items()}
        rollouts, rewards = [], []
        for branch, index in ((Branch.CLEAN, 0), *(((Branch.CORRUPTED, 0), (Branch.CORRUPTED, 1)) if spec else ())):
            correct = branch is Branch.CLEAN or index < right
            words = f"<think>{text or branch.value}</think><answer>{'B' if correct else 'A'}</answer>"
            rollouts.append(Rollout(sample.id, f"{number}#0", branch, hashes[branch], index, SamplingSpec(), (1, 2), words,
                                    (-0.5, -0.1), 3, "stop"))
            rewards.append({"accuracy": float(correct), "format": 0.5})
        return ScoredGroup(SampledGroup(f"g{number}", sample, "prompt", spec, hashes, tuple(rollouts)), tuple(rewards))
    return make


@pytest.fixture
def stored_run(tmp_path: Path, make_group: GroupMaker) -> RunDirectory:
    """A run of 5 stored steps. Each has a trained group of night (both corrupted answers right), one of rain (one right) and
    a dropped one of fog (none right), at severities 0.5, 0.3 and 0.1."""
    run = RunDirectory.create(tmp_path, "tgrpo", "run")
    run.write_config(dump_yaml(load_config(TGRPOJobConfig, "@demo", [
        "data.train=train.jsonl", "steps=5", "rewards.weights={accuracy: 1.0, format: 0.2}",
        f"data.frames={FRAMES.model_dump_json()}"])))
    store = RolloutStore(run.rollouts)
    for step in range(5):
        night, rain, fog = (make_group(10 * step + i, kind, 0.5 - 0.2 * i, 2 - i) for i, kind in enumerate(KINDS))
        trained = [TrainGroup(group, (0.5,) * len(group.rewards)) for group in (night, rain)]
        store.write(step, trained, [("zero_variance", fog)])
    return run
