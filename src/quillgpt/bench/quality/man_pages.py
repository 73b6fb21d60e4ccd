"""The words of a manual page, without the markup of roff."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

LAYOUT = frozenset(
    [
        "ad",
        "AT",
        "br",
        "ce",
        "de",
        "ds",
        "DS",
        "EE",
        "EX",
        "fi",
        "ft",
        "hy",
        "ie",
        "if",
        "el",
        "in",
        "IX",
        "na",
        "ne",
        "nf",
        "nh",
        "nr",
        "ns",
        "PD",
        "ps",
        "rs",
        "so",
        "sp",
        "ta",
        "ti",
        "TE",
        "TS",
        "tr",
        "UC",
        "UE",
        "ME",
        "RE",
        "RS",
        "URL",
        "UR",
        "MT",
        "rm",
        "rr",
        "als",
        "ig",
        "it",
        "ll",
        "lt",
        "mk",
        "pl",
        "po",
        "pn",
        "rt",
        "sv",
        "uf",
        "vs",
        "warn",
        "wh",
    ]
)
"""Macros that say how a page looks. Their arguments are not text."""

PARAGRAPHS = frozenset(["PP", "LP", "P", "HP", "sp"])
CHARACTERS = {
    "aq": "'", "bu": "•", "co": "©", "cq": "’", "dq": '"', "em": "-", "en": "-", "ha": "^", "hy": "-", "lq": "“",
    "mi": "-", "oq": "‘", "rq": "”", "rs": "\\", "ti": "~", "ga": "`", "aa": "'", "Fo": "«", "Fc": "»", "Po": "£",
    "mu": "×", "+-": "±", "->": "→", "<-": "←", "<=": "≤", ">=": "≥", "ss": "ß", "sq": "□", "de": "°", "lB": "[",
    "rB": "]", "rg": "®", "tm": "™", "bv": "|", "ul": "_", "sc": "§", "at": "@", "sh": "#", "Do": "$", "eq": "=",
}  # fmt: skip
"""Characters that roff has names for."""

_COMMENT = re.compile(r"^[.']\s*\\[\"#]|^'''|^[.']\s*$")
_ESCAPE = re.compile(
    r"""\\(?: ["#].*                                      # a comment up to the end of the line
        | f(?:\[[^]]*\]|\(..|.)                           # a font
        | s(?:\[[^]]*\]|[-+]?\d{1,2})                     # a size
        | [*ngkFmMY](?:\[[^]]*\]|\(..|.)                  # a string, a register, a colour
        | [hvwlLDxboZNXRABSHC]'[^']*'                     # movements, lines
        | \((?P<short>..) | \[(?P<long>[^]]*)\]           # a named character
        | (?P<one>.) )""",
    re.VERBOSE,
)
_ONE = {"-": "-", "e": "\\", "\\": "\\", " ": " ", "~": " ", "0": " ", "'": "'", "`": "`", "t": " ", ".": ".", "_": "_"}
_CODE_POINT = re.compile(r"u([0-9A-F]{4,6})")


def plain_text(source: str) -> str:
    """Return the headings, paragraphs and lists of a manual page as lines of text.

    Args:
        source: The page in roff with the macros `man`.
    """
    lines: list[str] = []
    for line in _lines(source):
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).strip("\n") + "\n"


def _lines(source: str) -> Iterator[str]:
    """Yield the lines of text of a page; an empty one stands before paragraphs and headings."""
    in_definition = False
    for line in source.split("\n"):
        if in_definition:
            in_definition = line.rstrip() != ".."
            continue
        if _COMMENT.match(line):
            continue
        if not line.startswith((".", "'")):
            yield _characters(line).rstrip()
            continue
        name, _, rest = line[1:].strip().partition(" ")
        rest = rest.strip()
        if name in ("de", "de1", "ig", "am"):
            in_definition = True
        elif name in ("TH", "SH", "SS"):
            yield ""
            yield " ".join(_arguments(rest))
        elif name in PARAGRAPHS:
            yield ""
        elif name == "IP":
            yield from ("", *_arguments(rest)[:1])
        elif name == "TP":
            yield ""
        elif name in ("B", "I", "SM", "SB"):
            yield " ".join(_arguments(rest))
        elif name in ("BR", "RB", "BI", "IB", "IR", "RI"):
            yield "".join(_arguments(rest))
        elif name not in LAYOUT and name.isalpha() and rest:
            yield " ".join(_arguments(rest))


def _arguments(text: str) -> list[str]:
    """Return the arguments of a macro; quotes hold words together."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters, lexer.escape, lexer.quotes = " \t", True, "", "", '"'
    try:
        words = [word.replace("\0", "\\ ") for word in _split(lexer, text)]
    except ValueError:  # a quote that nothing closes
        words = text.replace('"', "").split()
    return [_characters(word) for word in words]


def _split(lexer: shlex.shlex, text: str) -> list[str]:
    if "\\ " not in text:
        return list(lexer)
    again = shlex.shlex(text.replace("\\ ", "\0"), posix=True)
    for name in ("whitespace", "whitespace_split", "commenters", "escape", "quotes"):
        setattr(again, name, getattr(lexer, name))
    return list(again)


def _characters(text: str) -> str:
    """Return a text with its escapes written out or removed."""

    def written(match: re.Match[str]) -> str:
        if (name := match["short"] or match["long"]) is not None:
            if code := _CODE_POINT.fullmatch(name):
                return chr(min(int(code[1], 16), 0x10FFFF))
            return CHARACTERS.get(name, "")
        return _ONE.get(match["one"] or "", "")

    return _ESCAPE.sub(written, text) if "\\" in text else text
