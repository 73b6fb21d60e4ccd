"""Writes token files in shards, so that an interrupted preparation goes on with the shards that are done.

The shards of a file follow each other in it. shards.json, beside the token files, lists those that are on the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

from quillgpt.console import warn
from quillgpt.data.dataset_manifest import TRAIN_FILE, VAL_FILE, Count, Hash, SplitRecord, TokenFile
from quillgpt.data.token_file import Encode, EncodedBatch, PieceBatch
from quillgpt.errors import DataError
from quillgpt.files import HASH_CHUNK_BYTES, write_json
from quillgpt.records import Record, read_record

SHARDS_FILE = "shards.json"
SHARD_CHARACTERS = 1 << 25
"""The length of a shard. A shorter text is encoded in seconds, and anew after an interruption."""


class Shard(Record):
    """A part of a token file: its text, its tokens, and their hash."""

    file: TokenFile
    batches: Count
    documents: Count
    characters: Count
    bytes: Count
    tokens: Count
    stored_bytes: Count
    sha256: Hash
    ends_within_document: bool


class ShardsRecord(Record):
    """The content of shards.json.

    Attributes:
        format_version: 1.
        work: The hash of everything that decides the tokens, such as the text; a tokenizer that is learned by its name.
        tokenizer: The fingerprint of the tokenizer.
        expected: About how many shards the text has.
        shards: Those that are done, in order.
    """

    format_version: Literal[1] = 1
    work: Hash
    tokenizer: Hash
    expected: Count
    shards: list[Shard]

    @property
    def are_kept(self) -> bool:
        """Whether shards are recorded on the disk: a text of one shard in each file is encoded anew."""
        return self.expected > len((TRAIN_FILE, VAL_FILE))

    def in_words(self) -> str:
        """Return how many shards are done."""
        return f"{len(self.shards):,} of {max(self.expected, len(self.shards)):,} shards"


def read_shards_record(folder: Path) -> ShardsRecord | None:
    """Return the content of a folder's shards.json, or None if it has none that can be read."""
    try:
        return read_record(folder / SHARDS_FILE, ShardsRecord, DataError, mend="")
    except DataError:
        return None


def no_shards(work: str, tokenizer: str, characters: Sequence[int]) -> ShardsRecord:
    """Return the record of an encoding that begins.

    Args:
        work: The hash of everything that decides the tokens.
        tokenizer: The fingerprint of the tokenizer.
        characters: The length of each split.
    """
    return ShardsRecord(
        work=work,
        tokenizer=tokenizer,
        expected=sum(-(-split // SHARD_CHARACTERS) for split in characters),
        shards=[],
    )


def shards_done(folder: Path) -> ShardsRecord | None:
    """Return the shards that an interrupted preparation has left in a folder; None if it left none.

    The first one that is damaged or cannot be read is reported; it and those after it are left out.
    """
    record = read_shards_record(folder)
    return None if record is None else _intact(folder, record)


def _intact(folder: Path, record: ShardsRecord) -> ShardsRecord:
    places: dict[str, int] = {}
    for index, shard in enumerate(record.shards):
        try:
            with (folder / shard.file).open("rb") as file:
                file.seek(places.get(shard.file, 0))
                digest = hashlib.sha256()
                for chunk in _chunks(file, shard.stored_bytes):
                    digest.update(chunk)
                reason = "" if digest.hexdigest() == shard.sha256 else "is damaged"
                places[shard.file] = file.tell()
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        if reason:
            warn(f"shard {index + 1} in {folder / shard.file} {reason}, so it is encoded again")
            return record.model_copy(update={"shards": record.shards[:index]})
    return record


class ShardWriter:
    """Writes the token files of a data set in shards.

    Args:
        folder: The folder of the token files.
        record: The shards that are done, and what they are made from.
    """

    def __init__(self, folder: Path, record: ShardsRecord) -> None:
        self._folder = folder
        self._record = record
        self._save()

    def write(
        self,
        name: TokenFile,
        batches: Iterable[PieceBatch],
        encode: Encode,
        *,
        on_progress: Callable[[int], object] = lambda _: None,
    ) -> SplitRecord:
        """Write a token file, from the end of its last recorded shard on, and return its record for dataset.json."""
        done = [shard for shard in self._record.shards if shard.file == name]
        whole = _Sums()
        with (self._folder / name).open("r+b" if done else "wb") as file:
            for shard in done:
                whole.add(shard, _chunks(file, shard.stored_bytes))
                on_progress(shard.characters)
            file.truncate()
            part = _Sums()
            for batch in encode(islice(batches, sum(shard.batches for shard in done), None)):
                file.write(batch.content)
                whole.add(batch, [batch.content])
                part.add(batch, [batch.content])
                on_progress(batch.characters)
                if part.characters >= SHARD_CHARACTERS:
                    self._close(name, file, part)
                    part = _Sums()
            if part.batches:
                self._close(name, file, part)
        return SplitRecord(
            documents=whole.documents + whole.ends_within_document,
            characters=whole.characters,
            bytes=whole.bytes,
            tokens=whole.tokens,
            sha256=whole.digest.hexdigest(),
        )

    def _close(self, name: TokenFile, file: BinaryIO, part: _Sums) -> None:
        if self._record.are_kept:  # what is recorded must be on the disk
            file.flush()
            os.fsync(file.fileno())
            self._record = self._record.model_copy(update={"shards": [*self._record.shards, part.as_shard(name)]})
            self._save()

    def _save(self) -> None:
        if self._record.are_kept:
            write_json(self._folder / SHARDS_FILE, self._record.model_dump())


class _Sums:
    """Sizes and hash of a part of a token file."""

    def __init__(self) -> None:
        self.batches = self.documents = self.characters = self.bytes = self.tokens = self.stored_bytes = 0
        self.ends_within_document = False
        self.digest = hashlib.sha256()

    def add(self, part: EncodedBatch | Shard, content: Iterable[bytes]) -> None:
        self.batches += part.batches if isinstance(part, Shard) else 1
        self.documents += part.documents
        self.characters += part.characters
        self.bytes += part.bytes
        self.tokens += part.tokens
        self.ends_within_document = part.ends_within_document
        for chunk in content:
            self.stored_bytes += len(chunk)
            self.digest.update(chunk)

    def as_shard(self, name: TokenFile) -> Shard:
        return Shard(
            file=name,
            batches=self.batches,
            documents=self.documents,
            characters=self.characters,
            bytes=self.bytes,
            tokens=self.tokens,
            stored_bytes=self.stored_bytes,
            sha256=self.digest.hexdigest(),
            ends_within_document=self.ends_within_document,
        )


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the next `size` bytes of a file, fewer where it ends."""
    while size > 0 and (chunk := file.read(min(size, HASH_CHUNK_BYTES))):
        size -= len(chunk)
        yield chunk
