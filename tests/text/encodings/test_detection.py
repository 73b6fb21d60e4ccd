import codecs
import random
import struct
import time
import zlib

import pytest

from languages import (
    ARABIC,
    CHINESE,
    CZECH,
    ENGLISH,
    FRENCH,
    GERMAN,
    GREEK,
    HEBREW,
    HUNGARIAN,
    JAPANESE,
    KOREAN,
    MODERN_GREEK,
    POLISH,
    PORTUGUESE,
    RUSSIAN,
    SPANISH,
    SWEDISH,
    TRADITIONAL_CHINESE,
    TURKISH,
)
from quillgpt.errors import DataError
from quillgpt.text.encodings import scan
from quillgpt.text.encodings.detection import CHUNK_BYTES, SAMPLE_BYTES, detect_encoding, read_pieces

PLAIN = str.maketrans("‘’“”„–—…œ", '\'\'"""---o')
LEGACY = {
    ("english", "cp1252"): ENGLISH,
    ("english", "mac_roman"): ENGLISH,
    ("german", "cp1252"): GERMAN,
    ("german", "iso8859-1"): GERMAN.translate(PLAIN),
    ("german", "mac_roman"): GERMAN,
    ("german", "cp850"): GERMAN.translate(PLAIN),
    ("french", "cp1252"): FRENCH,
    ("french", "iso8859-1"): FRENCH.translate(PLAIN),
    ("spanish", "cp1252"): SPANISH,
    ("spanish", "iso8859-1"): SPANISH.translate(PLAIN),
    ("portuguese", "cp1252"): PORTUGUESE,
    ("swedish", "iso8859-1"): SWEDISH,
    ("polish", "cp1250"): POLISH,
    ("polish", "iso8859-2"): POLISH,
    ("czech", "cp1250"): CZECH,
    ("hungarian", "cp1250"): HUNGARIAN,
    ("turkish", "cp1254"): TURKISH,
    ("russian", "cp1251"): RUSSIAN,
    ("russian", "koi8-r"): RUSSIAN,
    ("russian", "cp866"): RUSSIAN,
    ("greek", "cp1253"): MODERN_GREEK,
    ("hebrew", "cp1255"): HEBREW,
    ("arabic", "cp1256"): ARABIC,
    ("chinese", "gbk"): CHINESE,
    ("chinese", "gb18030"): CHINESE,
    ("traditional chinese", "big5"): TRADITIONAL_CHINESE,
    ("japanese", "shift-jis"): JAPANESE,
    ("japanese", "euc-jp"): JAPANESE,
    ("korean", "euc-kr"): KOREAN,
}
SCRIPTS = [ENGLISH, FRENCH, RUSSIAN, CHINESE, JAPANESE, KOREAN, ARABIC, GREEK]


def write(tmp_path, content, name="book.txt"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def text_of(path, characters=1000):
    return "".join(read_pieces(path, detect_encoding(path), characters))


def message_of(path):
    with pytest.raises(DataError, match=path.name.replace(".", r"\.")) as caught:
        text_of(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", SCRIPTS, ids=lambda text: text[:9])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (b"", "utf-16-le"),
        (b"", "utf-16-be"),
    ],
    ids=["utf-8", "utf-8-mark", "utf-16-le-mark", "utf-16-be-mark", "utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"],
)
def test_unicode_encodings_give_the_same_text(tmp_path, text, mark, encoding):
    assert text_of(write(tmp_path, mark + text.encode(encoding))) == text


@pytest.mark.parametrize("repeats", [1, 12, 400])
@pytest.mark.parametrize(("case", "text"), LEGACY.items(), ids=map("-".join, LEGACY))
def test_legacy_encodings_are_recognised(tmp_path, case, text, repeats):
    path = write(tmp_path, (text * repeats).encode(case[1]))
    assert text_of(path) == text * repeats


def test_the_encodings_of_latin_letters_are_told_apart_in_any_part_of_a_text(tmp_path):
    rng = random.Random(1)
    for (_, encoding), text in LEGACY.items():
        if not encoding.startswith(("cp1250", "cp1252", "cp1254", "iso")):
            continue
        for _ in range(10):
            start = rng.randrange(len(text))
            part = (text * 2)[start : start + 160]
            assert text_of(write(tmp_path, part.encode(encoding))) == part


@pytest.mark.parametrize("text", ["Grüße aus Köln", "Un petit café", "It didn’t rain.", "25 °C", "¿Qué?", "naïve"])
def test_a_few_western_letters_are_enough(tmp_path, text):
    path = write(tmp_path, text.encode("cp1252"))
    assert detect_encoding(path) == "cp1252"
    assert text_of(path) == text


def test_a_few_letters_late_in_a_long_english_text_are_found(tmp_path):
    text = "It rained and rained.\n" * 100_000 + FRENCH + "It rained and rained.\n" * 100
    assert text_of(write(tmp_path, text.encode("cp1252"))) == text


@pytest.mark.parametrize("encoding", ["gbk", "shift-jis"])
def test_a_long_line_of_characters_of_two_bytes_may_be_cut_anywhere_for_the_sample(tmp_path, encoding):
    line = JAPANESE.replace("\n", " ") * 2000
    for before in ("", "x"):
        content = (before + line).encode(encoding)
        assert len(content) > 2 * SAMPLE_BYTES
        assert text_of(write(tmp_path, content)) == before + line


@pytest.mark.parametrize("characters", [1, 2, 3, 1000])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_every_line_end_becomes_a_newline_wherever_pieces_are_cut(tmp_path, characters, encoding):
    path = write(tmp_path, "é\r\nb\rc\n\r\n\rd\r".encode(encoding))
    assert text_of(path, characters) == "é\nb\nc\n\n\nd\n"


