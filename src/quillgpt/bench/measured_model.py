"""The model that is measured: the preset's, with the vocabulary of its tokenizer."""

from __future__ import annotations

from quillgpt.config.schema import TrainSettings
from quillgpt.model import GPTConfig, padded_vocab_size
from quillgpt.text.sources.corpora import RECIPES
from quillgpt.training.start.model_config import model_config

USUAL_VOCABULARIES = {"char": 65, "byte": 257, "gpt2": 50257}
"""Vocabulary sizes of the tokenizers; for `char`, that of tiny Shakespeare."""


def measured_config(settings: TrainSettings, vocabulary: int | None) -> GPTConfig:
    """Return the configuration of the model that is measured, without reading a text.

    Args:
        settings: The preset.
        vocabulary: Vocabulary size; None takes that of the preset, or the usual one of its tokenizer.
    """
    if vocabulary is None and settings.vocab_size is not None:
        return model_config(settings, settings.vocab_size)
    if vocabulary is None:
        recipe = RECIPES.get(settings.dataset)
        tokenizer = settings.tokenizer or (recipe.tokenizer if recipe else "char")
        bpe_size = tokenizer.removeprefix("bpe:")
        vocabulary = (
            int(bpe_size) if bpe_size.isdigit() else USUAL_VOCABULARIES.get(tokenizer, USUAL_VOCABULARIES["gpt2"])
        )
    return model_config(settings, padded_vocab_size(vocabulary))


def reported_sizes(config: GPTConfig) -> dict[str, object]:
    """Return the values of a model's configuration that a report shows, by the names of the settings."""
    names = ("arch", "n_layer", "n_head", "n_embd", "vocab_size", "block_size", "bias")
    return {name: getattr(config, name) for name in names}
