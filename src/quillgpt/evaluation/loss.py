"""Loss over chosen windows of a split, and the numbers that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quillgpt.data.batches import Offsets, Tokens, gather
from quillgpt.data.document_ends import DocumentEnds
from quillgpt.device import autocast, to_device
from quillgpt.evaluation.uncertainty import Estimate
from quillgpt.evaluation.units import TextSums, UnitSums, in_order
from quillgpt.evaluation.windows import Contexts, WindowBatch, Windows
from quillgpt.model import GPT
from quillgpt.model.loss import token_losses
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
        bytes: Bytes of text that the targets stand for.
        stride: Tokens from one window to the next; None: non-overlapping blocks.
        contexts: How many tokens the model saw before a target.
        units: Sums over documents or blocks, from which standard errors and differences between models follow.
    """

    loss: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int
    block_size: int | None = None
    bytes: int = 0
    stride: int | None = None
    contexts: Contexts | None = None
    units: UnitSums | None = field(default=None, repr=False, compare=False)

    @property
    def estimate(self) -> Estimate:
        """The loss with its standard error."""
        return Estimate(self.loss, None, 0, 0) if self.units is None else self.units.estimate()


@dataclass(frozen=True)
class BatchLosses:
    """The negative log-likelihoods of the counted targets of a batch of windows, in nats.

    Attributes:
        total: Their sum, as `GPT.loss_sum` computes it, a scalar.
        each: All of them, (B, counted).
        targets: The targets, on the CPU, (B, counted).
    """

    total: Tensor
    each: Tensor
    targets: Tensor


def window_losses(model: GPT, tokens: Tokens, batch: WindowBatch, dtype: torch.dtype) -> BatchLosses:
    """Return the losses of a batch of windows of a split."""
    device, seen_only = model.device, batch.length - batch.counted
    inputs, targets = gather(tokens, batch.offsets, batch.length)
    targets = targets[:, seen_only:]
    with autocast(device, dtype):
        hidden = model(to_device(inputs, device))[:, seen_only:]
        wanted = to_device(targets, device).reshape(-1)
        if model.divides_loss(hidden):
            each = token_losses(model.logits, hidden, wanted)
            return BatchLosses(each.sum(), each.view(targets.shape), targets)
        logits = model.logits(hidden).float()
        # F.cross_entropy in its two parts, of which the second costs next to nothing.
        log_probabilities = F.log_softmax(logits.view(-1, logits.shape[-1]), dim=-1)
        total = F.nll_loss(log_probabilities, wanted, reduction="sum")
        each = F.nll_loss(log_probabilities, wanted, reduction="none")
    return BatchLosses(total, each.view(targets.shape), targets)


@torch.no_grad()
def losses_of_windows(
    model: GPT,
    tokens: Tokens,
    batches: Iterable[WindowBatch],
    *,
    dtype: torch.dtype,
    advance: Callable[[], object],
) -> Iterator[tuple[WindowBatch, BatchLosses]]:
    """Yield the losses of windows of a split, batch by batch; the other arguments are those of `mean_loss`."""
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            yield batch, window_losses(model, tokens, batch, dtype)
            advance()
    finally:
        model.train(was_training)


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
    block_size = block_size or model.config.block_size
    batches = (
        WindowBatch(offsets[first : first + batch_size], block_size, block_size)
        for first in range(0, len(offsets), batch_size)
    )
    total = exact_zero(model.device)
    for _, losses in losses_of_windows(model, tokens, batches, dtype=dtype, advance=advance):
        total += losses.total
    return float(total) / (len(offsets) * block_size)


def exact_zero(device: torch.device) -> Tensor:
    """Return the start of a sum, in the most exact number format of the device."""
    return torch.zeros((), dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)


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
    windows = Windows(len(tokens), block_size or model.config.block_size)
    windows.check()
    if batches is not None:
        windows = windows.spread(batches * batch_size, SPREAD_SEED)
    return score_windows(model, tokenizer, tokens, windows, batch_size=batch_size, dtype=dtype, advance=advance)


