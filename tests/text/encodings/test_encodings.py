"""Texts in encodings older than Unicode, in several encodings, cut off, padded, or doubly encoded."""

import struct
import unicodedata
from pathlib import Path

import pytest

from languages import (
    CHINESE,
    ENGLISH,
    FRENCH,
    GERMAN,
    HUNGARIAN,
    JAPANESE,
    KOREAN,
    LEGACY,
    MODERN_GREEK,
    POLISH,
    RUSSIAN,
    TRADITIONAL_CHINESE,
)
from quillgpt.errors import DataError
from quillgpt.text.encodings.decoders import decode, decoder_of
from quillgpt.text.encodings.detection import Reading, look_at, read_pieces

NEWLINE = b"\n"


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "book.txt"
    path.write_bytes(content)
    return path


def read(tmp_path: Path, content: bytes, encoding: str | None = None) -> tuple[str, Reading]:
    path = written(tmp_path, content)
    reading = look_at(path, encoding=encoding)
    whole = "".join(read_pieces(path, reading.encoding, 1 << 20))
    assert "".join(read_pieces(path, reading.encoding, 7)) == whole
    return whole, reading


def kinds(reading: Reading) -> set[str]:
    return {note.kind for note in reading.notes}


def said(reading: Reading) -> str:
    return " ".join(note.words for note in reading.notes)


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        look_at(written(tmp_path, content))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cesu8(text: str) -> bytes:
    halves = (text[at : at + 1].encode("utf-16-le") for at in range(len(text)))
    return b"".join(
        "".join(map(chr, struct.unpack(f"<{len(half) // 2}H", half))).encode("utf-8", "surrogatepass")
        for half in halves
    )


@pytest.mark.parametrize("language", LEGACY)
def test_every_legacy_encoding_of_a_language_is_read_rightly_or_said_to_be_unsure(tmp_path, language):
    text, encodings = LEGACY[language]
    sure = 0
    for encoding in encodings:
        starts = range(0, len(text), max(1, len(text) // 6))
        for part in [text * 30, *((text * 2)[start : start + 300] for start in starts)]:
            content = part.encode(encoding, "ignore")
            wanted = unicodedata.normalize("NFC", content.decode(encoding).replace("\r", "\n"))
            decoded, reading = read(tmp_path, content)
            unsure = any(kind.startswith("unsure") for kind in kinds(reading))
            assert unicodedata.normalize("NFC", decoded) == wanted or unsure, (encoding, decoded[:60])
            assert content.isascii() or any(kind.startswith(("unsure", "read as")) for kind in kinds(reading))
            sure += not unsure
    assert sure >= 2 * len(encodings)


def test_a_short_text_in_an_uncertain_encoding_says_how_sure_it_is_and_what_else_it_could_be(tmp_path):
    _, reading = read(tmp_path, "联通".encode("gbk"))
    assert "% sure" in said(reading)
    assert "联通" in said(reading)
    assert "--encoding=gb18030" in said(reading)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((RUSSIAN.upper(), encoding) for encoding in ("cp1251", "koi8_r", "iso8859_5", "cp866", "mac_cyrillic")),
        *((MODERN_GREEK.upper(), encoding) for encoding in ("cp1253", "iso8859_7")),
        *((POLISH.upper(), encoding) for encoding in ("cp1250", "iso8859_2")),
        ("".join(f"{number}. Глава {number}: стр. {number * 3}\n" for number in range(40)), "mac_cyrillic"),
        ("25 °C ± 2 °C, 10 µm × 5 µm\n" * 9, "cp850"),
        ("ｺﾝﾆﾁﾊ｡ ｱﾘｶﾞﾄｳ ｺﾞｻﾞｲﾏｽ｡\n" * 2, "cp932"),
        ("大韓民國의 主權은 國民에게 있고, 모든 權力은 國民으로부터 나온다.\n", "cp949"),
        ("בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם\n", "cp1255"),
        ("子曰：「學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？」\n", "big5"),
        ("    正文 第一百二十章 突破！\n    “轰！”一声巨响，萧炎的身形猛然暴退。\n", "gb18030"),
        ("Python 是一种语言。Use pip 安装 it，然后 run 程序。\n", "gb18030"),
        ("¿Qué?\n¿Cómo?\n¡No!\n¿Quién es?\n¡Ay, mañana!\n", "mac_roman"),
        ("Кличко: «Київ — столиця України», п’ять м’ячів\n", "koi8_u"),
    ],
)
def test_odd_texts_are_read_rightly_or_said_to_be_unsure(tmp_path, text, encoding):
    content = text.encode(encoding, "ignore")
    decoded, reading = read(tmp_path, content)
    assert decoded == content.decode(encoding) or any(kind.startswith("unsure") for kind in kinds(reading))


def test_what_can_not_be_recognised_names_what_is_likely(tmp_path):
    assert "--encoding=cp500" in refusal(tmp_path, ENGLISH.encode("cp500", "ignore"))


