"""Attention weights of heads: maps, row sums, and entropy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quillgpt.attention.reference import reference_weights
from quillgpt.lab.observe import observed
from quillgpt.model import GPT
from quillgpt.tables import ResultTable


@torch.inference_mode()
def attention_weights(model: GPT, tokens: Tensor) -> Tensor:
    """Return the attention weights of every head, normalised if the kernel does so: (1, T) to (layers, H, T, T)."""
    kernel, block_size = model.config.kernel, model.config.block_size
    maps: list[Tensor] = []

    def watch(_: int, query: Tensor, key: Tensor, *__: Tensor) -> None:
        heads = _heads(query, key)
        maps.append(torch.cat([reference_weights(q, k, kernel, block_size=block_size)[0] for q, k in heads]).cpu())

    with observed(model, watch):
        model(tokens)
    return torch.stack(maps)


@dataclass(frozen=True)
class RowStatistics:
    """Statistics of a query's attention weights at each position, the mean over blocks.

    Attributes:
        sums: Sum of the weights, (layers, H, T).
        entropy: Entropy of the weights, normalised by the sum of their absolute values, in nats, (layers, H, T).
        norms: Norm of the head's output, |y|, (layers, H, T).
    """

    sums: Tensor
    entropy: Tensor
    norms: Tensor


@torch.inference_mode()
def row_statistics(model: GPT, blocks: Iterable[Tensor]) -> RowStatistics:
    """Measure the attention weights of every query over blocks, (1, T) each."""
    kernel, block_size = model.config.kernel, model.config.block_size
    totals: list[list[Tensor]] = [[] for _ in range(model.config.n_layer)]
    count = 0

    def watch(layer: int, query: Tensor, key: Tensor, _: Tensor, output: Tensor) -> None:
        rows = []
        for q, k, y in _heads(query, key, output):
            weights = reference_weights(q, k, kernel, block_size=block_size)[0, 0]
            rows.append(torch.stack([weights.sum(-1), entropy(weights), y[0, 0].norm(dim=-1)]).cpu())
        totals[layer].append(torch.stack(rows, 1))  # (3, H, T)

    with observed(model, watch):
        for block in blocks:
            model(block)
            count += 1
    sums, entropies, norms = torch.stack([torch.stack(layer).sum(0) for layer in totals], 1) / count
    return RowStatistics(sums, entropies, norms)


def row_table(title: str, statistics: RowStatistics) -> ResultTable:
    """Return a row for each layer, head and position of the query, counted from 1."""
    formats = {"layer": "d", "head": "d", "position": "d", "entropy": ".4f", "sum": ".4g", "length": ".4g"}
    together = torch.stack([statistics.entropy, statistics.sums, statistics.norms], -1)  # (layers, H, T, 3)
    rows = [
        {"layer": layer, "head": head, "position": t + 1, "entropy": values[0], "sum": values[1], "length": values[2]}
        for layer, heads in enumerate(together.tolist())
        for head, positions in enumerate(heads)
        for t, values in enumerate(positions)
    ]
    return ResultTable(title, formats, rows)


def _heads(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Yield the heads one by one, because the reference holds all differences of queries and keys in memory."""
    for head in range(tensors[0].shape[1]):
        yield [tensor[:, head : head + 1].float() for tensor in tensors]


def entropy(weights: Tensor) -> Tensor:
    """Return the entropy of each row of weights (..., T, S), normalised by their absolute sum, in nats."""
    sizes = weights.abs()
    shares = sizes / sizes.sum(-1, keepdim=True).clamp(min=1e-30)
    return -torch.xlogy(shares, shares).sum(-1)
