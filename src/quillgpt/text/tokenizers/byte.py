"""`byte`: one id for each byte of the text in UTF-8, and one for end of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from quillgpt.text.encodings.normal_forms import without_surrogates
from quillgpt.text.tokenizers.byte_alphabet import BYTE_TO_CHARACTER
from quillgpt.text.tokenizers.tokenizer_files import (
    END_OF_TEXT,
    byte_level_bpe,
    checked_ids,
    save_tokenizer,
    tokenizer_fingerprint,
)


class ByteTokenizer:
    """The id of a byte is its value; 256 is end of text."""

    name: Final = "byte"
    vocab_size: Final = 257
    end_of_text: Final = 256

    def __init__(self) -> None:
        self._content = _content()
        self.fingerprint = tokenizer_fingerprint(self._content)

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> ByteTokenizer | None:
        """Return the tokenizer that a tokenizer.json describes, or None if that is of another kind."""
        return cls() if content == _content() else None

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return the bytes of a text."""
        return np.frombuffer(without_surrogates(text).encode("utf-8"), dtype=np.uint8).astype(np.uint32)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the bytes of a prompt; a literal `<|endoftext|>` in it becomes the end-of-text id."""
        ids: list[int] = []
        for index, part in enumerate(text.split(END_OF_TEXT)):
            ids += [self.end_of_text] * (index > 0) + self.encode(part).tolist()
        return ids

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the text of ids; bytes that are no complete character become U+FFFD."""
        array = checked_ids(ids, name=self.name, vocab_size=self.vocab_size)
        ends = np.flatnonzero(array == self.end_of_text)
        parts = np.split(array, ends)
        texts = [part[part < self.end_of_text].astype(np.uint8).tobytes().decode("utf-8", "replace") for part in parts]
        return END_OF_TEXT.join(texts)

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return 1 for each byte and 0 for end of text, (257,)."""
        return np.array([1] * 256 + [0], dtype=np.int64)

    def last_cut(self, text: str) -> int:
        """Return the length of the text: bytes are encoded one by one, so every cut is safe."""
        return len(text)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json."""
        save_tokenizer(folder, self._content, kind=self.name, end_of_text=END_OF_TEXT)


def _content() -> dict[str, Any]:
    vocab = {character: byte for byte, character in enumerate(BYTE_TO_CHARACTER)}
    return byte_level_bpe(vocab | {END_OF_TEXT: 256}, [], 256, use_regex=False)
