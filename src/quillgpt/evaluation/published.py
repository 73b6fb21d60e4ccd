"""What others have published of models and data sets that anybody can measure again."""

from __future__ import annotations

from typing import Final, NamedTuple


class PublishedLosses(NamedTuple):
    """Mean losses in nats per token: of batches of the training split, and of the validation split."""

    train: float
    val: float


OPENWEBTEXT: Final = {
    "gpt2": PublishedLosses(3.11, 3.12),
    "gpt2-medium": PublishedLosses(2.85, 2.84),
    "gpt2-large": PublishedLosses(2.66, 2.67),
    "gpt2-xl": PublishedLosses(2.56, 2.54),
}
"""The published GPT-2s on OpenWebText, by nanoGPT's README, in blocks of 1,024 tokens."""


def published_losses(model: str, dataset: str) -> PublishedLosses | None:
    """Return what is published of a model on a data set; None where nothing is.

    Args:
        model: As a person named it, such as `gpt2-xl`.
        dataset: The name of the data set.
    """
    return OPENWEBTEXT.get(model) if dataset == "openwebtext" else None
