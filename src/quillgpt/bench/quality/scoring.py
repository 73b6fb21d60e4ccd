"""What a model pays for the held-out part of a text, in bits: the same for models of every program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quillgpt.bench.quality.held_out import SplitText, readable_part
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.tokenizer import Tokenizer

TOKENS_AT_ONCE = 4096

Nats = Callable[[Tensor, Tensor], float]
"""Returns the summed loss of a model in nats, given inputs and targets, both ids (B, T)."""


@dataclass(frozen=True)
class Price:
    """What a candidate pays for a held-out part.

    Attributes:
        bits: Bits for all of it.
        unknown_characters: Characters that its tokenizer lacks; their price is in the bits.
    """

    bits: float
    unknown_characters: int = 0


@torch.no_grad()
def bits_of(ids: Sequence[int], start: int, context: int, nats: Nats) -> float:
    """Return the bits that a model needs for ids, in consecutive windows that do not overlap.

    Every id is counted once. Each window begins with the last id of the one before it, and the first with `start`, so
    the model sees up to `context` ids before a target.

    Args:
        ids: What is predicted, (tokens,).
        start: The id before the first one.
        context: Ids that the model sees at once.
        nats: Returns its losses.
    """
    whole = torch.cat([torch.tensor([start]), torch.as_tensor(ids, dtype=torch.int64)])
    inputs, targets = whole[:-1], whole[1:]
    in_windows = len(targets) // context * context
    at_once = max(1, TOKENS_AT_ONCE // context) * context
    total = 0.0
    for first in range(0, in_windows, at_once):
        last = min(first + at_once, in_windows)
        total += nats(inputs[first:last].view(-1, context), targets[first:last].view(-1, context))
    if in_windows < len(targets):
        total += nats(inputs[None, in_windows:], targets[None, in_windows:])
    return total / math.log(2)


def price_of(split: SplitText, tokenizer: Tokenizer, start: int, context: int, nats: Nats) -> Price:
    """Return what a model pays for a held-out part, all of it, in windows of its own context.

    Args:
        split: The text.
        tokenizer: The model's.
        start: The id before the first one.
        context: Ids that the model sees at once.
        nats: Returns its losses.
    """
    readable = readable_part(split, tokenizer.characters if isinstance(tokenizer, CharTokenizer) else None)
    bits = bits_of(tokenizer.encode(readable.text).tolist(), start, context, nats)
    return Price(bits + readable.bits, readable.unknown)
