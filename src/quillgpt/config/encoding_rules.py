"""The setting `encoding`: the encodings that Quill knows, their names, and the files that each is for."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from encodings.aliases import aliases
from pathlib import PurePath
from typing import Final

from quillgpt.errors import did_you_mean

AUTO: Final = "auto"

TWICE: Final = "utf-8-as-"
"""Prefix of an encoding's name: UTF-8 that a program took for that encoding, and saved as UTF-8 again."""

TITLES: Final = {
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16 without a mark",
    "utf-16-be": "UTF-16 without a mark",
    "utf-32": "UTF-32",
    "utf-32-le": "UTF-32 without a mark",
    "utf-32-be": "UTF-32 without a mark",
    "cesu-8": "CESU-8",
    "cp932": "Shift-JIS (cp932)",
    "euc_jp": "EUC-JP",
    "gb18030": "GB 18030",
    "big5hkscs": "Big5 (big5hkscs)",
    "cp950": "Big5 (cp950)",
    "cp949": "EUC-KR (cp949)",
    "koi8_r": "KOI8-R",
    "koi8_u": "KOI8-U",
    "koi8_t": "KOI8-T",
    "mac_roman": "Mac Roman",
    "mac_cyrillic": "Mac Cyrillic",
    "cp874": "windows-874",
    "hz": "HZ",
    "iso2022_jp": "ISO-2022-JP",
    "iso2022_kr": "ISO-2022-KR",
}
"""The usual names of encodings that Python calls otherwise."""

_EXAMPLES = "name one such as utf-8, utf-16, windows-1252, windows-1251, koi8-r, gb18030 or shift-jis, or auto"
_VAGUE = frozenset(("ansi", "oem", "mbcs", "dos", "unicode", "ebcdic", "mac", "windows", "iso"))
_NO_TEXT = frozenset(
    ("base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec", "mbcs", "oem")
)
_ALSO = (
    *("cp720", "cp737", "cp856", "cp874", "cp875", "cp1006", "koi8_r", "koi8_t", "koi8_u", "utf_8_sig", "gb18030"),
    *("big5hkscs", "mac_croatian", "mac_arabic", "mac_farsi", "mac_romanian"),
)
_OTHER_NAMES = {"x_sjis": "cp932", "shift_jis": "cp932", "sjis": "cp932", "euc_kr": "cp949", "gb2312": "gb18030"}
_OTHER_NAMES |= {"gbk": "gb18030", "cp936": "gb18030", "936": "gb18030", "ms936": "gb18030", "big5": "big5hkscs"}
_OTHER_NAMES |= {"x_mac_cyrillic": "mac_cyrillic", "x_mac_roman": "mac_roman", "cesu_8": "cesu-8", "cesu8": "cesu-8"}


def title_of(encoding: str) -> str:
    """Return the usual name of an encoding."""
    if "+" in encoding:
        return " and ".join(map(title_of, encoding.split("+")))
    if encoding.startswith(TWICE):
        return f"UTF-8 that was taken for {title_of(encoding.removeprefix(TWICE))} and saved as UTF-8"
    named = re.sub("^cp125", "windows-125", re.sub("^iso8859_", "ISO-8859-", encoding)).replace("utf-8", "UTF-8")
    return TITLES.get(encoding, named)


def encoding_named(given: str) -> str:
    """Return Quill's name for an encoding as the user names it.

    Encodings joined by `+` are tried in turn for every line.

    Raises:
        ValueError: There is no such encoding of text.
    """
    if "+" in given:
        parts = [encoding_named(part) for part in given.split("+")]
        if any(re.match("utf-(16|32)", part) for part in parts):
            raise ValueError(f"{given.strip()!r}: UTF-16 and UTF-32 cannot be combined with others; name one encoding")
        return "+".join(parts)
    name = given.strip().lower()
    if name.startswith(TWICE):
        between = encoding_named(name.removeprefix(TWICE))
        if between.startswith(TWICE) or between == "cesu-8" or len(bytes(range(256)).decode(between, "replace")) != 256:
            raise ValueError(f"{given.strip()!r}: {TWICE} needs a single-byte encoding, such as windows-1252")
        return TWICE + between
    plain = re.sub(r"[^a-z0-9]+", "_", name)
    plain = re.sub(r"^(?:windows|win|ms|ibm|dos|x_cp|cp)_?(?=\d)", "cp", plain)
    if plain in _OTHER_NAMES:
        return _OTHER_NAMES[plain]
    known = {*aliases.values(), *_ALSO} - _NO_TEXT
    try:
        codec = codecs.lookup(plain).name.replace("-", "_")
    except (LookupError, ValueError):
        codec = ""
    if codec not in {codecs.lookup(alias).name.replace("-", "_") for alias in known}:
        what = "is an encoding of bytes, not of texts" if codec else "is no encoding"
        close = did_you_mean(name, {*(alias.replace("_", "-") for alias in known), "windows-1251", "windows-1252"})
        if plain in _VAGUE:
            what, close = "means another encoding on each machine", ""
        raise ValueError(f"{given.strip()!r} {what}{close or ';'} {_EXAMPLES}")
    return codec.replace("_", "-") if codec.startswith("utf") else codec


@dataclass(frozen=True)
class EncodingRules:
    """The encodings of files, by the setting `encoding`.

    Attributes:
        rules: Patterns and encodings; the first pattern that matches a file decides. None: detect the encoding.
    """

    rules: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def parse(cls, given: str | None) -> EncodingRules:
        """Parse a value such as `cp1251` or `old/*.txt=koi8-r,*=utf-8`.

        Raises:
            ValueError: An encoding is unknown, or a pattern is missing.
        """
        rules = []
        for part in (given or "").split(","):
            pattern, equals, name = part.rpartition("=")
            if equals and not pattern.strip():
                raise ValueError(f"{part!r} has no pattern before =; give ENCODING or PATTERN=ENCODING")
            if name.strip():
                rules.append((pattern.strip() or "*", None if name.strip().lower() == AUTO else encoding_named(name)))
            elif given:
                raise ValueError(f"{given!r} names no encoding; give ENCODING, or PATTERN=ENCODING,PATTERN=ENCODING")
        return cls(() if rules == [("*", None)] else tuple(rules))

    def encoding_of(self, location: str) -> str | None:
        """Return the encoding of a file, or None to detect it; a pattern is compared with the end of the path."""
        for pattern, encoding in self.rules:
            if pattern == "*" or PurePath(location).match(pattern):
                return encoding
        return None

    def __bool__(self) -> bool:
        """Return whether there is any rule."""
        return bool(self.rules)

    def __str__(self) -> str:
        """Return the rules as one would type them, in one canonical spelling."""
        if len(self.rules) == 1 and self.rules[0][0] == "*":
            return self.rules[0][1] or AUTO
        return ",".join(f"{pattern}={encoding or AUTO}" for pattern, encoding in self.rules)


DETECTED: Final = EncodingRules()
"""No rules: the encoding of every file is detected."""
