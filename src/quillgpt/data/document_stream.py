"""The documents of a text as a stream that can be read again and filtered, and a survey of them."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quillgpt.data.dataset_manifest import SourceRecord
from quillgpt.data.edges import EdgeSample
from quillgpt.data.inspection import Inspection, inspect_files
from quillgpt.data.marks import divided_at_marks
from quillgpt.text.sources.documents import PLAINLY, FileRules, Mark, Piece, Source

MOST_LINES = 1 << 19
"""Different lines that are counted at once; beyond it, the rarest are forgotten until half as many are left."""

LONGEST_LINE = 400
"""Characters; longer lines are paragraphs, which hardly ever repeat, and are not counted."""

DOCUMENTS_AT_ONCE = 1 << 20
"""Documents that are compared at once, in some dozen megabytes."""

Filter = Callable[[Iterable[Piece]], Iterator[Piece]]


class Documents:
    """The documents of sources, in their order.

    Args:
        sources: The sources.
        piece_characters: Largest number of characters in a piece of the stream.
        rules: How files are read.
        known: The records of the sources, if they were inspected before; sources without one are left out.

    Attributes:
        records: The records of the sources for dataset.json.
        skipped: The records of the sources that are left out.
        reading: The index of the source that is being read.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        piece_characters: int,
        rules: FileRules = PLAINLY,
        *,
        known: Sequence[SourceRecord] | None = None,
    ) -> None:
        if known is None:
            inspected = inspect_files(sources, rules)
        else:
            by_location = {source.location: source for source in sources}
            inspected = Inspection([by_location[record.location] for record in known], list(known))
        self._sources = inspected.sources
        self._piece_characters = piece_characters
        self._filters: list[Filter] = []
        self._divided = False
        self.records = inspected.records
        self.skipped = inspected.skipped
        self.reading = 0

    @property
    def names(self) -> list[str]:
        """The names of the sources, for messages."""
        return [source.name for source in self._sources]

    @property
    def may_be_several(self) -> bool:
        """Whether there can be more than one document."""
        return self._divided or len(self._sources) > 1 or any(source.holds_many for source in self._sources)

    def change(self, change: Filter) -> None:
        """Filter all later streams by a function."""
        self._filters.append(change)

    def divide_at_marks(self) -> None:
        """Let each mark such as `<|endoftext|>` in the text end a document."""
        self.change(divided_at_marks)
        self._divided = True

    def stream(self) -> Iterator[Piece]:
        """Yield the text of the documents in pieces, with a mark after each document."""
        stream = self._raw()
        for change in self._filters:
            stream = change(stream)
        return stream

    def _raw(self) -> Iterator[Piece]:
        for index, (source, record) in enumerate(zip(self._sources, self.records, strict=True)):
            self.reading = index
            yield from source.pieces(record.encoding, self._piece_characters)


def choose(stream: Iterable[Piece], chosen: NDArray[np.bool_]) -> Iterator[Piece]:
    """Keep only chosen documents.

    Args:
        stream: Text of documents, with a mark after each.
        chosen: Whether to keep each document, (documents,).
    """
    index = 0
    for piece in stream:
        if chosen[index]:
            yield piece
        index += isinstance(piece, Mark)


def without_lines(stream: Iterable[Piece], dropped: Collection[str]) -> Iterator[Piece]:
    """Remove lines from documents, and documents that this leaves empty.

    Args:
        stream: Text of documents, with a mark after each.
        dropped: The lines, without white space around them.
    """
    waiting, written = "", False  # the beginning of a line waits for its end
    for piece in stream:
        if isinstance(piece, str):
            *lines, waiting = (waiting + piece).split("\n")
            text = "".join(line + "\n" for line in lines if line.strip() not in dropped)
        else:
            text, waiting = "" if waiting.strip() in dropped else waiting, ""
        if text:
            yield text
            written = True
        if isinstance(piece, Mark):
            if written:
                yield piece
            written = False


def with_gaps(stream: Iterable[Piece]) -> Iterator[Piece]:
    """Put a blank line between documents, for tokenizers that have no end of text."""
    gap = before = ""
    for piece in stream:
        if isinstance(piece, Mark):
            gap = _gap_after(before)
            yield piece
            continue
        if gap:
            yield gap
        yield piece
        gap, before = "", piece


def _gap_after(text: str) -> str:
    return "\n" if text.endswith("\n") else "\n\n"


