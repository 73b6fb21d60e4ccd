"""Atomic writes, hashes, and the folder in which Quill keeps what can be made again."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import platformdirs

HASH_CHUNK_BYTES = 1 << 20
STALE_SECONDS = 3600


def quill_home() -> Path:
    """Return the cache folder: `QUILL_HOME`, or the platform's own place for caches."""
    given = os.environ.get("QUILL_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("quill", appauthor=False))


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in bounded memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def is_plain_path(name: object) -> bool:
    """Say whether a name that was read from a file is a relative path that leads downward, on every system."""
    if not isinstance(name, str) or not PurePosixPath(name).parts:
        return False
    return not any(path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name)))


def path_inside(folder: Path, name: object) -> Path | None:
    """Return the file of a folder that a list in it names, or None where the name does not stay inside.

    Outside are absolute paths, drive letters, `..`, and links that lead out. The cache of the Hugging Face hub counts
    as one folder: the files of its `snapshots` are links into the `blobs` beside them.
    """
    if not isinstance(name, str) or not is_plain_path(name):
        return None
    try:
        root, target = folder.resolve(), (folder / name).resolve()
        target.exists()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a name that no file can have
        return None
    roots = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    return folder / name if any(target.is_relative_to(each) for each in roots) else None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends, and vanishes when it raises.

    The file is flushed to the disk before the rename, so that a reader sees the old file or the whole new one. What a
    killed process left of an earlier try is removed once nothing has been written to it for an hour.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):  # another process may remove it too
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        let_others_read(temporary)
        flush_to_disk(temporary)
        temporary.replace(path)
        flush_to_disk(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, with `\\n` line ends on every platform."""
    _write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented and ending in a newline; what UTF-8 cannot write is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    _write_bytes(path, text.encode("utf-8", "backslashreplace"))  # a lone surrogate becomes JSON's own \\udcff


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def flush_to_disk(path: Path) -> None:
    """Ask the operating system to put a file's or a folder's content on the disk now."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def let_others_read(path: Path) -> None:
    """Give a file or folder the mode that new ones have; what is made as a temporary one is its owner's alone."""
    path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
