"""Reads a file as `quill prepare` does: the documents, and what was counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from quillgpt.text.formats.all_formats import FORMATS
from quillgpt.text.formats.opened import Opened, Tally, Wishes
from quillgpt.text.sources.documents import Mark, source_of_file


class Found(NamedTuple):
    documents: list[str]
    tally: Tally
    encoding: str
    format: str


Read = Callable[..., Found]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Give a function that writes a file, unless it is a path, and reads it."""

    def read(name: str | Path, content: str | bytes = b"", column: str | None = None, **wishes: object) -> Found:
        path = tmp_path / name
        if not isinstance(name, Path):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        source = source_of_file(path, Wishes(**wishes), column)  # type: ignore[arg-type]
        assert source.conversion is not None
        reading = source.look_at()
        documents = [""]
        for piece in source.pieces(reading.encoding, 7):
            documents[-1] += piece if isinstance(piece, str) else ""
            documents += [""] * isinstance(piece, Mark)
        assert documents.pop() == ""
        tally = source.tally(reading.encoding)
        assert tally is not None
        return Found(documents, tally, reading.encoding, source.conversion.format)

    return read


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[str, str | bytes], Opened]:
    """Give a function that writes a file and opens it for its reader, which then works in this process."""

    def opened(name: str, content: str | bytes) -> Opened:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        format = path.suffix.removeprefix(".")
        return Opened(path, name, format, FORMATS[format].title, encoding="utf-8")

    return opened
