"""The text of marked-up pages: paragraphs, headings, items of lists and rows of tables from starts, ends and words."""

from __future__ import annotations

import re
from collections import Counter

PARAGRAPHS = frozenset(
    (
        *("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "blockquote", "table", "pre", "section", "hr"),
        *("article", "header", "footer", "main", "figure", "address", "body", "fieldset", "details"),
    )
)
"""Elements that a blank line separates from what is around them."""

LINES = frozenset(("div", "li", "tr", "dt", "dd", "br", "caption", "figcaption", "summary", "legend", "option"))
"""Elements that begin a line."""

CELLS = frozenset(("td", "th"))
NAVIGATION = "parts for navigation"
LEFT_OUT = {
    **dict.fromkeys(("script", "template", "noscript"), "scripts"),
    "style": "style sheets",
    **dict.fromkeys(("svg", "canvas", "audio", "video", "iframe", "object"), "embedded parts"),
    **dict.fromkeys(("button", "select", "textarea", "input"), "controls"),
    **dict.fromkeys(("head", "title"), ""),
    "nav": NAVIGATION,
}
"""Elements that are no text, and what they are counted as; an empty name is not counted."""

_SPACE = re.compile(r"[ \t\n\r\f]+")


class Blocks:
    """Collects the text of a page.

    Attributes:
        dropped: Number of elements that were left out, by kind.
    """

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        self._parts: list[str] = []
        self._line: list[str] = []
        self._gap = 0
        self._verbatim = 0
        self._left_out: list[str] = []
        self._begins = True

    def start(self, name: str, attributes: dict[str, str | None] | dict[str, str] | None = None) -> None:
        """Begin an element, by its name in lower case."""
        if self._left_out:
            if name == self._left_out[-1]:
                self._left_out.append(name)
            return
        kind = LEFT_OUT.get(name)
        if attributes and kind is None and (attributes.get("role") == "navigation" or "hidden" in attributes):
            kind = NAVIGATION if attributes.get("role") == "navigation" else "hidden elements"
        if kind is not None:
            if kind:
                self.dropped[kind] += 1
            self._left_out.append(name)
            return
        if name in CELLS:
            if not self._begins:
                self._line.append("\t")
                self._begins = True
            return
        self._break(name)
        if name == "pre":
            self._verbatim += 1
        elif name == "li":
            self._line.append("- ")

    def end(self, name: str) -> None:
        """End an element."""
        if self._left_out:
            if name == self._left_out[-1]:
                self._left_out.pop()
            return
        if name == "pre":
            self._verbatim = max(0, self._verbatim - 1)
        if name != "br":
            self._break(name)

    def text(self, words: str) -> None:
        """Add words."""
        if self._left_out:
            return
        if self._verbatim:
            first, *others = words.split("\n")
            self._add(first)
            for other in others:
                self._finish()
                self._gap = max(self._gap, 1)
                self._add(other)
            return
        words = _SPACE.sub(" ", words)
        if self._begins:
            words = words.lstrip(" ")
        self._add(words)
        if words:
            self._begins = words.endswith(" ")

    def result(self) -> str:
        """Return the text so far."""
        self._finish()
        return "".join(self._parts)

    def _add(self, words: str) -> None:
        if words:
            self._line.append(words)

    def _break(self, name: str) -> None:
        gap = 2 if name in PARAGRAPHS else 1 if name in LINES else 0
        if gap:
            self._finish()
            self._gap = max(self._gap, gap)

    def _finish(self) -> None:
        line = "".join(self._line).rstrip()
        self._line.clear()
        self._begins = True
        if line and line != "-":
            self._parts.append("\n" * self._gap * bool(self._parts) + line)
            self._gap = 1
