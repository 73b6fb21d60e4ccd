"""One file over http: received in several tries where it must be, each of which continues the one before."""

from __future__ import annotations

import email.message
import email.utils
import http.client
import json
import re
import socket
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from time import sleep
from urllib.parse import urlsplit

from quillgpt import __version__
from quillgpt.console import progress, say, warn
from quillgpt.files import flush_to_disk

PAUSES_SECONDS = (1.0, 4.0, 15.0)  # before each new try that follows one without progress
LONGEST_PAUSE_SECONDS = 60.0  # a server that asks for more is not waited for
CHUNK_BYTES = 1 << 16

_PASSING = {408, 429, 500, 502, 503, 504}
_MISSING = {404, 410}
_REASONS = {
    401: "it asks for a name and a password",
    403: "the server does not give it to programs, or not to everybody",
    404: "there is nothing at this address",
    410: "there is nothing at this address any more",
}
_WEB_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_WEB_PAGE_SUFFIXES = (".html", ".htm", ".xhtml")


class TransferError(Exception):
    """A file could not be received, in words that fit into a sentence.

    Attributes:
        missing: Whether the server said that there is no such file.
        passing: Whether it may go on later from what came.
    """

    def __init__(self, reason: str, *, missing: bool = False, passing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing
        self.passing = passing


class _PassingError(Exception):
    """A try failed in a way that may pass.

    Attributes:
        reached: Whether a server answered.
        wait_seconds: How long it asked to wait.
    """

    def __init__(self, reason: str, *, reached: bool = True, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.reached = reached
        self.wait_seconds = wait_seconds


class Partial:
    """What has come of a file so far, and beside it a note on which version of the file that is.

    Attributes:
        path: The bytes so far.
        address: Where the file is published.
        pinned: Whether a hash will tell if what was put together is right.
    """

    def __init__(self, path: Path, address: str, *, pinned: bool) -> None:
        self.path = path
        self.address = address
        self.pinned = pinned
        self._note = path.with_name(path.name + ".json")

    @property
    def size(self) -> int:
        """The number of bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def headers(self) -> dict[str, str]:
        """Return the headers that ask for the rest, or none where it has to come from its beginning."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            same_address, version = note["address"] == self.address, note["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        # Without a version, only a hash can tell that both halves are of the same file.
        if not self.size or not same_address or not (version or self.pinned):
            return {}
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": version} if version else {})

    def start(self, version: str | None) -> None:
        """Begin anew, with this version of the file."""
        self.path.write_bytes(b"")
        self._note.write_text(json.dumps({"address": self.address, "version": version}), encoding="utf-8")

    def keep_as(self, path: Path) -> None:
        """Give the whole file its own name."""
        flush_to_disk(self.path)
        self.path.replace(path)
        flush_to_disk(path.parent)
        self.remove()

    def remove(self) -> None:
        """Forget what came."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def receive(partial: Partial, *, title: str, timeout_seconds: float) -> None:
    """Receive a whole file, with growing pauses between tries; a try that gets further renews their number.

    Args:
        partial: What has come of it before; it holds the whole file afterwards.
        title: What a person would call the file.
        timeout_seconds: How long a server may be silent.

    Raises:
        TransferError: It cannot be had, or not now.
    """
    farthest = partial.size
    pauses = iter(PAUSES_SECONDS)
    reached = False
    while True:
        try:
            return _receive_once(partial, title, timeout_seconds)
        except _PassingError as error:
            if partial.size > farthest:
                farthest, pauses = partial.size, iter(PAUSES_SECONDS)
            reached = reached or error.reached
            pause = max(next(pauses, float("inf")), error.wait_seconds)
            # Whoever is not connected at all should hear so at once.
            if not reached or pause > LONGEST_PAUSE_SECONDS:
                raise TransferError(str(error), passing=True) from error
            warn(f"{title}: {error}; trying again in {pause:.0f} s")
            sleep(pause)


def _receive_once(partial: Partial, title: str, timeout_seconds: float) -> None:
    with _open(partial, timeout_seconds) as answer:
        begin, total = _extent(answer)
        if begin not in (0, partial.size):
            raise _start_over(partial)
        if begin == 0:
            _refuse_web_page(partial, answer)
            say(f"Downloading {title} from {partial.address}")
            partial.start(_version(answer))
        else:
            say(f"Continuing to download {title} after {begin:,} bytes")
        with partial.path.open("ab") as file, progress(title, total, as_bytes=True) as advance:
            advance(begin)
            while chunk := _next_chunk(answer, timeout_seconds):
                file.write(chunk)
                file.flush()  # what came should outlive this process
                advance(len(chunk))
    if total is not None and partial.size < total:
        raise _PassingError(f"the connection ended after {partial.size:,} of {total:,} bytes")


def _open(partial: Partial, timeout_seconds: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"quillgpt/{__version__}", "Accept-Encoding": "identity", **partial.headers()}
    try:
        request = urllib.request.Request(partial.address, headers=headers)
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout_seconds)
        return answer
    except urllib.error.HTTPError as error:
        with error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _start_over(partial) from error
            if error.code in _PASSING:
                wait_seconds = _retry_after(error.headers)
                raise _PassingError(f"HTTP {error.code} {error.reason}", wait_seconds=wait_seconds) from error
            reason = f"{_REASONS.get(error.code, error.reason)}, HTTP {error.code}"
            raise TransferError(reason, missing=error.code in _MISSING) from error
    except urllib.error.URLError as error:
        raise _PassingError(_words(error.reason, timeout_seconds), reached=False) from error
    except (http.client.HTTPException, OSError) as error:
        raise _PassingError(_words(error, timeout_seconds)) from error


def _start_over(partial: Partial) -> _PassingError:
    partial.remove()
    return _PassingError("the server cannot continue it, so it starts over")


def _next_chunk(answer: http.client.HTTPResponse, timeout_seconds: float) -> bytes:
    try:
        return answer.read1(CHUNK_BYTES)  # whatever is there, so that nothing is lost when the rest does not come
    except (http.client.HTTPException, OSError) as error:
        raise _PassingError(_words(error, timeout_seconds)) from error


def _extent(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return at which byte of the file an answer begins, and how many bytes the whole file has, if it says so."""
    length = answer.headers.get("Content-Length", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if answer.status != HTTPStatus.PARTIAL_CONTENT or not found:
        return 0, int(length) if length.isdigit() else None
    return int(found[1]), int(found[2]) if found[2].isdigit() else None


def _version(answer: http.client.HTTPResponse) -> str | None:
    """Return what identifies the file's version byte by byte, in the words that If-Range takes."""
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _refuse_web_page(partial: Partial, answer: http.client.HTTPResponse) -> None:
    expected = urlsplit(partial.address).path.lower().endswith(_WEB_PAGE_SUFFIXES)
    if not partial.pinned and not expected and answer.headers.get_content_type() in _WEB_PAGE_TYPES:
        raise TransferError("it is a web page, not a plain text; links named raw or plain text lead to the text itself")


def _retry_after(headers: email.message.Message) -> float:
    """Return how many seconds a server asks to wait; it may name a time instead."""
    given = headers.get("Retry-After", "").strip()
    if given.isdigit():
        return float(given)
    try:
        return email.utils.parsedate_to_datetime(given).timestamp() - time.time()
    except ValueError:
        return 0.0


def _words(error: object, timeout_seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {timeout_seconds:g} seconds"
    if isinstance(error, socket.gaierror):
        return "there is no server of that name, or this machine is offline"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut"
    return getattr(error, "strerror", None) or str(error)
