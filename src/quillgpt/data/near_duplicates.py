"""Finds documents that are nearly equal, in memory that hardly grows with the text; a report, which changes nothing.

Each document has a MinHash signature (`minhash.py`). Documents that agree in all places of some band of the signature
are compared, and those that are similar enough form a group. Signatures and bands are in files.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quillgpt.console import progress
from quillgpt.data.document_stream import Documents, parts_by_hash
from quillgpt.data.minhash import EMPTY, PLACES, Signature, signer
from quillgpt.data.workers import number_of_processes, workers

RECALL = 0.95
"""The chance at which two documents are compared whose similarity is just the least that is asked for."""

PART_CHARACTERS = 1 << 17
"""The signature of a longer document is that of its parts together; runs across two parts are not counted."""

JOB_CHARACTERS, JOB_PARTS = 1 << 18, 1 << 10
MOST_LEADERS = 16
"""Documents of a band to which others are compared; more would only help where very many documents are alike."""

COMPARED_AT_ONCE = 1 << 16
BEGINNING_BYTES = 80

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Member:
    """A document of a group.

    Attributes:
        name: Its file, and its number there if the file has many.
        beginning: The beginning of its text.
        similarity: The estimated similarity to the first document of the group; 1 for that document.
    """

    name: str
    beginning: str
    similarity: float


@dataclass(frozen=True)
class NearDuplicates:
    """The result of `find_near_duplicates`: the number of documents, and the groups of similar ones."""

    documents: int
    groups: list[list[Member]]


def find_near_duplicates(
    texts: Sequence[Documents], least: float, *, folder: Path, num_proc: int | None = None
) -> NearDuplicates:
    """Return groups of documents with a similarity of at least `least`.

    A document takes about 40 bytes of memory and 400 bytes of a file.

    Args:
        texts: The documents.
        least: The smallest similarity, above 0 and up to 1.
        folder: A folder for files, which are not removed.
        num_proc: The number of processes that sign; None takes one for each core, and fewer for a short text.

    Raises:
        UserError: datasketch is not installed.
        ChildProcessError: A worker process was killed.
    """
    total = sum(record.bytes for text in texts for record in text.records)
    source_of = array("q")
    waiting: deque[list[_Part]] = deque()

    def jobs() -> Iterator[list[str]]:
        for parts in _in_jobs(_parts(texts, source_of)):
            waiting.append(parts)
            yield [part.text for part in parts]

    signature = np.full(PLACES, EMPTY, np.uint32)
    with (
        _Files(folder, rows_of_a_band(least)) as files,
        progress("Comparing documents", total) as advance,
        workers(signer, processes=number_of_processes(num_proc, total, JOB_CHARACTERS)) as sign,
    ):
        for signatures in sign(jobs()):
            done, beginnings = [], []
            for part, signed in zip(waiting.popleft(), signatures, strict=True):
                signature = np.minimum(signature, signed)
                if part.ends:
                    done.append(signature)
                    beginnings.append(part.beginning)
                    signature = np.full(PLACES, EMPTY, np.uint32)
                advance(len(part.text))
            if done:
                files.add(np.stack(done), beginnings)
    names = [name for text in texts for name in text.names]
    return NearDuplicates(len(source_of), _groups(files, least, np.asarray(source_of), names))


def rows_of_a_band(least: float) -> int:
    """Return the number of places in a band: as many as possible, so that few documents are compared in vain."""
    enough = [rows for rows in range(1, PLACES + 1) if 1 - (1 - least**rows) ** (PLACES // rows) >= RECALL]
    return max(enough, default=1)


@dataclass(frozen=True)
class _Part:
    """A part of a document, and the beginning of the document."""

    text: str
    beginning: str
    ends: bool


def _parts(texts: Sequence[Documents], source_of: array[int]) -> Iterator[_Part]:
    """Yield documents in parts, and note the source of each document."""
    sources = 0
    for text in texts:
        waiting, beginning = "", ""
        for piece in text.stream():
            if isinstance(piece, str):
                beginning = beginning or piece[:BEGINNING_BYTES]
                waiting += piece
                while len(waiting) > PART_CHARACTERS:
                    yield _Part(waiting[:PART_CHARACTERS], beginning, ends=False)
                    waiting = waiting[PART_CHARACTERS:]
                continue
            yield _Part(waiting, beginning, ends=True)
            source_of.append(sources + text.reading)
            waiting, beginning = "", ""
        sources += len(text.names)


def _in_jobs(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    job: list[_Part] = []
    characters = 0
    for part in parts:
        job.append(part)
        characters += len(part.text)
        if characters >= JOB_CHARACTERS or len(job) >= JOB_PARTS:
            yield job
            job, characters = [], 0
    if job:
        yield job


class _Files:
    """The signatures, the bands and the beginnings of documents, in files."""

    def __init__(self, folder: Path, rows: int) -> None:
        self._rows = rows
        self._bands = [folder / f"band-{band}" for band in range(PLACES // rows)]
        self._signatures, self._beginnings = folder / "signatures", folder / "beginnings"
        self._documents = 0

    def __enter__(self) -> _Files:
        with ExitStack() as stack:
            places = (self._signatures, self._beginnings, *self._bands)
            self._open = [stack.enter_context(place.open("wb")) for place in places]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, signatures: Signature, beginnings: list[str]) -> None:
        """Write the next documents."""
        numbers = np.arange(self._documents, self._documents + len(signatures), dtype=np.uint64)
        empty = (signatures == EMPTY).all(axis=1)  # a document without words is like no other
        kept = [text.encode("utf-8", "replace")[:BEGINNING_BYTES] for text in beginnings]
        contents: list[NDArray[np.generic]] = [signatures.astype(np.uint8), np.array(kept, dtype=f"S{BEGINNING_BYTES}")]
        for band in range(len(self._bands)):
            hashes = np.where(empty, numbers, np.uint64(0))
            for place in range(band * self._rows, (band + 1) * self._rows):
                hashes = (hashes + signatures[:, place] + np.uint64(1)) * _FACTOR
                hashes ^= hashes >> np.uint64(32)
            contents.append(hashes * _FACTOR)
        for file, content in zip(self._open, contents, strict=True):
            file.write(content.tobytes())
        self._documents += len(signatures)

    def bands(self) -> Iterator[NDArray[np.uint64]]:
        """Yield the hashes of each band, (documents,)."""
        if self._documents:
            yield from (np.memmap(band, np.uint64, "r") for band in self._bands)

    def similarities(self, first: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the estimated similarity of a document to others, (others,)."""
        signatures = np.memmap(self._signatures, np.uint8, "r").reshape(-1, PLACES)
        parts = [others[start : start + COMPARED_AT_ONCE] for start in range(0, len(others), COMPARED_AT_ONCE)]
        equal = [(signatures[part] == signatures[first]).mean(axis=1) for part in parts]
        chance = 1 / 256  # of two different places to have the same low byte
        return np.clip((np.concatenate(equal) - chance) / (1 - chance), 0, 1)

    def beginning(self, document: int) -> str:
        """Return the beginning of a document, in one line."""
        with self._beginnings.open("rb") as file:
            file.seek(document * BEGINNING_BYTES)
            return " ".join(file.read(BEGINNING_BYTES).rstrip(b"\0").decode("utf-8", "ignore").split())


