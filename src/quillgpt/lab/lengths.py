"""Loss by position, and in texts that are shorter or longer than those of training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quillgpt.data.batches import Offsets, Tokens, evaluation_batches, spread_offsets
from quillgpt.device import to_device
from quillgpt.evaluation.loss import SPREAD_SEED
from quillgpt.lab.variants import with_block_size
from quillgpt.model import GPT
from quillgpt.tables import ResultTable

FACTORS = (0.5, 1.0, 2.0, 4.0)
TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class LengthLoss:
    """The loss of a model on blocks of one length.

    Attributes:
        length: Tokens in a block.
        loss: The mean over all positions, nats per token.
        by_position: The mean at each position, float64 (length,).
    """

    length: int
    loss: float
    by_position: Tensor


@torch.inference_mode()
def loss_by_position(model: GPT, tokens: Tokens, offsets: Offsets, length: int) -> LengthLoss:
    """Measure the loss at each position of the blocks that begin at `offsets`."""
    total = torch.zeros(length, dtype=torch.float64)
    at_once = max(1, TOKENS_AT_ONCE // length)
    for inputs, targets in evaluation_batches(tokens, offsets, block_size=length, batch_size=at_once):
        logits = model.logits(model(to_device(inputs, model.device))).float()
        losses = F.cross_entropy(logits.mT, to_device(targets, model.device), reduction="none")
        total += losses.double().sum(0).cpu()
    by_position = total / len(offsets)
    return LengthLoss(length, float(by_position.mean()), by_position)


def losses_by_length(model: GPT, tokens: Tokens, *, blocks: int) -> list[LengthLoss]:
    """Measure a model on the same text in blocks of 0.5 to 4 times its block_size, as far as the text is long enough.

    Args:
        model: The model, in evaluation mode.
        tokens: The tokens of the split.
        blocks: The most blocks of the largest length to read, spread evenly over the split. Shorter blocks cover the
            same text.
    """
    lengths = [int(model.config.block_size * factor) for factor in FACTORS]
    lengths = [length for length in lengths if 2 <= length < len(tokens)]
    whole = spread_offsets(len(tokens), max(lengths), blocks, SPREAD_SEED)
    results = []
    for length in lengths:
        within = np.arange(0, max(lengths) - length + 1, length)
        offsets = (whole[:, None] + within).reshape(-1)
        results.append(loss_by_position(with_block_size(model, length), tokens, offsets, length))
    return results


def length_table(title: str, results: list[LengthLoss], block_size: int) -> ResultTable:
    """Return a row for each length."""
    formats: Mapping[str, str] = {"length": ",d", "of block_size": "g", "loss": ".4f", "last quarter": ".4f"}
    rows = [
        {
            "length": result.length,
            "of block_size": result.length / block_size,
            "loss": result.loss,
            "last quarter": float(result.by_position[-max(1, result.length // 4) :].mean()),
        }
        for result in results
    ]
    return ResultTable(title, formats, rows)


def position_table(title: str, results: list[LengthLoss]) -> ResultTable:
    """Return a row for each length and position, counted from 1."""
    formats = {"length": "d", "position": "d", "loss": ".4f"}
    rows = [
        {"length": result.length, "position": position, "loss": loss}
        for result in results
        for position, loss in enumerate(result.by_position.tolist(), start=1)
    ]
    return ResultTable(title, formats, rows)
