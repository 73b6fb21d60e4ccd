"""Standard streams that nothing can end a command through: words that nobody reads are dropped, lost results are named.

Nothing here imports what is slow, so that a command has them before anything else.
"""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from typing import IO, Any

STANDARD_OUTPUT = "standard output"
"""What an error has for a file name where results could not be written."""

ESCAPE = "quill.escape"
"""Writes what an encoding lacks as JSON does, \\uXXXX: JSON stays JSON, and a text shows which character it was."""

CLOSED = {0: os.O_RDONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}
"""How the null device stands in for a closed descriptor: input is empty, results are refused, words are dropped."""


class Words:
    """A text stream that never fails: what its reader, who has gone, or a full disk does not take is dropped.

    Args:
        stream: Where the words go; None where there is no standard error.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with suppress(AttributeError, OSError, ValueError):  # no stream, one that fails, one that was closed
            self._stream.write(text)  # type: ignore[union-attr]
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered, or drop it."""
        with suppress(AttributeError, OSError, ValueError):
            self._stream.flush()  # type: ignore[union-attr]

    def isatty(self) -> bool:
        """Return whether this is a terminal."""
        with suppress(AttributeError, OSError, ValueError):
            return self._stream.isatty()  # type: ignore[union-attr]
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Results:
    """A text stream whose failures say that it is standard output which could not be written.

    Args:
        stream: Where the results go.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            BrokenPipeError: Nobody reads any more.
            OSError: It cannot be written; its file name is `standard output`.
        """
        try:
            return self._stream.write(text)
        except OSError as error:
            raise _named(error) from None

    def flush(self) -> None:
        """Hand on what is buffered.

        Raises:
            BrokenPipeError: Nobody reads any more.
            OSError: It cannot be written; its file name is `standard output`.
        """
        try:
            self._stream.flush()
        except OSError as error:
            raise _named(error) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def settle_standard_streams() -> None:
    """Give this process, which is a command, three standard streams, whatever it was started with."""
    for descriptor, flags in CLOSED.items():
        _fill(descriptor, flags)
    # Python has None for a stream that was closed when it started.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = Results(stdout), Words(stderr)


def write_any_character() -> None:
    """Let no character end a command, in whatever encoding the terminal or the file is: what it lacks is escaped."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # else something was put in the place of the process's own stream
            utf8 = "utf-8" if os.name == "nt" and not stream.isatty() else None
            reconfigure(encoding=utf8, errors=ESCAPE, line_buffering=True)


def drop_results() -> None:
    """Send what is still to be written to standard output nowhere, so that leaving does not fail once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def visible(text: str) -> str:
    """Return a text of any origin in which characters that steer a terminal are written out, as in `\\x1b`."""
    return text.translate(_STEERING)


def _fill(descriptor: int, flags: int) -> None:
    """Open the null device where a descriptor is closed, or the next file that is opened would get its number."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, flags)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)


def _named(error: OSError) -> OSError:
    """Return an error that names standard output, of the class that its number has."""
    return OSError(error.errno, error.strerror or str(error), STANDARD_OUTPUT)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True)), error.end


# C0 without tab and newline, DEL, C1, and the marks that let text run the other way.
_STEERING = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in [*range(9), *range(11, 32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
}
codecs.register_error(ESCAPE, _escape)
