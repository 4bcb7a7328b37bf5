"""Trajectory attention against loops over tokens and times, whole and in chunks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from squall.algorithms.masked_video.trajectory import TrajectoryAttention

TIMES, PLACES, WIDTH, HEADS = 3, 5, 8, 2


def attention(chunk_tokens: int = 0) -> TrajectoryAttention:
    torch.manual_seed(0)
    module = TrajectoryAttention(WIDTH, HEADS, TIMES, chunk_tokens)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.8)
    return module


def naive(module: TrajectoryAttention, tokens: torch.Tensor) -> torch.Tensor:
    """The two equations, a token, a time and a head at a time."""
    def head(vector: torch.Tensor, index: int) -> torch.Tensor:
        return vector[index * WIDTH // HEADS:(index + 1) * WIDTH // HEADS]

    def look(query: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]) -> torch.Tensor:
        heads = []
        for h in range(HEADS):
            scores = torch.stack([head(query, h) @ head(key, h) for key in keys]) / (WIDTH / HEADS) ** 0.5
            heads.append(sum(weight * head(value, h) for weight, value in zip(scores.softmax(0), values, strict=True)))
        return torch.cat(heads)

    query, key, value = module.query(tokens), module.key(tokens), module.value(tokens)
    found = []
    for index in range(TIMES * PLACES):
        path = []
        for time in range(TIMES):
            there = range(time * PLACES, (time + 1) * PLACES)
            path.append(look(query[index], [key[i] for i in there], [value[i] for i in there]))
        asked = module.path_query(path[index // PLACES])
        found.append(look(asked, [module.path_key(y) for y in path], [module.path_value(y) for y in path]))
    return module.out(torch.stack(found))


@pytest.mark.parametrize("chunk_tokens", [0, 4, 15, 100])
def test_it_equals_the_loops(chunk_tokens: int) -> None:
    module, tokens = attention(chunk_tokens), torch.randn(2, TIMES * PLACES, WIDTH)
    made = module(tokens)
    for one, expected in zip(made, tokens, strict=True):
        assert (one - naive(module, expected)).abs().max() < 1e-5


def test_chunks_give_the_same_gradients() -> None:
    tokens, gradients = torch.randn(2, TIMES * PLACES, WIDTH), []
    for chunk_tokens in (0, 4):
        module, seen = attention(chunk_tokens), tokens.clone().requires_grad_()
        module(seen).square().sum().backward()
        gradients.append([seen.grad, *(parameter.grad for parameter in module.parameters())])
    for whole, chunked in zip(*gradients, strict=True):
        assert whole.abs().max() > 0 and torch.allclose(whole, chunked, rtol=1e-4, atol=1e-4)


def test_a_trajectory_follows_a_token_that_moves() -> None:
    module = attention()
    with torch.no_grad():
        for layer in (module.query, module.key):
            layer.weight.copy_(20 * torch.eye(WIDTH))
        module.query.bias.zero_()
    tokens = nn.functional.one_hot(torch.arange(TIMES * PLACES) % PLACES, WIDTH).float().unflatten(0, (TIMES, PLACES))
    moved = torch.stack([tokens[time].roll(time, 0) for time in range(TIMES)])  # what is at place s goes on to s + time
    parts = [part(moved.flatten(0, 1)[None]) for part in (module.query, module.key, module.value)]
    query, key, value = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in parts)
    points = module._points(query, key.unflatten(2, (TIMES, PLACES)), value.unflatten(2, (TIMES, PLACES)))
    last = WIDTH // HEADS  # the first head sees the first numbers of a token, which tell places below 4 apart
    for time in range(TIMES):
        assert torch.allclose(points[0, 1, time, :last], value[0, 0, time * PLACES + 1 + time], atol=1e-4)
