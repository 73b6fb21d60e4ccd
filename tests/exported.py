"""Small models with each kind of tokenizer, for what is written for other programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quillgpt.checkpoint import LoadedModel, load_model, save_model
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.gpt2 import gpt2_tokenizer
from tiny import GPT2, tiny_model

TEXT = "It was the best of times, it was the worst of times; naïve café, 東京.\n" * 3

TOKENIZERS = {
    "char": lambda: CharTokenizer.from_text([TEXT]),
    "byte": ByteTokenizer,
    "bpe": lambda: BytePairTokenizer.train([TEXT], 280),
    "gpt2": gpt2_tokenizer,
}


def saved(folder: Path, config=GPT2, tokenizer: str = "byte") -> LoadedModel:
    """Write a small random model with a tokenizer, its vocabulary padded, and open it."""
    made = TOKENIZERS[tokenizer]()
    config = replace(config, vocab_size=made.vocab_size + 7, block_size=64)
    save_model(folder, tiny_model(config), made, about={"iteration": 3})
    return load_model(folder)
