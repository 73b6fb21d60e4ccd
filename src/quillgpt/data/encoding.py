"""From a stream of text to a token file, in bounded memory, by one process or several."""

from __future__ import annotations

import hashlib
import multiprocessing
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from quillgpt.data.manifest import SplitRecord
from quillgpt.text.documents import Mark, Piece
from quillgpt.text.tokenizer import Tokenizer, load_tokenizer

WAITING_PER_PROCESS = 3  # batches handed out ahead of the one that is written

Batch = list[Piece]
"""Pieces that are encoded together, each on its own."""


@dataclass(frozen=True)
class Encoded:
    """What became of a batch: its ids, (tokens,), and what it held, in characters and in bytes of UTF-8."""

    ids: NDArray[np.uint32]
    characters: int
    bytes: int
    documents: int
    ends_within_document: bool


Encode = Callable[[Iterable[Batch]], Iterator[Encoded]]


def split_stream(stream: Iterable[Piece], characters: int) -> tuple[Iterator[Piece], Iterator[Piece]]:
    """Cut a stream after so many characters into two, the second of which must be read after the first.

    A document that ends exactly at the cut has its end in the first part.
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
    """Join pieces and cut them again, into chunks of about so many characters that can be encoded on their own.

    Args:
        stream: Pieces of text, and the ends of documents, which always end a chunk too.
        last_cut: The tokenizer's; where it finds no cut, the chunk grows until it does or the document ends.
        characters: The length from which on a cut is looked for.
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
            # A cut depends on the character before it at most, so the pieces that had none are not searched again.
            cut = last_cut(before + piece) - len(before)
            if cut >= 0 and length - len(piece) + cut > 0:
                waiting[-1] = piece[:cut]
                yield "".join(waiting)
                waiting, length = [piece[cut:]], len(piece) - cut
        before = piece[-1:] or before
    if length:
        yield "".join(waiting)


def batch_stream(chunks: Iterable[Piece], characters: int) -> Iterator[Batch]:
    """Gather chunks into batches of about so many characters: small documents are not worth a message each."""
    batch: Batch = []
    length = 0
    for chunk in chunks:
        batch.append(chunk)
        length += len(chunk) if isinstance(chunk, str) else 1
        if length >= characters:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


@contextmanager
def batch_encoder(tokenizer: Tokenizer, processes: int) -> Iterator[Encode]:
    """Yield a function that encodes batches in their order, in this process or in several others.

    The others are started anew (spawned), never forked: a fork of a process with threads may stand still.
    """
    if processes <= 1:
        yield lambda batches: (_encode(tokenizer, batch) for batch in batches)
        return
    with tempfile.TemporaryDirectory(prefix="quill-") as folder:
        tokenizer.save(Path(folder))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_load_worker, initargs=(folder,)) as pool:
            try:
                yield lambda batches: _in_order(pool, batches, processes * WAITING_PER_PROCESS)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def write_tokens(
    encoded: Iterable[Encoded],
    file: BinaryIO,
    dtype: str,
    *,
    on_progress: Callable[[int], object] = lambda _: None,
) -> SplitRecord:
    """Write encoded batches one after the other, and return what was written."""
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


def _encode(tokenizer: Tokenizer, batch: Batch) -> Encoded:
    end = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], dtype=np.uint32)
    texts = [piece for piece in batch if isinstance(piece, str)]
    return Encoded(
        ids=np.concatenate([tokenizer.encode(piece) if isinstance(piece, str) else end for piece in batch]),
        characters=sum(map(len, texts)),
        bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
        documents=len(batch) - len(texts),
        ends_within_document=isinstance(batch[-1], str),
    )


def _in_order(pool: ProcessPoolExecutor, batches: Iterable[Batch], ahead: int) -> Iterator[Encoded]:
    waiting: deque[Future[Encoded]] = deque()
    for batch in batches:
        waiting.append(pool.submit(_encode_in_worker, batch))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_worker_tokenizer: Tokenizer | None = None


def _load_worker(folder: str) -> None:
    global _worker_tokenizer
    _worker_tokenizer = load_tokenizer(Path(folder))


def _encode_in_worker(batch: Batch) -> Encoded:
    assert _worker_tokenizer is not None
    return _encode(_worker_tokenizer, batch)
