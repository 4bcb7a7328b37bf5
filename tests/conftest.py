"""One Ray cluster and one vLLM engine serve every test of a run that asks for them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from squall.platform.models import EMBEDDED_POLICY
from squall.platform.records import Clip, MediaType, make_clip


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: a shell that runs `make test &` has it ignored, by children too."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """The models of tests are so small that several threads of torch only wait for each other; workers set their own."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Show at once what failed: the whole takes long, and may be broken off."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:  # which hands it on to the process that began it
        print(f"\n{report.nodeid}\n{report.longreprtext}", file=sys.__stdout__, flush=True)


@pytest.fixture(autouse=True)
def commands_end() -> Iterator[None]:
    """Commands in processes of their own end with their test."""
    yield
    if "processes" in sys.modules:
        sys.modules["processes"].Command.end_all()


@pytest.fixture(scope="session")
def policy_dir() -> Path:
    """The policy that ships with Squall."""
    return EMBEDDED_POLICY


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[object]:
    """A local cluster with 8 logical CPUs, so that tests need not wait for each other's actors."""
    from squall.actors.cluster import start_ray, stop_ray

    yield start_ray(num_cpus=8)
    stop_ray()


@pytest.fixture(scope="session")
def engine(ray_cluster: object, policy_dir: Path) -> Iterator[object]:
    """A rollout engine with the shipped policy. A test that changes its weights puts them back."""
    import ray

    from squall.actors.rollout_engine import EngineConfig, RolloutEngine

    actor = RolloutEngine.options(num_cpus=1, name="engine-0", namespace="squall-tests").remote(
        str(policy_dir), EngineConfig(max_model_len=1024, dtype="float32"))
    ray.get(actor.ready.remote(), timeout=180)
    yield actor
    ray.kill(actor)


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VideoMAE with random weights that knows the colours of the embedded clips."""
    import torch
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessor

    from squall.platform.embedded.scenes import COLOURS

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("colours")
    VideoMAEForVideoClassification(VideoMAEConfig(
        image_size=28, num_frames=4, patch_size=14, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, initializer_range=0.5, id2label=dict(enumerate(COLOURS)),
        label2id={name: i for i, name in enumerate(COLOURS)})).save_pretrained(folder)
    VideoMAEImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture
def random_clip() -> object:
    """Factory of noise clips: ``random_clip(seed, frames=8, side=56, fps=2.0)``."""

    def make(seed: int, frames: int = 8, side: int = 56, fps: float = 2.0) -> Clip:
        pixels = np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
        return make_clip(pixels, fps, media_type=MediaType.IMAGE if frames == 1 else MediaType.VIDEO)

    return make
