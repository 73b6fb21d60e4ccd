"""One file over http: received in several tries where it must be, each of which continues the one before."""

from __future__ import annotations

import email.message
import email.utils
import hashlib
import http.client
import re
import shutil
import socket
import time
import urllib.error
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from time import sleep
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from quillgpt import __version__
from quillgpt.console import progress, say, warn
from quillgpt.errors import UserError
from quillgpt.files import flush_to_disk, write_json
from quillgpt.ownership import remove_own
from quillgpt.records import Record, read_record
from quillgpt.text.sources import connection
from quillgpt.text.sources.addresses import shown_address
from quillgpt.text.sources.connection import RedirectError, Watch, open_address

PAUSES_SECONDS = (1.0, 4.0, 15.0)  # before each new try that follows one without progress
LONGEST_PAUSE_SECONDS = 60.0  # a server that asks for more is not waited for
CHUNK_BYTES = 1 << 16

MOST_UNSTATED_BYTES = 20_000_000_000
"""What a server may send that does not say how much it is going to be."""

LEAST_FREE_BYTES = 100_000_000
"""What a download leaves of the disk."""

ASKED_EVERY_BYTES = 1 << 24
"""How much comes between two looks at how much of the disk is free."""

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


class _Note(Record):
    """Which version of which file a partial file is of; of the address, which may hold secrets, only a hash."""

    address: str
    version: Annotated[str, Field(pattern=r"^[ -~]{1,500}$")] | None


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
        self._key = hashlib.sha256(address.encode()).hexdigest()

    @property
    def size(self) -> int:
        """The number of bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def headers(self) -> dict[str, str]:
        """Return the headers that ask for the rest, or none where it has to come from its beginning."""
        with suppress(UserError):  # without a readable note it comes from its beginning
            note = read_record(self._note, _Note, UserError, mend="")
            # Without a version, only a hash can tell that both halves are of the same file.
            if self.size and note.address == self._key and (note.version or self.pinned):
                return {"Range": f"bytes={self.size}-"} | ({"If-Range": note.version} if note.version else {})
        return {}

    def start(self, version: str | None) -> None:
        """Begin anew, with this version of the file."""
        self.path.write_bytes(b"")
        if version is not None and not re.fullmatch(r"[ -~]{1,500}", version):
            version = None
        write_json(self._note, _Note(address=self._key, version=version).model_dump())

    def keep_as(self, path: Path) -> None:
        """Give the whole file its own name."""
        flush_to_disk(self.path)
        self.path.replace(path)
        flush_to_disk(path.parent)
        self.remove()

    def remove(self) -> None:
        """Forget what came."""
        remove_own(self.path)
        remove_own(self._note)


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
            if partial.size >= farthest + connection.LEAST_BYTES:
                farthest, pauses = partial.size, iter(PAUSES_SECONDS)
            reached = reached or error.reached
            pause = max(next(pauses, float("inf")), error.wait_seconds)
            # Whoever is not connected at all should hear so at once.
            if not reached or pause > LONGEST_PAUSE_SECONDS:
                raise TransferError(str(error), passing=True) from error
            warn(f"{title}: {error}; trying again in {pause:.0f} s")
            sleep(pause)


def _receive_once(partial: Partial, title: str, timeout_seconds: float) -> None:
    with Watch().watching() as watch:
        try:
            _receive_watched(partial, title, timeout_seconds, watch)
        except _PassingError:
            if watch.is_too_slow:
                least = f"{connection.LEAST_BYTES:,} bytes in {connection.WATCH_SECONDS:g} s"
                raise TransferError(f"it comes too slowly, fewer than {least}", passing=True) from None
            raise


def _receive_watched(partial: Partial, title: str, timeout_seconds: float, watch: Watch) -> None:
    with _open(partial, timeout_seconds, watch) as answer:
        begin, total = _extent(answer)
        if begin not in (0, partial.size):
            raise _start_over(partial)
        _refuse_compressed(answer)
        if begin == 0:
            _refuse_web_page(partial, answer)
            _check_room(partial, total)
            say(f"Downloading {title} from {shown_address(partial.address)}")
            partial.start(_version(answer))
        else:
            _check_room(partial, None if total is None else total - begin)
            say(f"Continuing to download {title} after {begin:,} bytes")
        size, asked_at = begin, begin
        with partial.path.open("ab") as file, progress(title, total, as_bytes=True) as advance:
            advance(begin)
            while chunk := _next_chunk(answer, timeout_seconds):
                file.write(chunk)
                file.flush()  # what came should outlive this process
                watch.received(len(chunk))
                advance(len(chunk))
                size += len(chunk)
                if size > (MOST_UNSTATED_BYTES if total is None else total):
                    partial.remove()
                    said = "not saying how much it is going to be" if total is None else f"announcing {total:,}"
                    raise TransferError(f"the server has sent {size:,} bytes and goes on, after {said}")
                if size >= asked_at + ASKED_EVERY_BYTES:
                    asked_at = size
                    _check_room(partial, None if total is None else total - size)
    if watch.is_too_slow:
        raise _PassingError("the connection was cut off")
    if total is not None and partial.size < total:
        raise _PassingError(f"the connection ended after {partial.size:,} of {total:,} bytes")


def _check_room(partial: Partial, still_to_come: int | None) -> None:
    free = shutil.disk_usage(partial.path.parent).free
    if free - (still_to_come or 0) >= LEAST_FREE_BYTES:
        return
    if still_to_come is None:
        partial.remove()  # nobody knows whether it has an end
        raise TransferError(f"there are only {free:,} bytes free for it at {partial.path.parent}")
    raise TransferError(
        f"{still_to_come:,} bytes are still to come, and only {free:,} are free at {partial.path.parent}, of which "
        f"{LEAST_FREE_BYTES:,} are left free",
        passing=True,
    )


def _open(partial: Partial, timeout_seconds: float, watch: Watch) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"quillgpt/{__version__}", "Accept-Encoding": "identity", **partial.headers()}
    try:
        return open_address(partial.address, headers, timeout_seconds=timeout_seconds, watch=watch)
    except RedirectError as error:
        raise TransferError(str(error)) from error
    except urllib.error.HTTPError as error:
        with error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _start_over(partial) from error
            if error.code in _PASSING:
                wait_seconds = _retry_after(error.headers)
                raise _PassingError(f"HTTP {error.code} {_line(error.reason)}", wait_seconds=wait_seconds) from error
            reason = f"{_REASONS.get(error.code) or _line(error.reason)}, HTTP {error.code}"
            raise TransferError(reason, missing=error.code in _MISSING) from error
    except urllib.error.URLError as error:
        raise _PassingError(_words(error.reason, timeout_seconds), reached=False) from error
    except (http.client.HTTPException, OSError) as error:
        raise _PassingError(_words(error, timeout_seconds)) from error
    except ValueError as error:  # what an address or a header cannot be
        raise TransferError(_words(error, timeout_seconds)) from error


def _start_over(partial: Partial) -> _PassingError:
    partial.remove()
    return _PassingError("the server cannot continue it, so it starts over")


def _next_chunk(answer: http.client.HTTPResponse, timeout_seconds: float) -> bytes:
    try:
        return answer.read1(CHUNK_BYTES)  # whatever is there, so that nothing is lost when the rest does not come
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise _PassingError(_words(error, timeout_seconds)) from error


def _extent(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return at which byte of the file an answer begins, and how many bytes the whole file has, if it says so."""
    found = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", answer.headers.get("Content-Range", ""))
    begin = _count(found[1]) if found else None
    if answer.status != HTTPStatus.PARTIAL_CONTENT or found is None or begin is None:
        return 0, _count(answer.headers.get("Content-Length", ""))
    return begin, _count(found[2])


