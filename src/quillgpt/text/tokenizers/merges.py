"""Learns a vocabulary and merges from a text, in bounded time and memory for every text, with progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise

import numpy as np

from quillgpt.console import progress
from quillgpt.stopping import activity
from quillgpt.text.encodings.normal_forms import without_surrogates
from quillgpt.text.tokenizers.byte_alphabet import BYTE_TO_CHARACTER
from quillgpt.text.tokenizers.merge_learner import MergeLearner
from quillgpt.text.tokenizers.words import CUT, last_cut_of_gpt2, word_starts

LONGEST_WORD = 1024
"""Bytes; a longer word is cut before learning, so that a text without a break has many words."""

MOST_BYTES = 1 << 23
"""Bytes of different words that are counted; beyond it, the rarest are forgotten until half as many bytes are left."""

_PIECE = 1 << 16
_MOST_WAITING = 1 << 20
_LOOKAHEAD = 4  # bytes after the beginning of a word that can decide whether it is one


def learn_merges(pieces: Iterable[str], tokens: int, *, name: str) -> tuple[dict[str, int], list[list[str]]]:
    """Learn a vocabulary and merges from a text; the same text gives the same ones.

    Args:
        pieces: The text, cut anywhere.
        tokens: The number of tokens, including one for each byte; too small a text gives fewer.
        name: The tokenizer's name, for messages.
    """
    with activity(f"while {name} was learned; nothing of it is kept, and the same command starts again"):
        words = count_words(pieces, name)
        alphabet = sorted(BYTE_TO_CHARACTER)
        vocab = {character: id for id, character in enumerate(alphabet)}
        spelt = list(alphabet)
        merges: list[list[str]] = []
        learner = MergeLearner(words, np.array([vocab[BYTE_TO_CHARACTER[byte]] for byte in range(256)]))
        with progress(f"Learning {name}", tokens) as advance:
            advance(len(spelt))
            while len(spelt) < tokens and (pair := learner.most_frequent()) is not None:
                merges.append([spelt[id] for id in pair])
                new = vocab.setdefault("".join(merges[-1]), len(spelt))
                if new == len(spelt):
                    spelt.append("".join(merges[-1]))
                learner.merge(new, pair)
                advance()
    return vocab, merges


def count_words(pieces: Iterable[str], name: str) -> Counter[bytes]:
    """Return how often each word of GPT-2's pattern occurs in a text, without the rarest words of a very long one.

    Args:
        pieces: The text, cut anywhere.
        name: The tokenizer's name, for the progress bar.
    """
    counts: Counter[bytes] = Counter()
    size = 0  # of the counted words, in bytes
    with progress(f"Reading for {name}, characters", None) as advance:
        for piece in learnable(pieces):
            content = piece.encode("utf-8") + CUT
            different = len(counts)
            counts.update([content[start:end] for start, end in pairwise(word_starts(content).tolist())])
            size += sum(map(len, islice(reversed(counts), len(counts) - different)))
            if size > MOST_BYTES:
                counts, size = _most_frequent(counts, MOST_BYTES // 2)
            advance(len(piece))
    return counts


def _most_frequent(counts: Counter[bytes], most_bytes: int) -> tuple[Counter[bytes], int]:
    """Return the most frequent words, up to `most_bytes` bytes of them, the earlier of equal ones; and their size."""
    kept: Counter[bytes] = Counter()
    size = 0
    for word, count in counts.most_common():  # equal ones stay in the order of the text
        if size + len(word) > most_bytes:
            break
        kept[word] = count
        size += len(word)
    return kept, size


def learnable(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a text cut between words of GPT-2's pattern, so that the cuts do not change what is learned.

    Words longer than `LONGEST_WORD` are also cut.
    """
    for piece in _cut_between_words(_short(pieces)):
        yield from _cut_long_words(piece)


def _short(pieces: Iterable[str]) -> Iterator[str]:
    return (piece[at : at + _PIECE] for piece in pieces for at in range(0, len(piece), _PIECE))


def _cut_between_words(pieces: Iterable[str]) -> Iterator[str]:
    rest: list[str] = []
    before, length = "", 0
    for piece in pieces:
        cut = last_cut_of_gpt2(before + piece) - len(before)
        if cut >= 0 and (cut or rest):
            yield "".join([*rest, piece[:cut]])
            rest, length = [], 0
            piece = piece[cut:]
        rest.append(piece)
        before = piece[-1:] or before
        length += len(piece)
        if length > _MOST_WAITING:
            whole = "".join(rest)
            cut = _last_word(whole)
            yield whole[:cut]
            rest, length = [whole[cut:]], len(whole) - cut
    yield "".join(rest)


def _last_word(text: str) -> int:
    """Return the start of the last word without white space before it; the end of the text if that is far from it."""
    content = without_surrogates(text).encode("utf-8")
    starts = word_starts(content + CUT)
    starts = starts[(starts > len(content) // 2) & (starts <= len(content) - _LOOKAHEAD)]
    for start in reversed(starts.tolist()):
        character = content[start - _LOOKAHEAD : start].decode("utf-8", "ignore")[-1]
        if not character.isspace():
            return len(content[:start].decode("utf-8"))
    return len(text)


def _cut_long_words(text: str) -> Iterator[str]:
    content = without_surrogates(text).encode("utf-8")
    starts = word_starts(content + CUT)
    lengths = np.diff(starts)
    done = 0
    for word in np.flatnonzero(lengths > LONGEST_WORD).tolist():
        begin, end = int(starts[word]), int(starts[word] + lengths[word])
        while end - max(begin, done) > LONGEST_WORD:
            cut = max(begin, done) + LONGEST_WORD
            while content[cut] & 0xC0 == 0x80:  # in the middle of a character
                cut -= 1
            yield content[done:cut].decode("utf-8")
            done = cut
    yield content[done:].decode("utf-8")
