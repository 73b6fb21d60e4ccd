"""Published losses of known models on known data sets."""

from __future__ import annotations

from typing import Final, NamedTuple


class PublishedLosses(NamedTuple):
    """Mean losses in nats per token, on batches of the training split and on the validation split."""

    train: float
    val: float


OPENWEBTEXT: Final = {
    "gpt2": PublishedLosses(3.11, 3.12),
    "gpt2-medium": PublishedLosses(2.85, 2.84),
    "gpt2-large": PublishedLosses(2.66, 2.67),
    "gpt2-xl": PublishedLosses(2.56, 2.54),
}
"""The published GPT-2s on OpenWebText in blocks of 1,024 tokens, from nanoGPT's README."""


def published_losses(model: str, dataset: str) -> PublishedLosses | None:
    """Return the published losses of a model on a data set; None if there are none.

    Args:
        model: The name of the model, such as `gpt2-xl`.
        dataset: The name of the data set.
    """
    return OPENWEBTEXT.get(model) if dataset == "openwebtext" else None