def _count(given: str) -> int | None:
    """Return the number of bytes that a header names, or None where it names none that a file can have."""
    return int(given) if re.fullmatch(r"[0-9]{1,18}", given.strip()) else None


def _version(answer: http.client.HTTPResponse) -> str | None:
    """Return what identifies the file's version byte by byte, in the words that If-Range takes."""
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _refuse_compressed(answer: http.client.HTTPResponse) -> None:
    coding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise TransferError(f"the server sends it compressed ({_line(coding)[:40]}), which it was asked not to")


def _refuse_web_page(partial: Partial, answer: http.client.HTTPResponse) -> None:
    expected = urlsplit(partial.address).path.lower().endswith(_WEB_PAGE_SUFFIXES)
    if not partial.pinned and not expected and answer.headers.get_content_type() in _WEB_PAGE_TYPES:
        raise TransferError("it is a web page, not a plain text; links named raw or plain text lead to the text itself")


def _retry_after(headers: email.message.Message) -> float:
    """Return how many seconds a server asks to wait; it may name a time instead."""
    given = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", given):
        return float(given[:18]) if len(given) < 18 else float("inf")
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return 0.0


def _words(error: object, timeout_seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {timeout_seconds:g} seconds"
    if isinstance(error, socket.gaierror):
        return "there is no server of that name, or this machine is offline"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut"
    return _line(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _line(words: object) -> str:
    """Return what a server or a library says as a short line without what a terminal would obey."""
    return "".join(each if each.isprintable() else " " for each in str(words))[:200].strip()
