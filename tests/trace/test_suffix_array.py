"""The suffix array against searching the text directly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgpt.trace.suffix_array import PADDING, SuffixArray, sort_suffixes


def array_of(text: bytes) -> SuffixArray:
    """Return the suffix array of a text, sorted by Python."""
    suffixes = sorted(range(len(text)), key=lambda place: text[place:])
    return SuffixArray(np.frombuffer(text + bytes(PADDING), np.uint8), np.array(suffixes, np.int32))


def longest(text: bytes, query: bytes, start: int) -> int:
    """Return the longest match by trying every length."""
    return max(size for size in range(len(query) - start + 1) if query[start : start + size] in text)


few_letters = st.binary(min_size=1, max_size=60).map(lambda content: bytes(97 + byte % 3 for byte in content))


@given(text=few_letters, query=few_letters)
def test_longest_matches_and_occurrences_are_those_of_a_direct_search(text: bytes, query: bytes) -> None:
    array, starts = array_of(text), np.arange(len(query))
    lengths = array.longest_matches(query, starts)
    assert lengths.tolist() == [longest(text, query, start) for start in starts]
    firsts, stops = array.ranges(query, starts, lengths)
    for start, length, first, stop in zip(starts, lengths, firsts, stops, strict=True):
        wanted = query[start : start + length]
        places = [place for place in range(len(text)) if text.startswith(wanted, place)]
        assert sorted(array.suffixes[first:stop].tolist()) == places
        if wanted:
            assert array.find_all(wanted).tolist() == places


@pytest.mark.parametrize(
    "text", [b"a", b"abracadabra", b"aaaaaaaaaaaaaaaaaaaaaaaaa", "ä€𝄞 ä€𝄞\xff".encode("latin-1", "ignore")]
)
def test_the_library_sorts_as_python_does(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "text").write_bytes(text + bytes(PADDING))
    sort_suffixes(tmp_path / "text", len(text), tmp_path / "suffixes")
    assert np.fromfile(tmp_path / "suffixes", "<i4").tolist() == array_of(text).suffixes.tolist()


def test_what_is_not_in_the_text_is_not_found() -> None:
    array = array_of(b"abracadabra")
    assert array.find_all(b"abracadabrax").size == 0
    assert array.find_all(b"zzz").size == 0
    assert array.longest_matches(b"zabr", np.arange(4)).tolist() == [0, 3, 2, 1]
