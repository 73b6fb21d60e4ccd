"""Which files in a folder are Quill's own; only those are ever removed or overwritten.

A folder of results has a record, `.quill.json`, of the names that are Quill's, with hashes of files that are written
once. Only this file of the package removes files that existed before.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal

from quillgpt.errors import ConfigError, UserError, join_names
from quillgpt.files import is_plain_path, sha256_of, write_json
from quillgpt.records import Record, read_record

RECORD = ".quill.json"


class FolderRecord(Record):
    """The content of `.quill.json`.

    Attributes:
        format_version: 1.
        files: The SHA-256 of each file by its path within the folder; None for files that change during a run, and
            for folders, whose contents have rules of their own.
    """

    format_version: Literal[1] = 1
    files: dict[str, str | None]


def recorded(folder: Path) -> dict[str, str | None]:
    """Return the files that a folder's record lists; none if the record is missing or damaged."""
    record = _read(folder)
    return {} if record is None else {name: sha256 for name, sha256 in record.files.items() if is_plain_path(name)}


def _read(folder: Path) -> FolderRecord | None:
    try:
        return read_record(folder / RECORD, FolderRecord, UserError, mend="")
    except UserError:
        return None


def claim(folder: Path, names: Iterable[str]) -> None:
    """Record that files of a folder are Quill's, whatever their content."""
    _add(folder, dict.fromkeys(names))


def claim_as_written(folder: Path, names: Iterable[str]) -> None:
    """Record that files of a folder are Quill's as long as their content does not change."""
    _add(folder, {name: sha256_of(folder / name) for name in names})


def _add(folder: Path, files: dict[str, str | None]) -> None:
    before = recorded(folder)
    if before | files != before:
        write_json(folder / RECORD, FolderRecord(files=before | files).model_dump())


def foreign(folder: Path, names: Iterable[str], *, known: dict[str, str | None] | None = None) -> list[str]:
    """Return the names that exist in a folder and are not Quill's, in order; a damaged record is not Quill's either.

    Args:
        folder: The folder.
        names: Paths within it.
        known: Quill's files; None takes those in the folder's record.
    """
    known = recorded(folder) if known is None else known
    damaged = [RECORD] if _is_there(folder / RECORD) and _read(folder) is None else []
    return damaged + [name for name in names if _is_there(folder / name) and not _is_ours(folder / name, name, known)]


def _is_ours(path: Path, name: str, known: dict[str, str | None]) -> bool:
    if name not in known:
        return False
    digest = known[name]
    return digest is None or (path.is_file() and not path.is_symlink() and sha256_of(path) == digest)


def check_ours(folder: Path, names: Iterable[str], *, remedy: str) -> None:
    """Check that only Quill's own files would be overwritten.

    Args:
        folder: The folder to write to.
        names: The paths within it that would be written.
        remedy: What to do instead, such as `give another --out`.

    Raises:
        ConfigError: A file would be overwritten that Quill did not write, or that was changed since.
    """
    if others := foreign(folder, names):
        raise ConfigError(f"{folder} holds {join_names(others)}, not written by Quill or changed since; {remedy}")


def files_below(folder: Path, below: str = ".") -> list[str]:
    """Return all files and links below a folder, or below a folder in it, as paths within the former."""
    there = (path for path in sorted((folder / below).rglob("*")) if path.is_symlink() or not path.is_dir())
    return [path.relative_to(folder).as_posix() for path in there]


def remove_listed(folder: Path, names: Iterable[str]) -> list[str]:
    """Remove files of a folder, folders that this leaves empty, and the folder itself if nothing else is in it.

    Links are removed, not followed.

    Args:
        folder: The folder.
        names: Paths within it that a record of Quill's lists; a folder among them is removed only if it is empty.

    Returns:
        The files that stay, because they are not listed.
    """
    parents = {folder}
    for name in filter(is_plain_path, names):
        inside = [folder.joinpath(*PurePosixPath(name).parts[:end]) for end in range(1, len(PurePosixPath(name).parts))]
        if any(parent.is_symlink() for parent in inside):
            continue
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            inside.append(path)
        else:
            path.unlink(missing_ok=True)
        parents.update(inside)
    for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):  # something else is in it
            parent.rmdir()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) if folder.is_dir() else []


def remove_own(path: Path) -> None:
    """Remove something that Quill made under a name of its own, such as a temporary folder, if it exists.

    A link is removed, not followed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    """Return whether a path exists, also as a broken link."""
    return path.is_symlink() or path.exists()
