"""The list of a checkpoint's files and their hashes; it is written last, so a folder that has one is whole."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from quillgpt import __version__
from quillgpt.errors import CheckpointError
from quillgpt.files import path_inside, sha256_of, write_json

MANIFEST = "manifest.json"
FORMAT_VERSION = 1

LISTED = (".json", ".safetensors")
"""Endings of all files that are ever read from a checkpoint: each that is there must be listed."""


class NewerFormatError(CheckpointError):
    """A checkpoint is not damaged, but written by a newer Quill."""


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


def verify_manifest(folder: Path, *, needed: Collection[str]) -> None:
    """Check that every file of a checkpoint is there, is listed, and is what was written.

    Args:
        folder: The checkpoint.
        needed: Files that every checkpoint has.

    Raises:
        CheckpointError: Names the damaged file.
        NewerFormatError: It is of a format that this Quill does not know.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in manifest["files"].items()}
        version = manifest["format_version"]
        newer = version > FORMAT_VERSION
        if newer and manifest["quill_version"] == __version__:
            raise ValueError  # this very version writes no such format
    except (OSError, ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError):
        raise CheckpointError(f"{path} is missing or damaged; the checkpoint cannot be trusted") from None
    if newer:
        raise NewerFormatError(
            f"{path}: format_version is {version}, this Quill reads up to {FORMAT_VERSION}; install a newer Quill"
        )
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.suffix in LISTED}
    if unlisted := sorted((there | set(needed)) - files.keys() - {MANIFEST}):
        raise CheckpointError(
            f"{path} does not list {unlisted[0]}; one of the two was changed, and the checkpoint cannot be trusted"
        )
    for name, (expected_size, expected_hash) in files.items():
        file = path_inside(folder, name)
        if file is None:
            raise CheckpointError(
                f"{path} lists {name!r}, which is outside the checkpoint; do not trust this checkpoint"
            )
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; the checkpoint is damaged")
        size = file.stat().st_size
        if size != expected_size:
            raise CheckpointError(f"{file} is damaged: it has {size:,} bytes, {expected_size:,} were written")
        if sha256_of(file) != expected_hash:
            raise CheckpointError(f"{file} is damaged: its content is not what was written (SHA-256 differs)")
