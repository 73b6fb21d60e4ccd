"""From a stream of text to a token file, in bounded memory, by one process or several."""

from __future__ import annotations

import hashlib
import multiprocessing
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from quillgpt.data.manifest import SplitRecord
from quillgpt.text.tokenizer import Tokenizer, load_tokenizer

WAITING_PER_PROCESS = 3  # chunks handed out ahead of the one that is written


class Mark(Enum):
    """What a stream says beside its pieces of text."""

    DOCUMENT_END = "document end"


Piece = str | Mark


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


@contextmanager
def chunk_encoder(
    tokenizer: Tokenizer, processes: int
) -> Iterator[Callable[[Iterable[Piece]], Iterator[tuple[Piece, NDArray[np.uint32]]]]]:
    """Yield a function that encodes chunks in their order, in this process or in several others.

    The others are started anew (spawned), never forked: a fork of a process with threads may stand still.
    """
    if processes <= 1:
        yield lambda chunks: ((chunk, _encode(tokenizer, chunk)) for chunk in chunks)
        return
    with tempfile.TemporaryDirectory(prefix="quill-") as folder:
        tokenizer.save(Path(folder))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_load_worker, initargs=(folder,)) as pool:
            try:
                yield lambda chunks: _in_order(pool, tokenizer, chunks, processes * WAITING_PER_PROCESS)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def write_tokens(
    encoded: Iterable[tuple[Piece, NDArray[np.uint32]]],
    file: BinaryIO,
    dtype: str,
    *,
    on_progress: Callable[[int], object] = lambda _: None,
) -> SplitRecord:
    """Write encoded chunks one after the other, and return what was written."""
    digest = hashlib.sha256()
    documents = characters = utf8_bytes = tokens = 0
    within_document = False
    for piece, ids in encoded:
        content = ids.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
        file.write(content)
        digest.update(content)
        tokens += len(ids)
        if isinstance(piece, Mark):
            documents += 1
            within_document = False
        else:
            within_document = True
            characters += len(piece)
            utf8_bytes += len(piece.encode("utf-8", "surrogatepass"))
            on_progress(len(piece))
    return SplitRecord(
        documents=documents + within_document,
        characters=characters,
        bytes=utf8_bytes,
        tokens=tokens,
        sha256=digest.hexdigest(),
    )


def _encode(tokenizer: Tokenizer, chunk: Piece) -> NDArray[np.uint32]:
    if isinstance(chunk, str):
        return tokenizer.encode(chunk)
    return np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], dtype=np.uint32)


def _in_order(
    pool: ProcessPoolExecutor, tokenizer: Tokenizer, chunks: Iterable[Piece], ahead: int
) -> Iterator[tuple[Piece, NDArray[np.uint32]]]:
    waiting: deque[tuple[Piece, Future[NDArray[np.uint32]] | None]] = deque()

    def finish() -> tuple[Piece, NDArray[np.uint32]]:
        chunk, future = waiting.popleft()
        return chunk, _encode(tokenizer, chunk) if future is None else future.result()

    for chunk in chunks:
        waiting.append((chunk, pool.submit(_encode_in_worker, chunk) if isinstance(chunk, str) else None))
        if len(waiting) >= ahead:
            yield finish()
    while waiting:
        yield finish()


_worker_tokenizer: Tokenizer | None = None


def _load_worker(folder: str) -> None:
    global _worker_tokenizer
    _worker_tokenizer = load_tokenizer(Path(folder))


def _encode_in_worker(chunk: str) -> NDArray[np.uint32]:
    assert _worker_tokenizer is not None
    return _worker_tokenizer.encode(chunk)
