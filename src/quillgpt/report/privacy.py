"""Leaves out of words what tells where and by whom a run was made: absolute paths and the name of the user."""

from __future__ import annotations

import getpass
import re
from pathlib import Path
from typing import Final

ABSOLUTE: Final = re.compile(
    r"(?<![\w./\\~<])(?!//)(?:[A-Za-z]:|~\w*)?[\\/](?:[^\s/\\'\",;<>|]+[\\/])*([^\s/\\'\",;<>|]*)"
)
"""An absolute path, or one in a home folder; its last part is what may be told. `//` begins the host of an address."""

FILE_ADDRESS: Final = re.compile(r"\bfile://(?=/)", re.IGNORECASE)
SHORTEST_NAME: Final = 3
NO_NAMES: Final = frozenset({"root", "user", "home", "users", "app"})
"""Names of accounts and folders that tell nothing."""


class Privacy:
    """Leaves out what is private, for the user who asks now.

    Args:
        full: Leave nothing out.
    """

    def __init__(self, *, full: bool) -> None:
        self._full = full
        home = _home()
        names = {name for name in (_user(), "" if home is None else home.name) if len(name) >= SHORTEST_NAME}
        self._names = sorted(names - NO_NAMES, key=len, reverse=True)
        self._places = [str(place) for place in (_current(), home) if place is not None and len(place.parts) > 1]

    def told(self, words: str) -> str:
        """Return words about a run, with the last part of absolute paths and without the name of the user."""
        if self._full:
            return words
        words = FILE_ADDRESS.sub("", self._without_places(words))
        words = ABSOLUTE.sub(lambda found: found[1], words)
        for name in self._names:
            words = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "user", words, flags=re.IGNORECASE)
        return words

    def text(self, text: str) -> str:
        """Return what a model has written; it stays as it is but for the folders of the user."""
        return text if self._full else self._without_places(text)

    def _without_places(self, words: str) -> str:
        """Name this user's folders `~`: their names may have spaces, which end other paths."""
        for place in self._places:
            words = words.replace(place, "~")
        return words


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without a user
        return ""


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _current() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return None
