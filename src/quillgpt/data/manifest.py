"""dataset.json: what a prepared data set was made from, and what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from quillgpt.errors import DataError
from quillgpt.files import write_json

FORMAT_VERSION: Literal[1] = 1
MANIFEST_FILE = "dataset.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SourceRecord(_Record):
    """A document: where it came from, and its bytes before decoding."""

    location: str
    sha256: str
    bytes: int
    encoding: str


class SplitRecord(_Record):
    """One token file: what it holds, and what it hashes to. `bytes` counts the text as UTF-8."""

    documents: int
    characters: int
    bytes: int
    tokens: int
    sha256: str


class TokenizerRecord(_Record):
    """The tokenizer: what was asked for (None where a model's own was given), and what it is."""

    requested: str | None
    name: str
    fingerprint: str
    vocab_size: int
    end_of_text: int | None


class RepeatedLine(_Record):
    """A line, without the space around it, and the number of documents in which it stands."""

    line: str
    documents: int


class Report(_Record):
    """What was noticed about the documents, before anything was removed.

    Attributes:
        documents: How many there were.
        duplicate_documents: How many had the text of an earlier one.
        shared_documents: How many of the validation documents are, after cleaning, also among those to train on.
        repeated_lines: How many lines stood in many documents.
        examples: The commonest of these lines.
    """

    documents: int
    duplicate_documents: int
    shared_documents: int
    repeated_lines: int
    examples: list[RepeatedLine]


class Manifest(_Record):
    """The content of dataset.json.

    Exactly one of `val_fraction` and `val_sources` says how the split was made; `split_by` says whether it goes through
    the text (characters), between its documents, or was given.
    """

    format_version: Literal[1]
    name: str
    recipe: str | None
    sources: list[SourceRecord]
    val_fraction: float | None
    val_sources: list[SourceRecord] | None
    split_by: Literal["characters", "documents", "given"] | None = None
    deduplicate: bool = False
    drop_repeated_lines: int | None = None
    report: Report | None = None
    ends_documents: bool
    tokenizer: TokenizerRecord
    dtype: Literal["uint16", "uint32"]
    train: SplitRecord
    val: SplitRecord

    def save(self, folder: Path) -> None:
        """Write dataset.json atomically."""
        write_json(folder / MANIFEST_FILE, self.model_dump())


def read_manifest(folder: Path) -> Manifest | None:
    """Return what a folder's dataset.json says, or None where it has none.

    Raises:
        DataError: The file is damaged, or was written by a newer Quill.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{path} is damaged or of another version of Quill ({where}: {first['msg']}); "
            "delete it and prepare the data set again"
        ) from error
