import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quillgpt.generation.stream import TextStream
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.byte import ByteTokenizer

BYTES = ByteTokenizer()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def streamed(ids, stop=None, tokenizer=BYTES):
    """The pieces as they come, and the stream at the end."""
    stream = TextStream(tokenizer, [stop] if stop else [])
    pieces = []
    for token in ids:
        stream.push(token)
        pieces.append(stream.new_text())
    return [*pieces, stream.new_text(final=True)], stream


@given(TEXT)
@settings(max_examples=200, deadline=None)
def test_pieces_are_whole_characters_and_add_up_to_the_text(text):
    pieces, stream = streamed(BYTES.encode(text).tolist())
    assert "".join(pieces) == stream.text() == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@given(st.binary(max_size=30), st.none() | st.sampled_from(["a", "ab", "é", "\n\n"]))
@settings(max_examples=200, deadline=None)
def test_pieces_add_up_even_where_bytes_are_no_text(data, stop):
    pieces, stream = streamed(list(data), stop)
    assert "".join(pieces) == stream.text()


@given(st.text("ab\n€", max_size=20), st.text("ab\n€", min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_a_sample_ends_before_the_first_stop_text(text, stop):
    pieces, stream = streamed(BYTES.encode(text).tolist(), stop)
    assert "".join(pieces) == stream.text() == text.split(stop)[0]
    assert stream.finish_reason == ("stop" if stop in text else None)


def test_a_character_is_given_when_its_last_byte_has_come():
    assert streamed(BYTES.encode("a€b").tolist())[0] == ["a", "", "", "€", "b", ""]


def test_the_beginning_of_a_stop_text_is_held_back():
    assert streamed(BYTES.encode("x\nA\nB").tolist(), "\nB")[0] == ["x", "", "\nA", "", "", ""]
    assert streamed(BYTES.encode("x\n").tolist(), "\nB")[0] == ["x", "", "\n"]


def test_an_unfinished_character_is_given_in_the_end():
    assert streamed([0x61, 0xE2, 0x82])[0] == ["a", "", "", "\ufffd"]


def test_a_stop_text_is_found_inside_and_across_longer_tokens():
    tokenizer = BytePairTokenizer.train(["the cat and the hat " * 50], 280)
    ids = tokenizer.encode("the cat and the hat").tolist()
    assert len(ids) < 10
    for stop in ("c", "t a", "cat and t", "hat"):
        pieces, stream = streamed(ids, stop, tokenizer)
        assert "".join(pieces) == stream.text() == "the cat and the hat".split(stop)[0]
        assert stream.finish_reason == "stop"


def test_end_of_text_ends_the_sample_and_is_no_part_of_it():
    stream = streamed([*b"ab", 256, *b"cd"])[1]
    assert (stream.text(), stream.ids, stream.finish_reason) == ("ab", [*b"ab"], "end_of_text")


def test_nothing_is_added_after_the_stop_text():
    stream = streamed([*b"ab", *b"cd"], "b")[1]
    assert (stream.ids, stream.finish_reason) == ([*b"ab"], "stop")


@pytest.mark.parametrize("stop", [None, ""])
def test_without_a_stop_text_nothing_stops(stop):
    assert streamed([*b"abc"], stop)[1].finish_reason is None


def test_text_that_was_returned_is_not_kept():
    stream = TextStream(ByteTokenizer(), ["\n\n"])
    for token in BYTES.encode("a€b\n" * 50).tolist():
        stream.push(token)
        stream.new_text()
    assert len(stream._settled) <= 2


def test_a_long_stop_text_is_held_back_as_far_as_it_has_come():
    stop = "ab" * 300 + "c"
    pieces, stream = streamed(BYTES.encode("x" + "ab" * 500 + "c!").tolist(), stop)
    assert "".join(pieces) == stream.text() == "x" + "ab" * 200
    assert stream.finish_reason == "stop"


def test_the_price_of_a_token_does_not_grow_with_the_text(monkeypatch):
    longest = []
    decode = ByteTokenizer.decode
    monkeypatch.setattr(ByteTokenizer, "decode", lambda self, ids: longest.append(len(ids)) or decode(self, ids))
    stream = TextStream(ByteTokenizer())
    for token in BYTES.encode("a€b " * 50).tolist():
        stream.push(token)
        stream.new_text()
    assert max(longest) < 10
