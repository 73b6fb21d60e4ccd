"""Paths as users type them: `~`, standard input, and names that no file system takes."""

from __future__ import annotations

import glob
import os
import re
import stat
from pathlib import Path, PureWindowsPath
from typing import Final

STANDARD_INPUT: Final = "-"
HUB_REPOSITORY: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""The full name of a model or a data set on the Hugging Face hub."""


def at_home(path: str) -> str:
    """Replace a leading `~` by the home folder; a path whose user does not exist is returned unchanged."""
    try:
        return os.path.expanduser(path)  # noqa: PTH111 - pathlib's own raises if the user does not exist
    except ValueError:  # no user's name has a NUL character
        return path


def expand(path: str) -> Path:
    """Return a word as a path, with `~` replaced."""
    return Path(at_home(path))


def exists(path: Path) -> bool:
    """Return whether a file or folder exists; a path that is not possible, such as too long a name, does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_path(name: str) -> bool:
    """Return whether a word is a path on some system; a separator at its end, as shells add it, does not count."""
    inner = name.strip().rstrip("/\\")
    return "/" in inner or "\\" in inner or PureWindowsPath(inner).drive != ""


def split_column(word: str) -> tuple[str, str | None]:
    """Return a file or a folder, and the column of tables that is named after a colon; None if there is none."""
    path, colon, column = word.rpartition(":")
    if colon and column and not exists(expand(word)) and (exists(expand(path)) or glob.has_magic(path)):
        return path, column
    return word, None


def is_standard_input(word: str) -> bool:
    """Return whether a word means standard input: `-`, or a device such as /dev/stdin that is no file."""
    if word == STANDARD_INPUT:
        return True
    return word in ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0") and not Path(word).is_file()


def is_stream(path: Path) -> bool:
    """Return whether a path is a pipe, which can be read only once."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False
