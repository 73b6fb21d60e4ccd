"""The model that is measured: the preset's, with the vocabulary of its tokenizer."""

from __future__ import annotations

from quillgpt.config.schema import TrainSettings
from quillgpt.model import ModelShape, padded_vocab_size
from quillgpt.text.corpora import RECIPES
from quillgpt.training.shape import model_shape

USUAL_VOCABULARIES = {"char": 65, "byte": 257, "gpt2": 50257}
"""Tokens of the tokenizers; characters are counted as tiny Shakespeare has them."""


def measured_shape(settings: TrainSettings, vocabulary: int | None) -> ModelShape:
    """Return the shape that is measured; no text is read for it.

    Args:
        settings: The preset.
        vocabulary: Tokens of the vocabulary; None takes what the preset says or its tokenizer usually has.
    """
    if vocabulary is None and settings.vocab_size is not None:
        return model_shape(settings, settings.vocab_size)
    if vocabulary is None:
        recipe = RECIPES.get(settings.dataset)
        tokenizer = settings.tokenizer or (recipe.tokenizer if recipe else "char")
        own = tokenizer.removeprefix("bpe:")
        vocabulary = int(own) if own.isdigit() else USUAL_VOCABULARIES.get(tokenizer, USUAL_VOCABULARIES["gpt2"])
    return model_shape(settings, padded_vocab_size(vocabulary))


def shape_numbers(shape: ModelShape) -> dict[str, object]:
    """Return what a report says of a shape, by the names of the settings."""
    names = ("arch", "n_layer", "n_head", "n_embd", "vocab_size", "block_size", "bias")
    return {name: getattr(shape, name) for name in names}
