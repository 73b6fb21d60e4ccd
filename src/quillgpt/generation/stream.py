"""Turning ids into text as they come, without cutting a character or missing a stop text."""

from __future__ import annotations

from quillgpt.text.tokenizer import Tokenizer

INCOMPLETE = "\ufffd"


class TextStream:
    """Collects the ids of one sample and hands out its text as soon as it is certain.

    Attributes:
        ids: All ids so far, without a final end-of-text.
        finish_reason: `end_of_text` or `stop` once the sample has ended, None before.
    """

    def __init__(self, tokenizer: Tokenizer, stop: str | None = None) -> None:
        self.ids: list[int] = []
        self.finish_reason: str | None = None
        self._tokenizer = tokenizer
        self._stop = stop
        self._given = 0
        self._settled, self._window, self._read = "", 0, 0

    def push(self, token: int) -> None:
        """Add a token; after the sample's end nothing is added."""
        if self.finish_reason is not None:
            return
        if token == self._tokenizer.end_of_text:
            self.finish_reason = "end_of_text"
            return
        self.ids.append(token)
        if self._stop and self._stop in self._tokenizer.decode(self.ids[-4 * len(self._stop) - 8 :]):
            self.finish_reason = "stop"

    def text(self) -> str:
        """Return the text so far, up to the stop text."""
        text = self._tokenizer.decode(self.ids)
        return text.split(self._stop, 1)[0] if self._stop else text

    def new_text(self, *, final: bool = False) -> str:
        """Return what has become certain since the last call.

        Held back are the beginning of a character whose bytes have not all come, and the beginning of what may become
        the stop text; `final` hands out these too.
        """
        if final or self.finish_reason is not None:
            text = self.text()
        else:
            text = self._text_so_far().rstrip(INCOMPLETE)
            text = text[: len(text) - self._possible_stop(text)]
        fresh = text[self._given :]
        self._given = max(self._given, len(text))
        return fresh

    def _text_so_far(self) -> str:
        """Return the text of all ids, decoding only the last few.

        What an id adds can depend on the one before it, so a text is the difference that its ids make to those before.
        """
        before = self._tokenizer.decode(self.ids[self._window : self._read])
        fresh = self._tokenizer.decode(self.ids[self._window :])[len(before) :]
        text = self._settled + fresh
        if fresh and not fresh.endswith(INCOMPLETE):
            self._settled, self._window, self._read = text, self._read, len(self.ids)
        return text

    def _possible_stop(self, text: str) -> int:
        if not self._stop:
            return 0
        lengths = range(min(len(self._stop) - 1, len(text)), 0, -1)
        return next((n for n in lengths if text.endswith(self._stop[:n])), 0)
