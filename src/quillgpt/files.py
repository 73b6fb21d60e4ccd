"""Atomic writes, hashes, and the folder in which Quill keeps what can be made again."""

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
"""What stands for the cache folder of a user of whose home the system knows nothing."""

LEAST_ROOM = 1 << 20
HOME_PARTS = ("downloads", "corpora", "hub")
"""The folders of texts and models in the cache: they must take what a command needs, and are of use read-only too."""

UNFINISHED = (".part", ".lock")
UNFLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems say that cannot flush a folder, some network shares and FUSE ones among them."""

HASH_CHUNK_BYTES = 1 << 20
STALE_SECONDS = 3600


def quill_home() -> Path:
    """Return the cache folder: `QUILL_HOME`, or the platform's own place for caches.

    Where nothing can be kept there, which is said once, it is a temporary folder of this process and those that it
    starts, with what can be read of the other.

    Raises:
        UserError: There is no temporary folder either.
    """
    wanted = _wanted_home(os.environ.get(HOME_VARIABLE))
    reason = _why_nothing_can_be_kept(wanted)
    if reason is None:
        return Path(wanted)
    home = _passing_home(Path(wanted), reason)
    os.environ[HOME_VARIABLE] = str(home)
    return home


def let_hub_libraries_keep_files() -> None:
    """Give libraries of Hugging Face, before they are imported, a place below ours where theirs cannot be used."""
    if HUB_VARIABLE not in os.environ:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
        if _why_nothing_can_be_kept(os.path.join(caches, "huggingface")) is not None:  # noqa: PTH118
            os.environ[HUB_VARIABLE] = str(quill_home() / "huggingface")


def _wanted_home(given: str | None) -> str:
    try:
        return os.path.expanduser(given) if given else platformdirs.user_cache_dir("quill", appauthor=False)  # noqa: PTH111
    except RuntimeError:
        return HOMELESS


@functools.cache
def _why_nothing_can_be_kept(folder: str) -> str | None:
    if folder.startswith("~"):
        return "this user has no home folder"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            if file.write(bytes(LEAST_ROOM)) < LEAST_ROOM:
                return os.strerror(errno.ENOSPC)
        for part in HOME_PARTS:
            if os.path.lexists(Path(folder, part)) and not os.access(Path(folder, part, "."), os.W_OK | os.X_OK):
                return f"{part} in it is no folder that can be written"
    except (OSError, ValueError) as error:  # a name that no folder can have
        return getattr(error, "strerror", None) or str(error)
    return None


def _passing_home(unusable: Path, reason: str) -> Path:
    lasting = f"set {HOME_VARIABLE} to a folder that can be written, so that it lasts"
    try:
        home = Path(tempfile.mkdtemp(prefix="quill-home-"))
    except OSError as error:
        raise UserError(f"nothing can be kept in {unusable} ({reason}), nor elsewhere ({error}); {lasting}") from None
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    warn(
        f"nothing can be kept in {unusable} ({reason}): what is fetched and measured goes with this process; {lasting}"
    )
    for part in HOME_PARTS:
        for folder, _, names in os.walk(unusable / part):
            for path in (Path(folder, name) for name in names if not name.endswith(UNFINISHED)):
                with suppress(OSError):  # what cannot be linked to is fetched
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
    """Say whether a name that was read from a file is a relative path that leads downward, on every system."""
    if not isinstance(name, str) or not PurePosixPath(name).parts or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a character, which no file's name can have
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


def nearest_existing(path: Path) -> Path:
    """Return a path if there is something, or else the nearest folder around it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def make_folder(folder: Path, flag: str) -> None:
    """Make a folder that a flag names, and those around it, if need be.

    Raises:
        UserError: It cannot be made; names the flag.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror or error}); choose another {flag}") from None


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def open_to_append(path: Path) -> io.FileIO:
    """Open a file, made if need be, to write at its end without a buffer; a link in its place is not followed.

    Raises:
        OSError: Also where it is a link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # which Windows has not
    return io.FileIO(path, "ab", opener=lambda name, _: os.open(name, flags, 0o666))


def flush_to_disk(path: Path) -> None:
    """Ask the operating system to put a file's or a folder's content on the disk now."""
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
    """Give a file or folder the mode that new ones have; what is made as a temporary one is its owner's alone."""
    path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
