"""The few files that Quill fetches: where they come from, what they must hash to, and where they are kept."""

from __future__ import annotations

import http.client
import os
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from quillgpt.console import progress, say
from quillgpt.errors import DataError
from quillgpt.files import atomic_path, quill_home, sha256_of

TIMEOUT_SECONDS = 30.0
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Download:
    """A file with a public address and a known content.

    Attributes:
        title: What a person would call it.
        address: Where it is published.
        sha256: What it must hash to.
        place: Its path below the cache folder and below `QUILL_MIRROR`.
    """

    title: str
    address: str
    sha256: str
    place: str

    @property
    def cached(self) -> Path:
        """Where the file is kept once it was fetched."""
        return quill_home() / "downloads" / self.place


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


def fetch(download: Download) -> Path:
    """Return the cached file, after fetching it from `QUILL_MIRROR` or from its address where it is not yet there.

    Raises:
        DataError: It can be had from neither, or what came is not the expected content.
    """
    if download.cached.is_file() and sha256_of(download.cached) == download.sha256:
        return download.cached
    mirror = os.environ.get("QUILL_MIRROR")
    mirrored = Path(mirror).expanduser() / download.place if mirror else None
    with atomic_path(download.cached) as part:
        if mirrored is not None and mirrored.is_file():
            shutil.copyfile(mirrored, part)
            origin = str(mirrored)
        else:
            _download(download, part)
            origin = download.address
        found = sha256_of(part)
        if found != download.sha256:
            raise DataError(
                f"{origin} gave another file than {download.title}: its sha256 is {found}, expected "
                f"{download.sha256}; try again, or put the right file at {download.cached}"
            )
    return download.cached


def _download(download: Download, part: Path) -> None:
    try:
        with urllib.request.urlopen(download.address, timeout=TIMEOUT_SECONDS) as answer, part.open("wb") as file:
            length = answer.headers.get("Content-Length")
            total = int(length) if length else None
            say(f"Downloading {download.title} from {download.address}")
            received = 0
            with progress(download.title, total, as_bytes=True) as advance:
                while chunk := answer.read(CHUNK_BYTES):
                    file.write(chunk)
                    received += len(chunk)
                    advance(len(chunk))
        if total is not None and received < total:
            raise ConnectionError(f"the connection ended after {received:,} of {total:,} bytes")
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            reason = f"HTTP {error.code} {error.reason}"
        raise DataError(
            f"{download.title} could not be fetched from {download.address} ({reason}) and is not at "
            f"{download.cached}; get it with a browser and put it there, or set QUILL_MIRROR to a folder that has "
            f"{download.place}"
        ) from error
