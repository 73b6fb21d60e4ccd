import codecs

import pytest

from quillgpt.errors import DataError
from quillgpt.text.decoding import CHUNK_BYTES, detect_encoding, read_pieces

GREEK = "Ἐν ἀρχῇ ἦν ὁ λόγος\n— “x”\n"
GERMAN = "Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch; die Vögelein schweigen.\n" * 5
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n" * 5


def write(tmp_path, content):
    path = tmp_path / "book.txt"
    path.write_bytes(content)
    return path


def text_of(path, characters=1000):
    return "".join(read_pieces(path, detect_encoding(path), characters))


@pytest.mark.parametrize(
    "content",
    [
        GREEK.encode(),
        codecs.BOM_UTF8 + GREEK.encode(),
        codecs.BOM_UTF16_LE + GREEK.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + GREEK.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + GREEK.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + GREEK.encode("utf-32-be"),
    ],
    ids=["utf-8", "utf-8-mark", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"],
)
def test_unicode_encodings_give_the_same_text(tmp_path, content):
    assert text_of(write(tmp_path, content)) == GREEK


@pytest.mark.parametrize(("text", "encoding"), [(GERMAN, "cp1252"), (RUSSIAN, "cp1251")])
def test_legacy_encodings_are_recognised(tmp_path, text, encoding):
    path = write(tmp_path, text.encode(encoding))
    assert text_of(path) == text


@pytest.mark.parametrize("characters", [1, 2, 3, 1000])
def test_every_line_end_becomes_a_newline_wherever_pieces_are_cut(tmp_path, characters):
    path = write(tmp_path, b"a\r\nb\rc\n\r\n\rd\r")
    assert text_of(path, characters) == "a\nb\nc\n\n\nd\n"


def test_a_character_across_two_chunks_of_the_check_is_whole(tmp_path):
    text = "a" * (CHUNK_BYTES - 1) + "é" + "b"
    assert text_of(write(tmp_path, text.encode()), 1 << 20) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (codecs.BOM_UTF8, "empty"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
        (b"text " * 300_000 + b"\0", "binary"),
        (codecs.BOM_UTF16_LE + "a\0b".encode("utf-16-le"), "binary"),
        (codecs.BOM_UTF16_LE + b"a\0b", "utf-16"),
        (("é" * 20 + "\n\n").encode() + b"it\x92s", "line 3: byte 0x92"),
        ("Grüße".encode()[:-2], "ends in the middle"),
    ],
    ids=["empty", "only-mark", "png", "late-nul", "utf-16-nul", "odd-utf-16", "damaged", "cut-off"],
)
def test_what_is_no_text_is_an_error_that_names_the_file(tmp_path, content, words):
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=r"book\.txt") as caught:
        text_of(path)
    assert words in str(caught.value)
