"""The setting `encoding`: names that people use, patterns, and what is refused."""

from functools import partial

import pytest

from quillgpt.config import PrepareSettings, resolve, resolve_flat
from quillgpt.config.encoding_rules import EncodingRules, encoding_named, title_of
from quillgpt.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("windows-1251", "cp1251"),
        ("WIN1251", "cp1251"),
        ("1251", "cp1251"),
        ("Windows-874", "cp874"),
        ("KOI8-R", "koi8_r"),
        ("latin1", "iso8859_1"),
        ("ISO-8859-15", "iso8859_15"),
        ("utf8", "utf-8"),
        ("UTF-16LE", "utf-16-le"),
        ("x-mac-cyrillic", "mac_cyrillic"),
        ("macintosh", "mac_roman"),
        ("Shift_JIS", "cp932"),
        ("GBK", "gb18030"),
        ("cp936", "gb18030"),
        ("Big5", "big5hkscs"),
        ("utf-8+windows-1252", "utf-8+cp1252"),
        ("utf-8-as-windows-1252", "utf-8-as-cp1252"),
        ("cesu8", "cesu-8"),
        ("hz", "hz"),
        ("cp037", "cp037"),
    ],
)
def test_encodings_are_known_by_any_name(given, name):
    assert encoding_named(given) == encoding_named(name) == name
    assert title_of(name)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("base64", "an encoding of bytes, not of texts"),
        ("zlib", "an encoding of bytes, not of texts"),
        ("rot13", "an encoding of bytes, not of texts"),
        ("idna", "an encoding of bytes, not of texts"),
        ("punycode", "an encoding of bytes, not of texts"),
        ("unicode_escape", "an encoding of bytes, not of texts"),
        ("cp125l", "did you mean cp125"),
        ("koi8r", "did you mean koi8-r?"),
        ("ansi", "another encoding on each machine"),
        ("klingon", "is no encoding; name one such as utf-8"),
        ("utf-8+klingon", "'klingon' is no encoding"),
        ("=cp1251", "has no pattern before ="),
        ("*.txt=", "names no encoding"),
        ("cp1251,", "names no encoding"),
        ("../../etc/passwd", "is no encoding"),
    ],
)
def test_what_is_no_encoding_of_texts_is_refused_everywhere(given, words):
    for resolved in (partial(resolve_flat, PrepareSettings), lambda flags, **places: resolve(None, flags, **places)):
        with pytest.raises(ConfigError) as caught:
            resolved({"encoding": given}, environ={}, dotenv=None)
        assert words in str(caught.value)


def test_the_first_pattern_that_fits_a_file_decides():
    rules = EncodingRules.parse("old/*.txt=koi8-r, *.md=auto,*=windows-1252")
    assert rules.encoding_of("/home/me/old/a.txt") == "koi8_r"
    assert rules.encoding_of("/home/me/old/more/a.txt") == "cp1252"
    assert rules.encoding_of("/home/me/notes.md") is None
    assert rules.encoding_of("-") == "cp1252"
    assert EncodingRules.parse(str(rules)) == rules


def test_auto_and_nothing_leave_it_to_the_text_and_spelling_makes_no_difference(tmp_path):
    assert EncodingRules.parse("auto") == EncodingRules.parse(None) == EncodingRules()
    assert resolve_flat(PrepareSettings, {"encoding": "Windows-1251"}, environ={}, dotenv=None).encoding == "cp1251"
    environ = {"QUILL_ENCODING": "a*=utf16"}
    assert resolve_flat(PrepareSettings, {}, environ=environ, dotenv=None).encoding == "a*=utf-16"
    assert resolve_flat(PrepareSettings, {"encoding": "auto"}, environ={}, dotenv=None).encoding is None
    (tmp_path / "run.toml").write_text('encoding = "koi8-r"\n')
    assert resolve(str(tmp_path / "run.toml"), {}, environ={}, dotenv=None).encoding == "koi8_r"
