"""Subtitles: what is said, without numbers and times."""

from __future__ import annotations

import re
from collections.abc import Iterator

from quillgpt.text.formats.opened import Opened

TIMES = re.compile(r"\s*(?:\d+:)?\d{1,2}:\d\d[,.]\d{1,3}\s*-->\s*(?:\d+:)?\d{1,2}:\d\d[,.]\d{1,3}")
NO_CUES = ("WEBVTT", "NOTE", "STYLE", "REGION")
"""How blocks of WebVTT begin that are not said."""

SPEAKER = re.compile(r"<v(?:\.[^ >]*)? ([^<>]{1,100})>")
TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|<\d[\d:.]{0,20}>|\{\\[^{}]{0,200}\}")


def read_subtitles(file: Opened) -> Iterator[str]:
    """Yield what the subtitles of SubRip or WebVTT say, a line for each of theirs.

    Raises:
        DataError: It has no subtitles.
    """
    tally = file.tally
    lines: list[str] = []
    blocks = re.split(r"\n[ \t]*\n", file.text().replace("\ufeff", ""))
    for block in blocks:
        rows = block.strip("\n").split("\n")
        at = next((number for number, row in enumerate(rows) if TIMES.match(row)), None)
        if at is None:
            if rows[0].startswith(NO_CUES):
                tally.dropped["notes and styles"] += not rows[0].startswith("WEBVTT")
            elif any(row.strip() for row in rows) and tally.read["subtitles"]:
                lines += filter(None, map(_said, rows))  # a blank line within a subtitle
            continue
        tally.read["subtitles"] += 1
        for said in filter(None, map(_said, rows[at + 1 :])):
            if lines and said == lines[-1]:
                tally.dropped["lines that repeat the one before"] += 1
            else:
                lines.append(said)
    if not tally.read["subtitles"]:
        raise file.damaged("no line has times such as 00:00:01,000 --> 00:00:02,500")
    yield "\n".join(lines)


def _said(row: str) -> str:
    return " ".join(TAG.sub("", SPEAKER.sub(r"\1: ", row)).split())
