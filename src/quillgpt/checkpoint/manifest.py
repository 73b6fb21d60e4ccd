"""The list of a checkpoint's files and their hashes; it is written last, so a folder that has one is complete."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from quillgpt import __version__
from quillgpt.errors import CheckpointError, shorten
from quillgpt.files import path_inside, sha256_of, write_json
from quillgpt.records import Record, check_record, read_json

MANIFEST = "manifest.json"
FORMAT_VERSION: Literal[1] = 1

CARD = "README.md"
"""The model's card. It is for people, who may edit it before they publish it, so its content is not checked."""

LISTED = (".json", ".safetensors")
"""The endings of all files that are read from a checkpoint; every such file must be listed."""

USUAL = (
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("training/optimizer.safetensors", "training/weights.safetensors", "training/teachers.safetensors"),
    "training/state.json",
    *(CARD, "adapter/adapter_model.safetensors", "adapter/adapter_config.json"),
)
"""The files that belong to a checkpoint whose manifest is lost."""


class FileRecord(Record):
    """The size and hash of a file as it was written."""

    bytes: int
    sha256: str


class Manifest(Record):
    """The content of manifest.json."""

    format_version: Literal[1]
    quill_version: str
    files: dict[str, FileRecord]


class NewerFormatError(CheckpointError):
    """A checkpoint was written by a newer Quill; it is not damaged."""


def write_manifest(folder: Path) -> None:
    """Record every file of a folder with its size and hash."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    write_json(
        folder / MANIFEST,
        {
            "format_version": FORMAT_VERSION,
            "quill_version": __version__,
            "files": {
                path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
                for path in files
            },
        },
    )


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.json.

    Raises:
        CheckpointError: It is missing or damaged.
        NewerFormatError: It has a format that this Quill does not know.
    """
    mend = "the checkpoint cannot be trusted"
    content = read_json(path, CheckpointError, mend=mend)
    version = content.get("format_version") if isinstance(content, dict) else None
    # A manifest of this very version with another format is damaged.
    if type(version) is int and version > FORMAT_VERSION and content.get("quill_version") != __version__:
        raise NewerFormatError(
            f"{path}: format_version is {shorten(version)}, this Quill reads up to {FORMAT_VERSION}; install a newer "
            "Quill"
        )
    return check_record(content, Manifest, CheckpointError, path, mend=mend)


def verify_manifest(folder: Path, *, needed: Collection[str]) -> None:
    """Check that every file of a checkpoint exists, is listed, and has the content that was written; but for the card.

    Args:
        folder: The checkpoint.
        needed: Files that every checkpoint has.

    Raises:
        CheckpointError: A file is damaged; the message names it.
        NewerFormatError: It has a format that this Quill does not know.
    """
    path = folder / MANIFEST
    files = read_manifest(path).files
    existing = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix in LISTED}
    if unlisted := sorted((existing | set(needed)) - files.keys() - {MANIFEST}):
        raise CheckpointError(
            f"{path} does not list {unlisted[0]}; one of the two was changed, and the checkpoint cannot be trusted"
        )
    for name, expected in files.items():
        if name == CARD:
            continue
        file = path_inside(folder, name)
        if file is None:
            raise CheckpointError(
                f"{path} lists {shorten(name)}, which is outside the checkpoint; do not trust this checkpoint"
            )
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; the checkpoint is damaged")
        size = file.stat().st_size
        if size != expected.bytes:
            raise CheckpointError(f"{file} is damaged: it has {size:,} bytes, {expected.bytes:,} were written")
        if sha256_of(file) != expected.sha256:
            raise CheckpointError(f"{file} is damaged: its content is not what was written (SHA-256 differs)")


def is_of_quill(folder: Path) -> bool:
    """Whether a folder has a manifest of Quill's, even if files are damaged."""
    return _read(folder) is not None


def files_listed(folder: Path) -> list[str]:
    """Return the relative paths of a checkpoint's files: those in its manifest, or the usual ones without one."""
    manifest = _read(folder)
    return [*(USUAL if manifest is None else manifest.files), MANIFEST]


def _read(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder / MANIFEST)
    except CheckpointError:
        return None
