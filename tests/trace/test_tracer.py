"""Spans of a text, their kinds and their places, against a direct search."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from quillgpt.data.dataset import Dataset
from quillgpt.text.sources.downloads import TINY_SHAKESPEARE
from quillgpt.trace import Span, open_tracer
from quillgpt.trace.calibration import held_out_texts
from quillgpt.trace.matching import EncodedText, Matches, cover, longest_around, maximal_matches
from quillgpt.trace.near_copies import SEED, near_copies
from quillgpt.trace.suffix_array import PADDING, SuffixArray

FOREIGN = "☃"
"""A character that no training text of these tests has."""

Prepare = Callable[..., Dataset]


def assert_whole(spans: list[Span], text: str) -> None:
    """Check that spans are a text, in order and without gaps or overlaps."""
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == len(text)
    assert all(span.end > span.start for span in spans)


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe:300"])
def test_planted_passages_are_found_where_a_direct_search_finds_them(
    prepared: Prepare, book: Path, tokenizer: str
) -> None:
    tracer = open_tracer([prepared(book, tokenizer=tokenizer)])
    whole = book.read_text(encoding="utf-8")
    trained = whole[: int(len(whole) * 0.9)]
    generator = np.random.default_rng(0)
    planted = []
    for _ in range(1000):
        size = int(generator.integers(tracer.calibration.least, 200))
        start = int(generator.integers(0, len(trained) - size))
        planted.append(trained[start : start + size])
    text = FOREIGN + FOREIGN.join(planted) + FOREIGN
    traced = tracer.trace(text)
    assert_whole(traced.spans, text)
    copied = [span for span in traced.spans if span.kind == "copied"]
    assert [text[span.start : span.end] for span in copied] == planted
    for span in copied:
        wanted = text[span.start : span.end]
        first = trained.find(wanted)
        assert span.source == str(book.resolve())
        assert span.line == whole[:first].count("\n") + 1
        assert span.occurrences == sum(trained.startswith(wanted, place) for place in range(first, len(trained)))
        assert span.similarity == 1.0


def test_edited_passages_are_close(prepared: Prepare, book: Path) -> None:
    tracer = open_tracer([prepared(book)])
    whole = book.read_text(encoding="utf-8")
    generator = np.random.default_rng(0)
    edits = (lambda _: FOREIGN, lambda letter: letter + FOREIGN, lambda _: "")
    for _ in range(100):
        start = int(generator.integers(0, len(whole) * 0.8))
        passage = whole[start : start + 200]
        edited = "".join(
            str(edits[generator.integers(3)](letter)) if place % 20 == 19 else letter
            for place, letter in enumerate(passage)
        )
        text = FOREIGN * 3 + edited + FOREIGN * 3
        traced = tracer.trace(text)
        assert_whole(traced.spans, text)
        assert traced.shares["close"] + traced.shares["copied"] > 0.85
        close = [span for span in traced.spans if span.kind == "close"]
        assert close
        for span in close:
            assert span.source == str(book.resolve())
            assert span.similarity is not None
            assert 0.85 <= span.similarity < 1
            assert abs(int(span.line or 0) - whole[: start + span.start].count("\n") - 1) <= 1
            assert span.occurrences >= 1


def test_likeness_is_that_of_the_alignment(prepared: Prepare, book: Path) -> None:
    tracer = open_tracer([prepared(book)])
    passage = book.read_text(encoding="utf-8")[5000:5200]
    text = EncodedText("".join(FOREIGN if place % 25 == 13 else letter for place, letter in enumerate(passage)))
    seeds = tracer.index.longest_matches(text.content, text.offsets[:-1])
    assert seeds.max() >= SEED
    found = near_copies(text, tracer.index, maximal_matches(text, tracer.index, SEED), 24)[0]
    source = tracer.index.text[found.source_start : found.source_end].tobytes().decode()
    aligned = text.text[found.start : found.end]
    assert len(source) == found.source_characters
    assert found.likeness == pytest.approx(Levenshtein.normalized_similarity(aligned, source))
    assert source in passage


def test_unlike_passages_are_new(prepared: Prepare, book: Path) -> None:
    tracer = open_tracer([prepared(book)])
    passage = book.read_text(encoding="utf-8")[5000:5200]
    text = "".join(FOREIGN if place % 4 == 3 else letter for place, letter in enumerate(passage))
    traced = tracer.trace(text)
    assert traced.spans == [Span(0, len(text), "new")]
    assert traced.shares == {"copied": 0.0, "close": 0.0, "new": 1.0}
    assert "no passage of" in traced.sentence


def test_nothing_is_traced_in_no_text(prepared: Prepare, book: Path) -> None:
    traced = open_tracer([prepared(book)]).trace("")
    assert traced.spans == []
    assert traced.sentence.startswith("Of 0 characters, 0.0% are copied")


def test_a_copy_does_not_cross_from_one_document_to_the_next(prepared: Prepare, tmp_path: Path, book: Path) -> None:
    lines = book.read_text(encoding="utf-8").splitlines(keepends=True)
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.txt").write_text("".join(lines[number * 50 : number * 50 + 50]), encoding="utf-8")
    tracer = open_tracer([prepared(folder)])
    kept = [number for number in range(19) if tracer.trace(lines[number * 50 + 5] * 2).shares["copied"] > 0.9]
    both = next(number for number in kept if number + 1 in kept)
    text = "".join(lines[both * 50 + 45 : both * 50 + 55])
    copied = [span for span in tracer.trace(text).spans if span.kind == "copied"]
    assert [(Path(str(span.source)).name, span.line) for span in copied] == [
        (f"{both:02}.txt", 46),
        (f"{both + 1:02}.txt", 1),
    ]


@given(text=st.text("ab€", max_size=80), trained=st.text("ab€", min_size=1, max_size=80))
def test_maximal_matches_are_those_of_a_direct_search(text: str, trained: str) -> None:
    content = trained.encode()
    suffixes = sorted(range(len(content)), key=lambda place: content[place:])
    array = SuffixArray(np.frombuffer(content + bytes(PADDING), np.uint8), np.array(suffixes, np.int32))
    found = maximal_matches(EncodedText(text), array, 2)
    expected = [
        (start, end)
        for start in range(len(text))
        for end in range(start + 2, len(text) + 1)
        if text[start:end] in trained
        and (start == 0 or text[start - 1 : end] not in trained)
        and (end == len(text) or text[start : end + 1] not in trained)
    ]
    assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == expected


@given(
    starts=st.lists(st.integers(0, 40), unique=True, max_size=8),
    gaps=st.lists(st.integers(1, 9), min_size=8, max_size=8),
)
def test_cover_is_without_overlaps_and_covers_what_matches_cover(starts: list[int], gaps: list[int]) -> None:
    begins = sorted(starts)
    ends = [0]
    for start, gap in zip(begins, gaps, strict=False):
        ends.append(max(ends[-1] + 1, start + gap))
    matches = Matches(np.array(begins, np.int64), np.array(ends[1:], np.int64))
    passages = cover(matches)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(passages))
    covered = {place for passage in passages for place in range(*passage)}
    assert covered == {place for start, end in zip(begins, ends[1:], strict=True) for place in range(start, end)}
    assert covered == set(np.flatnonzero(longest_around(matches, 100)).tolist())


@pytest.mark.download
def test_held_out_text_is_not_copied(prepared: Prepare, published: Callable[..., Path]) -> None:
    dataset = prepared(published(TINY_SHAKESPEARE), tokenizer="char")
    tracer = open_tracer([dataset])
    (text,) = held_out_texts([dataset], 1 << 20)
    assert len(text) == 111_540
    assert 24 <= tracer.calibration.least <= 32
    traced = tracer.trace(text)
    assert traced.shares["copied"] < 0.001
    assert traced.shares["copied"] == pytest.approx(tracer.calibration.copied)


def test_a_text_that_repeats_itself_has_a_bounded_length(prepared: Prepare, tmp_path: Path) -> None:
    path = tmp_path / "verse.txt"
    path.write_text("The same line of a song, again and again.\n" * 2000)
    tracer = open_tracer([prepared(path)])
    assert (tracer.calibration.least, tracer.calibration.copied) == (100, 1.0)
    assert tracer.trace("The same line of a song").shares["new"] == 1.0
