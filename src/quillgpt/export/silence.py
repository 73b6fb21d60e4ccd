"""A token that a program wants and the model does not have: a row of the head that is never drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from quillgpt.config.schema import Sampling
from quillgpt.generation import generate_ids
from quillgpt.model import GPT

SEEN_POSITIONS = 4096
"""Hidden states that the row is made from: half from the model's own texts, half from random ones."""

BELOW = 1000.0
"""Natural logarithm by which the row's score is to lie below 0: far more than any score is above it."""

RIDGE = 1e-3
"""Share of the hidden states' mean square that keeps the row short."""


@torch.no_grad()
def silent_row(model: GPT, tokens: int) -> Tensor:
    """Return a row of the head whose score is far below all others wherever the model is likely to be.

    A head has no bias, so a row cannot be silenced by a number. But the hidden states of a trained model lie on one
    side of the origin: the row is minus `BELOW` times the direction that is most nearly 1 on all of them, by least
    squares. That is measured, not proved; who exports checks it on other texts.

    Args:
        model: In float32, on the CPU.
        tokens: Ids that the tokenizer has.

    Returns:
        (C,).
    """
    length = model.shape.block_size
    count = -(-SEEN_POSITIONS // (2 * length))
    generator = torch.Generator().manual_seed(0)
    drawn = Sampling(num_samples=count, max_new_tokens=max(1, length - 1), temperature=1.0, top_k=None)
    first = int(torch.randint(tokens, (1,), generator=generator))
    own = torch.stack([torch.full((count,), first), *generate_ids(model, [first], drawn, vocab_size=tokens)], dim=1)
    random = torch.randint(tokens, (count, length), generator=generator)
    hidden = torch.cat([model(ids[:, -length:]).flatten(0, 1) for ids in (own, random)]).double()
    square = hidden.T @ hidden / len(hidden)
    square += torch.eye(len(square)) * RIDGE * square.diagonal().mean()
    direction: Tensor = torch.linalg.solve(square, hidden.mean(0))
    return (-BELOW * direction).float()
