from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
import torch

from squall.actors import weight_transfer
from squall.actors.rollout_engine import GenerateRequest, _unlink_shared_buffers
from squall.actors.weight_transfer import PREFIX, SHARED_MEMORY, EngineFleet, open_sender
from squall.platform.errors import DataError
from squall.platform.models import load_policy, load_processor
from squall.platform.records import Branch, SamplingSpec

pytestmark = pytest.mark.cluster
PROMPT = ("<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Which way does the camera move?<|im_end|>\n"
          "<|im_start|>assistant\n")
GREEDY = SamplingSpec(temperature=0.0, max_tokens=32)


def request(sample_id: str = "s1", n: int = 1, sampling: SamplingSpec = GREEDY, branch: Branch = Branch.CLEAN,
            prompt: str = PROMPT) -> GenerateRequest:
    return GenerateRequest(prompt, sample_id, f"{sample_id}#1", branch, n, sampling)


def ask(engine, clip, *arguments, **keywords):
    return ray.get(engine.generate.remote(request(*arguments, **keywords), clip), timeout=120)


def test_answers_about_a_video(engine, random_clip):
    clip = random_clip(1)
    sampling = SamplingSpec(max_tokens=6, seed=3)
    rollouts = ask(engine, ray.put(clip), "s1", n=4, sampling=sampling)
    assert [rollout.index for rollout in rollouts] == [0, 1, 2, 3]
    for rollout in rollouts:
        assert rollout.clip_hash == clip.content_hash
        assert rollout.attempt_id == "s1#1"
        assert 1 <= len(rollout.token_ids) == len(rollout.logprobs) <= 6
        assert all(logprob <= 0 for logprob in rollout.logprobs)
        assert rollout.weight_version == 0
        assert rollout.finish_reason == ("length" if len(rollout.token_ids) == 6 else rollout.finish_reason)


def test_answers_about_an_image(engine, random_clip):
    answers = ask(engine, random_clip(2, frames=1), "image", n=2, sampling=SamplingSpec(max_tokens=4),
                  prompt=PROMPT.replace("video_pad", "image_pad"))
    assert [answer.sample_id for answer in answers] == ["image", "image"]


def test_the_answer_depends_on_the_pixels_and_on_the_frame_rate(engine, random_clip):
    slow, fast, other = (sum(ask(engine, random_clip(seed, fps=fps))[0].logprobs)
                         for seed, fps in ((1, 1.0), (1, 24.0), (9, 1.0)))
    assert abs(slow - fast) > 1e-3 and abs(slow - other) > 1e-3


def test_answer_tags_stay_in_the_text_and_turn_tokens_do_not(engine, random_clip, policy_dir: Path):
    rollout = ask(engine, random_clip(3))[0]
    tokenizer = load_processor(str(policy_dir)).tokenizer
    assert rollout.text == tokenizer.decode(rollout.token_ids, skip_special_tokens=True)
    assert "<answer>" in rollout.text and "<|im_end|>" not in rollout.text


def test_a_seed_repeats_an_answer_and_branches_draw_apart(engine, random_clip):
    clip, sampling = random_clip(4), SamplingSpec(temperature=2.0, max_tokens=12, seed=11)
    first, again = (ask(engine, clip, n=3, sampling=sampling) for _ in range(2))
    other = ask(engine, clip, n=3, sampling=sampling, branch=Branch.SHUFFLED)
    assert [r.token_ids for r in first] == [r.token_ids for r in again]
    assert [r.token_ids for r in first] != [r.token_ids for r in other]


def test_placeholders_are_never_sampled(engine, random_clip, policy_dir: Path):
    from squall.platform.models import banned_token_ids

    banned = set(banned_token_ids(load_processor(str(policy_dir))))
    rollouts = ask(engine, random_clip(5), n=32, sampling=SamplingSpec(temperature=2.0, max_tokens=32, seed=1))
    assert len(banned) >= 6
    assert not banned & {token for rollout in rollouts for token in rollout.token_ids}


def test_a_prompt_that_is_too_long_is_refused_by_name(engine, random_clip):
    with pytest.raises(DataError, match=r"sample long-7: prompt of \d+ tokens \+ max_tokens 1010 exceed") as refused:
        ask(engine, random_clip(6), "long-7", sampling=SamplingSpec(max_tokens=1010))
    assert refused.value.reason == "too_long"
    assert refused.value.sample_id == "long-7"


def test_many_seeded_requests_survive_a_full_prefill_budget(engine, random_clip):
    """In vLLM 0.32 a partial prefill of a seeded request kills an engine that has no accelerator."""
    sampling = SamplingSpec(max_tokens=2, seed=5)
    calls = [engine.generate.remote(request(f"s{i}", n=2, sampling=sampling), random_clip(100 + i, 16, 112))
             for i in range(70)]
    assert [len(answers) for answers in ray.get(calls, timeout=120)] == [2] * 70


def test_control_calls_answer_while_generating(engine, random_clip):
    sampling = SamplingSpec(max_tokens=400, temperature=2.0, seed=1)
    busy = [engine.generate.remote(request(f"busy{i}", n=64, sampling=sampling), random_clip(70 + i)) for i in range(6)]
    answered_while_busy = 0
    while ray.wait(busy, num_returns=len(busy), timeout=0)[1]:
        assert ray.get(engine.ping.remote(), timeout=5)
        ray.get(engine.stats.remote(), timeout=5)
        answered_while_busy += bool(ray.wait(busy, num_returns=len(busy), timeout=0)[1])
    assert answered_while_busy >= 2
    assert [len(answers) for answers in ray.get(busy, timeout=120)] == [64] * 6


