"""The learner: the same rollouts give the same loss on one worker and on two, and gradients that move the policy."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file

from squall.actors import deepspeed_backend
from squall.actors.deepspeed_backend import OptimiserConfig
from squall.actors.learner import Learner, LearnerConfig
from squall.actors.learner_worker import LearnerWeights, RestoredState
from squall.actors.rollout_buffer import TrainBatch, TrainSequence
from squall.actors.rollout_engine import GenerateRequest
from squall.actors.weight_transfer import EngineFleet, open_sender
from squall.actors.worker_group import trainer_class
from squall.algorithms.packing import PackedRow, collate
from squall.algorithms.policy import encode_prompt
from squall.algorithms.scoring import AnswerScorer
from squall.algorithms.tgrpo import TGRPOConfig
from squall.platform.errors import SquallError
from squall.platform.models import (
    LoraConfig,
    ModelConfig,
    add_lora,
    banned_token_ids,
    load_policy,
    load_processor,
    render_prompt,
)
from squall.platform.records import Branch, SamplingSpec, make_clip


@pytest.fixture(scope="module")
def batch(ray_cluster: object, policy_dir: Path) -> TrainBatch:
    processor = load_processor(str(policy_dir))
    sequences, clips = [], {}
    for seed in range(4):
        clip = make_clip(np.random.default_rng(seed).integers(0, 256, (8, 56, 56, 3), dtype=np.uint8), 2.0)
        content = [{"type": "video"}, {"type": "text", "text": "What colour is the moving shape?"}]
        prompt = render_prompt(processor, [{"role": "user", "content": content}])
        clips[clip.content_hash] = ray.put(clip)
        for letter, advantage in zip("ABCD", (1.5, -0.5, -0.5, -0.5), strict=True):
            text = f"<think>red</think><answer>{letter}</answer><|im_end|>"
            ids = tuple(processor.tokenizer(text)["input_ids"])
            sequences.append(TrainSequence(prompt, clip.content_hash, ids, advantage, tuple([-0.5] * len(ids))))
    return TrainBatch(0, tuple(sequences), clips)


def train(batch: TrainBatch, path: Path, workers: int, zero_stage: int, model: ModelConfig | None = None, *, steps: int = 2,
          resume: Path | None = None, shared: bool = True) -> list[dict]:
    """Metrics of `steps` steps on the same batch; a checkpoint after each is left in ``path/after-1`` and so on."""
    config = LearnerConfig(workers=workers, cpus=0.5, tokens_per_microbatch=300, shared_prefix=shared,
                           optimiser=OptimiserConfig(learning_rate=1e-3, zero_stage=zero_stage))
    learner = Learner(config, model or ModelConfig(), "tgrpo", path, total_steps=2, tgrpo=TGRPOConfig(), resume=resume)
    learner.start()
    try:
        results = []
        for number in range(1, steps + 1):
            results.append(learner.step(batch))
            (path / f"after-{number}").mkdir()
            learner.save(path / f"after-{number}")
        return results
    finally:
        learner.stop()


def saved_weights(path: Path, steps: int) -> dict:
    return load_file(path / f"after-{steps}" / "model.safetensors")


@pytest.fixture(scope="module")
def one_worker(batch: TrainBatch, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], Path]:
    """Two steps on one worker without ZeRO, every answer behind a prompt of its own; their metrics and checkpoints."""
    path = tmp_path_factory.mktemp("one")
    return train(batch, path, workers=1, zero_stage=0, shared=False), path


@pytest.mark.cluster
def test_no_helper_of_ray_train_asks_another_clusters_dashboard_whether_the_run_lives(ray_cluster: object) -> None:
    ours, rays = ({type(callback).__name__ for callback in made(print)._create_default_callbacks()}
                  for made in (trainer_class(), TorchTrainer))
    assert rays - ours == {"PlacementGroupCleanerCallback"} and "BackendSetupCallback" in ours


@pytest.mark.cluster
def test_a_checkpoint_goes_on_bit_by_bit(batch: TrainBatch, one_worker: tuple[list[dict], Path], tmp_path: Path) -> None:
    whole, path = one_worker
    (again,) = train(batch, tmp_path, workers=1, zero_stage=0, shared=False, steps=1, resume=path / "after-1")
    for name in ("loss", "kl", "grad_norm", "entropy", "learning_rate"):
        assert again[name] == whole[1][name], name
    weights, others = saved_weights(path, 2), saved_weights(tmp_path, 1)
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    with pytest.raises(SquallError, match="a checkpoint of another model: '.*' and .* more parameters are in only one"):
        RestoredState(path / "after-1").load_weights([("other", torch.nn.Parameter(torch.zeros(2)))])


@pytest.mark.cluster
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_a_checkpoint_goes_on_with_shared_prompts_on_two_sharded_workers(
        batch: TrainBatch, one_worker: tuple[list[dict], Path], zero_stage: int, tmp_path: Path) -> None:
    one, path = one_worker
    (two,) = train(batch, tmp_path, workers=2, zero_stage=zero_stage, steps=1, resume=path / "after-1")
    assert one[1]["tokens"] == two["tokens"] == batch.token_count
    for name in ("loss", "kl", "importance", "mismatch", "entropy", "grad_norm"):
        assert two[name] == pytest.approx(one[1][name], rel=1e-4, abs=1e-6), name
    assert one[0]["loss"] != pytest.approx(one[1]["loss"], rel=1e-2) and one[1]["grad_norm"] > 0
    weights, others = saved_weights(path, 2), saved_weights(tmp_path, 1)
    assert weights.keys() == others.keys()
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-3


@pytest.mark.cluster
def test_supervised_loss_is_that_of_the_answers_alone_in_a_batch_of_videos_and_an_image(ray_cluster: object, policy_dir: Path,
                                                                                        random_clip, tmp_path: Path) -> None:
    processor, policy = load_processor(str(policy_dir)), load_policy(str(policy_dir))
    scorer = AnswerScorer(policy, banned_token_ids(processor))
    sequences, clips, expected = [], {}, 0.0
    for seed, (frames, reasoning) in enumerate(((8, "red " * 12), (1, "white"), (4, "two shapes move"))):
        clip = random_clip(seed, frames)
        content = [{"type": str(clip.media_type)}, {"type": "text", "text": "What colour is the moving shape?"}]
        prompt = render_prompt(processor, [{"role": "user", "content": content}])
        ids = tuple(processor.tokenizer(f"<think>{reasoning}</think><answer>A</answer><|im_end|>")["input_ids"])
        clips[clip.content_hash] = ray.put(clip)
        sequences.append(TrainSequence(prompt, clip.content_hash, ids))
        with torch.no_grad():
            alone = PackedRow(encode_prompt(processor, policy, prompt, clip), ((0, ids),))
            expected -= float(scorer(collate([alone], pad_id=0))[0].sum())
    tokens, norms = sum(len(sequence.token_ids) for sequence in sequences), []
    for budget in (10_000, 60):  # all in one micro-batch, and one in each
        path = tmp_path / str(budget)
        path.mkdir()
        config = LearnerConfig(cpus=0.5, tokens_per_microbatch=budget, optimiser=OptimiserConfig(zero_stage=0))
        learner = Learner(config, ModelConfig(), "sft", path, total_steps=1)
        learner.start()
        try:
            result = learner.step(TrainBatch(0, tuple(sequences), clips))
        finally:
            learner.stop()
        assert result["tokens"] == tokens
        assert result["loss"] == pytest.approx(expected / tokens, rel=1e-5), budget
        norms.append(result["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.cluster
def test_lora_moves_the_language_model_alone_and_saves_whole_weights(batch: TrainBatch, policy_dir: Path,
                                                                     tmp_path: Path) -> None:
    results = train(batch, tmp_path, 1, 0, ModelConfig(lora=LoraConfig(rank=4)))
    assert results[1]["loss"] != pytest.approx(results[0]["loss"], rel=1e-2)
    saved, initial = load_policy(str(tmp_path / "after-2")).state_dict(), load_policy(str(policy_dir)).state_dict()
    assert saved.keys() == initial.keys()
    moved = {name for name in saved if not torch.equal(saved[name], initial[name])}
    assert moved and all("language_model" in name and "_proj." in name for name in moved)


def test_adapters_are_merged_into_what_is_handed_over_and_the_base_keeps_its_bits(policy_dir: Path) -> None:
    policy = add_lora(load_policy(str(policy_dir)), LoraConfig(rank=4))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    before = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    worker = SimpleNamespace(rank=0, backend=deepspeed_backend, model_config=ModelConfig(lora=LoraConfig(rank=4)),
                             settings=LearnerConfig(), engine=SimpleNamespace(module=SimpleNamespace(policy=policy)))
    handed = dict(LearnerWeights(worker))
    assert all(torch.equal(parameter, before[name]) for name, parameter in policy.named_parameters())
    merged = policy.merge_and_unload().state_dict()
    assert handed.keys() == merged.keys() == load_policy(str(policy_dir)).state_dict().keys()
    for name, tensor in handed.items():
        torch.testing.assert_close(tensor, merged[name])


@pytest.mark.cluster
def test_two_sharded_workers_hand_their_weights_to_an_engine(batch: TrainBatch, engine: object, policy_dir: Path,
                                                             tmp_path: Path) -> None:
    fleet = EngineFleet([engine], 1, vision_changed=True, timeout_s=60)
    config = LearnerConfig(workers=2, cpus=0.5, tokens_per_microbatch=300,
                           optimiser=OptimiserConfig(learning_rate=1e-3, zero_stage=3))
    learner = Learner(config, ModelConfig(), "tgrpo", tmp_path, total_steps=2, tgrpo=TGRPOConfig(), fleet=fleet)
    learner.start()
    try:
        clip = next(iter(batch.clips.values()))
        request = GenerateRequest(batch.sequences[0].prompt, "s", "s#0", Branch.CLEAN, 1, SamplingSpec(0.0, 1.0, 8, 0))
        before = ray.get(engine.generate.remote(request, clip), timeout=60)[0]
        learner.step(batch)
        assert learner.publish(1) == {}
        after = ray.get(engine.generate.remote(request, clip), timeout=60)[0]
        assert (before.weight_version, after.weight_version) == (0, 1)
        assert after.logprobs != before.logprobs
        assert learner.publish(2, reconnect=True) == {}
    finally:
        learner.stop()
        fleet.aim(0)
        open_sender("shared_memory", 0, fleet, load_policy(str(policy_dir)).state_dict().items()).send_weights()
    assert ray.get(engine.generate.remote(request, clip), timeout=60)[0].logprobs == pytest.approx(before.logprobs, abs=1e-5)


@pytest.mark.cluster
def test_a_batch_with_fewer_prompts_than_updates_is_refused(batch: TrainBatch, tmp_path: Path) -> None:
    learner = Learner(LearnerConfig(updates_per_step=5), ModelConfig(), "tgrpo", tmp_path, total_steps=1, tgrpo=TGRPOConfig())
    with pytest.raises(SquallError, match="4 clips with a prompt cannot be shared out over learner.updates_per_step 5"):
        learner.step(batch)
