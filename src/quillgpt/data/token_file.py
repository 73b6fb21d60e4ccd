"""Cuts a stream of text into batches that are encoded by themselves, and encodes a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quillgpt.text.sources.documents import Mark, Piece
from quillgpt.text.tokenizers.tokenizer import Tokenizer, encode_pieces, load_tokenizer

PieceBatch = list[Piece]
"""Pieces that are encoded in one call, every piece by itself."""

Encode = Callable[[Iterable[PieceBatch]], Iterator["EncodedBatch"]]
"""Encodes batches in their order."""


@dataclass(frozen=True)
class EncodedBatch:
    """The ids of a batch as a token file holds them, and sizes; `bytes` counts the text in UTF-8."""

    content: bytes
    tokens: int
    characters: int
    bytes: int
    documents: int
    ends_within_document: bool


def split_stream(stream: Iterable[Piece], characters: int) -> tuple[Iterator[Piece], Iterator[Piece]]:
    """Cut a stream into two after `characters` characters; the second must be read after the first.

    The mark of a document that ends exactly at the cut is in the first part.
    """
    rest: list[str] = []
    pieces = iter(stream)

    def first() -> Iterator[Piece]:
        left = characters
        for piece in pieces:
            if isinstance(piece, Mark):
                yield piece
                continue
            if len(piece) > left:
                if left:
                    yield piece[:left]
                rest.append(piece[left:])
                return
            left -= len(piece)
            yield piece

    def second() -> Iterator[Piece]:
        yield from rest
        yield from pieces

    return first(), second()


def chunk_stream(stream: Iterable[Piece], last_cut: Callable[[str], int], characters: int) -> Iterator[Piece]:
    """Cut a stream into chunks of about `characters` characters that can be encoded by themselves.

    Args:
        stream: Pieces of text, and marks at the ends of documents, which also end a chunk.
        last_cut: The tokenizer's method; without a safe cut, the chunk grows until there is one or the document ends.
        characters: The length from which to look for a cut.
    """
    waiting: list[str] = []
    length = 0
    before = ""
    for piece in stream:
        if isinstance(piece, Mark):
            if length:
                yield "".join(waiting)
            waiting, length, before = [], 0, ""
            yield piece
            continue
        waiting.append(piece)
        length += len(piece)
        if length >= characters:
            # A cut depends at most on the character before it, so pieces without a cut are not searched again.
            cut = last_cut(before + piece) - len(before)
            if cut >= 0 and length - len(piece) + cut > 0:
                waiting[-1] = piece[:cut]
                yield "".join(waiting)
                waiting, length = [piece[cut:]], len(piece) - cut
        before = piece[-1:] or before
    if length:
        yield "".join(waiting)


def batch_stream(chunks: Iterable[Piece], characters: int) -> Iterator[PieceBatch]:
    """Gather chunks into batches of about `characters` characters: one call for each small document would be slow."""
    batch: PieceBatch = []
    length = 0
    for chunk in chunks:
        batch.append(chunk)
        length += len(chunk) if isinstance(chunk, str) else 1
        if length >= characters:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def encode_batch(batch: PieceBatch, tokenizer: Tokenizer, dtype: str) -> EncodedBatch:
    """Encode a batch, every piece by itself, as ids of this type.

    Raises:
        TokenizerError: The tokenizer cannot represent the text.
    """
    texts = [piece for piece in batch if isinstance(piece, str)]
    ids = encode_pieces(tokenizer, batch)
    return EncodedBatch(
        content=ids.astype(np.dtype(dtype).newbyteorder("<")).tobytes(),
        tokens=len(ids),
        characters=sum(map(len, texts)),
        bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
        documents=len(batch) - len(texts),
        ends_within_document=isinstance(batch[-1], str),
    )


def encoder(folder: str, dtype: str) -> Callable[[PieceBatch], EncodedBatch]:
    """Return a function that encodes batches with the tokenizer that a folder holds; see `encode_batch`."""
    tokenizer = load_tokenizer(Path(folder))
    return lambda batch: encode_batch(batch, tokenizer, dtype)
