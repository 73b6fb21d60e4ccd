"""What many documents begin or end with, such as "Chapter 3" or "Thanks for watching", and how it is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quillgpt.data.dataset_manifest import DatasetManifest, SharedEdge
from quillgpt.data.edges import LONGEST_EDGE, NUMBER, Edge, EdgeSample, Side, edge_of
from quillgpt.errors import cut
from quillgpt.text.sources.documents import Mark, Piece

FEWEST_DOCUMENTS = 3
SHARE = 0.2
"""Share of the documents. What fewer begin with is chance, or harmless: a model writes it as seldom as it occurs."""

WORDS_AN_ERROR = 4
"""Among this many words one may differ, be missing or be added: recognizers mishear about as many."""

MATCHING_WORDS = 2
"""Words at the inner end of an announcement that must be there, so that errors do not lengthen it."""

FEWEST_WORDS = 2
"""Words of an announcement at the end of a sentence or a line."""

LONG = 12
"""Words that hardly ever begin many documents by chance, wherever sentences end."""

LONG_UNMARKED = 5
"""The same where no sentences are marked, as in what simple recognizers write."""

RARE = 0.01
"""Share of a text's words; a rarer word does not begin many documents by chance."""

FEW = 4
"""Words; so few in the middle of a sentence are an announcement only where the documents differ after them."""

NEARLY_ALL, FEWEST_ONE_WORD = 0.75, 5
"""The share, and the number, of documents that must begin with a single rare word in the middle of a sentence."""

MANY_NUMBERS = 10
"""So many different numbers count something. Of fewer, a third of the documents need different ones: "Speaker 2" is no
heading."""

LONGEST_SHOWN = 70
"""Characters of an announcement in a message."""

FIRST_WORDS, REPRESENTATIVES = 12, 5
"""The first words that are tried, and the documents that are tried for each."""

ABOUT_AS_LONG = 0.6
"""Share of the words of the longest; of announcements as long as that, the one that most documents have is taken."""

_AFTER = re.compile(r"[^\w\s]*\s*(?:[^\w\s]+[ \t]*\n\s*|[-–—|:]+\s+)*")
"""What follows an opening and goes with it: punctuation, white space, and lines without words."""

_BEFORE = re.compile(r"(?:\s*\n[ \t]*[^\w\s]+(?=\s*\n))*\s*(?:[-–—|:]+\s+)?[^\w\s.!?…,;:]*\Z")
"""What precedes an ending and goes with it."""


@dataclass(frozen=True)
class Announcement:
    """What several documents begin or end with.

    Attributes:
        text: How it reads in one of them.
        keys: Its words as `edges.Word.key`, from the edge of the document on.
        documents: Number of documents that have it; an estimate if not all were compared.
    """

    text: str
    keys: tuple[str, ...]
    documents: int


def fewest_documents(documents: int) -> int:
    """Return the number of documents from which on a shared beginning is reported."""
    return max(FEWEST_DOCUMENTS, int(np.ceil(SHARE * documents)))


class Shared(Protocol):
    """What several documents begin or end with, and the number of these documents."""

    @property
    def text(self) -> str:
        """How it reads in one of them."""

    @property
    def documents(self) -> int:
        """Number of documents that have it."""


def in_words(shared: Sequence[Shared], side: Side, documents: int) -> str:
    """Return a sentence about what many documents begin or end with."""
    first, *others = [f"with {cut(one.text, LONGEST_SHOWN)!r}" for one in shared]
    examples = [first, *(f"{one.documents:,} {other}" for one, other in zip(shared[1:], others, strict=True))]
    verb = "begin" if side == "opening" else "end"
    return f"{shared[0].documents:,} of {documents:,} documents {verb} {', '.join(examples)}"


def flag(side: Side, documents: int) -> str:
    """Return the flag of `quill prepare` that leaves out what is reported, and nothing else."""
    return f"--drop_{side}s={fewest_documents(documents)}"


