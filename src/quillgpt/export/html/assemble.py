"""Putting a page together: its files, and values that execute nothing, whatever they contain."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).with_name("page")

SERVED: Final = Path(__file__).parents[2] / "serve" / "page"
"""The page of `quill serve`, whose look, and card of a token, this page shares."""

STYLES: Final = (SERVED / "page.css", PAGE / "extra.css")
SCRIPTS: Final = (
    *(SERVED / name for name in ("dom.js", "tokens.js", "card.js")),
    *(PAGE / name for name in ("engine.js", "about.js", "page.js")),
)
WORKER: Final = tuple(
    PAGE / name for name in ("unpack.js", "model.js", "sampler.js", "tokenizer.js", "stream.js", "worker.js")
)
KERNEL: Final = PAGE / "kernel.wasm"

LEAST_BYTES: Final = 1 << 16
MOST_SHARE: Final = 0.9
"""So many bytes are compressed, if this much or less is left of them: otherwise, to inflate costs more than to read."""

FIRST_LINE: Final = re.compile(
    rb"<!doctype html><!-- quill export --to=html, SHA-256 of all other lines: ([0-9a-f]{64}) -->\n"
)
"""The first line of every page, by which Quill knows that it wrote the page and nobody has changed it since."""


def assemble(
    *, title: str, subtitle: str, about: Mapping[str, Any], weights: Iterable[bytes], fields: Mapping[str, object]
) -> str:
    """Return a page without its first line, and without a certificate: `with_certificate` adds both.

    Args:
        title: The name of the model.
        subtitle: A line beside it.
        about: What page/worker.js and page/about.js have to know of the model.
        weights: The parts of the tensors.
        fields: What the settings say at first, by name.
    """
    texts = {"title": title, "subtitle": subtitle, **{name: str(value) for name, value in fields.items()}}
    values = {name: html.escape(value) for name, value in texts.items()} | {
        "style": "".join(map(_read, STYLES)),
        "script": _bundle(SCRIPTS),
        "worker": _bundle(WORKER),
        "about": json_in_page(about),
        "kernel": base64.b64encode(KERNEL.read_bytes()).decode(),
        "weights": "\n".join(map(_element, weights)),
    }
    # One pass, so that a value that looks like a place for another value stays as it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values.get(place[1], place[0]), _read(PAGE / "page.html"))


def with_certificate(page: str, certificate: Mapping[str, Any] | None) -> bytes:
    """Return a whole page: with a certificate, and with the first line."""
    before, place, after = page.partition("{{certificate}}")
    assert place
    content = (before + json_in_page(certificate) + after).encode("utf-8")
    digest = hashlib.sha256(content).hexdigest().encode()
    first = b"<!doctype html><!-- quill export --to=html, SHA-256 of all other lines: " + digest + b" -->\n"
    return first + content


def is_unchanged_page(path: Path) -> bool:
    """Whether a file is a page that Quill wrote and that nobody has changed."""
    with path.open("rb") as file:
        first = FIRST_LINE.fullmatch(file.readline(200))
        return first is not None and hashlib.file_digest(file, "sha256").hexdigest().encode() == first[1]


def json_in_page(value: object) -> str:
    """Return JSON that no browser takes for the end of its element: `<` only occurs as an escape in a string."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _element(part: bytes) -> str:
    """Return a part of a tensor as an element that the page takes as soon as the browser has read it."""
    zipped = gzip.compress(part, 6, mtime=0)
    pays = len(part) >= LEAST_BYTES and len(zipped) <= MOST_SHARE * len(part)
    text = base64.b64encode(zipped if pays else part).decode()
    return f'<script type="text/plain"{" data-gzip" if pays else ""}>{text}</script><script>take()</script>'


def _bundle(files: Sequence[Path]) -> str:
    """Return modules as one script: each after those that it imports, without the words `import` and `export`."""
    text = "\n".join(map(_read, files))
    return re.sub(r"^export ", "", re.sub(r"^import .*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
