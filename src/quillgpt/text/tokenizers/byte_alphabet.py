"""The printable spelling of bytes in GPT-2's files.

`vocab.bpe`, `encoder.json` and every byte-level `tokenizer.json` write a byte as one visible character: printable
Latin-1 as itself, and the 68 other bytes as the characters from U+0100 on, in order.
"""

from __future__ import annotations


def _spelling() -> list[str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(substitutes)) for byte in range(256)]


BYTE_TO_CHARACTER = _spelling()
CHARACTER_TO_BYTE = {character: byte for byte, character in enumerate(BYTE_TO_CHARACTER)}


def spell_bytes(content: bytes) -> str:
    """Return the printable spelling of bytes."""
    return "".join(BYTE_TO_CHARACTER[byte] for byte in content)


def unspell_bytes(token: str) -> bytes:
    """Return the bytes of a printable spelling.

    Raises:
        KeyError: A character of `token` spells no byte.
    """
    return bytes(map(CHARACTER_TO_BYTE.__getitem__, token))