def remarks(manifest: DatasetManifest) -> dict[str, str]:
    """Return what many documents of a data set begin and end with, by "openings" and "endings", and what helps."""
    report = manifest.report
    if report is None:
        return {}
    rows = {}
    sides: tuple[tuple[Side, list[SharedEdge], int | None, int], ...] = (
        ("opening", report.openings, manifest.drop_openings, report.dropped_openings),
        ("ending", report.endings, manifest.drop_endings, report.dropped_endings),
    )
    for side, shared, least, dropped in sides:
        if shared:
            help_ = f"{flag(side, report.documents)} leaves out what they share"
            done = f"left out of {dropped:,} documents"
            rows[f"{side}s"] = f"{in_words(shared, side, report.documents)}; {help_ if least is None else done}"
    return rows


def announcements(sample: EdgeSample, side: Side, least: int | None = None) -> list[Announcement]:
    """Return what many documents begin or end with, the most frequent first.

    Each is as long as possible. A document may have a part of a longer one, which is listed if enough others have it.

    Args:
        sample: Beginnings and ends of the documents.
        side: Which of both.
        least: The least number of documents; by default `fewest_documents`.
    """
    edges = [edge for edge in sample.edges(side) if edge.words]
    least = fewest_documents(sample.documents) if least is None else least
    search = _Search(edges, side, max(2, -(-least // sample.stride)))
    unexplained = np.ones(len(edges), dtype=np.bool_)
    shared: list[Announcement] = []
    tried: set[str] = set()
    while len(tried) < FIRST_WORDS:
        first_words = Counter(edge.words[0].key for edge, free in zip(edges, unexplained, strict=True) if free)
        first = next((key for key, count in first_words.most_common() if key not in tried and count > 1), None)
        if first is None:
            break
        best = search.longest([i for i in np.flatnonzero(unexplained) if edges[i].words[0].key == first])
        if best is None:
            tried.add(first)
            continue
        edge, ends = edges[best.representative], best.ends
        keys = tuple(edge.keys[: best.words])
        shared.append(Announcement(_shown(edge, best.words), keys, int((ends > 0).sum()) * sample.stride))
        unexplained &= ends == 0
        unexplained[best.representative] = False
    return sorted(shared, key=lambda one: -one.documents)


@dataclass(frozen=True)
class _Candidate:
    """The first words of an edge, and where they end in all edges (0 where they are not)."""

    representative: int
    words: int
    ends: NDArray[np.int64]


class _Search:
    """Looks for the longest announcement that enough documents share."""

    def __init__(self, edges: Sequence[Edge], side: Side, least: int) -> None:
        self._edges, self._side, self._least = edges, side, least
        ids: dict[str, int] = {}
        width = max((len(edge.words) for edge in edges), default=0)
        self._ids = np.full((len(edges), width), -1, dtype=np.int32)
        self._bounded = np.zeros((len(edges), width + 1), dtype=np.bool_)
        for row, edge in enumerate(edges):
            self._ids[row, : len(edge.words)] = [ids.setdefault(key, len(ids)) for key in edge.keys]
            self._bounded[row, 1 : len(edge.words) + 1] = [word.is_bounded for word in edge.words]
        self._lengths = np.array([len(edge.words) + (not edge.is_whole) for edge in edges], dtype=np.int64)
        self._has_sentences = sum(edge.has_sentences for edge in edges) > len(edges) / 2

    def longest(self, representatives: Sequence[np.int64]) -> _Candidate | None:
        """Return the longest announcement with which one of some edges begins, or None."""
        step = max(1, len(representatives) // REPRESENTATIVES)
        candidates = [self._longest_of(int(index)) for index in representatives[::step][:REPRESENTATIVES]]
        there = [candidate for candidate in candidates if candidate is not None]
        longest = max((candidate.words for candidate in there), default=0)
        return max(
            (candidate for candidate in there if candidate.words >= ABOUT_AS_LONG * longest),
            key=lambda candidate: (np.count_nonzero(candidate.ends), candidate.words),
            default=None,
        )

    def _longest_of(self, index: int) -> _Candidate | None:
        pattern = self._ids[index, : len(self._edges[index].words)]
        bounded = unbounded = None
        for words, ends in enumerate(_ends(pattern, self._ids, self._least), 1):
            there = (ends > 0) & (ends < self._lengths)  # a document that has nothing else is no announcement
            if unbounded is not None and unbounded.words <= FEW and 2 * there.sum() > (unbounded.ends > 0).sum():
                unbounded = None  # it goes on
            if there.sum() < self._least:
                continue
            ends = np.where(there, ends, 0)
            if 2 * self._bounded[np.arange(len(ends)), ends][there].sum() >= there.sum():
                if words >= FEWEST_WORDS or self._is_heading(index, ends):
                    bounded = _Candidate(index, words, ends)
            elif self._is_unlikely(index, words, ends):
                unbounded = _Candidate(index, words, ends)
        if bounded is None or (unbounded is not None and unbounded.words > 2 * bounded.words):
            return unbounded
        return bounded

    def _is_unlikely(self, index: int, words: int, ends: NDArray[np.int64]) -> bool:
        """Return whether documents do not begin with these words by chance, although no sentence ends after them."""
        if words >= (LONG if self._has_sentences else LONG_UNMARKED):
            return True
        having: list[int] = np.flatnonzero(ends).tolist()
        if words == 1:
            is_usual = len(having) >= max(FEWEST_ONE_WORD, NEARLY_ALL * len(self._edges))
            labels = sum(self._edges[row].text[self._edges[row].words[0].end :].startswith(":") for row in having)
            return is_usual and 2 * labels < len(having) and self._is_rare(index, words)
        last = words - 1 if self._side == "opening" else 0
        if self._edges[index].words[last].key != NUMBER:
            return False
        numbers = {self._number(row, int(ends[row]) - 1 if self._side == "opening" else 0) for row in having}
        return len(numbers) >= min(max(2, len(having) / 3), MANY_NUMBERS) and self._is_rare(index, words)

    def _is_heading(self, index: int, ends: NDArray[np.int64]) -> bool:
        """Return whether a single word at the end of a sentence or a line is more than chance."""
        is_letter = len(self._edges[index].words[0].key) == 1
        return not is_letter and 2 * int(np.count_nonzero(ends)) >= len(self._edges) and self._is_rare(index, 1)

    def _number(self, row: int, place: int) -> str:
        word = self._edges[row].words[place]
        return self._edges[row].text[word.start : word.end].casefold()

    def _is_rare(self, index: int, words: int) -> bool:
        """Return whether one of the words hardly occurs later in the texts."""
        later = self._ids[:, words:]
        keys = zip(self._edges[index].keys[:words], self._ids[index], strict=False)
        ids = {number for key, number in keys if key != NUMBER}
        return any((later == number).sum() <= RARE * (later >= 0).sum() for number in ids)


def _ends(pattern: NDArray[np.int32], texts: NDArray[np.int32], least: int) -> Iterator[NDArray[np.int64]]:
    """Yield, for the first word of a pattern, the first two, and so on, where they end in each text.

    Args:
        pattern: Ids of words, (words,).
        texts: Ids of words, (texts, words of a text); -1 after the end of a text.
        least: Fewer texts than these are not worth going on.

    Yields:
        Number of words of each text, from its beginning, that have the fewest differences to the pattern; 0 if there
        are too many differences, (texts,).
    """
    count, width = texts.shape
    places = np.arange(width + 1, dtype=np.int16)
    too_many = np.int16(width + len(pattern) + 1)
    distances = np.broadcast_to(places, (count, width + 1))
    matched = np.zeros((count, width + 1), dtype=np.int16)  # words in a row that match up to here
    for words, word in enumerate(pattern, 1):
        reach = min(width, words + words // WORDS_AN_ERROR + MATCHING_WORDS)  # no further word can belong to it
        same = texts[:, :reach] == word
        step = np.empty((count, reach + 1), dtype=np.int16)
        step[:, 0] = words
        step[:, 1:] = np.minimum(distances[:, 1 : reach + 1] + 1, distances[:, :reach] + ~same)
        step -= places[: reach + 1]
        np.minimum.accumulate(step, axis=1, out=step)
        step += places[: reach + 1]
        run = np.zeros((count, width + 1), dtype=np.int16)
        run[:, 1 : reach + 1] = np.where(same & (distances[:, :reach] == step[:, 1:]), matched[:, :reach] + 1, 0)
        distances = np.full((count, width + 1), too_many)
        distances[:, : reach + 1] = step
        matched = run
        errors = words // WORDS_AN_ERROR
        is_end = (step <= errors) & (run[:, : reach + 1] >= min(words, MATCHING_WORDS))
        best = np.where(is_end, step, too_many).argmin(axis=1)
        yield np.where(is_end[np.arange(count), best], best, 0)
        if (step.min(axis=1) <= errors + MATCHING_WORDS).sum() < least:
            return


class Trim:
    """Leaves announcements out of documents.

    Attributes:
        documents: Number of documents that were shortened in the last pass.
        characters: Number of characters that were left out in it.
    """

    def __init__(self, announcements: Sequence[Announcement], side: Side) -> None:
        self._patterns = sorted((list(one.keys) for one in announcements), key=len, reverse=True)
        self._side = side
        self.documents = self.characters = 0

    def stream(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield documents without their announcements, and without documents that have nothing else."""
        self.documents = self.characters = 0
        yield from self._openings(pieces) if self._side == "opening" else self._endings(pieces)

    def _openings(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        waiting: str | None = ""  # the beginning of a document, until it is long enough; None after it
        is_written = False
        for piece in pieces:
            text = ""
            if isinstance(piece, str):
                if waiting is None:
                    text = piece
                else:
                    waiting += piece
                    if len(waiting) >= LONGEST_EDGE:
                        text, waiting = self._trimmed(waiting[:LONGEST_EDGE]) + waiting[LONGEST_EDGE:], None
            elif waiting:
                text = self._trimmed(waiting)
            if text:
                yield text
                is_written = True
            if isinstance(piece, Mark):
                if is_written:
                    yield piece
                waiting, is_written = "", False

    def _endings(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        waiting, is_written = "", False  # what may be the end of the document
        for piece in pieces:
            if isinstance(piece, str):
                waiting += piece
                text, waiting = waiting[:-LONGEST_EDGE], waiting[-LONGEST_EDGE:]
            else:
                text, waiting = self._trimmed(waiting), ""
            if text:
                yield text
                is_written = True
            if isinstance(piece, Mark):
                if is_written:
                    yield piece
                is_written = False

    def _trimmed(self, text: str) -> str:
        """Return an edge of a document without its announcement."""
        edge = edge_of(text, self._side, is_whole=True)
        words = max((_end(pattern, edge.keys) for pattern in self._patterns), default=0)
        if not words:
            return text
        if self._side == "opening":
            after = _AFTER.match(text, edge.words[words - 1].end)
            assert after is not None
            kept = text[after.end() :]
        else:
            kept = _BEFORE.sub("", text[: edge.words[words - 1].start])
            if kept and text.endswith("\n"):
                kept += "\n"
        if not kept.strip():
            kept = ""
        self.documents += 1
        self.characters += len(text) - len(kept)
        return kept


def _end(pattern: Sequence[str], keys: Sequence[str]) -> int:
    """Return how many of a text's first words are a pattern, with a few differences; 0 if it is not there."""
    length = len(pattern)
    if list(keys[:length]) == list(pattern):
        return length
    errors = length // WORDS_AN_ERROR
    keys = keys[: length + errors]
    if not errors or len(set(pattern) - set(keys)) > errors:
        return 0
    ids = {key: number for number, key in enumerate(dict.fromkeys(pattern))}
    text = np.array([[ids.get(key, -1) for key in keys]], dtype=np.int32)
    every = list(_ends(np.array([ids[key] for key in pattern], dtype=np.int32), text, 0))
    return int(every[-1][0])


def _shown(edge: Edge, words: int) -> str:
    first, last = sorted((edge.words[0], edge.words[words - 1]), key=lambda word: word.start)
    mark = re.match(r"[^\w\s]{0,3}", edge.text[last.end :])
    assert mark is not None
    return " ".join((edge.text[first.start : last.end] + mark.group()).split())
