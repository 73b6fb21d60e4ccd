"""Whatever a file's bytes or a prompt's characters are: a text that comes back as it was, or one clear line."""

from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st

from fuzzing import check_message, damage, fuzz, only_user_errors, randoms
from quillgpt.config.encoding_rules import EncodingRules
from quillgpt.errors import DataError
from quillgpt.generation.stream import TextStream
from quillgpt.text.encodings.decoders import decoder_of
from quillgpt.text.encodings.detection import detect_encoding, look_at, read_pieces
from quillgpt.text.encodings.normal_forms import without_surrogates
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.gpt2 import gpt2_tokenizer
from quillgpt.text.tokenizers.tokenizer import Tokenizer

END = "<|endoftext|>"
FAMILIES = ["char", "byte", "bpe", pytest.param("gpt2", marks=pytest.mark.download)]
MARKS = [b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\0\0\xfe\xff", b"\xef\xbb\xbf\xef\xbb\xbf"]
ENCODINGS = [
    "utf-8",
    "utf-16-le",
    "utf-16-be",
    "utf-32-le",
    "cp1252",
    "cp1251",
    "shift_jis",
    "gb18030",
    "big5",
    "koi8-r",
    "utf-32-be",
    "iso8859-5",
    "cp874",
    "cp1258",
    "iso2022_jp",
    "hz",
]
GIVEN = [
    *("utf-8", "utf-16", "utf-32-le", "cp1251", "gb18030", "big5hkscs", "cp932", "euc_jp", "cp949", "cp1258", "cp037"),
    *("iso2022_jp", "iso2022_kr", "hz", "utf-7", "cesu-8", "utf-8+cp1252", "utf-8+gb18030", "cesu-8+koi8_r"),
    *("utf-8-as-cp1252", "utf-8-as-mac_roman", "utf-8-as-cp1251+cp866"),
]
SETTINGS = [
    "*",
    "old/*.txt",
    "=",
    ",",
    "utf-8",
    "auto",
    "windows-1251",
    "+",
    "utf-8-as-",
    "koi8-r",
    "base64",
    " ",
    "\0",
]
WORDS = "Straße über naïve Привет, мир! 日本語の文章です。漢字 한국어 the dog's\t42\r\n"

pieces = st.sampled_from(
    [END, "<|endof", " ", "\n", "\r", "\r\n", "\t", "'s", "the", "é", "漢", "😀", "\u0301", "\ufeff", "\ud83d"]
)
texts = st.lists(pieces | st.text(st.characters(), max_size=6), max_size=12).map("".join)
"""Any characters, lone surrogates among them, and what tokenizers treat in special ways."""


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "gpt2":
        request.getfixturevalue("gpt2_files")
        return gpt2_tokenizer()
    if request.param == "char":
        return CharTokenizer.from_text([WORDS])
    return ByteTokenizer() if request.param == "byte" else BytePairTokenizer.train([WORDS * 20], 350)


def read(path: Path, characters: int, given: str | None = None) -> str | None:
    """Return the text of a file, or None where it is refused."""
    with only_user_errors():
        encoding = look_at(path, encoding=given).encoding
        assert given is None or encoding.startswith(given)
        text = "".join(read_pieces(path, encoding, characters))
        assert text
        assert "\r" not in text
        assert "\0" not in text
        assert not text.startswith("\ufeff")
        text.encode("utf-8")
        return text
    return None


def check_file(path: Path, characters: int, given: str | None = None) -> None:
    whole = read(path, 1 << 20, given)
    assert read(path, characters, given) == whole  # however it is cut


@fuzz(
    2000,
    content=st.sampled_from(MARKS).flatmap(lambda mark: st.binary(max_size=80).map(mark.__add__)),
    size=st.integers(1, 9),
)
def test_any_bytes(tmp_path: Path, content: bytes, size: int) -> None:
    (tmp_path / "text").write_bytes(content)
    check_file(tmp_path / "text", size)


@fuzz(1000, text=st.text(st.sampled_from(WORDS), max_size=60), encoding=st.sampled_from(ENCODINGS), random=randoms)
def test_damaged_texts_in_any_encoding(tmp_path: Path, text: str, encoding: str, random: Random) -> None:
    content = random.choice(MARKS) + text.encode(encoding, "ignore")
    (tmp_path / "text").write_bytes(damage(content, random) if random.random() < 0.7 else content)
    check_file(tmp_path / "text", random.randint(1, 30))


@fuzz(
    1000,
    content=st.binary(max_size=80) | st.text(st.sampled_from(WORDS), max_size=60).map(str.encode),
    given=st.sampled_from(GIVEN),
    size=st.integers(1, 9),
)
def test_any_bytes_in_a_given_encoding(tmp_path: Path, content: bytes, given: str, size: int) -> None:
    (tmp_path / "text").write_bytes(content)
    check_file(tmp_path / "text", size, given)


@fuzz(500, setting=st.lists(st.sampled_from(SETTINGS) | st.text(max_size=5), max_size=6).map("".join))
def test_any_setting_of_encodings(setting: str) -> None:
    try:
        rules = EncodingRules.parse(setting)
    except ValueError as error:
        check_message(str(error))
        return
    assert EncodingRules.parse(str(rules)) == rules
    for _, encoding in rules.rules:
        assert encoding is None or decoder_of(encoding).decode(b"", final=True) == ""
    rules.encoding_of("/home/me/old/a.txt")


@fuzz(300, text=st.text(min_size=1, max_size=60), mark=st.booleans())
def test_utf8_is_read_as_it_was_written(tmp_path: Path, text: str, mark: bool) -> None:
    (tmp_path / "text").write_bytes(("\ufeff" * mark + text).encode())
    found = read(tmp_path / "text", 7)
    unwritten = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert found == unwritten or "\0" in text or not unwritten or looks_like_another_format(tmp_path / "text")


def looks_like_another_format(path: Path) -> bool:
    with pytest.raises(DataError, match="not plain text"):
        detect_encoding(path)
    return True


@fuzz(400, text=texts)
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    with only_user_errors():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == (text if tokenizer.name == "char" else without_surrogates(text))
        assert tokenizer.byte_lengths()[ids].sum() == len(without_surrogates(text).encode())
        cut = tokenizer.last_cut(text)
        assert [*tokenizer.encode(text[:cut]), *tokenizer.encode(text[cut:])] == list(ids)
        return
    assert tokenizer.name == "char"


@fuzz(200, text=texts)
def test_every_prompt_comes_back(tokenizer: Tokenizer, text: str) -> None:
    with only_user_errors():
        ids = tokenizer.encode_prompt(text)
        assert tokenizer.decode(ids) == (text if tokenizer.name == "char" else without_surrogates(text))
        assert tokenizer.end_of_text is None or ids.count(tokenizer.end_of_text) == text.count(END)
        return
    assert tokenizer.name == "char"


odd_ids = st.lists(
    st.integers(-2, 300) | st.sampled_from([50256, 50257, 2**31, 2**32, 2**63, -(2**63), 10**30]), max_size=12
)


@fuzz(200, ids=odd_ids)
def test_any_ids(tokenizer: Tokenizer, ids: list[int]) -> None:
    with only_user_errors():
        text = tokenizer.decode(ids)
        text.encode("utf-8")
        stream = TextStream(tokenizer)
        shown = ""
        for token in ids:
            stream.push(token)
            shown += stream.new_text()
            if stream.finish_reason:
                break
        shown += stream.new_text(final=True)
        assert shown == stream.text()


@fuzz(
    200, cut=st.lists(st.integers(0, 200), max_size=6), text=st.text(st.sampled_from(WORDS), min_size=1, max_size=200)
)
def test_merges_do_not_depend_on_how_a_text_is_cut(cut: list[int], text: str) -> None:
    places = sorted({0, *cut, len(text)})
    parts = [text[a:b] for a, b in pairwise(places)]
    whole: Any = BytePairTokenizer.train([text], 270)
    assert BytePairTokenizer.train(parts, 270).fingerprint == whole.fingerprint