@dataclass
class Survey:
    """Lengths, hashes, lines and edges of documents.

    Attributes:
        lengths: Characters of each document, (documents,).
        hashes: The first 8 bytes of the BLAKE2 hash of each document's text, (documents,).
        gap_characters: Number of characters that `with_gaps` adds.
        lines: Number of documents in which each line occurs. With more than `MOST_LINES` different lines, a count may
            miss the documents before the line was last forgotten.
        edges: Beginnings and ends of documents.
    """

    lengths: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    gap_characters: int
    lines: Counter[str] = field(default_factory=Counter)
    edges: EdgeSample = field(default_factory=EdgeSample)

    def duplicates(self) -> NDArray[np.bool_]:
        """Return whether each document repeats an earlier one, in hash and length, (documents,)."""
        repeated = np.zeros(len(self.hashes), dtype=np.bool_)
        for part in parts_by_hash(self.hashes):
            hashes, lengths = self.hashes[part], self.lengths[part]
            order = np.lexsort((lengths, hashes))  # equal ones stay in the order of the text
            same = (np.diff(hashes[order]) == 0) & (np.diff(lengths[order]) == 0)
            repeated[part[order[1:][same]]] = True
        return repeated

    def are_in(self, other: Survey) -> NDArray[np.bool_]:
        """Return whether each document is also one of another text, (documents,)."""
        found = np.zeros(len(self.hashes), dtype=np.bool_)
        for part in parts_by_hash(other.hashes):
            known = np.unique(other.hashes[part])
            for start in range(0, len(found), DOCUMENTS_AT_ONCE):
                found[start : start + DOCUMENTS_AT_ONCE] |= np.isin(
                    self.hashes[start : start + DOCUMENTS_AT_ONCE], known
                )
        return found

    def repeated_lines(self, documents: int) -> list[tuple[str, int]]:
        """Return the lines that occur in at least `documents` documents, and their counts, the most frequent first."""
        repeated = [(line, count) for line, count in self.lines.items() if count >= documents]
        return sorted(repeated, key=lambda item: (-item[1], item[0]))


def survey(stream: Iterable[Piece], *, compare: bool) -> Survey:
    """Survey documents in one pass.

    Args:
        stream: Text of documents, with a mark after each.
        compare: Whether to collect what documents may share: their lines, and their beginnings and ends.
    """
    lengths, hashes = array("q"), array("Q")
    counts, edges = _LineCounts(), EdgeSample()
    length, digest, gap, gaps = 0, hashlib.blake2b(digest_size=8), "", 0
    for piece in stream:
        if isinstance(piece, str):
            gaps += len(gap) if length == 0 else 0
            length += len(piece)
            digest.update(piece.encode("utf-8", "surrogatepass"))
            last = piece
            if compare:
                counts.add(piece)
                edges.add(piece)
            continue
        lengths.append(length)
        hashes.append(int.from_bytes(digest.digest(), "little"))
        counts.end_document()
        edges.end_document()
        length, digest, gap = 0, hashlib.blake2b(digest_size=8), _gap_after(last)
    return Survey(np.asarray(lengths, dtype=np.int64), np.asarray(hashes, dtype=np.uint64), gaps, counts.counts, edges)


def parts_by_hash(hashes: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of hashes in parts: about `DOCUMENTS_AT_ONCE` each, the parts with the smallest hashes first.

    So equal hashes are in one part, and sorting each part sorts all, in bounded memory.
    """
    bits = max(0, len(hashes) // DOCUMENTS_AT_ONCE).bit_length()
    if bits == 0:
        yield np.arange(len(hashes))
        return
    for part in range(1 << bits):
        yield np.concatenate(
            [
                start + np.flatnonzero(hashes[start : start + DOCUMENTS_AT_ONCE] >> np.uint64(64 - bits) == part)
                for start in range(0, len(hashes), DOCUMENTS_AT_ONCE)
            ]
        )


class _LineCounts:
    """Counts the documents in which each line occurs, in bounded memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._document: set[str] = set()
        self._waiting = ""

    def add(self, piece: str) -> None:
        *lines, self._waiting = (self._waiting + piece).split("\n")
        self._waiting = self._waiting[: LONGEST_LINE + 1]
        self._take(lines)

    def end_document(self) -> None:
        self._take([self._waiting])
        self._waiting = ""
        self._count()

    def _take(self, lines: list[str]) -> None:
        self._document.update(map(str.strip, [line for line in lines if len(line) <= LONGEST_LINE]))
        if len(self._document) > MOST_LINES:
            self._count()

    def _count(self) -> None:
        self.counts.update(self._document - {""})
        self._document.clear()
        if len(self.counts) <= MOST_LINES:
            return
        floor = 1
        while len(self.counts) > MOST_LINES // 2:
            self.counts = Counter({line: count for line, count in self.counts.items() if count > floor})
            floor += 1
