"""The record of the benchmark: a line of JSON for each result, so that an interrupted benchmark goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from quillgpt.console import warn
from quillgpt.errors import DataError

QUILL, NANOGPT, XZ, PPMD = "quill", "nanogpt", "xz -9e", "PPMd"


@dataclass(frozen=True)
class Cell:
    """What a result belongs to.

    Attributes:
        text: The name of the text.
        sha256: Its hash.
        candidate: quill, quill with a change (`quill: half the batch`), nanogpt, or a compressor.
        minutes: Its minutes; None for a compressor.
        rate: Operations in a second that stand for the clock; None: the clock counts.
        seed: Its seed; None for a compressor.
        flags: What is set for every run of Quill.
    """

    text: str
    sha256: str
    candidate: str
    minutes: float | None = None
    rate: float | None = None
    seed: int | None = None
    flags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result(Cell):
    """A result; `--json` prints it under these names.

    Attributes:
        train_bytes: Bytes of the text that the candidate has seen.
        held_bytes: Bytes that it was judged by.
        bits_per_byte: What it pays for one of these; None where it failed.
        unknown_characters: Characters among these that its tokenizer lacks; their price is part of the bits.
        seconds: The duration of its command.
        chosen: The settings of its run, as far as they are recorded.
        error: Why it failed.
        when: When it ended.
        machine: The machine, and the load at the end.
    """

    train_bytes: int = 0
    held_bytes: int = 0
    bits_per_byte: float | None = None
    unknown_characters: int = 0
    seconds: float = 0.0
    chosen: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    when: str = ""
    machine: str = ""

    @property
    def cell(self) -> Cell:
        """What it belongs to."""
        return Cell(**{name: getattr(self, name) for name in Cell.__dataclass_fields__})


class Record:
    """The results so far, in a file to which each new one is appended at once; several benchmarks may share it.

    Args:
        path: The file; None: results are kept in memory only.

    Raises:
        DataError: It is a file of another kind, or cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._results = [] if path is None or not path.exists() else read_results(path)
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("ab").close()
            except OSError as error:
                raise DataError(f"{path} cannot be written ({error.strerror}); give another --record") from None

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    def result_of(self, cell: Cell) -> Result | None:
        """Return the last result of a cell that did not fail; None where there is none."""
        same = [result for result in self._results if result.cell == cell and result.error is None]
        return same[-1] if same else None

    def add(self, result: Result) -> None:
        """Append a result."""
        self._results.append(result)
        if self._path is None:
            return
        line = json.dumps(asdict(result), ensure_ascii=False).encode("utf-8") + b"\n"
        with self._path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that was cut off stays alone
                    line = b"\n" + line
            file.write(line)


def read_results(path: Path) -> list[Result]:
    """Return the results in a file; a later line that was cut off is left out, which is said.

    Raises:
        DataError: It cannot be read, or its first line is no result.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give another --record") from None
    adapter, results = TypeAdapter(Result), []
    for number, line in enumerate(lines, start=1):
        try:
            results.append(adapter.validate_json(line))
        except ValidationError:
            if number == 1:
                raise DataError(f"{path} is no record of quill bench own_text; give another --record") from None
            warn(f"line {number} of {path} is no result, and is left out")
    return results