def test_an_old_macintosh_text_has_its_lines(tmp_path):
    path = write(tmp_path, FRENCH.replace("\n", "\r").encode("mac_roman"))
    assert text_of(path) == FRENCH


def test_a_character_across_two_chunks_of_the_check_is_whole(tmp_path):
    text = "a" * (CHUNK_BYTES - 1) + "é" + "b"
    assert text_of(write(tmp_path, text.encode()), 1 << 20) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (codecs.BOM_UTF8, "is empty"),
        (codecs.BOM_UTF16_LE, "is empty"),
        (b"text\n" * 300_000 + b"\0x", "binary file (line 300001 has a NUL"),
        (b"te\0xt\rtext " * 30, "binary file (line 1 has a NUL"),
        (("größer\n" * 30).encode() + b"\0x", "binary file (line 31 has a NUL"),
        (codecs.BOM_UTF16_LE + "a\na\0b".encode("utf-16-le"), "binary file (line 2 has a NUL"),
        (codecs.BOM_UTF16_BE + "a\nb".encode("utf-16-be") + b"\xdc\x00", "line 2: byte 0xdc is not valid utf-16"),
        (codecs.BOM_UTF8 + b"a\r\nb\xff", "line 2: byte 0xff is not valid utf-8"),
        (("é" * 20 + "\r\r").encode() + b"it\x92s", "line 3: byte 0x92 is not valid UTF-8"),
        (("é\n" * 2_000_000).encode() + b"it\x92s", "line 2000001: byte 0x92 is not valid UTF-8"),
        (b"it\x92s\n" + ("é" * 20).encode(), "line 1: byte 0x92 is not valid UTF-8"),
        ((GERMAN * 3000).encode("cp1252") + b"\x81", "line 6001: byte 0x81 is not valid cp1252"),
        ((CHINESE * 3000).encode("gbk") + b"\xff\xff", "line 6001: byte 0xff is not valid gb18030"),
        (bytes(random.Random(1).choices(range(1, 256), k=4000)), "binary file, or a text in an encoding"),
        (random.Random(1).randbytes(4000), "binary file (line"),
        (struct.pack("<400H", *random.Random(1).choices(range(50257), k=400)), "binary file (line"),
        (struct.pack("<400H", *random.Random(1).choices(range(65), k=400)), "binary file (line"),
    ],
    ids=[
        "empty", "only-mark", "only-utf-16-mark", "late-nul", "few-nuls", "nul-in-utf-8", "utf-16-nul", "odd-utf-16",
        "after-mark", "damaged", "late-damage", "early-damage", "late-cp1252", "late-gbk", "random-no-nul",
        "random", "gpt2-tokens", "char-tokens",
    ],
)  # fmt: skip
def test_what_is_no_text_is_an_error_that_names_file_and_line(tmp_path, content, words):
    assert words in message_of(write(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "a.pdf",
            b"%PDF-1.7\n",
            "is a PDF document, not plain text; to train on its text alone, give it with --as=pdf",
        ),
        ("a.docx", b"PK\x03\x04\x14\0\6\0", "is a Word document, an e-book or another zip archive, not plain text"),
        ("a.doc", bytes.fromhex("d0cf11e0a1b11ae1"), "is a document of an older Microsoft Office"),
        ("a.rtf", b"{\\rtf1\\ansi Hello}", "is an RTF document"),
        ("a.txt.gz", zlib.compress(b"Hello", wbits=31), "is compressed with gzip, not plain text; unpack it"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a PNG image"),
        ("a.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", "is a JPEG image"),
        ("a.db", b"SQLite format 3\0", "is an SQLite database"),
        ("a.out", b"\x7fELF\2\1\1", "is a program"),
        ("a.exe", b"MZ\x90\0\3", "is a program"),
    ],
)
def test_what_people_point_at_by_mistake_is_named_with_what_to_do(tmp_path, name, content, words):
    assert f"{name} {words}" in message_of(write(tmp_path, content, name))


def test_messages_call_a_file_by_the_given_name(tmp_path):
    with pytest.raises(DataError, match=r"^standard input is empty"):
        detect_encoding(write(tmp_path, b""), name="standard input")


def test_a_page_of_html_is_text(tmp_path):
    page = "<!DOCTYPE html><p>Grüße</p>\n"
    assert text_of(write(tmp_path, page.encode())) == page


def test_several_marks_before_a_text_are_dropped_and_no_other(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf" * 3 + "a\ufeffb".encode())
    assert text_of(path) == "".join(read_pieces(path, detect_encoding(path), 1)) == "a\ufeffb"
    with pytest.raises(DataError, match="is empty"):
        text_of(write(tmp_path, b"\xef\xbb\xbf" * 2))


def test_lines_beyond_ascii_are_found_with_all_line_ends_that_follow():
    lines = [b"one\n", b"two\xc3\xa9 \r\n\r\n", b"three\n", b"\xc3\xa9\n\n", b"four\xc3\xa9\xc3\xa9"]
    found = list(scan._lines_beyond_ascii(b"".join(lines)))
    assert found == [(4, lines[1]), (20, lines[3]), (24, lines[4])]


def test_a_long_ascii_text_with_one_letter_beyond_it_is_looked_at_in_linear_time(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"x" * 200_000 + b"\n" + "é\n".encode() + b"y" * 200_000)
    started = time.process_time()
    assert scan.scan(path, path.stat().st_size).utf8.first == 200_001
    assert time.process_time() - started < 1.0  # with backtracking it was half a minute
