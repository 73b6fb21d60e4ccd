"""One file over HTTP, received in several tries if necessary: each continues where the one before was cut."""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import Field

from quillgpt import __version__
from quillgpt.console import progress, say, warn
from quillgpt.errors import UserError
from quillgpt.files import flush_to_disk, write_json
from quillgpt.ownership import remove_own
from quillgpt.records import Record, read_record
from quillgpt.text.sources.addresses import shown_address

if TYPE_CHECKING:
    from requests import Response

    from quillgpt.text.sources.connection import FailedTryError, Watch

MOST_UNSTATED_BYTES = 20_000_000_000
"""The most that is taken from a server that does not announce a size."""

LEAST_FREE_BYTES = 100_000_000
"""What a download leaves of the disk."""

ASKED_EVERY_BYTES = 1 << 24
"""Bytes between two checks of the free disk space."""

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
        passing: Whether a later call may continue it.
    """

    def __init__(self, reason: str, *, missing: bool = False, passing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing
        self.passing = passing


class _Note(Record):
    """Which version of which file a partial file belongs to; only a hash of the address, which may hold secrets."""

    address: str
    version: Annotated[str, Field(pattern=r"^[ -~]{1,500}$")] | None


class Partial:
    """The part of a file that has arrived so far, and beside it a note on the version of the file.

    Attributes:
        path: The bytes so far.
        address: Where the file is published.
        pinned: Whether the hash of the whole file is known, and will be checked.
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
        """Return the headers that ask for the rest, or none if the file has to be sent from its beginning."""
        with suppress(UserError):  # without a readable note it starts over
            note = read_record(self._note, _Note, UserError, mend="")
            # Without a version, only a hash can tell that both halves are of the same file.
            if self.size and note.address == self._key and (note.version or self.pinned):
                return {"Range": f"bytes={self.size}-"} | ({"If-Range": note.version} if note.version else {})
        return {}

    def start(self, version: str | None) -> None:
        """Start over, with this version of the file."""
        self.path.write_bytes(b"")
        if version is not None and not re.fullmatch(r"[ -~]{1,500}", version):
            version = None
        write_json(self._note, _Note(address=self._key, version=version).model_dump())

    def keep_as(self, path: Path) -> None:
        """Move the whole file to its own name."""
        flush_to_disk(self.path)
        self.path.replace(path)
        flush_to_disk(path.parent)
        self.remove()

    def remove(self) -> None:
        """Delete what has arrived."""
        remove_own(self.path)
        remove_own(self._note)


def receive(partial: Partial, *, title: str, timeout_seconds: float) -> None:
    """Receive a whole file, with growing pauses between tries; a try that gets further resets their count.

    Args:
        partial: The part that is there already; it holds the whole file afterwards.
        title: The name of the file in messages.
        timeout_seconds: How long a server may be silent.

    Raises:
        TransferError: The file cannot be received, or not now.
    """
    from urllib3.exceptions import MaxRetryError

    from quillgpt.text.sources import connection

    def new_policy() -> connection.RetryPolicy:
        return connection.RetryPolicy(len(connection.PAUSES_SECONDS))

    farthest = partial.size
    policy = new_policy()
    reached = False
    while True:
        try:
            return _receive_once(partial, title, timeout_seconds)
        except connection.FailedTryError as error:
            if partial.size >= farthest + connection.LEAST_BYTES:
                farthest, policy = partial.size, new_policy()
            reached = reached or error.reached
            try:
                policy = policy.increment(error=error)
            except MaxRetryError:
                raise TransferError(str(error), passing=True) from error
            pause = policy.pause_seconds(error.answer)
            # Whoever is not connected at all should hear so at once.
            if not reached or pause > connection.LONGEST_PAUSE_SECONDS:
                raise TransferError(str(error), passing=True) from error
            warn(f"{title}: {error}; trying again in {pause:.0f} s")
            sleep(pause)


def _receive_once(partial: Partial, title: str, timeout_seconds: float) -> None:
    from quillgpt.text.sources import connection

    with connection.Watch().watching() as watch:
        try:
            _receive_watched(partial, title, timeout_seconds, watch)
        except connection.FailedTryError:
            if watch.is_too_slow:
                least = f"{connection.LEAST_BYTES:,} bytes in {connection.WATCH_SECONDS:g} s"
                raise TransferError(f"it comes too slowly, fewer than {least}", passing=True) from None
            raise


def _receive_watched(partial: Partial, title: str, timeout_seconds: float, watch: Watch) -> None:
    from quillgpt.text.sources.connection import FailedTryError, next_chunk

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
            while chunk := next_chunk(answer, timeout_seconds=timeout_seconds):
                file.write(chunk)
                file.flush()  # what arrived outlives this process
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
        raise FailedTryError("the connection was cut off")
    if total is not None and partial.size < total:
        raise FailedTryError(f"the connection ended after {partial.size:,} of {total:,} bytes")


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


def _open(partial: Partial, timeout_seconds: float, watch: Watch) -> Response:
    from quillgpt.text.sources.connection import FailedTryError, RefusedError, one_line, open_address

    headers = {"User-Agent": f"quillgpt/{__version__}", "Accept-Encoding": "identity", **partial.headers()}
    try:
        answer = open_address(partial.address, headers, timeout_seconds=timeout_seconds, watch=watch)
    except RefusedError as error:
        raise TransferError(str(error)) from error
    if HTTPStatus.OK <= answer.status_code < HTTPStatus.MULTIPLE_CHOICES:
        return answer
    with answer:
        status, reason = answer.status_code, one_line(answer.reason)
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _start_over(partial)
        if status in _PASSING:
            raise FailedTryError(f"HTTP {status} {reason}", answer=answer.raw)
        raise TransferError(f"{_REASONS.get(status) or reason}, HTTP {status}", missing=status in _MISSING)


def _start_over(partial: Partial) -> FailedTryError:
    from quillgpt.text.sources.connection import FailedTryError

    partial.remove()
    return FailedTryError("the server cannot continue it, so it starts over")


def _extent(answer: Response) -> tuple[int, int | None]:
    """Return at which byte of the file an answer begins, and the size of the whole file if it is announced."""
    announced: int | None = answer.raw.length_remaining
    extent = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18}|\*)", answer.headers.get("Content-Range", ""))
    if answer.status_code != HTTPStatus.PARTIAL_CONTENT or extent is None:
        return 0, announced
    begin = int(extent[1])
    if extent[2] != "*":
        return begin, int(extent[2])
    return begin, None if announced is None else begin + announced


def _version(answer: Response) -> str | None:
    """Return what identifies the version of the file to the byte, for the header If-Range."""
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _refuse_compressed(answer: Response) -> None:
    from quillgpt.text.sources.connection import one_line

    coding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise TransferError(f"the server sends it compressed ({one_line(coding)[:40]}), which it was asked not to")


def _refuse_web_page(partial: Partial, answer: Response) -> None:
    expected = urlsplit(partial.address).path.lower().endswith(_WEB_PAGE_SUFFIXES)
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not partial.pinned and not expected and kind in _WEB_PAGE_TYPES:
        raise TransferError("it is a web page, not a plain text; links named raw or plain text lead to the text itself")