@pytest.mark.parametrize("word", ["（ｍｏｎｅｔａｒｙ　ｒｕｌｅ）", "※※※※※※※※※※※※※※※※", "●●●●●●●●●●", "═══════════"])
def test_full_width_words_and_lines_of_ornaments_are_gb18030(tmp_path, word):
    assert (
        read(tmp_path, f"　　{word}很简单，没有人知道。\n".encode("gb18030"))[0] == f"　　{word}很简单，没有人知道。\n"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "big5", "cp932", "euc_jp", "cp949", "utf-16-le", "utf-32-le"])
def test_nul_bytes_at_the_end_and_half_a_last_character_are_left_out_and_said(tmp_path, encoding):
    text = {"big5": TRADITIONAL_CHINESE, "cp932": JAPANESE, "euc_jp": JAPANESE, "cp949": KOREAN}.get(encoding, CHINESE)
    content = (text * 3).encode(encoding)
    decoded, reading = read(tmp_path, content + b"\0" * 515)
    assert decoded == text * 3
    assert "NUL bytes, which are left out" in said(reading)
    half = "雪".encode(encoding)[:1]  # before NUL bytes it would be a whole character of UTF-16
    decoded, reading = read(tmp_path, content + half if encoding.startswith("utf-") else content + half + b"\0" * 8)
    assert decoded.rstrip("\n") == (text * 3).rstrip("\n")
    assert "cut off" in kinds(reading)


def test_a_text_in_utf8_that_was_cut_off_is_read_up_to_there(tmp_path):
    decoded, reading = read(tmp_path, "Grüße".encode()[:-2])
    assert decoded == "Grü"
    assert "cut off in the middle of its last character" in said(reading)


def test_nothing_but_nul_bytes_is_empty(tmp_path):
    assert "is empty" in refusal(tmp_path, b"\0" * 5000)


def test_the_euro_sign_of_cp936_is_read_and_said(tmp_path):
    decoded, reading = read(tmp_path, CHINESE.encode("gbk") + b"\x80" + "五元\n".encode("gbk"))
    assert decoded == CHINESE + "€五元\n"
    assert "euro" in said(reading)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", [ENGLISH, RUSSIAN, CHINESE, JAPANESE, KOREAN, CHINESE.replace("\n", "")])
def test_wide_encodings_without_a_mark_are_recognised(tmp_path, encoding, text):
    for part in (text, text[:20]):
        decoded, reading = read(tmp_path, part.encode(encoding))
        assert decoded == part
        assert "without a mark" in said(reading)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(JAPANESE, "iso2022_jp"), (KOREAN, "iso2022_kr"), (CHINESE, "hz"), (JAPANESE, "iso2022_jp_2")],
)
def test_encodings_of_seven_bits_are_not_taken_for_ascii(tmp_path, text, encoding):
    decoded, reading = read(tmp_path, text.encode(encoding))
    assert decoded == text
    assert "is not UTF-8; it is read as" in said(reading)


@pytest.mark.parametrize("content", [b"\x1b[31mred\x1b[0m\n" * 9, b"a ~{foo~} b\n" * 9, b"1 + 1 -\n"])
def test_escape_sequences_of_terminals_and_tildes_are_ascii(tmp_path, content):
    assert read(tmp_path, content) == (content.decode(), Reading("utf-8"))


@pytest.mark.parametrize(
    ("first", "second", "encoding", "line"),
    [
        (RUSSIAN.encode(), RUSSIAN.encode("cp1251"), "utf-8+cp1251", 3),
        (GERMAN.encode("cp1252"), GERMAN.encode(), "utf-8+cp1252", 3),
        (CHINESE.encode(), CHINESE.encode("gbk"), "utf-8+gb18030", 3),
        (cesu8(GERMAN + "😀\n"), GERMAN.encode("cp1252"), "cesu-8+cp1252", 4),
    ],
)
def test_lines_of_utf8_and_lines_of_another_encoding_are_each_read_as_what_they_are(
    tmp_path, first, second, encoding, line
):
    decoded, reading = read(tmp_path, first + second)
    assert reading.encoding == encoding
    assert decoded == decode(first, encoding) + decode(second, encoding)
    assert decoded.endswith(decoded[: len(decode(second, encoding))])
    assert "is in several encodings" in said(reading)
    assert f"first in line {line}, byte " in said(reading)