def score_blocks(model: GPT, tokenizer: Tokenizer, tokens: Tokens, offsets: Offsets, *, batch_size: int) -> Score:
    """Score a model in float32 on those of a split's non-overlapping blocks that begin at `offsets`."""
    block_size = model.config.block_size
    windows = Windows(len(tokens), block_size, chosen=offsets // block_size)
    return score_windows(model, tokenizer, tokens, windows, batch_size=batch_size)


def score_windows(
    model: GPT,
    tokenizer: Tokenizer,
    tokens: Tokens,
    windows: Windows,
    *,
    batch_size: int,
    ends: DocumentEnds | None = None,
    unit_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    advance: Callable[[], object] = lambda: None,
) -> Score:
    """Score a model on windows of a split.

    Args:
        model: The model, on the device to compute on; its mode is restored afterwards.
        tokenizer: Says how many bytes the targets stand for.
        tokens: The split, (tokens,).
        windows: The windows, at least one.
        batch_size: Windows computed at once.
        ends: Where documents end; None: unknown.
        unit_size: Targets of a block, if standard errors are over blocks; None: those of a window.
        dtype: Number format of matrix products.
        advance: Called after each batch, for a progress bar.
    """
    byte_lengths = tokenizer.byte_lengths()
    sums = TextSums(ends, unit_size or windows.block_size)
    total, byte_count = exact_zero(model.device), 0
    for batch, losses in losses_of_windows(model, tokens, windows.batches(batch_size), dtype=dtype, advance=advance):
        total += losses.total
        byte_counts = byte_lengths[losses.targets.numpy().reshape(-1)]
        byte_count += int(byte_counts.sum())
        sums.add(batch.positions.reshape(-1), losses.each.cpu().numpy().reshape(-1).astype(np.float64), byte_counts)
    loss = float(total) / windows.target_count
    return Score(
        loss=loss,
        perplexity=perplexity_of(loss),
        bits_per_byte=_bits_per_byte(loss, windows.target_count, byte_count),
        tokens=windows.target_count,
        block_size=windows.block_size if windows.block_size < model.config.block_size else None,
        bytes=byte_count,
        stride=windows.stride,
        contexts=windows.contexts,
        units=sums.total(),
    )


def joined(scores: Sequence[Score]) -> Score:
    """Return the score on all windows of parts of a split."""
    if len(scores) == 1:
        return scores[0]
    tokens, byte_count = sum(score.tokens for score in scores), sum(score.bytes for score in scores)
    loss = math.fsum(score.loss * score.tokens for score in scores) / tokens
    units = [score.units for score in scores if score.units is not None]
    return replace(
        scores[0],
        loss=loss,
        perplexity=perplexity_of(loss),
        bits_per_byte=_bits_per_byte(loss, tokens, byte_count),
        tokens=tokens,
        bytes=byte_count,
        units=in_order(units) if len(units) == len(scores) else None,
    )


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

COUNTED_AT_ONCE = 1 << 20
"""Targets whose bytes are counted at once."""

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


def bits_per_byte(loss: float, tokens: Tokens, offsets: Offsets, block_size: int, tokenizer: Tokenizer) -> float | None:
    """Return a mean loss over windows (nats per token) as bits per byte of the targets' text; None without a byte.

    Args:
        loss: The loss over the windows.
        tokens: The split, (tokens,).
        offsets: Where the windows begin.
        block_size: Targets of a window.
        tokenizer: Says how many bytes the targets stand for.
    """
    byte_lengths, byte_count = tokenizer.byte_lengths(), 0
    at_once = max(1, COUNTED_AT_ONCE // block_size)
    for first in range(0, len(offsets), at_once):
        _, targets = gather(tokens, offsets[first : first + at_once], block_size)
        byte_count += int(byte_lengths[targets.numpy()].sum())
    return _bits_per_byte(loss, len(offsets) * block_size, byte_count)


def _bits_per_byte(loss: float, tokens: int, byte_count: int) -> float | None:
    return loss * tokens / math.log(2) / byte_count if byte_count else None
