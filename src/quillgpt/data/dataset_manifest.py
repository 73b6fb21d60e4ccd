"""dataset.json: the sources, options and token files of a prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from quillgpt.config.encoding_rules import EncodingRules
from quillgpt.config.format_rules import FormatRules, check_format_name
from quillgpt.errors import DataError
from quillgpt.files import write_json
from quillgpt.records import Record, read_record

FORMAT_VERSION: Literal[1] = 1
MANIFEST_FILE = "dataset.json"
TokenFile = Literal["train.bin", "val.bin"]
TRAIN_FILE: TokenFile = "train.bin"
VAL_FILE: TokenFile = "val.bin"

Count = Annotated[int, Field(ge=0)]
FormatName = Annotated[str, AfterValidator(check_format_name)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SourceRecord(Record):
    """A source file: its location, and its hash and size before decoding.

    Attributes:
        format: The name of its format in `text.formats.all_formats`; None for a text.
        column: The column that was named, if it is a table.
        read: Number of things in it that became text, by their kind.
        dropped: Number of things that were left out or replaced.
    """

    location: str
    sha256: Hash
    bytes: Count
    encoding: str
    format: FormatName | None = None
    column: str | None = None
    read: dict[str, Count] = Field(default_factory=dict)
    dropped: dict[str, Count] = Field(default_factory=dict)


class SkippedRecord(Record):
    """A file that was left out because it is empty or cannot be read; without a hash if it cannot be opened."""

    location: str
    sha256: Hash | None
    is_empty: bool


class SplitRecord(Record):
    """A token file: its size and its hash. `bytes` counts the text in UTF-8."""

    documents: Count
    characters: Count
    bytes: Count
    tokens: Count
    sha256: Hash


class TokenizerRecord(Record):
    """The tokenizer; `requested` is the name that was asked for, or None if a model's own was given."""

    requested: str | None
    name: str
    fingerprint: Hash
    vocab_size: Annotated[int, Field(gt=0)]
    end_of_text: Count | None


class RepeatedLine(Record):
    """A line, without white space around it, and the number of documents in which it occurs."""

    line: str
    documents: Count


class SharedEdge(Record):
    """What several documents begin or end with, as it reads in one of them, and the number of these documents."""

    text: str
    documents: Count


class Report(Record):
    """Statistics of the documents before cleaning, and of the two splits.

    Attributes:
        documents: Number of documents.
        duplicate_documents: Number of documents that repeat an earlier one.
        shared_documents: Number of validation documents that are, after cleaning, also training documents.
        copied_share: Share of the windows of 32 tokens, sampled all over the validation split, that also occur in the
            training split; None in an older data set.
        repeated_lines: Number of lines that occur in many documents.
        examples: The most frequent of these lines.
        openings: What many documents begin with, the most frequent first.
        endings: What many documents end with.
        dropped_openings: Number of documents of which the opening was left out.
        dropped_endings: Number of documents of which the ending was left out.
    """

    documents: Count
    duplicate_documents: Count
    shared_documents: Count
    copied_share: Annotated[float, Field(ge=0, le=1)] | None = None
    repeated_lines: Count
    examples: list[RepeatedLine]
    openings: list[SharedEdge] = Field(default_factory=list)
    endings: list[SharedEdge] = Field(default_factory=list)
    dropped_openings: Count = 0
    dropped_endings: Count = 0


class DatasetManifest(Record):
    """The content of dataset.json.

    Exactly one of `val_fraction` and `val_sources` is set. `split_by` says whether the split cuts the text at a
    character, holds out whole documents, or was given.
    """

    format_version: Literal[1]
    name: str
    recipe: str | None
    sources: list[SourceRecord]
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None
    val_sources: list[SourceRecord] | None
    split_by: Literal["characters", "documents", "given"] | None = None
    encoding: Annotated[str, AfterValidator(lambda given: str(EncodingRules.parse(given)))] | None = None
    read_as: Annotated[str, AfterValidator(lambda given: str(FormatRules.parse(given)))] | None = None
    me: str | None = None
    anonymise: bool = False
    drop_quotes: bool = False
    drop_signatures: bool = False
    skipped: list[SkippedRecord] = Field(default_factory=list)
    deduplicate: bool = False
    drop_repeated_lines: Count | None = None
    drop_openings: Count | None = None
    drop_endings: Count | None = None
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
    """Return the content of a folder's dataset.json, or None if it has none.

    Raises:
        DataError: The file is damaged, or a newer Quill wrote it.
    """
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    return read_record(path, DatasetManifest, DataError, mend=f"prepare it again: quill prepare PATH {again(folder)}")


def again(folder: Path) -> str:
    """Return the flags with which `quill prepare` replaces a folder's data set, whatever it is."""
    where = "" if folder.parent == Path("data") else f" --data_dir={folder.parent}"
    return f"--dataset={folder.name}{where} --overwrite"
