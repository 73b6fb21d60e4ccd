"""Turns a stream of text into a token file, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from quillgpt.data.dataset_manifest import SplitRecord
from quillgpt.text.sources.documents import Mark, Piece
from quillgpt.text.tokenizers.tokenizer import Tokenizer, encode_pieces

PieceBatch = list[Piece]
"""Pieces that are encoded in one call, every piece by itself."""


@dataclass(frozen=True)
class EncodedBatch:
    """The ids of a batch, (tokens,), and the size of its text; `bytes` counts the text in UTF-8."""

    ids: NDArray[np.uint32]
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


def encode_batches(batches: Iterable[PieceBatch], tokenizer: Tokenizer) -> Iterator[EncodedBatch]:
    """Encode batches of pieces, every piece by itself."""
    for batch in batches:
        texts = [piece for piece in batch if isinstance(piece, str)]
        yield EncodedBatch(
            ids=encode_pieces(tokenizer, batch),
            characters=sum(map(len, texts)),
            bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
            documents=len(batch) - len(texts),
            ends_within_document=isinstance(batch[-1], str),
        )


def write_tokens(
    encoded: Iterable[EncodedBatch],
    file: BinaryIO,
    dtype: str,
    *,
    on_progress: Callable[[int], object] = lambda _: None,
) -> SplitRecord:
    """Write encoded batches to a file, and return its record for dataset.json."""
    digest = hashlib.sha256()
    documents = characters = utf8_bytes = tokens = 0
    within_document = False
    for batch in encoded:
        content = batch.ids.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
        file.write(content)
        digest.update(content)
        tokens += len(batch.ids)
        characters += batch.characters
        utf8_bytes += batch.bytes
        documents += batch.documents
        within_document = batch.ends_within_document
        on_progress(batch.characters)
    return SplitRecord(
        documents=documents + within_document,
        characters=characters,
        bytes=utf8_bytes,
        tokens=tokens,
        sha256=digest.hexdigest(),
    )
