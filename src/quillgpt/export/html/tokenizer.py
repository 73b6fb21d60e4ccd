"""Describing a tokenizer to page/tokenizer.js."""

from __future__ import annotations

from typing import Any

from quillgpt.errors import CheckpointError
from quillgpt.export.byte_level import byte_level
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.tokenizer import Tokenizer
from quillgpt.text.tokenizers.tokenizer_files import END_OF_TEXT
from quillgpt.text.tokenizers.tokenizer_json import HuggingFaceTokenizer


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a tokenizer as the page reads it: its tokens by id, its end of text, and whether merges stay in words.

    Merges need not be listed: the pair whose joined bytes have the lowest id is merged first (`BytePairTokenizer`).

    Raises:
        CheckpointError: The page cannot do what the tokenizer does; names what that is.
    """
    if isinstance(tokenizer, CharTokenizer):
        return {"kind": "char", "tokens": tokenizer.characters}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        raise CheckpointError(
            f"the tokenizer {tokenizer.name} was made elsewhere and has {', '.join(tokenizer.parts)}, which a page "
            "does not reproduce; char, byte, bpe:N and gpt2 can be exported"
        )
    tokens = [*byte_level(tokenizer).tokens, END_OF_TEXT]
    words = isinstance(tokenizer, BytePairTokenizer)
    return {"kind": "byte level", "tokens": tokens, "end": tokenizer.end_of_text, "words": words}
