"""The text that a model was trained on, as bytes: its tokens, decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from quillgpt.data.dataset import Dataset
from quillgpt.errors import DataError
from quillgpt.text.tokenizers.ids import IdTokenizer
from quillgpt.text.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:  # batches.py imports torch
    from quillgpt.data.batches import Tokens

DOCUMENT_END = b"\xff"
"""Stands between documents. No text in UTF-8 has this byte, so nothing that is searched for crosses it."""

TOKENS_AT_ONCE = 1 << 18
CONTEXT = 8
"""Tokens before a piece that are decoded with it: the text of a token can depend on the one before."""

LONGEST_CHARACTER = 8
"""Tokens that one character may need, more than the four of single bytes."""

INCOMPLETE = "\ufffd"


def training_text(datasets: Sequence[Dataset]) -> Iterator[bytes]:
    """Yield the training splits of data sets in UTF-8, in pieces; `DOCUMENT_END` stands between documents.

    Each data set, too, ends with `DOCUMENT_END`, unless it does so already.
    """
    for dataset in datasets:
        last = b""
        for last in decoded(dataset.train, dataset.tokenizer):
            yield last
        if not last.endswith(DOCUMENT_END):
            yield DOCUMENT_END


def decoded(tokens: Tokens, tokenizer: Tokenizer) -> Iterator[bytes]:
    """Yield the text of tokens in UTF-8, in pieces that end between characters, with `DOCUMENT_END` for end of text.

    Args:
        tokens: Token ids, (tokens,).
        tokenizer: Theirs.
    """
    context: list[int] = []
    waiting: list[int] = []  # the beginning of a character that the next piece completes
    for start in range(0, len(tokens), TOKENS_AT_ONCE):
        ids = np.asarray(tokens[start : start + TOKENS_AT_ONCE])
        ends = [] if tokenizer.end_of_text is None else np.flatnonzero(ids == tokenizer.end_of_text).tolist()
        place = 0
        for end in ends:
            yield _text(tokenizer, context, waiting + ids[place:end].tolist()) + DOCUMENT_END
            context, waiting, place = [], [], end + 1
        waiting += ids[place:].tolist()
        whole = _whole_characters(tokenizer, waiting)
        if whole:
            yield _text(tokenizer, context, waiting[:whole])
            context = (context + waiting[:whole])[-CONTEXT:]
            waiting = waiting[whole:]
    if waiting:
        yield _text(tokenizer, context, waiting)


def text_of(tokens: Tokens, tokenizer: Tokenizer) -> str:
    """Return the text of tokens.

    Documents are separated by a NUL character, which no text has, so that no match crosses from one to the next.

    Args:
        tokens: Token ids, (tokens,).
        tokenizer: Theirs.
    """
    return b"".join(decoded(tokens, tokenizer)).replace(DOCUMENT_END, b"\0").decode("utf-8", "replace")


def check_has_text(datasets: Sequence[Dataset]) -> None:
    """Check that the text of the tokens is known.

    Raises:
        DataError: A data set has only ids.
    """
    for dataset in datasets:
        if isinstance(dataset.tokenizer, IdTokenizer):
            raise DataError(
                f"the text of the tokens in {dataset.folder} is not known (its meta.pkl has only vocab_size), so "
                "nothing can be traced to it; prepare the text with quill prepare"
            )


def _text(tokenizer: Tokenizer, context: list[int], ids: list[int]) -> bytes:
    if not ids:
        return b""
    before = len(tokenizer.decode(context)) if context else 0
    return tokenizer.decode(context + ids)[before:].encode("utf-8", "surrogatepass")


def _whole_characters(tokenizer: Tokenizer, ids: list[int]) -> int:
    """Return how many of the ids can be decoded by themselves, so that no character is cut at the end."""
    for left_out in range(min(LONGEST_CHARACTER, len(ids))):
        count = len(ids) - left_out
        if not tokenizer.decode(ids[max(0, count - LONGEST_CHARACTER) : count]).endswith(INCOMPLETE):
            return count
    return len(ids) if len(ids) >= LONGEST_CHARACTER else 0  # then U+FFFD is a character of the text itself
