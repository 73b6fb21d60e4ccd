"""Errors that the user can fix, and helpers for their messages.

Every message says what was given, what was expected, and what to do; the command line prints it as one line.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence

LETTERS_PER_SLIP = 4
"""A name may have one mistyped letter for about this many letters."""


class UserError(Exception):
    """An error that the user can fix; it is shown without a traceback."""


class ConfigError(UserError):
    """A setting is unknown, impossible, or contradicts another."""


class DataError(UserError):
    """A text, a prepared data set or a download is missing, damaged or unsuitable."""


class TokenizerError(UserError):
    """A tokenizer cannot be used, or cannot represent a text or a token id."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or of an unknown kind."""


class DeviceError(UserError):
    """The requested device or number format is not available on this machine."""


class RankError(UserError):
    """Another rank of a run of several processes has failed.

    Args:
        message: What that rank says.
        status: The exit status of all ranks.
        key: Tells failures apart; None: the message does.
        is_loss: Whether the rank is lost, and has said nothing.

    Attributes:
        status: As given.
        key: As given, or the message.
        is_loss: As given.
    """

    def __init__(self, message: str, status: int = 1, key: str | None = None, *, is_loss: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.key = message if key is None else key
        self.is_loss = is_loss


GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def check_is_no_pointer(start: bytes, path: object, error: type[UserError]) -> None:
    """Check by its first bytes that a file is not a pointer of Git LFS, the placeholder of a large file.

    Raises:
        UserError: Of the kind `error`: the file is a pointer.
    """
    if start.startswith(GIT_LFS_POINTER):
        raise error(
            f"{path} is a pointer of Git LFS, the placeholder of a file; in its repository, fetch the file itself "
            "with git lfs pull"
        )


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was most likely meant by `name`, or None if none is close.

    A close name differs by about one in four letters: left out, added, changed, or swapped with the next. Case and
    hyphens for underscores do not count.
    """
    from rapidfuzz import process  # imported only when a name is mistyped
    from rapidfuzz.distance import OSA

    spelled = {candidate.lower().replace("-", "_"): candidate for candidate in known}
    given = name.lower().replace("-", "_")
    most = (len(given) + 1) // LETTERS_PER_SLIP
    best = process.extractOne(given, list(spelled), scorer=OSA.distance, score_cutoff=most)
    return spelled[best[0]] if best else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean X?"` for the known name closest to `name`, or an empty string."""
    meant = closest(name, known)
    return f"; did you mean {meant}?" if meant else ""


def shorten(value: object, most: int = 80) -> str:
    """Return a value as Python writes it; if that is longer than `most` characters, without its middle.

    Values from files may be of any size, and a message should stay readable.
    """
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = most
    try:
        written = short.repr(value)
    except ValueError:  # Python does not write whole numbers of more than 4,300 digits
        return "a number of thousands of digits"
    return cut(written, most)


def join_names(names: Sequence[str], most: int = 5) -> str:
    """Return names separated by commas; of more than `most`, the first ones and the number of the rest."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def cut(text: str, most: int = 300) -> str:
    """Return a text, such as a library's message; if it is longer than `most` characters, without its middle."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"
