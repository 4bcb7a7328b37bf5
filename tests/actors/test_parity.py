"""The learner gives the engine's tokens the engine's log-probabilities, whatever the frame rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import torch

from squall.actors.rollout_engine import GenerateRequest
from squall.algorithms.packing import collate, pack_rows
from squall.algorithms.policy import encode_prompt
from squall.algorithms.scoring import AnswerScorer
from squall.platform.models import banned_token_ids, load_policy, load_processor, render_prompt
from squall.platform.records import Branch, SamplingSpec

pytestmark = pytest.mark.cluster
QUESTION = "How does the camera move?\nA. pan\nB. tilt\nC. zoom\nD. still"


@pytest.mark.parametrize("fps", [0.5, 2.0, 8.0, 24.0])
def test_engine_and_learner_agree(engine, random_clip, policy_dir: Path, fps: float) -> None:
    processor, policy = load_processor(str(policy_dir)), load_policy(str(policy_dir)).eval()
    clip = random_clip(seed=5, fps=fps)
    content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
    prompt = render_prompt(processor, [{"role": "user", "content": content}])
    request = GenerateRequest(prompt, "s", f"a-{fps}", Branch.CLEAN, 4, SamplingSpec(temperature=1.0, max_tokens=24, seed=1))
    rollouts = ray.get(engine.generate.remote(request, clip), timeout=120)
    encoded = encode_prompt(processor, policy, prompt, clip)
    batch = collate(pack_rows([encoded] * 4, [rollout.token_ids for rollout in rollouts], 10_000), pad_id=0)
    with torch.no_grad():
        ours_AL, _ = AnswerScorer(policy, banned_token_ids(processor))(batch)
    theirs_AL = torch.zeros_like(ours_AL)
    for row, place in enumerate(batch.places_A):
        theirs_AL[row, :len(rollouts[place].logprobs)] = torch.tensor(rollouts[place].logprobs)
    assert batch.mask_AL.sum() > 8
    assert ((ours_AL - theirs_AL).abs() * batch.mask_AL).sum() / batch.mask_AL.sum() < 1e-4
