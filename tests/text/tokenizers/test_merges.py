import json
import os
import random
import signal
from itertools import pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers, trainers

from quillgpt.errors import TokenizerError
from quillgpt.stopping import words_on
from quillgpt.text.sources.documents import Mark
from quillgpt.text.sources.downloads import TINY_SHAKESPEARE
from quillgpt.text.tokenizers import merges
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.byte_alphabet import BYTE_TO_CHARACTER
from quillgpt.text.tokenizers.merges import LONGEST_WORD, count_words, learn_merges, learnable
from quillgpt.text.tokenizers.tokenizer import check_spec
from quillgpt.text.tokenizers.words import CUT, encode_long_word, word_starts

TEXT = "It was the best of times, it wasn't the worst 1234 times\n\n  over  漢字かな交じり文。 's Größe 😀\n" * 40


def letters(count, seed=0):
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz", k=count))


def words(text):
    content = text.encode() + CUT
    starts = word_starts(content).tolist()
    return [content[begin:end] for begin, end in pairwise(starts)]


def merges_of_the_library(text, tokens):
    learner = Engine(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(BYTE_TO_CHARACTER)
    learner.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=tokens, min_frequency=2, initial_alphabet=alphabet, special_tokens=[], show_progress=False
        ),
    )
    model = json.loads(learner.to_str())["model"]
    return model["vocab"], model["merges"]


def test_the_merges_are_those_of_the_library():
    assert learn_merges([TEXT], 399, name="bpe:400") == merges_of_the_library(TEXT, 399)


@settings(max_examples=150, deadline=None)
@given(
    text=st.one_of(
        st.text(alphabet=st.sampled_from(alphabet), max_size=400)
        for alphabet in ("a", "ab", "aaab ", "abc \n", "é漢 a", "ab's1")
    )
)
@example(text="abab abab aaaa aaaaa aaa bbb")
@example(text="")
def test_the_merges_of_words_that_repeat_letters_are_those_of_the_library(text):
    assert learn_merges([text], 300, name="bpe:301") == merges_of_the_library(text, 300)


@pytest.mark.download
def test_the_merges_of_a_book_are_those_of_the_library(published):
    text = published(TINY_SHAKESPEARE).read_text()[:300_000]
    pieces = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    assert learn_merges(pieces, 2000, name="bpe:2001") == merges_of_the_library(text, 2000)


def test_the_rarest_of_too_many_words_are_forgotten(monkeypatch):
    monkeypatch.setattr(merges, "MOST_BYTES", 400)
    kept = count_words(["".join(f" common word{number:05}" for number in range(20_000))], "bpe:300")
    assert sum(map(len, kept)) <= 400
    assert kept[b" common"] == kept[b" word"] == 20_000


def test_a_text_without_frequent_words_is_learned_from_as_well(monkeypatch):
    monkeypatch.setattr(merges, "MOST_BYTES", 8000)
    vocab, _ = learn_merges([letters(200_000)], 400, name="bpe:401")
    assert len(vocab) == 400


@pytest.mark.parametrize("unit", ["a", "-", " ", "\n", "\t", "漢", "é", "'", "1", "\u3000", "😀"])
def test_a_text_without_a_break_is_learned_from_in_short_pieces_and_comes_back(unit):
    text = unit * (400_000 // len(unit.encode()))
    pieces = list(learnable([text]))
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= LONGEST_WORD
    tokenizer = BytePairTokenizer.train([text], 300)
    ids = tokenizer.encode_pieces([text, Mark.DOCUMENT_END])
    assert len(ids) < len(text)
    assert tokenizer.decode(ids[:-1]) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("  \n\t\u3000ab's1,é漢。😀"), max_size=120))
def test_only_long_words_are_cut(monkeypatch_module, text):
    assume(max(map(len, words(text)), default=0) <= 10)
    assert [word for piece in learnable(text) for word in words(piece)] == words(text)


@pytest.fixture(scope="module")
def monkeypatch_module():
    patch = pytest.MonkeyPatch()
    patch.setattr("quillgpt.text.tokenizers.merges._MOST_WAITING", 48)
    yield patch
    patch.undo()


def test_a_long_word_among_others_is_cut_alone():
    text = "one, two" + "x" * 5000 + " three 漢字" + "漢" * 1000 + "。 four\n"
    pieces = [word for piece in learnable([text]) for word in words(piece)]
    assert b"".join(pieces).decode() == text
    assert max(map(len, pieces)) <= LONGEST_WORD
    assert {b"one", b",", b" two" + b"x" * 1020, b" three", " 漢字".encode() + "漢".encode() * 339, b" four"} <= {
        *pieces
    }


@pytest.mark.parametrize("window", [8, 33, 200])
def test_a_long_word_has_the_ids_that_it_has_as_a_whole(window):
    tokenizer = BytePairTokenizer.train([letters(20_000).replace("e", " ").replace("q", "aa"), "aaaa " * 50], 700)
    engine = tokenizer._engine
    encode, spell = engine._encode_single_piece, engine.decode_single_token_bytes
    for seed in range(60):
        word = (letters(seed % 7 + 1, seed) * 80 + "a" * seed + letters(300, seed)).encode()
        assert encode_long_word(encode, spell, word, window=window) == encode(word)


def interrupted_while(pieces):
    """Send a signal, which raises KeyboardInterrupt in a command, while merges are learned."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            learn_merges(pieces, 30_000, name="bpe:30000")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (
        words_on(caught.value)
        == "interrupted while bpe:30000 was learned; nothing of it is kept, and the same command starts again"
    )


def test_a_signal_stops_learning_while_the_text_is_read():
    def endless():
        yield from ["some words "] * 10
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            yield "more words "

    interrupted_while(endless())


def test_a_signal_stops_learning_while_merges_are_made(monkeypatch):
    class Interrupted(merges.MergeLearner):
        def merge(self, new, pair):
            super().merge(new, pair)
            if new == 300:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(merges, "MergeLearner", Interrupted)
    interrupted_while([letters(100_000)])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("bpe:256", "too small"),
        ("bpe:1000001", "too large"),
        ("bpe:" + "9" * 18, "too large"),
        ("bpe:" + "9" * 5000, "too large"),
        ("bpe" * 5000, "is no tokenizer"),
    ],
)
def test_a_size_that_no_text_gives_is_refused_before_the_text_is_read(spec, said):
    with pytest.raises(TokenizerError, match=said) as caught:
        check_spec(spec)
    assert len(str(caught.value)) < 400
