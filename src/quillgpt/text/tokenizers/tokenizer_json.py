"""Any other `tokenizer.json`, run by Hugging Face's `tokenizers` library."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Engine

from quillgpt.errors import TokenizerError, shorten
from quillgpt.text.encodings.normal_forms import without_surrogates
from quillgpt.text.tokenizers.bounds import check_bounds
from quillgpt.text.tokenizers.byte_alphabet import CHARACTER_TO_BYTE
from quillgpt.text.tokenizers.tokenizer_files import (
    END_OF_TEXT,
    checked_ids,
    save_tokenizer,
    tokenizer_fingerprint,
)

COMMON_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>")
PARTS = ("model", "normalizer", "pre_tokenizer", "decoder")
STANDARD_ERROR = 2
LONGEST_REASON = 300
MOST_UNUSED_IDS = 1 << 16
"""Ids without a token, of which some tokenizers have many; far more mean a damaged file and would fill the memory."""

_SCREEN = threading.RLock()
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class HuggingFaceTokenizer:
    """Encodes as a given tokenizer.json says, without its special tokens around a text."""

    def __init__(self, content: dict[str, Any], *, name: str = "tokenizer.json", end: str | None = None) -> None:
        """Make a tokenizer from the content of a tokenizer.json.

        Args:
            content: The content of the file; truncation and padding are ignored.
            name: The name as one types it for `--tokenizer`.
            end: The end-of-text token; None takes a common one that the tokenizer has.

        Raises:
            TokenizerError: The content describes no tokenizer.
        """
        self.name = name
        self._content = content | {"truncation": None, "padding": None}
        check_bounds(content, name)
        with _failing_as(f"{name} describes no usable tokenizer", "give another file"):
            _check_merges(self._content.get("model"))
            self._engine = Engine.from_str(json.dumps(self._content))
        self.fingerprint = tokenizer_fingerprint(self._content)
        vocab = self._engine.get_vocab(with_added_tokens=True)
        if not vocab:
            raise TokenizerError(f"{name} describes a tokenizer without any token; give another file")
        largest = max(vocab.values())
        if largest >= MOST_UNUSED_IDS + len(vocab):
            raise TokenizerError(
                f"{name} has the id {largest}, but only {len(vocab):,} tokens; expected fewer than "
                f"{MOST_UNUSED_IDS:,} unused ids; give another file"
            )
        self.vocab_size = largest + 1
        special = {entry["content"] for entry in self._content.get("added_tokens") or [] if entry.get("special")}
        named = [end] if end is not None and end in vocab else []
        ends = [token for token in (*named, *COMMON_ENDS) if token in named or token in special]
        self._end = ends[0] if ends else None
        self.end_of_text: int | None = vocab[ends[0]] if ends else None

    @property
    def parts(self) -> list[str]:
        """What it is made of, for messages: the kinds of its model, normalizer, pre-tokenizer and decoder."""
        kinds = {part: (self._content.get(part) or {}).get("type") for part in PARTS}
        return [f"the {part.replace('_', '-')} {kind}" for part, kind in kinds.items() if kind]

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return the ids of a text; special tokens that are written in it are ordinary text.

        Raises:
            TokenizerError: The tokenizer cannot represent the text.
        """
        return np.array(self._ids(text, special_as_text=True), dtype=np.uint32)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt; special tokens that are written in it become their ids."""
        return self._ids(text, special_as_text=False)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the text of ids; bytes that are no complete character become U+FFFD."""
        checked = checked_ids(ids, name=self.name, vocab_size=self.vocab_size)
        with _failing_as(f"{self.name} cannot turn these ids into text", "give another tokenizer"):
            return str(self._engine.decode(checked.tolist(), skip_special_tokens=False))

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the number of UTF-8 bytes of each id, (vocab_size,), 0 for special tokens.

        They come from the spelling of the tokens, byte-level or with `▁` for a space, by the kind of decoder; changes
        by a normalizer are not counted.
        """
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        special = {entry["id"] for entry in self._content.get("added_tokens") or [] if entry.get("special")}
        byte_level = '"ByteLevel"' in json.dumps(self._content.get("decoder"))
        for token, token_id in self._engine.get_vocab(with_added_tokens=True).items():
            if token_id not in special:
                lengths[token_id] = _byte_length(token, byte_level=byte_level)
        return lengths

    def last_cut(self, text: str) -> int:  # noqa: ARG002 - the protocol's signature
        """Return 0: no cut is known to be safe for a tokenizer made elsewhere, so documents are encoded whole."""
        return 0

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json."""
        save_tokenizer(folder, self._content, kind=self.name, end_of_text=self._end)

    def _ids(self, text: str, *, special_as_text: bool) -> list[int]:
        self._engine.encode_special_tokens = special_as_text
        with _failing_as(f"{self.name} cannot represent this text", "use --tokenizer byte or bpe:1024"):
            ids: list[int] = self._engine.encode(without_surrogates(text), add_special_tokens=False).ids
        return ids


def _check_merges(model: Any) -> None:
    """Check merges, about which the library makes assumptions: a damaged file would end the whole process."""
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict):
        return
    prefix = model.get("continuing_subword_prefix") or ""
    for merge in model.get("merges") or []:
        match merge.split(" ") if isinstance(merge, str) else merge:
            case [str(first), str(second)] if second.startswith(prefix):
                known = first + second.removeprefix(prefix) in vocab
            case _:
                known = False
        if not known:
            raise ValueError(f"the merge {shorten(merge)} makes no token of its vocabulary")


@contextmanager
def _failing_as(what: str, remedy: str) -> Iterator[None]:
    """Turn what the library raises into a TokenizerError: Exception, or a panic, which is a BaseException."""
    try:
        with _panics_unseen():
            yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise TokenizerError(f"{what} ({reason}); {remedy}") from error


@contextmanager
def _panics_unseen() -> Iterator[None]:
    """Hide what the library writes to the screen when it panics; the error says the same."""
    with _SCREEN:
        try:
            screen = os.dup(STANDARD_ERROR)
        except OSError:  # it is closed, so nothing can be seen
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, STANDARD_ERROR)
            os.close(nowhere)
            yield
        finally:
            os.dup2(screen, STANDARD_ERROR)
            os.close(screen)


def _byte_length(token: str, *, byte_level: bool) -> int:
    if byte_level and all(character in CHARACTER_TO_BYTE for character in token):
        return len(token)
    if _BYTE_TOKEN.fullmatch(token):
        return 1
    return len(token.replace("▁", " ").removeprefix("##").encode("utf-8"))
