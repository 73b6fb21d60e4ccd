"""`char`: one id for each character of the training text, as in nanoGPT's character-level recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from quillgpt.console import say
from quillgpt.errors import TokenizerError
from quillgpt.text.encodings.normal_forms import in_known_form, spelled_out
from quillgpt.text.tokenizers.tokenizer_files import (
    checked_ids,
    save_tokenizer,
    tokenizer_content,
    tokenizer_fingerprint,
)

MISSING = 0xFFFFFFFF
EXAMPLES = 5


class CharTokenizer:
    """The characters of a text, numbered by code point; there is no end of text."""

    name: Final = "char"
    end_of_text: Final = None

    def __init__(self, characters: Iterable[str]) -> None:
        """Make the tokenizer of an alphabet.

        Args:
            characters: Characters in the order of their ids; repeated ones count once.

        Raises:
            TokenizerError: There are no characters.
        """
        self.characters = list(dict.fromkeys(characters))
        if not self.characters:
            raise TokenizerError("the tokenizer char needs a text with at least one character; the given one is empty")
        self.vocab_size = len(self.characters)
        codes = np.array([ord(character) for character in self.characters], dtype=np.int64)
        # One entry beyond the largest code, always missing: larger codes are looked up there.
        self._table = np.full(int(codes.max()) + 2, MISSING, dtype=np.uint32)
        self._table[codes] = np.arange(self.vocab_size, dtype=np.uint32)
        self._codes = codes.astype(np.uint32)
        self._known = frozenset(self.characters)
        self._said = False
        self._content = _content(self.characters)
        self.fingerprint = tokenizer_fingerprint(self._content)

    @classmethod
    def from_text(cls, pieces: Iterable[str]) -> CharTokenizer:
        """Make the tokenizer of a text that comes in pieces."""
        alphabet: set[str] = set()
        for piece in pieces:
            alphabet.update(piece)
        return cls(sorted(alphabet))

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> CharTokenizer | None:
        """Return the tokenizer that a tokenizer.json describes, or None if that is of another kind."""
        model = content.get("model") or {}
        vocab = model.get("vocab")
        if model.get("type") != "WordLevel" or not isinstance(vocab, dict) or not vocab:
            return None
        if sorted(vocab.values()) != list(range(len(vocab))) or any(len(token) != 1 for token in vocab):
            return None
        tokenizer = cls(sorted(vocab, key=vocab.__getitem__))
        return tokenizer if tokenizer.fingerprint == tokenizer_fingerprint(content) else None

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return the ids of a text.

        Raises:
            TokenizerError: The text has a character that the training text lacks.
        """
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        ids: NDArray[np.uint32] = self._table[np.minimum(codes, len(self._table) - 1)]
        if np.any(ids == MISSING):
            missing = chr(int(codes[np.argmax(ids == MISSING)]))
            raise TokenizerError(
                f"the character {missing!r} (U+{ord(missing):04X}) is unknown to the tokenizer char, which knows only "
                f"the {self.vocab_size} characters of its training text; remove it, or train a new model with "
                "--tokenizer byte or --tokenizer bpe:1024, which know every character"
            )
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt; this tokenizer has no special tokens.

        A character that the training text has in another form (an accented letter as one or two characters, straight
        or curly quotes) is replaced by that form, which is reported once.

        Raises:
            TokenizerError: The training text has a character of the prompt in no form.
        """
        known, changed = in_known_form(text, self._known)
        if changed and not self._said:
            words = ", ".join(f"{spelled_out(old)} as {spelled_out(new)}" for old, new in [*changed.items()][:EXAMPLES])
            say(f"the prompt is read in the forms that the training text has: {words}")
            self._said = True
        return [int(token) for token in self.encode(known)]

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the text of ids."""
        array = checked_ids(ids, name=self.name, vocab_size=self.vocab_size)
        return self._codes[array].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the length of each character in UTF-8, (vocab_size,)."""
        return np.array([len(character.encode("utf-8", "surrogatepass")) for character in self.characters], np.int64)

    def last_cut(self, text: str) -> int:
        """Return the length of the text: characters are encoded one by one, so every cut is safe."""
        return len(text)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json."""
        save_tokenizer(folder, self._content, kind=self.name, end_of_text=None)


def _content(characters: list[str]) -> dict[str, Any]:
    # A word-level model raises on unknown characters; a BPE model without merges would drop them silently.
    return tokenizer_content(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
        decoder={"type": "Fuse"},
        model={
            "type": "WordLevel",
            "vocab": {character: token for token, character in enumerate(characters)},
            "unk_token": "<unk>",
        },
    )
