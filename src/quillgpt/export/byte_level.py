"""Expressing our tokenizers as byte-level byte-pair encoding, which other programs call GPT-2's tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from quillgpt.errors import CheckpointError
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.byte_alphabet import BYTE_TO_CHARACTER, spell_bytes
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.tokenizer import Tokenizer
from quillgpt.text.tokenizers.tokenizer_files import END_OF_TEXT

NEVER_MERGED = f"{BYTE_TO_CHARACTER[0xFF]} {BYTE_TO_CHARACTER[0xFF]}"
"""A merge of bytes that UTF-8 never uses, because programs require at least one merge."""


@dataclass(frozen=True)
class ByteLevel:
    """The vocabulary and the merges of a byte-level tokenizer.

    Attributes:
        tokens: The spelling of each id, without end-of-text.
        merges: The merges as `first second`, in the order of their ranks.
    """

    tokens: list[str]
    merges: list[str]


def byte_level(tokenizer: Tokenizer) -> ByteLevel:
    """Express a tokenizer by bytes and merges.

    For `char`, the bytes of a character are merged from the first one on. Merges never reach into the next character,
    because the first byte of a character cannot continue another; so their order does not matter. The intermediate
    merges are not tokens, and neither are characters that the tokenizer lacks: `char` refuses them, other programs
    drop them.

    Raises:
        CheckpointError: The tokenizer is of another kind.
    """
    if isinstance(tokenizer, CharTokenizer):
        spelled = [spell_bytes(character.encode("utf-8", "surrogatepass")) for character in tokenizer.characters]
        merges = dict.fromkeys(f"{token[:at]} {token[at]}" for token in spelled for at in range(1, len(token)))
        return ByteLevel(spelled, list(merges) or [NEVER_MERGED])
    if isinstance(tokenizer, ByteTokenizer):
        return ByteLevel(BYTE_TO_CHARACTER, [NEVER_MERGED])
    if isinstance(tokenizer, BytePairTokenizer):
        tokens = [token for token in tokenizer.vocab if token != END_OF_TEXT]
        return ByteLevel(tokens, [f"{first} {second}" for first, second in tokenizer.merges] or [NEVER_MERGED])
    raise CheckpointError(
        f"the tokenizer {tokenizer.name} cannot be expressed by bytes and GPT-2's words; char, byte, bpe:N and gpt2 can"
    )
