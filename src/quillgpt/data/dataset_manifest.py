"""dataset.json: what a prepared data set was made from, and what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from quillgpt.config.encoding_rules import EncodingRules
from quillgpt.errors import DataError
from quillgpt.files import write_json
from quillgpt.records import Record, read_record

FORMAT_VERSION: Literal[1] = 1
MANIFEST_FILE = "dataset.json"


Count = Annotated[int, Field(ge=0)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SourceRecord(Record):
    """A document: where it came from, and its bytes before decoding."""

    location: str
    sha256: Hash
    bytes: Count
    encoding: str


class SkippedRecord(Record):
    """A file that was left out, since it is empty or cannot be read; without a hash where it could not be opened."""

    location: str
    sha256: Hash | None
    is_empty: bool


class SplitRecord(Record):
    """One token file: what it holds, and what it hashes to. `bytes` counts the text as UTF-8."""

    documents: Count
    characters: Count
    bytes: Count
    tokens: Count
    sha256: Hash


class TokenizerRecord(Record):
    """The tokenizer: what was asked for (None where a model's own was given), and what it is."""

    requested: str | None
    name: str
    fingerprint: Hash
    vocab_size: Annotated[int, Field(gt=0)]
    end_of_text: Count | None


class RepeatedLine(Record):
    """A line, without the space around it, and the number of documents in which it stands."""

    line: str
    documents: Count


class Report(Record):
    """What was noticed about the documents, before anything was removed.

    Attributes:
        documents: How many there were.
        duplicate_documents: How many had the text of an earlier one.
        shared_documents: How many of the validation documents are, after cleaning, also among those to train on.
        repeated_lines: How many lines stood in many documents.
        examples: The commonest of these lines.
    """

    documents: Count
    duplicate_documents: Count
    shared_documents: Count
    repeated_lines: Count
    examples: list[RepeatedLine]


class DatasetManifest(Record):
    """The content of dataset.json.

    Exactly one of `val_fraction` and `val_sources` says how the split was made; `split_by` says whether it goes through
    the text (characters), between its documents, or was given.
    """

    format_version: Literal[1]
    name: str
    recipe: str | None
    sources: list[SourceRecord]
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None
    val_sources: list[SourceRecord] | None
    split_by: Literal["characters", "documents", "given"] | None = None
    encoding: Annotated[str, AfterValidator(lambda given: str(EncodingRules.parse(given)))] | None = None
    skipped: list[SkippedRecord] = Field(default_factory=list)
    deduplicate: bool = False
    drop_repeated_lines: Count | None = None
    end_of_text_marks: bool = False
    report: Report | None = None
    ends_documents: bool
    tokenizer: TokenizerRecord
    dtype: Literal["uint16", "uint32"]
    train: SplitRecord
    val: SplitRecord

    def save(self, folder: Path) -> None:
        """Write dataset.json atomically."""
        write_json(folder / MANIFEST_FILE, self.model_dump())


def read_dataset_manifest(folder: Path) -> DatasetManifest | None:
    """Return what a folder's dataset.json says, or None where it has none.

    Raises:
        DataError: The file is damaged, or was written by a newer Quill.
    """
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    return read_record(path, DatasetManifest, DataError, mend=f"prepare it again: quill prepare PATH {again(folder)}")


def again(folder: Path) -> str:
    """Return the flags of `quill prepare` that replace a folder's data set, whatever it is."""
    where = "" if folder.parent == Path("data") else f" --data_dir={folder.parent}"
    return f"--dataset={folder.name}{where} --overwrite"
