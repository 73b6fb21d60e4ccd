"""`ids`: tokens without a text, as when nanoGPT's meta.pkl has only vocab_size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from quillgpt.errors import TokenizerError, shorten
from quillgpt.text.tokenizers.tokenizer_files import (
    checked_ids,
    save_tokenizer,
    tokenizer_content,
    tokenizer_fingerprint,
)

MOST_IDS = 1 << 16
"""The largest vocabulary of nanoGPT's token files."""


class IdTokenizer:
    """Writes and reads ids as numbers with a space before each; their text is unknown."""

    name: Final = "ids"
    end_of_text: Final = None

    def __init__(self, vocab_size: int) -> None:
        """Make the tokenizer of a vocabulary of this size.

        Raises:
            TokenizerError: The vocabulary is empty, or larger than token files can hold.
        """
        if not 0 < vocab_size <= MOST_IDS:
            raise TokenizerError(
                f"vocab_size is {shorten(vocab_size)}; a vocabulary without text has between 1 and {MOST_IDS:,} tokens"
            )
        self.vocab_size = vocab_size
        self._content = _content(vocab_size)
        self.fingerprint = tokenizer_fingerprint(self._content)

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> IdTokenizer | None:
        """Return the tokenizer that a tokenizer.json describes, or None if that is of another kind."""
        model = content.get("model") or {}
        vocab = model.get("vocab")
        if model.get("type") != "WordLevel" or not isinstance(vocab, dict) or not 0 < len(vocab) <= MOST_IDS:
            return None
        if vocab.get("0") != 0:
            return None
        tokenizer = cls(len(vocab))
        return tokenizer if tokenizer.fingerprint == tokenizer_fingerprint(content) else None

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return the ids that are written in a text.

        Raises:
            TokenizerError: The text has something else than ids.
        """
        words = text.split()
        if strange := next((word for word in words if not re.fullmatch(r"[0-9]{1,9}", word)), None):
            raise TokenizerError(
                f"{shorten(strange)} is no token id: the text of the {self.vocab_size:,} tokens is unknown, "
                'so give ids, such as "12 5 7"'
            )
        return checked_ids([int(word) for word in words], name=self.name, vocab_size=self.vocab_size).astype(np.uint32)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt; this tokenizer has no special tokens."""
        return [int(token) for token in self.encode(text)]

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the ids as text."""
        return "".join(f" {token}" for token in checked_ids(ids, name=self.name, vocab_size=self.vocab_size))

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return zeros, (vocab_size,): the bytes of an id are unknown."""
        return np.zeros(self.vocab_size, np.int64)

    def last_cut(self, text: str) -> int:
        """Return the end of the last complete number; the digits after it may continue in the next piece."""
        return max(text.rfind(space) for space in " \n\t") + 1

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json."""
        save_tokenizer(folder, self._content, kind=self.name, end_of_text=None)


def _content(vocab_size: int) -> dict[str, Any]:
    return tokenizer_content(
        pre_tokenizer={"type": "WhitespaceSplit"},
        decoder={"type": "Replace", "pattern": {"Regex": "^"}, "content": " "},
        model={"type": "WordLevel", "vocab": {str(token): token for token in range(vocab_size)}, "unk_token": "<unk>"},
    )
