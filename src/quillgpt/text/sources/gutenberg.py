"""Books of Project Gutenberg, without the licence before and after the text."""

from __future__ import annotations

import re
from pathlib import Path

from quillgpt.console import say, warn
from quillgpt.errors import DataError
from quillgpt.files import quill_home, write_text
from quillgpt.text.encodings.detection import detect_encoding, read_pieces
from quillgpt.text.sources.downloads import Download, MissingFileError, fetch

ADDRESS = "https://www.gutenberg.org/ebooks/{number}.txt.utf-8"
PAGE = "https://www.gutenberg.org/ebooks/{number}"
PIECE_CHARACTERS = 1 << 20
MOST_BYTES = 100_000_000
"""More than the longest book has; a book is held in memory as a whole."""

MOST_CHARACTERS_AFTER_LAST_WORDS = 1500

_FLAGS = re.MULTILINE | re.IGNORECASE
_BOOK = r"OF (?:THE |THIS )?PROJECT GUTENBERG E-?(?:BOOK|TEXT)"
# A long title takes a marker over several lines.
_START = re.compile(rf"^\*\*\* ?START {_BOOK}(?:(?:(?!\n[ \t]*\n)[^*]){{0,400}}\*\*\*)?[^\n]*", _FLAGS)
_END = re.compile(rf"^\*\*\* ?END {_BOOK}", _FLAGS)
_LAST_WORDS = re.compile(r"^[* ]*(?:This is )?(?:The )?End of (?:The |This )?Project Gutenberg\b", _FLAGS)
_FULL_LICENCE = re.compile(r"^\*\*\* ?START: FULL LICENSE", _FLAGS)
# Until about 2003 the licence was a "small print" that stood before the text, or after it.
_SMALL_PRINT = re.compile(r"^\*+ ?START ?\*+ ?(?:THE )?SMALL PRINT", _FLAGS)
_SMALL_PRINT_END = re.compile(r"^\*+ ?END ?\** ?(?:OF )?(?:THE )?SMALL PRINT[^\n]*", _FLAGS)
_HEADING = re.compile(r"\A[\s\ufeff*]*(?:The |This is The )?Project Gutenberg\b", _FLAGS)
_CREDITS = re.compile(
    r"\s*(?:(?:Produced|Prepared|Transcribed|Scanned|HTML version|E-?text (?:prepared|produced|scanned)|"
    r"This (?:e-?text|e-?book|file) was (?:produced|prepared|transcribed|scanned|created)) (?:by|from)\b|"
    r"Note: Project Gutenberg also has\b)[^\n]*(?:\n[ \t]*\S[^\n]*){0,12}(?=\n[ \t]*\n|\s*\Z)",
    re.IGNORECASE,
)
_BLANK_LINES = re.compile(r"(?:[ \t\ufeff]*\n)*")


def fetch_book(number: int) -> Path:
    """Return a book as a file in UTF-8 without licence and credits, fetched on the first call.

    Args:
        number: Its number at Project Gutenberg.

    Raises:
        MissingFileError: Project Gutenberg has no plain text of that number.
        DataError: It cannot be fetched, or is not text.
    """
    title = f"book {number} of Project Gutenberg"
    try:
        fetched = fetch(Download(title, ADDRESS.format(number=number), None, f"gutenberg/{number}.txt"))
    except MissingFileError as error:
        raise MissingFileError(
            f"Project Gutenberg has no plain text under the number {number}; look at {PAGE.format(number=number)}, or "
            "search there for the book: its number is at the end of its page's address"
        ) from error
    if (size := fetched.stat().st_size) > MOST_BYTES:
        raise DataError(
            f"{title} has {size:,} bytes, and no book has more than {MOST_BYTES:,}; delete {fetched} to fetch it again"
        )
    text = "".join(read_pieces(fetched, detect_encoding(fetched, name=title), PIECE_CHARACTERS, name=title))
    span = _body(text)
    begin, end = span or (0, len(text))
    body = text[begin:end].rstrip("\n") + "\n"
    path = quill_home() / "corpora" / f"gutenberg-{number}.txt"
    if path.is_file() and path.read_bytes() == body.encode("utf-8"):
        return path
    write_text(path, body)
    if span is None:
        warn(f"{title} has no licence where one is expected, so all of it is kept; look at both ends of {path}")
    else:
        before, after = text.count("\n", 0, begin), text.count("\n", end + 1)
        kept = body.count("\n")
        say(
            f"Removed the licence of {title}: {before:,} lines before the text and {after:,} after it; {kept:,} lines "
            f"are left, in {path}"
        )
    return path


def has_licence(head: str) -> bool:
    """Return whether a text begins with the name and licence of Project Gutenberg.

    Args:
        head: The beginning of the text; a few lines are enough.
    """
    return any(pattern.search(head) for pattern in (_HEADING, _START, _SMALL_PRINT))


def _body(text: str) -> tuple[int, int] | None:
    """Return where the book itself begins and ends; None if no licence is marked."""
    start = _START.search(text)
    begin = start.end() if start else 0
    small_print = _SMALL_PRINT_END.search(text, begin)
    if small_print and not any(mark.search(text, begin, small_print.start()) for mark in (_END, _LAST_WORDS)):
        begin = small_print.end()
    end = _end(text, begin)
    if begin == 0 and end == len(text):
        return None
    while credit := _CREDITS.match(text, begin, end):
        begin = credit.end()
    blank = _BLANK_LINES.match(text, begin, end)
    begin = blank.end() if blank else begin
    return begin, begin + len(text[begin:end].rstrip())


def _end(text: str, begin: int) -> int:
    ends = [mark.start() for mark in _END.finditer(text, begin)]
    licences = (mark.search(text, begin) for mark in (_FULL_LICENCE, _SMALL_PRINT))
    end = ends[-1] if ends else min((licence.start() for licence in licences if licence), default=len(text))
    last_words = [mark.start() for mark in _LAST_WORDS.finditer(text, begin, end)]
    # A collection says them after each of its parts; only those at its own end count.
    return last_words[-1] if last_words and end - last_words[-1] < MOST_CHARACTERS_AFTER_LAST_WORDS else end