def test_a_line_that_happens_to_be_utf8_makes_no_mixture(tmp_path):
    text = HUNGARIAN * 5 + "Ó…\n" + HUNGARIAN
    assert text.encode("cp1250").splitlines()[10].decode("utf-8") == "Ӆ"
    decoded, reading = read(tmp_path, text.encode("cp1250"))
    assert (decoded, reading.encoding) == (text, "cp1250")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (RUSSIAN.encode("cp1251") * 5, RUSSIAN.encode("koi8_r") * 5),
        (RUSSIAN.encode("koi8_r") * 200, RUSSIAN.encode("cp1251") * 200),
        (CHINESE.encode("gbk") * 5, TRADITIONAL_CHINESE.encode("big5") * 5),
        (JAPANESE.encode("cp932") * 5, JAPANESE.encode("euc_jp") * 5),
    ],
)
def test_two_older_encodings_in_one_file_are_refused_with_the_place_of_each(tmp_path, first, second):
    message = refusal(tmp_path, first + second)
    assert "is in several encodings" in message
    assert "first in line 1, byte 0" in message
    assert f"first in line {1 + first.count(NEWLINE):,}, byte {len(first):,}" in message


def test_utf16_that_was_appended_to_a_text_is_named_with_its_place(tmp_path):
    message = refusal(tmp_path, ENGLISH.encode() + ENGLISH.encode("utf-16-le"))
    assert "UTF-16 begins in line 3" in message


def test_emoji_as_two_surrogates_are_read(tmp_path):
    decoded, reading = read(tmp_path, cesu8("hello 😀\nthere 🎉 é漢\n") + "plain 😀\n".encode())
    assert decoded == "hello 😀\nthere 🎉 é漢\nplain 😀\n"
    assert "CESU-8" in said(reading)


@pytest.mark.parametrize(
    ("text", "between"),
    [
        (GERMAN, "latin1"),
        (FRENCH, "cp1252"),
        (RUSSIAN, "cp1251"),
        (CHINESE, "latin1"),
        (GERMAN, "cp437"),
        (FRENCH, "mac_roman"),
    ],
)
def test_utf8_that_was_taken_for_another_encoding_is_read_as_it_was(tmp_path, text, between):
    text = text.encode().decode(between, "ignore").encode(between).decode("utf-8", "ignore")
    decoded, reading = read(tmp_path, text.encode().decode(between).encode())
    assert decoded == text
    assert "saved as UTF-8 again (first in line 1, byte " in said(reading)
    mixed, reading = read(tmp_path, (text * 3).encode() + (text * 3).encode().decode(between).encode())
    assert mixed == text * 6 or reading.encoding == "utf-8"
    assert "saved as UTF-8 again" in said(reading)


def test_a_text_about_such_mistakes_stays_as_it_is(tmp_path):
    text = "Wer „Ã¼“ sieht, hat ein ü verloren; schön ist das nicht. Größe, Maß, Öl.\n" * 5
    assert read(tmp_path, text.encode())[0] == text


def test_a_given_encoding_decides_and_doubts_are_said(tmp_path):
    content = (RUSSIAN * 3).encode("koi8_r")
    decoded, reading = read(tmp_path, content, "cp1251")
    assert decoded == content.decode("cp1251")
    assert "looks like KOI8-R" in said(reading)
    assert read(tmp_path, content, "koi8_r") == (RUSSIAN * 3, Reading("koi8_r"))
    assert "is valid UTF-8" in said(read(tmp_path, RUSSIAN.encode(), "cp866")[1])
    with pytest.raises(DataError, match=r"line 1: byte 0xf2 is not valid utf-8.*--encoding"):
        look_at(written(tmp_path, content), encoding="utf-8")
    with pytest.raises(DataError, match="PDF document"):
        look_at(written(tmp_path, b"%PDF-1.7\n"), encoding="cp1252")


@pytest.mark.parametrize(
    "encoding", ["cesu-8", "utf-8+cp1252", "utf-8-as-cp1252", "cp1258", "gb18030", "utf-8+gb18030"]
)
def test_a_text_does_not_depend_on_how_its_bytes_come(encoding):
    content = {
        "cesu-8": cesu8("a😀é漢한\n😀"),
        "utf-8+cp1252": "né\n".encode() + "né\r\nnaïve".encode("cp1252"),
        "utf-8-as-cp1252": "né\nà".encode().decode("latin1").encode(),
        "cp1258": b"Ti\xea\xecng Vi\xea\xf2t",
        "gb18030": "价".encode("gbk") + b"\x80" + "格㐂".encode("gb18030"),
        "utf-8+gb18030": "价格\n".encode() + "价格\n".encode("gbk"),
    }[encoding]
    whole = decode(content, encoding)
    for size in range(1, 9):
        decoder = decoder_of(encoding)
        parts = [decoder.decode(content[at : at + size]) for at in range(0, len(content), size)]
        assert "".join([*parts, decoder.decode(b"", final=True)]) == whole


def test_long_lines_of_two_encodings_are_decoded_in_bounded_parts():
    line = "Größe und Maß sind schön. ".encode() * 20_000 + "Größe ".encode("cp1252")
    decoder = decoder_of("utf-8+cp1252")
    text = "".join(decoder.decode(line[at : at + 4096]) for at in range(0, len(line), 4096))
    assert len(text) > len(line) // 2
    assert text + decoder.decode(b"", final=True) == decode(line, "utf-8+cp1252")
