"""A stream of text is cut into sentences, whatever the pieces in which it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgpt.speech.synthesis.sentences import LONGEST, SentenceStream, sentences, spoken_form

LETTERS = st.sampled_from(
    [*'aAzI1. .!?…"”)\n\t 。！？।,', "Mr.", "e.g. ", "  ", "\n\n", "word ", "The ", "3.14", "é", "日"]
)
TEXTS = st.lists(LETTERS, max_size=400).map("".join)


def in_pieces(text: str, sizes: list[int]) -> list[str]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(text[start : start + size])
        start += size
    return [*pieces, text[start:]]


@given(TEXTS, st.lists(st.integers(0, 60), max_size=40))
def test_the_sentences_do_not_depend_on_the_pieces_and_nothing_is_lost(text: str, sizes: list[int]) -> None:
    whole = list(sentences([text]))
    assert "".join(whole) == text
    assert list(sentences(in_pieces(text, sizes))) == whole
    assert list(sentences(text)) == whole  # letter by letter
    assert all(0 < len(sentence) <= LONGEST for sentence in whole)


@pytest.mark.parametrize(
    "spoken",
    [
        ["One.", "Two!", "Three?", "Four"],
        ["Mr. Brown met Dr. J. S. Bach, e.g. on No. 5.", "He left."],
        ["It costs 3.14 euros.", "Really?!", "Yes."],
        ['"Who is there?" asked the man.', '"Nobody."', "He went."],
        ["Well... maybe.", "Perhaps…", "No."],
        ["A heading\n\n", "The text begins."],
        ["你好。", "你是谁？", "再见！"],
        ["「はい。」", "そうです。"],
        ["यह एक है।", "वह दो है।"],
        ["هل هذا صحيح؟", "نعم."],
        ["Это дом.", "Кто там?", "А. С. Пушкин."],
        ["He asked (twice.)", "Then he left."],
        ["1. Bread and butter.", "\n2. Milk."],
        ["no capital letters. no end"],
        ["We meet at 10.30 a.m. tomorrow.", "Bring J. and e.g. his dog."],
        ["So it was I.", "Then we went."],
    ],
)
def test_a_sentence_ends_where_a_reader_would_end_it(spoken: list[str]) -> None:
    text = " ".join(spoken)
    assert [sentence.strip() for sentence in sentences([text])] == [sentence.strip() for sentence in spoken]


def test_a_sentence_is_ready_before_the_next_one_ends() -> None:
    stream = SentenceStream()
    assert stream.push("This is the first sentence. ") == []  # what follows decides
    assert stream.push("The second one has begun, and") == ["This is the first sentence."]


def test_a_text_without_ends_is_cut_at_commas_and_then_at_spaces() -> None:
    commas = "many words and, " * 100
    assert all(len(part) <= LONGEST and part.endswith(", ") for part in sentences([commas]))
    spaces = "word " * 300
    assert all(len(part) <= LONGEST and part.endswith(" ") for part in sentences([spaces]))
    letters = "x" * 1000
    assert list(map(len, sentences([letters]))) == [LONGEST, LONGEST, 1000 - 2 * LONGEST]


def test_a_text_that_has_ended_is_no_part_of_the_next() -> None:
    stream = SentenceStream()
    assert stream.push("no end") == []
    assert stream.finish() == ["no end"]
    assert stream.push("another") == []
    assert stream.finish() == ["another"]
    assert stream.finish() == []


@pytest.mark.parametrize("text", ["", "  \n", "...", "\x00\x01\x1b", "- — -", "?!", "\ud800", "\ue000", "\u200b"])
def test_nothing_is_spoken_of_a_text_without_letters_digits_and_symbols(text: str) -> None:
    assert spoken_form(text) == ""


def test_digits_of_every_script_are_read() -> None:
    assert spoken_form("١٢٣ १२ ３.５") == "123 12 3.5"


def test_control_characters_and_line_ends_are_spaces() -> None:
    assert spoken_form(" Hello\x1b\x07 there,\n\tfriend\ud800. 😀 ") == "Hello there, friend . 😀"
