"""Our tokenizers as what other programs call GPT-2's: byte-level byte-pair encoding."""

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
"""A merge of bytes that UTF-8 never uses: programs want to see at least one."""


@dataclass(frozen=True)
class ByteLevel:
    """A vocabulary of spelled bytes, and what is merged in it.

    Attributes:
        tokens: The spelling of each id, without the end of a text.
        merges: Pairs that become one, each as `first second`, in the order of their ranks.
    """

    tokens: list[str]
    merges: list[str]


def byte_level(tokenizer: Tokenizer) -> ByteLevel:
    """Express a tokenizer by bytes and merges.

    A character of several bytes becomes whole by merges from its first byte on. These never reach beyond it, since
    every character begins with a byte that continues none; so their order does not matter. What stands in between is
    no token, and neither are characters that the tokenizer lacks: where `char` refuses a text, programs drop them.

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
