"""Splits text into the words of GPT-2's pattern with numpy, and says where a text may be cut.

tiktoken remains the reference: it gives the class of a character, and tests compare whole texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import numpy as np
import tiktoken
from numpy.typing import NDArray

CUT = b"\xfe"
"""A byte that UTF-8 never uses; it follows every text."""

_SAFE_CUT = re.compile(r"\S(?=[ \n])")
_CUT_WINDOW = 64

_OTHER, _LETTER, _NUMBER, _WHITE, _CUT, _UNKNOWN = range(6)
_CLASSES = {_LETTER: r"\p{L}", _NUMBER: r"\p{N}", _WHITE: r"\s"}
_SPACE, _APOSTROPHE = b" '"
_SHORT_ENDINGS = list(b"sdmt")
_LONG_ENDINGS = [first << 8 | second for first, second in (b"ll", b"ve", b"re")]


def encode_long_word(
    encode: Callable[[bytes], list[int]], bytes_of: Callable[[int], bytes], word: bytes, *, window: int
) -> list[int]:
    """Return the ids of a word of any length, encoded in windows.

    A sequence of ids is the encoding of its bytes exactly if every two neighbours, encoded together, are the same two
    ids. That holds within a window. It is checked between windows; if it fails, the later window begins earlier.

    Args:
        encode: Returns the ids of a short word, by learned merges.
        bytes_of: Returns the bytes of an id.
        word: The word.
        window: Bytes that are encoded at once; it grows where a boundary is hard to find.
    """
    ids: list[int] = []
    at = 0
    while True:
        part = encode(word[at : at + window])
        while ids and encode(bytes_of(ids[-1]) + bytes_of(part[0])) != [ids[-1], part[0]]:
            at -= len(bytes_of(ids.pop()))
            window += window // 8 + 1
            part = encode(word[at : at + window])
        if at + window >= len(word):
            return ids + part
        kept = part[: max(1, len(part) * 7 // 8)]  # the cut changes only ids near the end of the window
        ids += kept
        at += sum(len(bytes_of(id)) for id in kept)


def last_cut_of_gpt2(text: str) -> int:
    r"""Return the last position between a non-space character and a space or line end; 0 if there is none.

    Such a cut, at p, changes no id, whatever comes before and after `text`. No alternative of the pattern matches a
    non-space followed by white space, so a match ends at p in the whole text, and every greedy run that reaches p
    ends there in the left part too. The pattern looks ahead only after a run of white space (`(?!\S)`, `$`), at
    p-1 at the latest, because the character at p-1 is not white space; so it sees the same in the left part as in
    the whole. It never looks back, so the matches from p on depend on the right part alone. Python's white space
    (str.isspace) is the pattern's (Unicode's White_Space) and a few control characters; so "non-space" is meant by
    Python's definition, and "space or line end" is white space by both.
    """
    window = _CUT_WINDOW
    while True:
        start = max(0, len(text) - window)
        cut = 0
        for match in _SAFE_CUT.finditer(text, start):
            cut = match.end()
        if cut:
            return cut
        if start == 0:
            return 0
        window *= 4


def cuts_between_words(content: bytes, size: int) -> NDArray[np.int64]:
    """Return where to cut a text into parts that are encoded by themselves, in bytes, (cuts,).

    A part has up to `size` bytes, or one word that is longer, with white space around it. A cut is at the start of a
    word and not after white space: the pattern never looks back, and looks ahead only after white space.

    Args:
        content: A text in UTF-8.
        size: The largest number of bytes in a part, if its words allow that.
    """
    classes = _classes(content)[0]
    starts = word_starts(content + CUT)[1:-1]
    starts = starts[classes[starts - 1] != _WHITE]
    cuts = [0]
    while len(content) - cuts[-1] > size:
        next_one, last_within = np.searchsorted(starts, [cuts[-1], cuts[-1] + size], "right") - [0, 1]
        if next_one == len(starts):
            break
        cuts.append(int(starts[max(next_one, last_within)]))
    return np.array(cuts[1:], dtype=np.int64)


def word_starts(content: bytes) -> NDArray[np.int64]:
    r"""Return the start of every word, (words,); `CUT` is a word of its own.

    The classes of neighbouring characters decide what GPT-2's pattern matches. A run of letters, of numbers or of
    other characters is a word, together with one space before it. Other white space before a word is two words, its
    last character and the rest; at the end of a text it is one. The contractions ('s, 'll, ...) are words if the
    apostrophe begins a match: not after a space or another character that is no letter, number or white space.

    Args:
        content: Texts in UTF-8; `CUT` follows every text.
    """
    bytes_ = np.frombuffer(content, dtype=np.uint8)
    classes, wide, wide_ends = _classes(content)
    starts = np.ones(len(content), dtype=np.bool_)
    np.not_equal(classes[1:], classes[:-1], out=starts[1:])
    starts |= classes == _CUT

    lasts = (classes[:-1] == _WHITE) & (classes[1:] < _WHITE)  # the last byte of white space before something else
    starts[1:] &= ~(lasts & (bytes_[:-1] == _SPACE))
    starts[wide] |= lasts[wide_ends]
    lasts[wide_ends] = False
    starts[:-1] |= lasts

    at = np.flatnonzero(bytes_ == _APOSTROPHE)
    at = at[(classes[at - 1] != _OTHER) & (bytes_[at - 1] != _SPACE)]
    after, then = bytes_[at + 1], bytes_[np.minimum(at + 2, len(content) - 1)]
    is_long = np.isin(after.astype(np.int64) << 8 | then, _LONG_ENDINGS)
    is_contraction = is_long | np.isin(after, _SHORT_ENDINGS)
    starts[at[is_contraction] + 1] = False
    starts[(at + 2 + is_long)[is_contraction]] = True
    return np.flatnonzero(starts)


def _classes(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Return each byte's class, and the first and last byte of every white-space character beyond ASCII."""
    classes = np.frombuffer(bytearray(content.translate(_byte_classes())), dtype=np.uint8)
    beyond = classes == _UNKNOWN
    bytes_ = np.frombuffer(content, dtype=np.uint8)
    characters = bytes_[beyond].tobytes().decode("utf-8")
    codes = np.frombuffer(characters.encode("utf-32-le"), dtype="<u4").astype(np.int64)
    begins = np.flatnonzero(beyond & (bytes_ >= 0xC0))
    sizes = 2 + (codes >= 0x800) + (codes >= 0x10000)
    wide_classes = _classes_of(codes)
    for offset in range(4):
        reached = sizes > offset
        classes[begins[reached] + offset] = wide_classes[reached]
    white = wide_classes == _WHITE
    return classes, begins[white], (begins + sizes - 1)[white]


@cache
def _byte_classes() -> bytes:
    ascii_classes = _classes_of(np.arange(128)).tobytes()
    return ascii_classes + bytes([_UNKNOWN] * (CUT[0] - 128) + [_CUT, _CUT])


def _classes_of(codes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the classes of characters by code point, as tiktoken sees them."""
    table, engines = _known_classes()
    new = np.unique(codes[table[codes] == _UNKNOWN]) if codes.size else codes
    if new.size:
        text = "".join(map(chr, new.tolist()))
        table[new] = _OTHER
        for kind, engine in engines.items():
            members = engine.decode(engine.encode_ordinary(text))
            table[[ord(character) for character in members]] = kind
    classes: NDArray[np.uint8] = table[codes]
    return classes


@cache
def _known_classes() -> tuple[NDArray[np.uint8], dict[int, tiktoken.Encoding]]:
    """Return the known classes by code point, and for every class an engine that drops all other characters."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    engines = {
        kind: tiktoken.Encoding(pattern, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        for kind, pattern in _CLASSES.items()
    }
    return np.full(0x110000, _UNKNOWN, dtype=np.uint8), engines
