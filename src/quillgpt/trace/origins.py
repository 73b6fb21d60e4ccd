"""Where each part of a training text came from: the source and its line.

Preparing a data set leaves out documents (those held out, and duplicates) and, on demand, lines, openings and endings
of documents. What is left keeps its order. So the sources are read again, document by document, and each is found again
in the training text behind the one before, or else it was left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quillgpt.console import progress
from quillgpt.data.dataset_manifest import DatasetManifest
from quillgpt.text.sources.documents import Mark
from quillgpt.text.tokenizers.tokenizer_files import END_OF_TEXT, START_OF_TEXT
from quillgpt.trace.index import Index
from quillgpt.trace.sources import TracedSource
from quillgpt.trace.training_text import DOCUMENT_END

PIECE_CHARACTERS = 1 << 20
COMPARED_BYTES = 1 << 20
PROBE_BYTES = 128
PROBES = 16
"""Lines of a document, and places of each, at which it is looked for."""

LEAST_SHARE = 0.5
"""Share of a document that must be left for a match without a mark at its end to be trusted."""

LINE = re.compile(rb"[^\n]*\n|[^\n]+")
Rows = list[tuple[int, int, int, int]]
"""Rows of `Origins.parts`."""

WRITTEN_MARKS = re.compile("|".join(map(re.escape, (START_OF_TEXT, END_OF_TEXT))).encode())


@dataclass(frozen=True)
class Place:
    """A line of a source."""

    source: str
    line: int


@dataclass(frozen=True)
class Origins:
    """Where the parts of a training text came from.

    Attributes:
        locations: The sources.
        parts: First byte, byte after the last, source, and line of the first byte of each part, (parts, 4).
    """

    locations: Sequence[str]
    parts: NDArray[np.int64]

    def place(self, position: int, index: Index) -> Place | None:
        """Return the line of a source that a byte of the training text came from; None if it is not known."""
        part = int(np.searchsorted(self.parts[:, 0], position, side="right")) - 1
        if part < 0 or position >= self.parts[part, 1]:
            return None
        first, _, source, line = (int(value) for value in self.parts[part])
        return Place(self.locations[source], line + index.lines_before(position) - index.lines_before(first))

    def without(self, locations: Collection[str]) -> Origins:
        """Return the origins without some sources."""
        left = [number for number, location in enumerate(self.locations) if location not in locations]
        return Origins(self.locations, self.parts[np.isin(self.parts[:, 2], left)])


def find_origins(parts: Sequence[tuple[DatasetManifest | None, Sequence[TracedSource]]], index: Index) -> Origins:
    """Find the sources of a training text in it.

    Args:
        parts: dataset.json and sources of each data set whose text is indexed, in order; sources that are not intact
            are passed over.
        index: The training text.
    """
    locations: list[str] = []
    found: Rows = []
    total = sum(source.record.bytes for _, sources in parts for source in sources)
    at = 0
    with progress("Finding the lines of the sources", total, as_bytes=True) as advance:
        for manifest, sources in parts:
            if manifest is None:
                continue
            follower = _Follower(index, manifest, found, at)
            for traced in sources:
                locations.append(traced.record.location)
                if traced.is_intact:
                    for line, document in _documents(traced, marks=manifest.end_of_text_marks):
                        follower.follow(document, len(locations) - 1, line)
                else:
                    follower.has_gap = True
                advance(traced.record.bytes)
            at = follower.at
    return Origins(locations, np.array(found, dtype=np.int64).reshape(-1, 4))


def _documents(traced: TracedSource, *, marks: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the documents of a source in UTF-8, each with the number of its first line."""
    assert traced.source is not None
    line, waiting = 1, bytearray()
    for piece in traced.source.pieces(traced.record.encoding, PIECE_CHARACTERS):
        if not isinstance(piece, Mark):
            waiting += piece.encode("utf-8", "surrogatepass")
            continue
        whole = bytes(waiting)
        waiting.clear()
        if marks:
            yield from _divided(whole, line)
        elif whole:
            yield line, whole
        line += whole.count(b"\n") + (traced.source.conversion is not None)
    if waiting:
        yield line, bytes(waiting)


def _divided(whole: bytes, line: int) -> Iterator[tuple[int, bytes]]:
    """Yield the documents between written marks, without the empty lines after the marks; see `data.marks`."""
    for part in WRITTEN_MARKS.split(whole):
        document = part.lstrip(b"\n")
        if document:
            yield line + len(part) - len(document), document
        line += part.count(b"\n")


