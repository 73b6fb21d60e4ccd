"""Words are split and encoded as by tiktoken, the slow reference."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quillgpt.text.sources.documents import Mark
from quillgpt.text.sources.downloads import GPT2_MERGES, GPT2_VOCABULARY, TINY_SHAKESPEARE
from quillgpt.text.tokenizers import words
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.byte_alphabet import BYTE_TO_CHARACTER
from quillgpt.text.tokenizers.gpt2 import gpt2_tokenizer
from quillgpt.text.tokenizers.words import CUT, WordEncoder, word_starts

END = Mark.DOCUMENT_END
TRAINING = "the quick  brown fox's tail, they'll say 'tis 1999.\n\n  we've 漢字 é \u3000 \u00a0 x\n" * 20
# Characters that the pattern distinguishes, of one to four bytes in UTF-8, and the letters of contractions.
ODD = "'’\"s dtmlvreS 1²Ⅷ٣𝟘aéßжק漢𝒜.,_—😀€\u0301\u200d\ufeff\t\n\r\x00\x1c\x85\u00a0\u1680\u2003\u2028\u3000"
SEPARATE = ["it's", "'s's", " 's", "  's", "\n's", "''s", "1'll", "'veil", "é're", ".'t", "\u00a0'd", "'", "'l"]


@pytest.fixture(scope="module")
def trained():
    return BytePairTokenizer.train([TRAINING], 400)


@pytest.fixture(scope="module", params=[1, -1], ids=["ascending", "descending"])
def pairs(request):
    """A tokenizer that joins any two bytes of a word, so that its ids show where words are cut."""
    every = [(first, second) for first in BYTE_TO_CHARACTER for second in BYTE_TO_CHARACTER][:: request.param]
    tokens = [*BYTE_TO_CHARACTER, *map("".join, every), "<|endoftext|>"]
    return BytePairTokenizer({token: number for number, token in enumerate(tokens)}, every)


@pytest.fixture(scope="module")
def published_gpt2(published):
    published(GPT2_MERGES)
    published(GPT2_VOCABULARY)
    return gpt2_tokenizer()


def one_by_one(tokenizer, pieces):
    end = [tokenizer.end_of_text]
    return [token for piece in pieces for token in (end if piece is END else tokenizer.encode(piece).tolist())]


odd_texts = st.one_of(
    st.text(alphabet=st.sampled_from(ODD), max_size=30),
    st.text(max_size=30),
    st.text(alphabet=st.sampled_from("'sltve \n"), max_size=30),
    st.lists(st.sampled_from(SEPARATE), max_size=5).map("".join),
)


@settings(max_examples=1000, deadline=None)
@given(pieces=st.lists(st.one_of(odd_texts, st.just(END)), max_size=6))
@example(pieces=SEPARATE)
@example(pieces=["a ", END, "  ", END, END, "'s", "'s", "\u3000", "", "x \u3000", "y"])
@example(pieces=["a" * 15, "a" * 16, " " * 15, "\0" * 14, "\0" * 15, "\0" * 7, "\0" * 8, "\0"])
@example(pieces=["a\ud800b", "\ud83d\ude00"])
def test_pieces_are_encoded_as_each_is_on_its_own(pairs, pieces):
    assert pairs.encode_pieces(pieces).tolist() == one_by_one(pairs, pieces)


@pytest.mark.download
@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(st.one_of(odd_texts, st.just(END)), max_size=6))
def test_pieces_are_encoded_with_gpt2_as_each_is_on_its_own(published_gpt2, pieces):
    assert published_gpt2.encode_pieces(pieces).tolist() == one_by_one(published_gpt2, pieces)


@pytest.mark.download
def test_shakespeare_is_encoded_with_gpt2_as_tiktoken_does(published_gpt2, published):
    text = published(TINY_SHAKESPEARE).read_text()
    assert np.array_equal(published_gpt2.encode_pieces([text, END])[:-1], published_gpt2.encode(text))


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.deep)])
def test_every_character_is_of_the_class_that_the_pattern_means(pairs, step):
    """The class of a character shows in whether it forms one word with a letter, a number, or another character."""
    codes = [*range(0x3100), *range(0x3100, sys.maxunicode + 1, step)]
    every = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    for first in range(0, len(every), 1 << 18):
        text = "".join(f"a{character}\n1{character}\n.{character}\n" for character in every[first : first + (1 << 18)])
        assert np.array_equal(pairs.encode_pieces([text]), pairs.encode(text))


def test_the_words_of_a_text():
    text = "I'll go.  He's 20\u00a0\u3000years\n\n old 'so' "
    content = text.encode() + CUT
    cuts = [*word_starts(content).tolist(), len(content)]
    pieces = [content[start:end] for start, end in pairwise(cuts)]
    expected = ["I", "'ll", " go", ".", " ", " He", "'s", " 20", "\u00a0", "\u3000", "years", "\n\n", " old", " '"]
    assert pieces == [*(word.encode() for word in [*expected, "so", "'", " "]), CUT]


def test_each_word_is_encoded_once():
    asked = []
    encoder = WordEncoder(lambda word: asked.append(word) or [len(word)], 99)
    assert encoder.encode(b"the cat and the dog\xfe\xff").tolist() == [3, 4, 4, 4, 4, 99]
    assert encoder.encode(b" the cat\xfe and an-incomprehensibility\xfe").tolist() == [4, 4, 4, 3, 1, 19]
    assert encoder.encode(b"an-incomprehensibility\xfe").tolist() == [2, 1, 19]
    assert sorted(asked) == [b" an", b" and", b" cat", b" dog", b" the", b"-", b"an", b"incomprehensibility", b"the"]


@pytest.mark.parametrize(("most_words", "slot_bits"), [(5, 18), (40, 2), (1 << 18, 1)])
def test_a_full_memory_changes_no_ids(trained, monkeypatch, most_words, slot_bits):
    monkeypatch.setattr(words, "MOST_WORDS", most_words)
    monkeypatch.setattr(words, "SLOT_BITS", slot_bits)
    encoder = WordEncoder(trained._encode_word, trained.end_of_text)
    for text in (TRAINING, "fox " * 30, TRAINING[::-1], "more and other words than the table has room for"):
        assert encoder.encode(text.encode() + CUT).tolist() == trained.encode(text).tolist()


def test_the_memory_of_words_is_bounded(trained, monkeypatch):
    monkeypatch.setattr(words, "MOST_WORDS", 50)
    encoder = WordEncoder(trained._encode_word, trained.end_of_text)
    for number in range(100):
        encoder.encode(f"word{number:x} {number:x}x".encode() + CUT)
        assert len(encoder._words) <= 50
        assert len(encoder._ids) <= 50 * 8
