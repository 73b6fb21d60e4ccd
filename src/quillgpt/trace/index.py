"""The index of a training text: its bytes and their suffix array, kept in the cache folder and memory-mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.filesize import decimal

from quillgpt.console import progress, say
from quillgpt.data.dataset import Dataset
from quillgpt.data.verification import FileState
from quillgpt.errors import DataError, UserError
from quillgpt.extras import import_extra
from quillgpt.files import atomic_path, quill_home, sha256_of, write_json
from quillgpt.records import Record, read_record
from quillgpt.stopping import activity
from quillgpt.trace.suffix_array import LARGEST_BYTES, PADDING, SuffixArray, sort_suffixes
from quillgpt.trace.training_text import DOCUMENT_END, training_text

FORMAT_VERSION: Literal[1] = 1
RECORD, TEXT, SUFFIXES, LINES = "index.json", "text.bin", "suffixes.bin", "lines.bin"
BLOCK_BYTES = 1 << 12
"""For each block of the text, the lines that end before it are counted."""

LINE_END = ord("\n")

SECONDS, SECONDS_PER_BYTE = 1.5, 0.4e-6
"""About what making an index takes, with lines and calibration, on two slow cores (docs/trace.md)."""


class StoredFile(Record):
    """A file of the index: its hash, and its state when the hash was true."""

    sha256: str
    state: FileState


class IndexRecord(Record):
    """The content of index.json; `bytes` is the length of the text."""

    format_version: Literal[1]
    bytes: int
    files: dict[str, StoredFile]


@dataclass(frozen=True)
class Index(SuffixArray):
    """A training text with its suffix array and the number of lines before each place.

    Attributes:
        folder: The folder of its files.
        line_counts: Lines that end before each block of `BLOCK_BYTES`, (blocks,).
    """

    folder: Path
    line_counts: NDArray[np.uint32]

    def lines_before(self, position: int) -> int:
        """Return how many lines end before a byte of the text; documents end lines, too."""
        block, _ = divmod(position, BLOCK_BYTES)
        return int(self.line_counts[block]) + _line_ends(self.text[block * BLOCK_BYTES : position])


def open_index(datasets: Sequence[Dataset]) -> Index:
    """Open the index of the training splits of data sets; make it if it is missing or damaged.

    It is found by the hash of the data, so other data have another index.

    Raises:
        DataError: The text is too long, or cannot be indexed.
        UserError: pydivsufsort is needed to make it, and is not installed.
    """
    folder = quill_home() / "trace" / _key(datasets)
    size = _intact_size(folder)
    if size is None:
        # Before the work begins, and not after it.
        import_extra("pydivsufsort", extra="trace", purpose="quill trace")
        size = _make(datasets, folder)
    return Index(
        text=_mapped(folder / TEXT, "u1", size + PADDING),
        suffixes=_mapped(folder / SUFFIXES, "<i4", size),
        folder=folder,
        line_counts=np.fromfile(folder / LINES, dtype="<u4"),
    )


def seconds_to_index(datasets: Sequence[Dataset]) -> float:
    """Predict the seconds that `open_tracer` takes to make what it keeps; 0 if it is there."""
    if (quill_home() / "trace" / _key(datasets) / RECORD).is_file():
        return 0.0
    return SECONDS + SECONDS_PER_BYTE * _bytes_of(datasets)


def _bytes_of(datasets: Sequence[Dataset]) -> int:
    return sum(dataset.manifest.train.bytes if dataset.manifest else len(dataset.train) for dataset in datasets)


def _mapped(path: Path, dtype: str, count: int) -> NDArray[Any]:
    # A plain array on the mapped memory: a memmap is slower to index.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(count,)))


def _key(datasets: Sequence[Dataset]) -> str:
    identity = [[dataset.fingerprint, dataset.tokenizer.fingerprint] for dataset in datasets]
    return hashlib.sha256(f"{FORMAT_VERSION} {identity}".encode()).hexdigest()[:32]


def _intact_size(folder: Path) -> int | None:
    """Return the bytes of the text of an index, or None if it is missing or damaged."""
    if not folder.is_dir():
        return None
    try:
        record = read_record(folder / RECORD, IndexRecord, DataError, mend="it is made again")
        for name in (TEXT, SUFFIXES, LINES):
            stored, path = record.files[name], folder / name
            # As long as size and times are the same, a file of some hundred megabytes need not be read again.
            if FileState.of(path.stat()) != stored.state and sha256_of(path) != stored.sha256:
                raise DataError(f"{path} is damaged; it is made again")
    except (OSError, KeyError):
        return None
    except UserError as error:
        if (folder / RECORD).exists():
            say(str(error))
        return None
    return record.bytes


def _make(datasets: Sequence[Dataset], folder: Path) -> int:
    names = " and ".join(dataset.name for dataset in datasets)
    total = _bytes_of(datasets)
    with activity("while the training text was indexed; it is indexed anew next time"):
        with atomic_path(folder / TEXT) as path, progress(f"Decoding {names}", total, as_bytes=True) as advance:
            size = _write_text(datasets, path, advance)
        say(f"Indexing the training text of {names}, {decimal(size)}, once: {folder}")
        with atomic_path(folder / SUFFIXES) as path:
            sort_suffixes(folder / TEXT, size, path)
        with atomic_path(folder / LINES) as path:
            _write_line_counts(folder / TEXT, path)
        files = {
            name: StoredFile(sha256=sha256_of(folder / name), state=FileState.of((folder / name).stat()))
            for name in (TEXT, SUFFIXES, LINES)
        }
        record = IndexRecord(format_version=FORMAT_VERSION, bytes=size, files=files)
        write_json(folder / RECORD, record.model_dump())
    return size


def _write_text(datasets: Sequence[Dataset], path: Path, advance: Callable[[float], object]) -> int:
    size = 0
    with path.open("wb") as file:
        for piece in training_text(datasets):
            size += file.write(piece)
            advance(len(piece))
            if size > LARGEST_BYTES:
                raise DataError(
                    f"the training text has more than {decimal(LARGEST_BYTES)}, and no more can be indexed; trace to a "
                    "part of it, prepared as a data set of its own: --dataset NAME"
                )
        file.write(bytes(PADDING))
    return size


def _write_line_counts(text: Path, path: Path) -> None:
    counts = [0]
    with text.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            counts.append(counts[-1] + block.count(b"\n") + block.count(DOCUMENT_END))
    np.array(counts, dtype="<u4").tofile(path)


def _line_ends(part: NDArray[np.uint8]) -> int:
    return int(np.count_nonzero((part == LINE_END) | (part == DOCUMENT_END[0])))