def _groups(files: _Files, least: float, source_of: NDArray[np.int64], names: list[str]) -> list[list[Member]]:
    leaders = np.arange(len(source_of))  # of each document an earlier one of its group, or itself

    def first_of(document: int) -> int:
        while leaders[document] != document:
            leaders[document] = leaders[leaders[document]]
            document = int(leaders[document])
        return document

    for hashes in files.bands():
        for part in parts_by_hash(hashes):
            order = part[np.argsort(hashes[part], kind="stable")]
            ends = np.flatnonzero(np.append(hashes[order[1:]] != hashes[order[:-1]], True)) + 1
            starts = np.append(0, ends[:-1])
            for start, end in zip(starts[ends - starts > 1].tolist(), ends[ends - starts > 1].tolist(), strict=True):
                others = order[start:end]
                for _ in range(MOST_LEADERS):
                    leader, others = int(others[0]), others[1:]
                    similar = files.similarities(leader, others) >= least
                    for other in others[similar].tolist():
                        one, two = sorted((first_of(leader), first_of(other)))
                        leaders[two] = one
                    others = others[~similar]
                    if len(others) < 2:
                        break

    def member(document: int, similarity: float) -> Member:
        source = int(source_of[document])
        before, after = np.searchsorted(source_of, [source, source + 1])
        number = f", document {document - before + 1:,}" if after - before > 1 else ""
        return Member(names[source] + number, files.beginning(document), round(float(similarity), 2))

    later = np.flatnonzero(leaders != np.arange(len(leaders)))
    firsts = np.array([first_of(document) for document in later.tolist()], dtype=np.int64)
    order = np.argsort(firsts, kind="stable")
    cuts = np.flatnonzero(np.diff(firsts[order])) + 1
    groups = []
    for others in np.split(later[order], cuts) if len(later) else []:
        first = first_of(int(others[0]))
        similarities = files.similarities(first, others)
        groups.append([member(first, 1), *map(member, others.tolist(), similarities.tolist())])
    return groups
