"""Answers of a learner worker as micro-batches of model inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from squall.actors.learner import LearnerConfig
from squall.actors.rollout_buffer import TrainSequence
from squall.platform.records import Clip


@dataclass(frozen=True)
class Chunk:
    """A micro-batch and the answers in it, in its order."""

    sequences: tuple[TrainSequence, ...]
    batch: Any
    anchor: Any = None
    """The same answers behind the other clips, where clips are compared."""
    counts: bool = True
    """Whether there is something to learn from it."""

    def emptied(self) -> Chunk:
        """The same inputs with nothing to learn from."""
        return replace(self, batch=replace(self.batch, mask_AL=self.batch.mask_AL * 0), counts=False)

    def on(self, device: Any) -> tuple[Any, Any]:
        """Batch and anchor on a device."""
        return self.batch.to(device), None if self.anchor is None else self.anchor.to(device)


def needed_clips(answers: Sequence[TrainSequence]) -> list[str]:
    """Content hashes of the clips that answers are about or compared with."""
    return sorted({name for answer in answers for name in answer.key[1:] if name is not None})


def cut(answers: Sequence[TrainSequence], clips: Mapping[str, Clip], processor: Any, model: Any,
        settings: LearnerConfig) -> list[Chunk]:
    """Encode every prompt with its clip once and pack the answers behind it; with their twins, if they have them."""
    from squall.algorithms.packing import collate, pack_rows, plan_microbatches
    from squall.algorithms.policy import encode_prompt

    keys = dict.fromkeys(answer.key for answer in answers)
    wanted = dict.fromkeys((key[0], name) for key in keys for name in key[1:] if name is not None)
    encoded = {(prompt, name): encode_prompt(processor, model, prompt, clips[name]) for prompt, name in wanted}
    # Answers share a row when their prompt is the same object, and must not when they are compared with different clips.
    prompts = {key: copy(encoded[key[:2]]) for key in keys}
    budget, pad = settings.tokens_per_microbatch, processor.tokenizer.pad_token_id
    rows = pack_rows([prompts[answer.key] for answer in answers], [answer.token_ids for answer in answers], budget,
                     settings.shared_prefix)
    chunks = []
    for part in plan_microbatches(rows, budget):
        batch = collate(part, pad)
        sequences, anchor = tuple(answers[place] for place in batch.places_A), None
        if sequences[0].twin is not None:
            leaders = [answers[row.answers[0][0]] for row in part]
            others = [encoded[leader.prompt, leader.twin.clip_hash] for leader in leaders]
            anchor = collate([replace(row, prompt=other) for row, other in zip(part, others, strict=True)], pad)
        chunks.append(Chunk(sequences, batch, anchor))
    return chunks
