"""Decoding ids to text as they come, without cutting a character or missing a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from quillgpt.text.tokenizers.tokenizer import Tokenizer

INCOMPLETE = "\ufffd"


class TextStream:
    """Collects the ids of one sample and returns its text as soon as it is certain.

    Args:
        tokenizer: Of the ids.
        stops: The sample ends before the first of these texts.

    Attributes:
        ids: All ids so far, without a final end-of-text.
        finish_reason: `end_of_text` or `stop` once the sample has ended, None before.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self.ids: list[int] = []
        self.finish_reason: str | None = None
        self._tokenizer = tokenizer
        self._stops = tuple(filter(None, stops))
        self._tail = 4 * max(map(len, self._stops), default=0) + 8  # ids in which a stop text can end
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
        if self._stops:
            end = self._tokenizer.decode(self.ids[-self._tail :])
            if any(stop in end for stop in self._stops):
                self.finish_reason = "stop"

    def text(self) -> str:
        """Return the text so far, up to the first stop text."""
        text = self._tokenizer.decode(self.ids)
        return min((text.split(stop, 1)[0] for stop in self._stops), key=len, default=text)

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
        """Return how many characters at the end of the text may be the beginning of a stop text."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of a text with which a stop text begins."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return len(text) - start if start >= 0 else 0
