"""Standard streams that do not end a command: unread messages are dropped, and lost results are an error of their own.

This module imports nothing slow, so that a command has its streams before anything else.
"""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from typing import IO, Any

STANDARD_OUTPUT = "standard output"
"""The file name in errors about results that could not be written."""

ESCAPE = "quill.escape"
"""The error handler that writes characters missing in an encoding as \\uXXXX, so that JSON stays JSON."""

CLOSED = {0: os.O_RDONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}
"""How the null device replaces a closed descriptor: input is empty, results are refused, messages are dropped."""


class Words:
    """A text stream that never fails: text is dropped if the reader has gone or the disk is full.

    Args:
        stream: The stream for the messages; None without standard error.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        with suppress(AttributeError, OSError, ValueError):  # no stream, one that fails, one that was closed
            self._stream.write(text)  # type: ignore[union-attr]
        return len(text)

    def flush(self) -> None:
        """Flush the buffer, or drop it."""
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
    """A text stream whose errors name standard output.

    Args:
        stream: The stream for the results.
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
        """Flush the buffer.

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
    """Give the process of a command three standard streams, whatever it was started with."""
    for descriptor, flags in CLOSED.items():
        _fill(descriptor, flags)
    # Python has None for a stream that was closed when it started.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = Results(stdout), Words(stderr)


def write_any_character() -> None:
    """Escape characters that the encoding of the terminal or the file lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # else the stream was replaced
            utf8 = "utf-8" if os.name == "nt" and not stream.isatty() else None
            reconfigure(encoding=utf8, errors=ESCAPE, line_buffering=True)


def drop_results() -> None:
    """Discard pending output of standard output, so that leaving does not fail once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def visible(text: str) -> str:
    """Return a text with its control characters escaped, as in `\\x1b`."""
    return text.translate(_STEERING)


def _fill(descriptor: int, flags: int) -> None:
    """Open the null device if a descriptor is closed; otherwise the next file to be opened would get its number."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, flags)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        os.set_inheritable(descriptor, True)


def _named(error: OSError) -> OSError:
    """Return an error that names standard output, of the class of its number."""
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
