"""Atomic writes, hashes, safe paths, and Quill's cache folder."""

from __future__ import annotations

import atexit
import errno
import functools
import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import platformdirs

from quillgpt.console import warn
from quillgpt.errors import UserError

HOME_VARIABLE = "QUILL_HOME"
HUB_VARIABLE = "HF_HOME"
HOMELESS = "~/.cache/quill"
"""The name of the cache folder in messages if the user has no home folder."""

LEAST_ROOM = 1 << 20
HOME_PARTS = ("downloads", "corpora", "hub")
"""The folders of texts and models in the cache."""

UNFINISHED = (".part", ".lock")
UNFLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that cannot flush a folder, such as some network shares and FUSE file systems."""

HASH_CHUNK_BYTES = 1 << 20
STALE_SECONDS = 3600


def quill_home() -> Path:
    """Return the cache folder: `QUILL_HOME`, or the platform's usual place for caches.

    If it cannot be written, which is reported once, a temporary folder takes its place for this process and those that
    it starts, with links to the readable files of the other.

    Raises:
        UserError: A temporary folder cannot be made either.
    """
    wanted = _wanted_home(os.environ.get(HOME_VARIABLE))
    reason = _why_unusable(wanted)
    if reason is None:
        return Path(wanted)
    home = _temporary_home(Path(wanted), reason)
    os.environ[HOME_VARIABLE] = str(home)
    return home


def let_hub_libraries_keep_files() -> None:
    """Give libraries of Hugging Face a cache folder below Quill's if theirs cannot be written; call before import."""
    if HUB_VARIABLE not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
        if _why_unusable(os.path.join(caches, "huggingface")) is not None:  # noqa: PTH118
            os.environ[HUB_VARIABLE] = str(quill_home() / "huggingface")


def _wanted_home(given: str | None) -> str:
    try:
        return os.path.expanduser(given) if given else platformdirs.user_cache_dir("quill", appauthor=False)  # noqa: PTH111
    except RuntimeError:
        return HOMELESS


@functools.cache
def _why_unusable(folder: str) -> str | None:
    if folder.startswith("~"):
        return "this user has no home folder"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            if file.write(bytes(LEAST_ROOM)) < LEAST_ROOM:
                return os.strerror(errno.ENOSPC)
        for part in HOME_PARTS:
            if os.path.lexists(Path(folder, part)) and not os.access(Path(folder, part, "."), os.W_OK | os.X_OK):
                return f"{part} in it cannot be written"
    except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
        return getattr(error, "strerror", None) or str(error)
    return None


def _temporary_home(unusable: Path, reason: str) -> Path:
    remedy = f"set {HOME_VARIABLE} to a folder that can be written"
    try:
        home = Path(tempfile.mkdtemp(prefix="quill-home-"))
    except OSError as error:
        raise UserError(f"nothing can be kept in {unusable} ({reason}), nor elsewhere ({error}); {remedy}") from None
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    warn(
        f"nothing can be kept in {unusable} ({reason}): downloads and measurements are lost when this "
        f"process ends; {remedy}"
    )
    for part in HOME_PARTS:
        for folder, _, names in os.walk(unusable / part):
            for path in (Path(folder, name) for name in names if not name.endswith(UNFINISHED)):
                with suppress(OSError):  # without a link the file is downloaded again
                    link = home / path.relative_to(unusable)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(path.absolute())
    return home


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in bounded memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def is_plain_path(name: object) -> bool:
    """Return whether a name that was read from a file is a relative path without `..`, on every system."""
    if not isinstance(name, str) or not PurePosixPath(name).parts or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # a lone surrogate, which no file name can have
        return False
    return not any(path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name)))


def path_inside(folder: Path, name: object) -> Path | None:
    """Return the path of a file in a folder by a name that was read from a file, or None if it leads outside.

    Absolute paths, drive letters, `..` and links can lead outside. The cache of the Hugging Face hub counts as one
    folder: the files of its `snapshots` are links into the `blobs` beside them.
    """
    if not isinstance(name, str) or not is_plain_path(name):
        return None
    try:
        root, target = folder.resolve(), (folder / name).resolve()
        target.exists()
    except (OSError, RuntimeError, ValueError):  # a circle of links, or a name that no file can have
        return None
    roots = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    return folder / name if any(target.is_relative_to(parent) for parent in roots) else None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` when the block ends, and removed if it raises.

    The file is flushed to the disk before it is renamed, so that a reader sees the old file or the complete new one.
    Temporary files that killed processes left are removed an hour after their last change.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):  # another process may remove it first
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
    """Write a JSON file atomically, indented, with a newline at the end; lone surrogates are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    _write_bytes(path, text.encode("utf-8", "backslashreplace"))  # as in JSON: \\udcff


def nearest_existing(path: Path) -> Path:
    """Return a path if there is something, or else the nearest folder around it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def make_folder(folder: Path, flag: str) -> None:
    """Make a folder that a flag names, and its parents, unless they exist.

    Raises:
        UserError: The folder cannot be made; the message names the flag.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror or error}); choose another {flag}") from None


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def open_to_append(path: Path) -> io.FileIO:
    """Open a file for unbuffered appending, and make it if it is missing; links are not followed.

    Raises:
        OSError: It cannot be opened, or is a link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # Windows lacks it
    return io.FileIO(path, "ab", opener=lambda name, _: os.open(name, flags, 0o666))


def flush_to_disk(path: Path) -> None:
    """Flush the content of a file or folder to the disk."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in UNFLUSHED:
            raise
    finally:
        os.close(descriptor)


def let_others_read(path: Path) -> None:
    """Give a file or folder the usual mode of new ones; temporary ones are readable by their owner only."""
    path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
