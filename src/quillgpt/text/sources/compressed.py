"""Compressed files on this machine, with a check that they do not unpack to more than text can."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable
from io import BufferedIOBase
from pathlib import Path
from typing import IO, cast

from quillgpt.console import progress
from quillgpt.errors import DataError
from quillgpt.files import nearest_existing, quill_home

MOST_RATIO = 200
"""The largest ratio of unpacked to packed bytes that text reaches; gzip can reach a thousand."""

LEAST_SUSPECT_BYTES = 100_000_000
LONGEST_LINE_BYTES = 1_000_000_000
"""The longest row; a row is a line, and is held in memory as a whole."""

CHUNK_BYTES = 1 << 20

_OPENERS: dict[str, Callable[[Path], BufferedIOBase]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
COMPRESSED = (*_OPENERS, ".zip")


def check_compressed(path: Path) -> None:
    """Check that a compressed file does not unpack to more than text can, or more than the disk has room for.

    Raises:
        DataError: It unpacks to more, or is damaged.
    """
    suffix = path.suffix.lower()
    if suffix not in COMPRESSED or not path.is_file():
        return
    try:
        if suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                _check_sizes(path, (entry.file_size for entry in archive.infolist()))
            return
        with _OPENERS[suffix](path) as file, progress(f"Looking into {path.name}", None, as_bytes=True) as advance:
            _check_sizes(path, _sizes(path, file, advance))
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path} is damaged or cannot be read ({error}); fetch or pack it again") from error


def open_compressed(path: Path) -> IO[bytes]:
    """Open a compressed file to read what is in it.

    Raises:
        DataError: It is an archive of more than one file.
    """
    suffix = path.suffix.lower()
    if suffix != ".zip":
        return cast("IO[bytes]", _OPENERS[suffix](path))
    archive = zipfile.ZipFile(path)
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    if len(names) != 1:
        raise DataError(f"{path} holds {len(names)} files; unpack it, and give the one that holds the rows")
    return archive.open(names[0])


def _sizes(path: Path, file: BufferedIOBase, advance: Callable[[float], object]) -> Iterable[int]:
    line = 0
    while chunk := file.read(CHUNK_BYTES):
        end = chunk.rfind(b"\n")
        line = line + len(chunk) if end < 0 else len(chunk) - end - 1
        if line > LONGEST_LINE_BYTES:
            raise DataError(
                f"{path} has a line of more than {LONGEST_LINE_BYTES:,} bytes, which is no row of texts; leave it out"
            )
        advance(len(chunk))
        yield len(chunk)


def _check_sizes(path: Path, sizes: Iterable[int]) -> None:
    packed = path.stat().st_size
    free = shutil.disk_usage(nearest_existing(quill_home())).free
    total = 0
    for size in sizes:
        total += size
        if total > max(LEAST_SUSPECT_BYTES, MOST_RATIO * packed):
            raise DataError(
                f"{path} has {packed:,} bytes, and unpacks to more than {MOST_RATIO} times as many, as no text does; "
                "unpack it yourself if it is right"
            )
        if total > free:
            raise DataError(
                f"{path} unpacks to more than the {free:,} bytes that are free for it at {quill_home()}; make room, or "
                "set QUILL_HOME to a folder on a larger disk"
            )