class _Follower:
    """Follows the documents of one data set through the training text.

    Args:
        index: The training text.
        manifest: How the data set was made.
        found: Where what is found is added.
        at: The byte of the training text at which the next document may begin.

    Attributes:
        has_gap: Whether a source was passed over, so that the text of the next one may begin later.
    """

    def __init__(self, index: Index, manifest: DatasetManifest, found: Rows, at: int) -> None:
        self._index = index
        self._text, self._size = index.text.data, index.size
        self._ends_documents = manifest.ends_documents
        cleaned = (manifest.drop_repeated_lines, manifest.drop_openings, manifest.drop_endings)
        self._is_cleaned = any(value is not None for value in cleaned)
        self._is_cut = manifest.split_by in ("characters", None)
        self._found = found
        self.at = at
        self.has_gap = False

    def follow(self, document: bytes, source: int, line: int) -> None:
        """Find a document in the training text, if it is there.

        Args:
            document: Its text in UTF-8.
            source: Its source.
            line: The number of its first line there.
        """
        for start in self._starts(document):
            rows = self._whole(document, start, source, line)
            if rows is None and self._is_cleaned:
                rows = self._lines(document, start, source, line)
            if rows:
                self._found += rows
                self.at = self._after(rows[-1][1])
                return

    def _starts(self, document: bytes) -> Iterator[int]:
        """Yield where the document may begin: behind the one before or, where a source was passed over, later."""
        yield self.at
        if not self.has_gap:
            return
        for probe in [line for line in document.split(b"\n", PROBES) if line.strip()][:PROBES]:
            places = self._index.find_all(probe[:PROBE_BYTES])
            later = places[np.searchsorted(places, self.at, side="right") :][:PROBES]
            yield from filter(None, map(self._begin, later.tolist()))
            if not self._is_cleaned:  # then the document is whole, and begins with its first line
                return

    def _begin(self, place: int) -> int | None:
        """Return where the document around a byte begins, or None if that is not known."""
        if self._ends_documents:
            return self.at + bytes(self._text[self.at : place]).rfind(DOCUMENT_END) + 1
        return place if bytes(self._text[place - 1 : place]) in (b"\n", DOCUMENT_END) else None

    def _whole(self, document: bytes, start: int, source: int, line: int) -> Rows | None:
        """Return the part of a document of which nothing was left out but, at the end of the split, its rest."""
        same = self._same(document, start)
        end = start + same
        is_cut = self._is_cut and same > 0 and bytes(self._text[end : end + 1]) == DOCUMENT_END
        is_there = same == len(document) and self._is_boundary(end)
        return [(start, end, source, line)] if is_there or is_cut else None

    def _same(self, document: bytes, start: int) -> int:
        """Return how many bytes of a document the training text has from a byte on."""
        for first in range(0, len(document), COMPARED_BYTES):
            wanted = document[first : first + COMPARED_BYTES]
            there = self._text[start + first : min(start + first + len(wanted), self._size)]
            if there != wanted:
                least = min(len(there), len(wanted))
                differ = np.frombuffer(there, np.uint8) != np.frombuffer(wanted[:least], np.uint8)
                return first + (int(differ.argmax()) if differ.any() else least)
        return len(document)

    def _lines(self, document: bytes, start: int, source: int, line: int) -> Rows | None:
        """Return the parts of a document of which lines, the opening or the ending were left out."""
        rows: Rows = []
        at = start
        for number, text in enumerate(LINE.findall(document), line):
            used = self._left_of(text, at, is_first=at == start)
            if not used:
                continue
            if rows and self._continues(rows[-1], number):
                rows[-1] = (rows[-1][0], at + used, source, rows[-1][3])
            else:
                rows.append((at, at + used, source, number))
            at += used
        # The blank line after a document, where documents have no mark, may have been taken for one of its own.
        while not self._is_boundary(at) and at > start + 1 and bytes(self._text[at - 2 : at]) == b"\n\n":
            at -= 1
        is_enough = self._ends_documents or at - start >= LEAST_SHARE * len(document)
        if not (rows and is_enough and self._is_boundary(at)):
            return None
        return [(first, min(end, at), source, line) for first, end, source, line in rows if first < at]

    def _continues(self, row: tuple[int, int, int, int], number: int) -> bool:
        ends = self._index.lines_before(row[1]) - self._index.lines_before(row[0])
        return row[3] + ends == number

    def _left_of(self, line: bytes, at: int, *, is_first: bool) -> int:
        """Return how many bytes of the training text from a byte on are a line, or what was left of it."""
        there = bytes(self._text[at : min(at + len(line), self._size)])
        if there == line:
            return len(line)
        stops = [stop for stop in (there.find(b"\n"), there.find(DOCUMENT_END)) if stop >= 0]
        rest = there[: min(stops, default=len(there))]
        if not rest.strip():
            return 0
        ended = line.rstrip(b"\n")
        if (is_first and ended.endswith(rest)) or (line.startswith(rest) and self._is_last(at + len(rest))):
            return len(rest) + (bytes(self._text[at + len(rest) : at + len(rest) + 1]) == b"\n")
        return 0

    def _is_last(self, end: int) -> bool:
        after = bytes(self._text[end : min(end + 2, self._size)])
        return self._is_boundary(end + (after[:1] == b"\n"))

    def _is_boundary(self, end: int) -> bool:
        """Return whether a document of the training text may end before a byte."""
        after = bytes(self._text[end : min(end + 1, self._size)])
        return after in (b"", DOCUMENT_END) or (not self._ends_documents and after == b"\n")

    def _after(self, end: int) -> int:
        """Return the byte at which the next document may begin, after the mark or the blank line between them."""
        if bytes(self._text[end : end + 1]) == DOCUMENT_END:
            return end + 1
        if self._ends_documents or end == 0:
            return end
        return end + (1 if bytes(self._text[end - 1 : end]) == b"\n" else 2)
