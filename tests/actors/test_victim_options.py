"""A language model as a victim: the probabilities of options from one pass, through the same pool and ledger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from squall.actors.victim_config import VictimPoolConfig
from squall.actors.victim_core import PROBE
from squall.actors.victim_ledger import Tally
from squall.actors.victim_options import OPENING, OptionClassifier, OptionsSource, letter_tokens
from squall.actors.victim_pool import VictimPool
from squall.algorithms.packing import collate, pack_rows
from squall.algorithms.policy import encode_prompt
from squall.algorithms.scoring import AnswerScorer
from squall.platform.errors import ConfigError
from squall.platform.models import banned_token_ids, load_policy, load_processor
from squall.platform.records import make_clip

pytestmark = pytest.mark.cluster
CLASSES = ("pan", "tilt", "zoom")


def test_options_get_the_probabilities_that_the_engine_gives_their_letters(engine: object, policy_dir: Path, tmp_path: Path
                                                                          ) -> None:
    source = OptionsSource((("engine-0", "squall-tests"),), str(policy_dir), "How does the camera move?", CLASSES, "policy")
    clips = np.random.default_rng(0).integers(0, 256, (3, 4, 56, 56, 3), np.uint8)
    pool = VictimPool(VictimPoolConfig(cpus=0.1), source, tmp_path / "ledger.sqlite", "options-test")
    pool.start()
    try:
        found = pool.client("attack").ask(clips)
    finally:
        pool.stop()
    assert pool.tally(["attack"]) == Tally(4, 4, 0, {PROBE: 1, "attack": 3})
    assert found.shape == (3, 3) and found.sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-4  # it looks at the clips
    classifier = OptionClassifier(source)
    assert classifier._prompt.endswith(OPENING)
    assert found[0] == pytest.approx(as_the_learner_says(policy_dir, classifier._prompt, clips[0]), abs=1e-3)


def as_the_learner_says(path: Path, prompt: str, frames: np.ndarray) -> np.ndarray:
    """Probabilities of A, B and C among each other as the next token, without an engine."""
    processor, policy = load_processor(str(path)), load_policy(str(path)).eval()
    encoded = encode_prompt(processor, policy, prompt, make_clip(frames, 2.0))
    letters = [(token,) for token in letter_tokens(processor, "ABC")]
    batch = collate(pack_rows([encoded] * 3, letters, 10_000), pad_id=0)
    with torch.no_grad():
        logprobs_AL, _ = AnswerScorer(policy, banned_token_ids(processor))(batch)
    return logprobs_AL[:, 0].softmax(0).numpy()


def test_letters_that_are_no_tokens_of_their_own_are_refused(policy_dir: Path) -> None:
    class Joined:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [7, 8] if text == OPENING else [7, 9, 10]

    with pytest.raises(ConfigError, match="option 'A': the model's tokens do not tell it from '<answer>' before it"):
        letter_tokens(Joined(), "AB")
    assert len(set(letter_tokens(load_processor(str(policy_dir)), "ABCD"))) == 4
