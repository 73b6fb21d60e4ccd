"""A new model that begins with an induction head copies from its context, and is otherwise a model like any other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from quillgpt.attention.spec import KernelSpec
from quillgpt.model import GPT, GPTConfig
from quillgpt.model.gpt import rotate
from quillgpt.model.induction import can_begin_with_induction
from tiny import QWEN3

SIZES = {"n_head": 2, "n_kv_head": 2, "n_embd": 64, "head_dim": 32, "mlp_dim": 128}
CONFIG = replace(QWEN3, vocab_size=600, block_size=128, tied=False, **SIZES)


def model_of(config: GPTConfig, *, induction: bool = True) -> GPT:
    return GPT(config, seed=3, zero_projections=True, induction=induction)


def twice(length: int, count: int = 8) -> Tensor:
    """Return sequences of random tokens that come twice, (count, 2 length)."""
    tokens = torch.randint(600, (count, length), generator=torch.Generator().manual_seed(5))
    return torch.cat((tokens, tokens), dim=1)


@torch.no_grad()
def first_heads(model: GPT, tokens: Tensor) -> list[Tensor]:
    """Return the attention weights of the first head of each block, (B, T, T) each."""
    x, T, weights = model.embed(tokens), tokens.shape[1], []
    rotation = tuple(table[:T] for table in model.rotations.first(T, x.device))
    for block in model.blocks:
        attention = block.attention
        maps = torch.split(attention.qkv(block.attention_norm(x)), attention.qkv_widths, dim=-1)
        query, key = (part.view(*tokens.shape, -1, attention.head_dim).transpose(1, 2) for part in maps[:2])
        query, key = (rotate(part, *rotation) for part in attention.qk_norm(query, key))
        scores = query[:, 0] @ key[:, 0].mT / math.sqrt(attention.head_dim)
        weights.append(scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf")).softmax(-1))
        x = block(x, rotation, None)
    return weights


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"n_embd": 96, "n_head": 3, "n_kv_head": 3},
        {"n_embd": 256, "n_head": 4, "n_kv_head": 2, "head_dim": 64},
        {"n_embd": 48, "n_head": 1, "n_kv_head": 1, "head_dim": 48, "n_layer": 2},
    ],
    ids=str,
)
def test_two_heads_find_what_came_after_the_present_token_before(change: dict[str, Any]) -> None:
    previous, matching = first_heads(model_of(replace(CONFIG, **change)), twice(60))[:2]
    places = torch.arange(62, 120)
    assert previous[:, places, places - 1].mean() > 0.9
    assert matching[:, places, places - 59].mean() > 0.7


def test_it_learns_to_copy_where_another_model_has_not_begun_to() -> None:
    losses = []
    for induction in (True, False):
        model = model_of(CONFIG, induction=induction)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
        generator = torch.Generator().manual_seed(1)
        for _ in range(60):
            half = torch.randint(600, (8, 32), generator=generator)
            tokens = torch.cat((half, half), dim=1)
            optimizer.zero_grad()
            (model.loss_sum(tokens[:, :-1], tokens[:, 1:]) / 504).backward()
            optimizer.step()
        tokens = twice(32)
        with torch.no_grad():
            whole, first = (model.loss_sum(part[:, :-1], part[:, 1:]) for part in (tokens, tokens[:, :33]))
        losses.append(float(whole - first) / tokens[:, 33:].numel())  # of the second time
    assert losses[0] < 2.5
    assert losses[1] > 5.5  # of log(600) = 6.4


@pytest.mark.parametrize(
    "change",
    [{"arch": "gpt2"}, {"tied": True}, {"n_layer": 1}, {"kernel": KernelSpec("GK")}, {"vocab_size": 257}],
    ids=["learned positions", "a tied head", "one block", "another kernel", "bytes"],
)
def test_other_models_begin_as_usual(change: dict[str, Any]) -> None:
    config = replace(CONFIG, **change)
    assert not can_begin_with_induction(config)
    usual = model_of(config, induction=False).state_dict()
    assert all(torch.equal(value, usual[name]) for name, value in model_of(config).state_dict().items())


def test_its_weights_have_the_names_and_shapes_of_any_model_and_are_finite() -> None:
    usual = model_of(CONFIG, induction=False).state_dict()
    begun = model_of(CONFIG).state_dict()
    assert {name: value.shape for name, value in begun.items()} == {name: v.shape for name, v in usual.items()}
    assert all(value.isfinite().all() for value in begun.values())
    again = model_of(CONFIG).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in begun.items())


@pytest.mark.parametrize("width", [4, 6, 16])
def test_the_narrowest_models_have_room(width: int) -> None:
    config = replace(CONFIG, n_embd=width, n_head=1, n_kv_head=1, head_dim=width, mlp_dim=8)
    model = model_of(config)
    assert model.loss_sum(twice(20)[:, :-1], twice(20)[:, 1:]).isfinite()
