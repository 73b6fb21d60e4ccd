"""Marks between documents that are written in a text for other programs: `<|endoftext|>` and `<|startoftext|>`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from quillgpt.console import say, warn
from quillgpt.text.sources.documents import Mark, Piece
from quillgpt.text.tokenizers.tokenizer_files import END_OF_TEXT, START_OF_TEXT

_MARKS = re.compile("|".join(map(re.escape, (START_OF_TEXT, END_OF_TEXT))))
_HELD_BACK = max(map(len, (START_OF_TEXT, END_OF_TEXT))) - 1
"""Characters at the end of a piece that may be the beginning of a mark."""


def divided_at_marks(stream: Iterable[Piece]) -> Iterator[Piece]:
    """End a document at each written mark, and remove the marks and the empty lines after them.

    Args:
        stream: Text of documents, with a `Mark` after each.
    """
    waiting, written = "", False
    for piece in stream:
        text = waiting + (piece if isinstance(piece, str) else "")
        *parts, waiting = _MARKS.split(text)
        for part in parts:
            part = part if written else part.lstrip("\n")
            if part:
                yield part
            if part or written:
                yield Mark.DOCUMENT_END
            written = False
        if not written:
            waiting = waiting.lstrip("\n")
        ready = len(waiting) if isinstance(piece, Mark) else max(0, len(waiting) - _HELD_BACK)
        if ready:
            yield waiting[:ready]
            waiting, written = waiting[ready:], True
        if isinstance(piece, Mark):
            if written:
                yield piece
            waiting, written = "", False


class WrittenMarks:
    """Counts the marks in a stream of text."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def watch(self, stream: Iterable[Piece]) -> Iterator[Piece]:
        """Pass the stream on, and count the marks in it."""
        before = ""
        for piece in stream:
            if isinstance(piece, str):
                text = before + piece
                self._counts.update(_MARKS.findall(text))
                before = _MARKS.sub("", text)[-_HELD_BACK:]
            else:
                before = ""
            yield piece

    def say(self, *, heeded: bool) -> None:
        """Report the marks, and how to let them end documents.

        Args:
            heeded: Whether they end documents already, and were removed before counting.
        """
        if heeded:
            say(f"Each {END_OF_TEXT} or {START_OF_TEXT} in the text ends a document and is removed")
        elif self._counts:
            counts = " and ".join(f"{mark} {count:,} times" for mark, count in sorted(self._counts.items()))
            warn(
                f"the text has {counts}, which the model will learn to write as ordinary text. If they "
                "separate documents: --end_of_text_marks"
            )
