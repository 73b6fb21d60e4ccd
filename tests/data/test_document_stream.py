import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgpt.data import document_stream
from quillgpt.data.document_stream import Documents, choose, parts_by_hash, survey, with_gaps, without_lines
from quillgpt.data.split import hold_out
from quillgpt.errors import DataError
from quillgpt.text.sources.documents import Mark, Piece, Source

END = Mark.DOCUMENT_END


def cut_up(texts: list[str], size: int) -> list[Piece]:
    """Return documents as a stream of pieces of `size` characters."""
    stream: list[Piece] = []
    for text in texts:
        stream += [text[start : start + size] for start in range(0, len(text), size)]
        stream.append(END)
    return stream


def whole(stream: list[Piece]) -> list[str]:
    """Return the documents of a stream."""
    texts, text = [], ""
    for piece in stream:
        if isinstance(piece, str):
            text += piece
        else:
            texts.append(text)
            text = ""
    assert not text
    return texts


some_documents = st.lists(st.text(alphabet="ab \n", min_size=1, max_size=12), min_size=1, max_size=5)


def test_a_file_is_a_document_and_a_file_of_many_is_many(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "b.txt").write_bytes(b"two\0three\nmore\0")
    sources = [Source.from_file(tmp_path / "a.txt"), Source("b", "b", tmp_path / "b.txt", holds_many=True)]
    for size in (1, 3, 100):
        assert whole(list(Documents(sources, size).stream())) == ["one\n", "two", "three\nmore"]
    assert not Documents(sources[:1], 10).may_be_several
    assert Documents(sources[1:], 10).may_be_several


def test_changes_are_applied_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x\ny\0x\0y\0")
    text = Documents([Source("a", "a", tmp_path / "a.txt", holds_many=True)], 2)
    text.change(lambda stream: without_lines(stream, {"x"}))
    assert whole(list(text.stream())) == ["y", "y"]
    text.change(lambda stream: choose(stream, np.array([False, True])))
    assert whole(list(text.stream())) == ["y"]


@given(texts=some_documents, size=st.integers(1, 5))
def test_lines_are_taken_out_whatever_the_pieces(texts: list[str], size: int) -> None:
    expected = []
    for text in texts:
        *lines, rest = text.split("\n")
        kept = "".join(line + "\n" for line in lines if line.strip() != "a") + ("" if rest.strip() == "a" else rest)
        if kept:
            expected.append(kept)
    assert whole(list(without_lines(cut_up(texts, size), {"a"}))) == expected


@given(texts=some_documents, size=st.integers(1, 5))
def test_gaps_leave_a_blank_line_between_documents(texts: list[str], size: int) -> None:
    stream = list(with_gaps(cut_up(texts, size)))
    expected = "".join(text + ("\n" if text.endswith("\n") else "\n\n") for text in texts[:-1]) + texts[-1]
    assert "".join(piece for piece in stream if isinstance(piece, str)) == expected
    assert stream.count(END) == len(texts)
    assert survey(cut_up(texts, size), compare=False).gap_characters == len(expected) - sum(map(len, texts))


@given(texts=some_documents, size=st.integers(1, 5))
def test_survey_does_not_depend_on_the_pieces(texts: list[str], size: int) -> None:
    surveyed = survey(cut_up(texts, size), compare=True)
    assert surveyed.lengths.tolist() == [len(text) for text in texts]
    assert surveyed.duplicates().tolist() == [text in texts[:index] for index, text in enumerate(texts)]
    lines = Counter(line for text in texts for line in {line.strip() for line in text.split("\n")} - {""})
    assert surveyed.lines == lines
    assert surveyed.repeated_lines(2) == sorted(
        ((line, count) for line, count in lines.items() if count >= 2), key=lambda item: (-item[1], item[0])
    )


def test_counting_lines_is_bounded_and_keeps_the_common_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_stream, "MOST_LINES", 50)
    texts = [f"heading\nown {number}\nother {number}\n" for number in range(200)]
    surveyed = survey(cut_up(texts, 7), compare=True)
    assert len(surveyed.lines) <= 50
    assert surveyed.lines["heading"] == 200


def test_long_lines_are_paragraphs_and_not_counted() -> None:
    paragraph = "word " * 100
    surveyed = survey(cut_up([f"{paragraph}\nshort", f"{paragraph}\nshort"], 30), compare=True)
    assert surveyed.lines == {"short": 2}


@pytest.mark.parametrize("line", ["{:05d} a short line\n", "{:05d} " + "a paragraph " * 50 + "\n"])
def test_one_long_document_is_counted_in_bounded_memory(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(document_stream, "MOST_LINES", 50)
    counts = document_stream._LineCounts()
    for first in range(0, 1000, 10):
        counts.add("".join(line.format(number) for number in range(first, first + 10)))
        assert len(counts.counts) <= 50
        assert sum(map(len, counts._document)) <= 60 * document_stream.LONGEST_LINE


def test_a_path_that_is_not_utf8_cannot_be_recorded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not UTF-8.*rename it"):
        Source.from_file(tmp_path / "caf\udce9.txt")


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_duplicates_are_those_that_a_comparison_of_whole_texts_finds(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_stream, "DOCUMENTS_AT_ONCE", at_once)
    draw = random.Random(3)
    texts = ["".join(draw.choices("ab", k=draw.randint(1, 7))) for _ in range(150)]
    others = ["".join(draw.choices("ab", k=draw.randint(1, 7))) for _ in range(20)]
    looked = survey(cut_up(texts, 2), compare=False)
    assert looked.duplicates().tolist() == [text in texts[:index] for index, text in enumerate(texts)]
    other = survey(cut_up(others, 5), compare=False)
    assert looked.are_in(other).tolist() == [text in others for text in texts]
    assert other.are_in(looked).tolist() == [text in texts for text in others]
    empty = survey([], compare=False)
    assert not empty.duplicates().size
    assert not looked.are_in(empty).any()


def test_documents_of_one_hash_and_different_lengths_are_not_equal() -> None:
    looked = survey(cut_up(["aa", "b", "aa", "c", "b"], 1), compare=False)
    looked.hashes = np.full(5, 7, dtype=np.uint64)
    assert looked.duplicates().tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("count", [15, 2000])
def test_the_choice_for_validation_does_not_depend_on_how_many_are_compared_at_once(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(count)
    hashes = generator.integers(0, 2**64, count, dtype=np.uint64)[generator.integers(0, count, count)]
    lengths = generator.integers(1, 500, count)
    whole = hold_out(lengths, hashes, 0.2)
    assert whole is not None
    monkeypatch.setattr(document_stream, "DOCUMENTS_AT_ONCE", 4)
    part = hold_out(lengths, hashes, 0.2)
    assert part is not None
    assert np.array_equal(part, whole)
    parts = list(parts_by_hash(hashes))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    largest = [hashes[part].max() for part in parts if len(part)]
    assert largest == sorted(largest)


def test_a_document_takes_a_few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_stream, "DOCUMENTS_AT_ONCE", 1000)

    def stream(count: int) -> Iterator[Piece]:
        for number in range(count):
            yield f"Document {number % (count // 2)}, of some length.\n"
            yield END

    def peak(count: int) -> int:
        tracemalloc.start()
        looked = survey(stream(count), compare=False)
        assert looked.duplicates().sum() == count // 2
        assert hold_out(looked.lengths, looked.hashes, 0.1) is not None
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(60_000) - peak(20_000) < 40_000 * 24
