"""Words are split, and much text is encoded, as by tiktoken, the slow reference."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quillgpt.text.sources.documents import Mark
from quillgpt.text.sources.downloads import GPT2_MERGES, GPT2_VOCABULARY, TINY_SHAKESPEARE
from quillgpt.text.tokenizers import bpe, bulk
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.byte_alphabet import BYTE_TO_CHARACTER
from quillgpt.text.tokenizers.gpt2 import gpt2_tokenizer
from quillgpt.text.tokenizers.words import CUT, cuts_between_words, word_starts

END = Mark.DOCUMENT_END
TRAINING = "the quick  brown fox's tail, they'll say 'tis 1999.\n\n  we've 漢字 é \u3000 \u00a0 x\n" * 20
# Characters that the pattern distinguishes, of one to four bytes in UTF-8, and the letters of contractions.
ODD = "'’\"s dtmlvreS 1²Ⅷ٣𝟘aéßжק漢𝒜.,_—😀€\u0301\u200d\ufeff\t\n\r\x00\x1c\x85\u00a0\u1680\u2003\u2028\u3000"
SEPARATE = ["it's", "'s's", " 's", "  's", "\n's", "''s", "1'll", "'veil", "é're", ".'t", "\u00a0'd", "'", "'l"]


def with_much_text(tokenizer):
    """Return a tokenizer that expects much text, so that it encodes by the faster library."""
    tokenizer.expect(1 << 40)
    return tokenizer


@pytest.fixture(scope="module")
def trained():
    return with_much_text(BytePairTokenizer.train([TRAINING], 400))


@pytest.fixture(scope="module", params=[1, -1], ids=["ascending", "descending"])
def pairs(request):
    """A tokenizer that joins any two bytes of a word, so that its ids show where words are cut."""
    every = [(first, second) for first in BYTE_TO_CHARACTER for second in BYTE_TO_CHARACTER][:: request.param]
    tokens = [*BYTE_TO_CHARACTER, *map("".join, every), "<|endoftext|>"]
    return with_much_text(BytePairTokenizer({token: number for number, token in enumerate(tokens)}, every))


@pytest.fixture(scope="module")
def published_gpt2(published):
    published(GPT2_MERGES)
    published(GPT2_VOCABULARY)
    return with_much_text(gpt2_tokenizer())


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
@example(pieces=["<|endoftext|>", "a<|endoftext|> <|endof", END, "text|>"])
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


def parts_of(text, size):
    content = text.encode()
    cuts = [0, *cuts_between_words(content, size).tolist(), len(content)]
    return [content[start:end].decode() for start, end in pairwise(cuts)]


@settings(max_examples=500, deadline=None)
@given(text=odd_texts, size=st.integers(1, 12))
@example(text="\u3000\u3000漢漢 \n x'll  y", size=1)
def test_parts_that_are_cut_between_words_are_encoded_as_the_whole(pairs, text, size):
    text = text.encode("utf-8", "ignore").decode()
    parts = parts_of(text, size)
    assert "".join(parts) == text
    assert one_by_one(pairs, parts) == pairs.encode(text).tolist()


def test_parts_are_as_long_as_words_allow():
    assert parts_of("ab,cd,efghijkl,m", 6) == ["ab,cd,", "efghijkl", ",m"]
    assert parts_of("ab" * 9, 6) == ["ab" * 9]
    assert parts_of("a   bbbbbbbb,c", 4) == ["a", "   bbbbbbbb", ",c"]
    assert parts_of("", 4) == [""]


@pytest.mark.parametrize(
    "piece", ["漢字,かな。" * 40, "x" * 300 + ",y" * 40, "a" + " " * 300 + "b", "\U0001f600" * 90, "é\ud800" * 99]
)
def test_a_long_piece_without_spaces_is_encoded_as_a_whole(trained, monkeypatch, piece):
    monkeypatch.setattr(bpe, "LONG_PIECE", 50)
    monkeypatch.setattr(bpe, "LONG_WORD", 40)
    monkeypatch.setattr(bulk, "LONG_WORD", 40)
    assert trained.encode_pieces(["the ", piece, END, "fox"]).tolist() == one_by_one(
        trained, ["the ", piece, END, "fox"]
    )


def test_the_faster_library_is_loaded_for_much_text_only():
    tokenizer = BytePairTokenizer.train([TRAINING], 300)
    pieces = ["fox ", END, "", "dog"]
    tokenizer.expect(1000)
    little = tokenizer.encode_pieces(pieces)
    assert tokenizer._bulk is None
    tokenizer.expect(100_000)
    assert tokenizer._bulk is not None
    assert little.tolist() == tokenizer.encode_pieces(pieces).tolist() == one_by_one(tokenizer, pieces)
    assert tokenizer.encode_pieces([]).tolist() == []
