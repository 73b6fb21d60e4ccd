"""The weights that heads give to a text: maps, their row sums, and how many keys a query looks at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quillgpt.attention.reference import reference_weights
from quillgpt.lab.observe import observed
from quillgpt.lab.tables import ResultTable
from quillgpt.model import GPT


@torch.inference_mode()
def attention_weights(model: GPT, tokens: Tensor) -> Tensor:
    """Return the weights of every head, normalised or not as the kernel has them: (1, T) to (layers, H, T, T)."""
    kernel, block_size = model.config.kernel, model.config.block_size
    found: list[Tensor] = []

    def watch(_: int, query: Tensor, key: Tensor, *__: Tensor) -> None:
        heads = _heads(query, key)
        found.append(torch.cat([reference_weights(q, k, kernel, block_size=block_size)[0] for q, k in heads]).cpu())

    with observed(model, watch):
        model(tokens)
    return torch.stack(found)


@dataclass(frozen=True)
class RowStatistics:
    """What heads do with a query at each position, mean over blocks.

    Attributes:
        sums: Sum of its weights, (layers, H, T).
        entropy: Entropy of its weights as shares of their sum (of their absolute values, where they have signs), in
            nats, (layers, H, T).
        lengths: Length of what the head returns, |y|, (layers, H, T).
    """

    sums: Tensor
    entropy: Tensor
    lengths: Tensor


@torch.inference_mode()
def row_statistics(model: GPT, blocks: Iterable[Tensor]) -> RowStatistics:
    """Measure the weights of every query over blocks, each (1, T)."""
    kernel, block_size = model.config.kernel, model.config.block_size
    totals: list[list[Tensor]] = [[] for _ in range(model.config.n_layer)]
    count = 0

    def watch(layer: int, query: Tensor, key: Tensor, _: Tensor, mixed: Tensor) -> None:
        rows = []
        for q, k, y in _heads(query, key, mixed):
            weights = reference_weights(q, k, kernel, block_size=block_size)[0, 0]
            rows.append(torch.stack([weights.sum(-1), entropy(weights), y[0, 0].norm(dim=-1)]).cpu())
        totals[layer].append(torch.stack(rows, 1))  # (3, H, T)

    with observed(model, watch):
        for block in blocks:
            model(block)
            count += 1
    sums, entropies, lengths = torch.stack([torch.stack(each).sum(0) for each in totals], 1) / count
    return RowStatistics(sums, entropies, lengths)


def row_table(title: str, statistics: RowStatistics) -> ResultTable:
    """Return a row for each layer, head and position, from 1, of the query."""
    formats = {"layer": "d", "head": "d", "position": "d", "entropy": ".4f", "sum": ".4g", "length": ".4g"}
    together = torch.stack([statistics.entropy, statistics.sums, statistics.lengths], -1)  # (layers, H, T, 3)
    rows = [
        {"layer": layer, "head": head, "position": t + 1, "entropy": found[0], "sum": found[1], "length": found[2]}
        for layer, heads in enumerate(together.tolist())
        for head, positions in enumerate(heads)
        for t, found in enumerate(positions)
    ]
    return ResultTable(title, formats, rows)


def _heads(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Yield heads one by one: the reference holds all differences of queries and keys."""
    for head in range(tensors[0].shape[1]):
        yield [each[:, head : head + 1].float() for each in tensors]


def entropy(weights: Tensor) -> Tensor:
    """Return the entropy of each row of weights (..., T, S) as shares of the sum of their absolute values, in nats."""
    sizes = weights.abs()
    shares = sizes / sizes.sum(-1, keepdim=True).clamp(min=1e-30)
    return -torch.xlogy(shares, shares).sum(-1)
