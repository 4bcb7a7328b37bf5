"""Packing answers behind the clip and prompt they share, so that both are encoded once for all of them.

A row is ``[prompt | answer 1 | answer 2 | ...]``. An answer's tokens see the prompt and their own answer's earlier tokens, and
their positions go on from the prompt's last one, as if the other answers were not there: log-probabilities, loss and gradients
are those of one row per answer, up to rounding.

Shapes: R rows, S tokens of a row (padded), A answers, L tokens of an answer (padded).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from squall.algorithms.policy import EncodedPrompt


@dataclass(frozen=True)
class PackedRow:
    """A prompt and the answers behind it, each with its place in the caller's list."""

    prompt: EncodedPrompt
    answers: tuple[tuple[int, tuple[int, ...]], ...]
    """(place, token ids) of each answer; no answer is empty."""

    @property
    def length(self) -> int:
        """Tokens of the row: an answer's last token predicts nothing and stays out."""
        return len(self.prompt.input_ids) + sum(len(tokens) - 1 for _, tokens in self.answers)


@dataclass(frozen=True)
class AnswerBatch:
    """Model inputs, and where each answer token's prediction comes from."""

    inputs: dict[str, torch.Tensor]
    answers_AL: torch.Tensor
    """Token ids, padded on the right."""
    mask_AL: torch.Tensor
    """1 on answer tokens, else 0."""
    sources_AL: torch.Tensor
    """Place, in the flattened (R x S) hidden states, of the state that predicts each token; 0 on padding."""
    places_A: tuple[int, ...]
    """Each answer's place in the caller's list."""
    clips: tuple[str, ...]
    """Content hash of each row's clip in the order in which the vision tower sees them: images first, then videos."""

    def to(self, device: torch.device) -> AnswerBatch:
        """Move every tensor to a device."""
        return AnswerBatch({key: value.to(device) for key, value in self.inputs.items()}, self.answers_AL.to(device),
                           self.mask_AL.to(device), self.sources_AL.to(device), self.places_A, self.clips)


def pack_rows(prompts: Sequence[EncodedPrompt], answers: Sequence[Sequence[int]], token_budget: int,
              shared: bool = True) -> list[PackedRow]:
    """Put answers with the same prompt behind it, in as few rows of at most `token_budget` tokens as can be.

    A row holds at least one answer, however long its prompt. Rows of one prompt get about the same number of answer tokens.

    Args:
        prompts: one entry per answer; the same object stands for the same clip and prompt.
        shared: false gives every answer a row of its own.
    """
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(id(prompt) if shared else place, []).append(place)
    rows = []
    for places in groups.values():
        prompt = prompts[places[0]]
        room = max(1, token_budget - len(prompt.input_ids))
        sizes = {place: len(answers[place]) for place in places}
        fewest = min(-(-sum(sizes.values()) // room), len(places))
        for count in range(fewest, len(places) + 1):
            parts = deal(sizes, count)
            if max(sum(sizes[place] for place in part) for part in parts) <= room:
                break
        rows += [PackedRow(prompt, tuple((place, tuple(answers[place])) for place in part)) for part in parts]
    return rows


def deal(sizes: Mapping[int, int], count: int) -> list[list[int]]:
    """Deal places to `count` parts of about the same size: longest first, each to the emptiest part; in order within one."""
    parts: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for place in sorted(sizes, key=lambda place: (-sizes[place], place)):
        part = loads.index(min(loads))
        parts[part].append(place)
        loads[part] += sizes[place]
    return [sorted(part) for part in parts]


def plan_microbatches(rows: Sequence[PackedRow], token_budget: int) -> list[list[PackedRow]]:
    """Rows of about the same length together, with at most `token_budget` tokens, padding included, in a micro-batch."""
    batches: list[list[PackedRow]] = []
    for row in sorted(rows, key=lambda row: -row.length):  # stable, so the same rows give the same batches
        if batches and (len(batches[-1]) + 1) * batches[-1][0].length <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def collate(rows: Sequence[PackedRow], pad_id: int) -> AnswerBatch:
    """One micro-batch: rows padded on the right to the longest."""
    width = max(row.length for row in rows)
    placed = [(place, tokens) for row in rows for place, tokens in row.answers]
    longest = max(len(tokens) for _, tokens in placed)
    ids_RS = torch.full((len(rows), width), pad_id)
    types_RS = torch.zeros((len(rows), width), dtype=torch.long)
    positions_3RS = torch.zeros((3, len(rows), width), dtype=torch.long)
    segments_RS = torch.full((len(rows), width), -1)
    answers_AL = torch.full((len(placed), longest), pad_id)
    mask_AL, sources_AL = torch.zeros(answers_AL.shape), torch.zeros(answers_AL.shape, dtype=torch.long)
    number = 0
    for r, row in enumerate(rows):
        prompt, end = row.prompt, len(row.prompt.input_ids)
        ids_RS[r, :end], types_RS[r, :end], segments_RS[r, :end] = prompt.input_ids, prompt.token_types, 0
        positions_3RS[:, r, :end] = prompt.positions_3S
        after = int(prompt.positions_3S.max()) + 1
        for segment, (_, tokens) in enumerate(row.answers, start=1):
            own, size = torch.tensor(tokens), len(tokens)
            ids_RS[r, end:end + size - 1] = own[:-1]
            segments_RS[r, end:end + size - 1] = segment
            positions_3RS[:, r, end:end + size - 1] = torch.arange(after, after + size - 1)
            answers_AL[number, :size], mask_AL[number, :size] = own, 1.0
            sources_AL[number, 0] = r * width + len(prompt.input_ids) - 1
            sources_AL[number, 1:size] = torch.arange(r * width + end, r * width + end + size - 1)
            end, number = end + size - 1, number + 1
    inputs = {"input_ids": ids_RS, "mm_token_type_ids": types_RS, "position_ids": positions_3RS}
    inputs["attention_mask"] = attention_mask(segments_RS) if len(placed) > len(rows) else (segments_RS >= 0).long()
    for key in sorted({key for row in rows for key in row.prompt.vision}):
        inputs[key] = torch.cat([row.prompt.vision[key] for row in rows if key in row.prompt.vision])
    clips = tuple(row.prompt.clip_hash for row in sorted(rows, key=lambda row: "pixel_values" not in row.prompt.vision))
    return AnswerBatch(inputs, answers_AL, mask_AL, sources_AL, tuple(place for place, _ in placed), clips)


def attention_mask(segments_RS: torch.Tensor) -> torch.Tensor:
    """Which token sees which, bool (R, 1, S, S): earlier tokens of segment 0, the prompt, and of its own segment.

    Padding (segment -1) sees itself alone, because a softmax over nothing would be NaN.
    """
    length = segments_RS.shape[1]
    earlier_SS = torch.ones((length, length), dtype=torch.bool, device=segments_RS.device).tril()
    same_RSS = segments_RS[:, :, None] == segments_RS[:, None, :]
    prompt_R1S = segments_RS[:, None, :] == 0
    valid_RS1 = segments_RS[:, :, None] >= 0
    itself_SS = torch.eye(length, dtype=torch.bool, device=segments_RS.device)
    return ((earlier_SS & (same_RSS | prompt_R1S) & valid_RS1) | itself_SS)[:, None]
