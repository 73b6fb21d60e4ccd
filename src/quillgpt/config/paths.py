"""Paths as people type them: a home folder, standard input, and what no file system takes."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PureWindowsPath
from typing import Final

STANDARD_INPUT: Final = "-"


def at_home(path: str) -> str:
    """Return a path with a leading `~` as the home folder, and as it is where nobody has such a home."""
    try:
        return os.path.expanduser(path)  # noqa: PTH111 - pathlib's own raises where nobody has such a home
    except ValueError:  # no user's name has a NUL character
        return path


def expand(path: str) -> Path:
    """Return the path that a word means: see `at_home`."""
    return Path(at_home(path))


def exists(path: Path) -> bool:
    """Return whether there is a file or folder; what no path can be, such as a name that is too long, does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_path(name: str) -> bool:
    """Return whether a word leads elsewhere on some system; a separator at its end is what shells complete it with."""
    inner = name.strip().rstrip("/\\")
    return "/" in inner or "\\" in inner or PureWindowsPath(inner).drive != ""


def is_standard_input(word: str) -> bool:
    """Return whether a word means standard input: `-`, or its name as a device where it is no file."""
    if word == STANDARD_INPUT:
        return True
    return word in ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0") and not Path(word).is_file()


def is_stream(path: Path) -> bool:
    """Return whether a path is a pipe, which can be read once, from its beginning to its end."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False
