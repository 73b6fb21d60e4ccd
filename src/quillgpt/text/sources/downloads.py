"""Files that Quill fetches, known ones and any http(s) address: where they come from and where they are kept."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from quillgpt.config.paths import expand
from quillgpt.console import say, warn
from quillgpt.errors import DataError
from quillgpt.files import atomic_path, quill_home, sha256_of
from quillgpt.locks import locked
from quillgpt.text.sources.addresses import HIDDEN, shown_address, was_hidden
from quillgpt.text.sources.transfer import Partial, TransferError, receive

TIMEOUT_SECONDS = 30.0
DOWNLOADS = "downloads"
"""The folder of fetched files in the cache folder."""


_allowed: ContextVar[bool] = ContextVar("downloads are allowed", default=True)


class MissingFileError(DataError):
    """There is nothing at an address."""


class DownloadNeededError(DataError):
    """A file is missing and may not be fetched now.

    Attributes:
        title: The name of the file in messages.
    """

    def __init__(self, title: str) -> None:
        super().__init__(f"{title} is not here and would have to be fetched")
        self.title = title


@contextmanager
def without_downloads() -> Iterator[None]:
    """Raise `DownloadNeededError` while the block runs, instead of fetching a missing file."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def check_downloads_are_allowed(title: str) -> None:
    """Raise an error inside `without_downloads`.

    Raises:
        DownloadNeededError: The title would have to be fetched.
    """
    if not _allowed.get():
        raise DownloadNeededError(title)


@dataclass(frozen=True)
class Download:
    """A file with a public address.

    Attributes:
        title: Its name in messages.
        address: Where it is published.
        sha256: The hash that it must have; None if that is unknown.
        place: Its path below the cache folder and below `QUILL_MIRROR`.
    """

    title: str
    address: str
    sha256: str | None
    place: str

    @property
    def cached(self) -> Path:
        """Where the file is kept after it was fetched."""
        return quill_home() / DOWNLOADS / self.place


TINY_SHAKESPEARE = Download(
    title="tiny Shakespeare",
    address="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    place="tinyshakespeare/input.txt",
)
GPT2_MERGES = Download(
    title="GPT-2's vocab.bpe",
    address="https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    place="gpt2/vocab.bpe",
)
GPT2_VOCABULARY = Download(
    title="GPT-2's encoder.json",
    address="https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json",
    sha256="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    place="gpt2/encoder.json",
)


def address_download(address: str) -> Download:
    """Return the download of any http(s) address, with a folder of its own.

    Raises:
        DataError: It is not an http(s) address.
    """
    expected = "give one such as https://example.org/book.txt"
    try:
        parts = urlsplit(address.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DataError(f"{shown_address(address)} is no http or https address; {expected}")
        host = parts.hostname.encode("idna").decode("ascii")
        if ":" in host:
            host = f"[{host}]"
        if parts.port is not None:
            host += f":{parts.port}"
    except ValueError as error:
        raise DataError(f"{shown_address(address)} is no address ({type(error).__name__}); {expected}") from error
    if was_hidden(address):
        raise DataError(
            f"{address} was recorded without the values that follow its ?, since they may be secret; give the whole "
            "address again with --data"
        )
    if parts.username is not None:
        raise DataError(
            f"the address at {parts.hostname} holds a name and a password, which Quill does not send; fetch the text "
            "yourself and give the file"
        )
    # Addresses are copied with spaces and letters that cannot be sent as they are.
    path, query = (quote(part, safe="/%:;=@&?!$'()*+,~") for part in (parts.path, parts.query))
    name = unquote(parts.path).rpartition("/")[2]
    name = re.sub(r"[^\w.,()+ -]", "_", name)[-100:].strip(" .") or parts.hostname
    key = hashlib.sha256(address.encode("utf-8")).hexdigest()[:16]
    return Download(
        title=name,
        address=urlunsplit((parts.scheme, host, path, query, "")),
        sha256=None,
        place=f"addresses/{key}/{name}",
    )


def fetch(download: Download) -> Path:
    """Return the cached file, after fetching it from `QUILL_MIRROR` or from its address if it is missing.

    This call or the next continues a download that was cut, and two processes do not fetch the same file at once.

    Raises:
        MissingFileError: There is nothing at its address.
        DataError: It cannot be fetched, or has another content than expected.
    """
    cached = download.cached
    if _is_cached(download):
        if download.sha256 is None:
            day = time.strftime("%Y-%m-%d", time.localtime(cached.stat().st_mtime))
            say(f"Using {cached}, fetched on {day} from {shown_address(download.address)}; delete it to fetch it again")
        return cached
    mirror = os.environ.get("QUILL_MIRROR")
    mirrored = expand(mirror) / download.place if mirror else None
    if mirrored is None or not mirrored.is_file():
        check_downloads_are_allowed(download.title)
    with _one_process_at_a_time(download):
        if _is_cached(download):  # by the process that was waited for
            return cached
        if mirrored is not None and mirrored.is_file():
            with atomic_path(cached) as copy:
                shutil.copyfile(mirrored, copy)
                _check_hash(download, copy, str(mirrored))
            return cached
        partial = Partial(cached.with_name(cached.name + ".part"), download.address, pinned=download.sha256 is not None)
        try:
            receive(partial, title=download.title, timeout_seconds=TIMEOUT_SECONDS)
        except TransferError as error:
            raise _unfetched(download, error, partial.size if error.passing else 0) from error
        try:
            _check_hash(download, partial.path, shown_address(download.address))
        except DataError:
            partial.remove()
            raise
        partial.keep_as(cached)
    return cached


def _is_cached(download: Download) -> bool:
    cached = download.cached
    return cached.is_file() and (download.sha256 is None or sha256_of(cached) == download.sha256)


def _check_hash(download: Download, file: Path, origin: str) -> None:
    if download.sha256 is None:
        return
    sha256 = sha256_of(file)
    if sha256 != download.sha256:
        raise DataError(
            f"{origin} gave another file than {download.title}: its sha256 is {sha256}, expected "
            f"{download.sha256}; try again, or put the right file at {download.cached}"
        )


def _one_process_at_a_time(download: Download) -> AbstractContextManager[None]:
    return locked(
        download.cached.with_name(f".{download.cached.name}.lock"),
        on_wait=lambda: say(f"Waiting for another process that is fetching {download.title}"),
        on_failure=lambda error: warn(f"{download.cached.parent} cannot be locked ({error}); fetch with one process"),
    )


def _unfetched(download: Download, error: TransferError, kept_bytes: int) -> DataError:
    remedy = "check it in a browser, or save the text as a file and give that"
    if download.sha256 is not None:
        remedy = (
            f"get it with a browser and put it at {download.cached}, or set QUILL_MIRROR to a folder that has "
            f"{download.place}"
        )
    if kept_bytes:
        remedy = f"the {kept_bytes:,} bytes that came are kept and the next try goes on from there; or {remedy}"
    kind = MissingFileError if error.missing else DataError
    where = shown_address(download.address)
    query = urlsplit(download.address).query
    reason = str(error).replace(query, HIDDEN) if query else str(error)
    return kind(f"{download.title} could not be fetched from {where} ({reason}); {remedy}")
