"""Decoding ids to text as they come, without cutting a character or missing a stop text."""

from __future__ import annotations

from quillgpt.text.tokenizers.tokenizer import Tokenizer

INCOMPLETE = "\ufffd"


class TextStream:
    """Collects the ids of one sample and returns its text as soon as it is certain.

    Attributes:
        ids: All ids so far, without a final end-of-text.
        finish_reason: `end_of_text` or `stop` once the sample has ended, None before.
    """

    def __init__(self, tokenizer: Tokenizer, stop: str | None = None) -> None:
        self.ids: list[int] = []
        self.finish_reason: str | None = None
        self._tokenizer = tokenizer
        self._stop = stop
        self._given = 0  # characters returned so far
        self._settled = ""  # text of the ids up to `_read` that was not returned yet
        self._ahead = 0  # characters returned of the ids after `_read`
        self._window, self._read = 0, 0

    def push(self, token: int) -> None:
        """Add a token, unless the sample has ended."""
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
        """Return the text that has become certain since the last call.

        The beginning of a character whose bytes have not all come is held back, and so is text that may become the
        stop text. With `final` they are returned too.
        """
        if final or self.finish_reason is not None:
            fresh = self.text()[self._given :]
        else:
            fresh = self._waiting().rstrip(INCOMPLETE)
            fresh = fresh[: len(fresh) - self._possible_stop(fresh)]
            settled = min(len(fresh), len(self._settled))
            self._settled = self._settled[settled:]
            self._ahead += len(fresh) - settled
        self._given += len(fresh)
        return fresh

    def _waiting(self) -> str:
        """Return the text that was not returned yet, decoding only the last few ids.

        The text of an id can depend on the id before it. So the ids before are decoded twice, alone and with the new
        ones, and the difference is the new text.
        """
        before = self._tokenizer.decode(self.ids[self._window : self._read])
        fresh = self._tokenizer.decode(self.ids[self._window :])[len(before) :]
        waiting = self._settled + fresh[self._ahead :]
        if fresh and not fresh.endswith(INCOMPLETE):
            self._settled, self._ahead = waiting, 0
            self._window, self._read = self._read, len(self.ids)
        return waiting

    def _possible_stop(self, text: str) -> int:
        """Return how many characters at the end of the text may be the beginning of the stop text."""
        if not self._stop:
            return 0
        start = text.find(self._stop[0], max(0, len(text) - len(self._stop) + 1))
        while start >= 0 and not self._stop.startswith(text[start:]):
            start = text.find(self._stop[0], start + 1)
        return len(text) - start if start >= 0 else 0