def test_new_weights_change_what_is_sampled_and_old_ones_bring_it_back(engine, random_clip, policy_dir: Path):
    clip, original = ray.put(random_clip(8)), load_policy(str(policy_dir)).state_dict()
    before = ask(engine, clip)[0]
    torch.manual_seed(0)
    changed = {name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in original.items()}
    fleet = EngineFleet([engine], 1, vision_changed=True, timeout_s=60)
    seen = []
    for version, weights in ((7, changed), (0, original)):
        fleet.aim(version)
        running = engine.generate.remote(request("running", n=8, sampling=SamplingSpec(max_tokens=64, seed=2)), clip)
        open_sender("shared_memory", 0, fleet, weights.items()).send_weights()
        assert fleet.lost == {} and not list(SHARED_MEMORY.glob(f"{PREFIX}{os.getuid()}-{os.getpid()}-*"))
        assert ray.get(engine.weight_version.remote()) == version
        assert {rollout.weight_version for rollout in ray.get(running)} <= {0, 7}  # each answer is of one version
        seen.append(ask(engine, clip)[0])
    assert seen[0].weight_version == 7
    assert abs(sum(seen[0].logprobs) - sum(before.logprobs)) > 1e-2
    assert seen[1].weight_version == 0
    assert seen[1].token_ids == before.token_ids
    assert seen[1].logprobs == pytest.approx(before.logprobs, abs=1e-5)


def test_weights_of_another_nodes_learner_come_in_pieces_through_the_object_store(engine, random_clip, policy_dir: Path,
                                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_transfer, "PIECE_BYTES", 1 << 20)
    clip, original = ray.put(random_clip(8)), load_policy(str(policy_dir)).state_dict()
    before, seen = ask(engine, clip)[0], []
    for version, weights in ((7, {name: 1.05 * tensor for name, tensor in original.items()}), (0, original)):
        path = weight_transfer.write_weights(weights, version)
        pieces = weight_transfer.cut(path)
        path.unlink()
        assert len(pieces) > 3
        ray.get(engine.start_weight_update.remote())
        ray.get(engine.update_weights.remote({"path": str(path), "pieces": pieces}), timeout=60)
        ray.get(engine.finish_weight_update.remote(version, True))
        assert not list(SHARED_MEMORY.glob(f"*{path.name.rpartition('-')[2]}*"))
        seen.append(ask(engine, clip)[0])
    assert [rollout.weight_version for rollout in seen] == [7, 0]
    assert abs(sum(seen[0].logprobs) - sum(before.logprobs)) > 1e-2
    assert seen[1].token_ids == before.token_ids and seen[1].logprobs == pytest.approx(before.logprobs, abs=1e-5)


def test_an_engine_asleep_holds_questions_back_until_it_has_new_weights(engine, random_clip, policy_dir: Path):
    before = ask(engine, random_clip(1))[0]
    ray.get(engine.sleep.remote(), timeout=60)
    waiting = engine.generate.remote(request("s2"), random_clip(1))
    done, _ = ray.wait([waiting], timeout=1.0)
    assert done == []
    fleet = EngineFleet([engine], 1, vision_changed=True, timeout_s=60)
    weights = load_policy(str(policy_dir)).state_dict()
    for version in (5, 0):  # 0 again: the engine is shared with other tests
        fleet.aim(version)
        open_sender("shared_memory", 0, fleet, weights.items()).send_weights()
        if version:
            after = ray.get(waiting, timeout=60)[0]
    assert (before.weight_version, after.weight_version) == (0, 5)
    assert after.token_ids == before.token_ids and after.logprobs == pytest.approx(before.logprobs, abs=1e-5)


def test_an_engine_without_gpus_is_one_process_beside_its_actor(engine):
    children = psutil.Process(ray.get(engine.ready.remote())).children(recursive=True)
    assert [child.name() for child in children if "VLLM" in child.name()] == ["VLLM::EngineCore"]


def test_buffers_between_an_engines_processes_have_no_name_that_could_outlive_them(engine):
    assert named_buffers(ray.get(engine.ready.remote())) == []
    child = subprocess.Popen([sys.executable, "-c", MAPS_A_BUFFER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:  # a worker of an engine that is split over several GPUs, which share one
        name = child.stdout.readline().strip()
        assert named_buffers(os.getpid()) == [name]
        _unlink_shared_buffers(os.getpid())
        assert named_buffers(os.getpid()) == [] and not Path(name).exists()
    finally:
        child.communicate("go\n", timeout=60)


def named_buffers(process: int) -> list[str]:
    """Shared memory of vLLM's that processes under this one have mapped and that can be found by name."""
    found: set[str] = set()
    for child in psutil.Process(process).children(recursive=True):
        with suppress(OSError):  # it has just ended
            found.update(re.findall(r"/dev/shm/psm_\w+$", Path(f"/proc/{child.pid}/maps").read_text(), re.MULTILINE))
    return sorted(found)


MAPS_A_BUFFER = """
from multiprocessing.resource_tracker import unregister
from multiprocessing.shared_memory import SharedMemory
buffer = SharedMemory(create=True, size=4096)
unregister(buffer._name, "shared_memory")
print("/dev/shm" + buffer._name, flush=True)
input()
"""
