"""Two Ray Train workers, with DeepSpeed or without, train what one process without Ray does, from its checkpoint on, and write
what opens as a Hugging Face VideoMAE."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch
from small_tats import MODEL

from squall.actors.clip_sources import ClipSource, make_clip_source
from squall.actors.masked_video_files import restore_checkpoint, write_checkpoint
from squall.actors.masked_video_loop import DeepSpeedConfig, HeldOutClips, MaskedVideoLearner, MaskedVideoWorkersConfig
from squall.algorithms.masked_video.measures import HeldOut
from squall.algorithms.masked_video.step import JointTraining
from squall.algorithms.masked_video.training_config import MaskedVideoConfig
from squall.platform.clip_data import TatsDataConfig
from squall.platform.config import load_config
from squall.platform.errors import SquallError

SETTINGS = [*MODEL, "microbatch_clips=2", "optimiser.warmup_steps=2",
            "sampler_training={warmup_steps: 2, optimiser: {learning_rate: 0.003}}"]
STEPS, FIRST = 6, 4


@pytest.fixture(scope="module")
def config() -> MaskedVideoConfig:
    return load_config(MaskedVideoConfig, None, SETTINGS)


@pytest.fixture(scope="module")
def source(config: MaskedVideoConfig) -> ClipSource:
    return make_clip_source(TatsDataConfig(train_clips=16), config.autoencoder.grid(), "train", 3)


def advance(training: JointTraining, source: ClipSource, until: int) -> list[dict[str, float]]:
    own = training.share.of(training.config.batch_clips)
    return [training.advance(*source.batch(step, training.config.batch_clips, own)) for step in range(training.step, until)]


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    names = {name for row in rows for name in row}
    return {name: sum(found) / len(found) for name in names for found in [[row[name] for row in rows if name in row]]}


@pytest.mark.cluster
@pytest.mark.parametrize("deepspeed", [None, DeepSpeedConfig(zero_stage=2)], ids=["plain", "zero2"])
def test_two_workers_go_on_from_one_process_as_it_would(ray_cluster: object, tmp_path: Path, config: MaskedVideoConfig,
                                                        source: ClipSource, deepspeed: DeepSpeedConfig | None) -> None:
    alone = JointTraining(config, STEPS)
    advance(alone, source, FIRST)
    write_checkpoint(alone, {"seconds": 1.0, "peak_bytes": 1 << 40, "dropped": ["a clip of before"]}, tmp_path / "first")
    expected = means(advance(alone, source, STEPS))

    clips = source.all()
    held = HeldOutClips((HeldOut("still", clips.clips, clips.motion, clips.labels),), None, 4, draws=1, examples=1)
    learner = MaskedVideoLearner(MaskedVideoWorkersConfig(workers=2, cpus=0.5, deepspeed=deepspeed), config, STEPS,
                                 ray.put(source), ray.put(held), tmp_path, resume=tmp_path / "first")
    try:
        assert learner.start() == {"step": FIRST, "device": "cpu"}
        row = learner.advance(STEPS)
        (tmp_path / "second").mkdir()
        learner.save(tmp_path / "second")
        facts = learner.finish(tmp_path / "model")
    finally:
        learner.stop()
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert row["speed/tokens_per_second"] == pytest.approx(6 * 8 / row["time/step"])
    assert facts["seconds"] > 1.0 and facts["peak_bytes"] == 1 << 40, "what was measured before the checkpoint counts"
    assert facts["dropped"] == ["a clip of before"]
    assert facts["sampler_updates"] == alone.learner.updates and len(facts["measured"].rows()) == 16

    again = JointTraining(config, STEPS)
    assert restore_checkpoint(again, tmp_path / "second")["dropped"] == ["a clip of before"]
    assert again.numbers() == pytest.approx(alone.numbers())
    same_weights(again.autoencoder, alone.autoencoder)
    same_weights(again.sampler, alone.sampler)
    opens_as_videomae(tmp_path / "model", again, source)


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    for (name, weight), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.allclose(weight, other, atol=2e-5), name


def opens_as_videomae(folder: Path, training: JointTraining, source: ClipSource) -> None:
    from transformers import VideoMAEForPreTraining, VideoMAEImageProcessor

    model, loading = VideoMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    clips, _ = source.batch(0, 3, slice(0, 3))
    frames = [list(clip.permute(1, 2, 3, 0).numpy()) for clip in clips]
    pixels = VideoMAEImageProcessor.from_pretrained(folder)(frames, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        ours = training.autoencoder.encode(training.autoencoder.embed(clips.float() / 255))
        theirs = model.videomae(pixels).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-4)
    facts = json.loads((folder / "squall.json").read_text())
    assert facts["training"]["steps"] == STEPS and facts["config"]["sampler"]["kind"] == "tats"
    assert MaskedVideoConfig.model_validate(facts["config"]) == training.config


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path, config: MaskedVideoConfig) -> None:
    write_checkpoint(JointTraining(config, STEPS), {}, tmp_path)
    wider = load_config(MaskedVideoConfig, None, [*SETTINGS, "autoencoder.width=24"])
    with pytest.raises(SquallError, match=r"a checkpoint of another size: embedding.weight has shape \(16, .* not \(24"):
        restore_checkpoint(JointTraining(wider, STEPS), tmp_path)


PEAKS = """
import torch
from squall.actors.peak_memory import PeakMemory
memory = PeakMemory(torch.device("cpu"))
print(memory.bytes)
held = torch.ones(16 << 20)
del held
print(memory.bytes)
memory.restart()
print(memory.bytes)
"""


def test_peak_memory_is_what_the_process_grew_by_at_most() -> None:
    """In a process of its own: one that frees what others left in it grows by less than it takes."""
    ended = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, timeout=120)
    before, peak, after = map(int, ended.stdout.split())
    held = 64 << 20
    assert before < held // 4 and held * 0.9 < peak < held * 2 and after < held // 4
