"""Loss over chosen windows of a split, and the numbers that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from quillgpt.data.batches import Offsets, Tokens, all_offsets, evaluation_batches, spread_offsets
from quillgpt.device import autocast, to_device
from quillgpt.errors import DataError
from quillgpt.model import GPT
from quillgpt.text.tokenizers.tokenizer import Tokenizer

SPREAD_SEED = 1337
"""Seed of the blocks that are taken where only a part of a split is scored."""


@dataclass(frozen=True)
class Score:
    """How well a model predicts a split.

    Attributes:
        loss: Mean negative log-likelihood of a target token, in nats.
        perplexity: exp(loss).
        bits_per_byte: Bits to encode one byte of the text; comparable between tokenizers. None without a byte.
        tokens: Target tokens that were predicted.
        block_size: Tokens of a block, if that is less than the model's context.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int
    block_size: int | None = None


@torch.no_grad()
def mean_loss(
    model: GPT,
    tokens: Tokens,
    offsets: Offsets,
    *,
    batch_size: int,
    block_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    advance: Callable[[], object] = lambda: None,
) -> float:
    """Return the mean loss over all targets of the windows at `offsets`, in nats per token.

    Args:
        model: The model, on the device to compute on; its mode is restored afterwards.
        tokens: The split, (tokens,).
        offsets: Start positions of windows, at least one.
        batch_size: Windows computed at once.
        block_size: Tokens of a window; None: as many as the model sees.
        dtype: Number format of matrix products.
        advance: Called after each batch, for a progress bar.
    """
    device = model.device
    block_size = block_size or model.config.block_size
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    for inputs, targets in evaluation_batches(tokens, offsets, block_size=block_size, batch_size=batch_size):
        with autocast(device, dtype):
            total += model.loss_sum(to_device(inputs, device), to_device(targets, device))
        advance()
    model.train(was_training)
    return float(total) / (len(offsets) * block_size)


def score_split(
    model: GPT,
    tokenizer: Tokenizer,
    tokens: Tokens,
    *,
    batch_size: int,
    block_size: int | None = None,
    batches: int | None = None,
    dtype: torch.dtype = torch.float32,
    advance: Callable[[], object] = lambda: None,
) -> Score:
    """Score a model on a split, in non-overlapping blocks: floor((n-1)/block_size) of them make the whole split.

    Arguments are those of `mean_loss`; the tokenizer says how many bytes the targets stand for. With `batches`, no more
    than so many are taken, from all over the split and always the same ones.

    Raises:
        DataError: The split is shorter than one block.
    """
    block_size = block_size or model.config.block_size
    offsets = all_offsets(len(tokens), block_size)
    if batches is not None:
        offsets = spread_offsets(len(tokens), block_size, batches * batch_size, SPREAD_SEED)
    if len(offsets) == 0:
        raise DataError(
            f"the split has {len(tokens):,} tokens; one block of the model needs {block_size + 1:,}. "
            "Evaluate on a longer text"
        )
    return score_blocks(
        model, tokenizer, tokens, offsets, batch_size=batch_size, block_size=block_size, dtype=dtype, advance=advance
    )


def score_blocks(
    model: GPT,
    tokenizer: Tokenizer,
    tokens: Tokens,
    offsets: Offsets,
    *,
    batch_size: int,
    block_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    advance: Callable[[], object] = lambda: None,
) -> Score:
    """Score a model on the blocks of a split at some offsets; the other arguments are those of `score_split`."""
    block_size = block_size or model.config.block_size
    loss = mean_loss(model, tokens, offsets, batch_size=batch_size, block_size=block_size, dtype=dtype, advance=advance)
    targets = tokens[1 : 1 + len(offsets) * block_size]
    if len(offsets) < len(all_offsets(len(tokens), block_size)):
        targets = tokens[offsets[:, None] + np.arange(1, block_size + 1)]
    shorter = block_size if block_size < model.config.block_size else None
    return Score(loss, perplexity_of(loss), bits_per_byte(loss, targets, tokenizer), targets.size, shorter)


def mixed_bits_per_byte(losses: Sequence[float], bits: Sequence[float | None], shares: Sequence[float]) -> float | None:
    """Return the bits per byte of a mixture of texts: those of an average token over the bytes of one.

    Args:
        losses: The mean loss on each text, nats per token.
        bits: The bits per byte of each.
        shares: The share of each in the tokens; they sum to 1.
    """
    if len(losses) == 1:
        return bits[0]
    per_byte = [bit * math.log(2) for bit in bits if bit]
    if len(per_byte) < len(bits):
        return None
    parts = list(zip(losses, per_byte, shares, strict=True))
    bytes_per_token = sum(share * loss / nats for loss, nats, share in parts)
    return sum(share * loss for loss, _, share in parts) / math.log(2) / bytes_per_token


LARGEST_EXPONENT = 700.0
"""About the largest number whose exp is finite."""

UNREADABLE = 1e6
"""Perplexities from here on are written with a power of ten."""


def perplexity_of(loss: float) -> float:
    """Return exp of a mean loss, or of the largest loss whose exp is finite."""
    return math.exp(min(loss, LARGEST_EXPONENT))


def spell_perplexity(loss: float, digits: int = 2) -> str:
    """Write the perplexity of a mean loss for a person, with `digits` after the point."""
    perplexity = perplexity_of(loss)
    if loss > LARGEST_EXPONENT:
        return f"above {perplexity:.0e}"
    return f"{perplexity:.2e}" if perplexity >= UNREADABLE else f"{perplexity:.{digits}f}"


def bits_per_byte(loss: float, targets: Tokens, tokenizer: Tokenizer) -> float | None:
    """Return a mean loss (nats per token) as bits per byte of the targets' text; None if that has no byte."""
    counts = np.bincount(targets.reshape(-1), minlength=tokenizer.vocab_size)
    byte_count = int(counts @ tokenizer.byte_lengths())
    return loss * targets.size / math.log(2) / byte_count if byte_count else None
