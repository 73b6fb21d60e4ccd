"""Mends the text of printed pages: ligatures, hyphens at line ends, repeated headers and page numbers, broken lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from quillgpt.text.formats.opened import Tally

LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
EDGE_LINES = 2
"""Lines at the top and at the bottom of a page among which headers and page numbers are looked for."""

REPEATED_PAGES = 3
REPEATED_SHARE = 0.3
"""A line at the edge of so many pages, and of this share of them, is a header or a footer."""

PAGE_NUMBER = re.compile(
    r"(?i)[-–—\[(\s]*(?:(?:page|seite|p\.|s\.)\s*)?(?:\d{1,4}|[ivxlc]{1,7})(?:\s*(?:/|of|von)\s*\d{1,4})?[-–—\])\s.]*$"
)
MARKED = re.compile(r"(\w)[\u0002\ufffe]\s*(\w)")
HYPHEN = re.compile(r"([^\W\d_]{2,})[\u00ad\u2010-]$")
ENDS = (".", "!", "?", ":", ";", "”", "“", '"', "»", ")", "…", "。")
SHORT_SHARE = 0.75
"""A line that is shorter than this share of the usual line, and ends a sentence, ends a paragraph."""


def mended(pages: Sequence[str], tally: Tally) -> str:
    """Return the text of pages, and count what was mended and left out.

    Args:
        pages: The text of each page, with its lines.
        tally: Where it is counted.
    """
    pages = [_without_marks(page, tally) for page in pages]
    divided = [[line.strip() for line in page.replace("\r\n", "\n").replace("\r", "\n").split("\n")] for page in pages]
    divided = [[line for line in lines if line] for lines in divided]
    repeated = _repeated(divided)
    lines: list[str] = []
    for page in divided:
        edges = {*range(EDGE_LINES), *range(len(page) - EDGE_LINES, len(page))}
        for at, line in enumerate(page):
            if at in edges and _without_numbers(line) in repeated:
                tally.dropped["repeated headers and footers"] += 1
            elif at in (0, len(page) - 1) and PAGE_NUMBER.match(line):
                tally.dropped["page numbers"] += 1
            else:
                lines.append(line)
    return _joined([_without_ligatures(line, tally) for line in lines], tally)


def _without_marks(page: str, tally: Tally) -> str:
    """Join the words that PDFium has recognised as hyphenated, and marks."""
    page, count = MARKED.subn(r"\1\2", page)
    if count:
        tally.read["hyphenated words joined"] += count
    return page


def _repeated(pages: Sequence[Sequence[str]]) -> set[str]:
    counts = Counter(
        line
        for page in pages
        for line in {_without_numbers(line) for line in (*page[:EDGE_LINES], *page[-EDGE_LINES:])}
    )
    least = max(REPEATED_PAGES, REPEATED_SHARE * len(pages))
    return {line for line, count in counts.items() if count >= least and re.search(r"[^\W\d_]", line)}


def _without_numbers(line: str) -> str:
    return re.sub(r"\d+", "#", line)


def _without_ligatures(line: str, tally: Tally) -> str:
    for ligature, letters in LIGATURES.items():
        if ligature in line:
            tally.read["ligatures written out"] += line.count(ligature)
            line = line.replace(ligature, letters)
    return line


def _joined(lines: Sequence[str], tally: Tally) -> str:
    """Return the lines as paragraphs: a short line that ends a sentence, or comes before a capital letter, ends one."""
    usual = sorted(map(len, lines))[len(lines) * 3 // 4] if lines else 0
    parts: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        hyphen = HYPHEN.search(line)
        if hyphen and following[:1].islower():
            tally.read["hyphenated words joined"] += 1
            parts.append(line[: hyphen.end(1)])
        elif not following or (len(line) < SHORT_SHARE * usual and (line.endswith(ENDS) or following[:1].isupper())):
            parts.append(line + "\n\n")
        else:
            parts.append(line + " ")
    return "".join(parts).strip()
