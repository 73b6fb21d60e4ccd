"""What in a folder is Quill's own: nothing else there is ever removed or written over.

A folder that Quill writes results into has a record, `.quill.json`, of the names that are Quill's; of files that are
written once, their hashes too. This is the only file of the package that removes anything that was there before.
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
        files: The SHA-256 of each file by its path from the folder; None for what changes as a run goes on, and for
            folders, of which only what lies inside by a rule of its own is Quill's.
    """

    format_version: Literal[1] = 1
    files: dict[str, str | None]


def recorded(folder: Path) -> dict[str, str | None]:
    """Return what a folder's record lists; nothing where there is none, or one that is damaged."""
    record = _read(folder)
    return {} if record is None else {name: each for name, each in record.files.items() if is_plain_path(name)}


def _read(folder: Path) -> FolderRecord | None:
    try:
        return read_record(folder / RECORD, FolderRecord, UserError, mend="")
    except UserError:
        return None


def claim(folder: Path, names: Iterable[str]) -> None:
    """Write down that names in a folder are Quill's from now on, whatever becomes of their content."""
    _add(folder, dict.fromkeys(names))


def claim_as_written(folder: Path, names: Iterable[str]) -> None:
    """Write down that files of a folder are Quill's as long as they are what they are now."""
    _add(folder, {name: sha256_of(folder / name) for name in names})


def _add(folder: Path, files: dict[str, str | None]) -> None:
    before = recorded(folder)
    if before | files != before:
        write_json(folder / RECORD, FolderRecord(files=before | files).model_dump())


def foreign(folder: Path, names: Iterable[str], *, known: dict[str, str | None] | None = None) -> list[str]:
    """Return which of these names are there and not Quill's, in order; a damaged record counts as foreign too.

    Args:
        folder: The folder.
        names: Paths from it.
        known: What is Quill's; None: what the folder's record lists.
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
    """Check that nothing but Quill's own would be written over.

    Args:
        folder: Where something is to be written.
        names: The paths from it that would be written.
        remedy: What to do instead, such as `give another --out`.

    Raises:
        ConfigError: Something is there that Quill did not write, or that was changed since.
    """
    if others := foreign(folder, names):
        raise ConfigError(f"{folder} holds {join_names(others)}, not written by Quill or changed since; {remedy}")


def files_below(folder: Path, below: str = ".") -> list[str]:
    """Return all files and links below a folder, or below one in it, as paths from the folder."""
    there = (path for path in sorted((folder / below).rglob("*")) if path.is_symlink() or not path.is_dir())
    return [path.relative_to(folder).as_posix() for path in there]


def remove_listed(folder: Path, names: Iterable[str]) -> list[str]:
    """Remove files of a folder, folders that this leaves empty, and the folder itself where nothing else is in it.

    Links are removed, and not followed.

    Args:
        folder: The folder.
        names: Paths of files from it that a record of ours lists; a folder among them goes only when it is empty.

    Returns:
        What stays, because it is not listed.
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
    """Remove what this program has made for itself under a name of its own, such as a temporary folder or a lock.

    A link is removed, and not followed; what is not there is no error.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    """Say whether a name is taken, be it by a link that leads nowhere."""
    return path.is_symlink() or path.exists()
