"""Writes the folder of a data set: by one process at a time, whole or not at all, replacing only Quill's own files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from quillgpt.console import say, warn
from quillgpt.data.dataset_manifest import MANIFEST_FILE, TRAIN_FILE, VAL_FILE
from quillgpt.data.shards import SHARDS_FILE, read_shards_record
from quillgpt.errors import DataError, join_names
from quillgpt.files import flush_to_disk, make_folder, quill_home, sha256_of
from quillgpt.locks import locked
from quillgpt.ownership import remove_listed, remove_own
from quillgpt.text.tokenizers.tokenizer_files import CONFIG_FILE, TOKENIZER_FILE

STAGING = ".unfinished"
"""Folder in which a data set's files are made before they move to their places; complete once it has a dataset.json."""

MADE_FILES = (TRAIN_FILE, VAL_FILE, TOKENIZER_FILE, CONFIG_FILE, MANIFEST_FILE)
"""The files that preparing writes, dataset.json last."""

LONGEST_LOCK_NAME = 100


@contextmanager
def one_preparation(folder: Path) -> Iterator[None]:
    """Hold a data set's lock while the block runs, after waiting for another process that prepares it."""
    make_folder(folder.parent, "--data_dir")
    lock = folder.with_name(f".{os.fsdecode(os.fsencode(folder.name)[:LONGEST_LOCK_NAME])}.lock")
    with locked(
        lock,
        on_wait=lambda: say(f"Waiting for another process that prepares {folder}"),
        on_failure=lambda error: warn(
            f"{folder} cannot be locked here ({error}); make sure that nothing else prepares it"
        ),
    ):
        yield


@contextmanager
def staged(folder: Path, work: str) -> Iterator[Path]:
    """Yield a folder whose files replace a data set's when the block ends.

    The block makes all of `MADE_FILES`, dataset.json last. Until it ends, the earlier data set is unchanged. If it
    raises, files that shards.json describes are kept for a later preparation of the same work, and others are removed.

    Args:
        folder: The data set's folder.
        work: The hash of everything that decides the tokens.
    """
    staging = folder / STAGING
    made = not folder.exists()
    try:
        kept = read_shards_record(staging)
        if kept is None or kept.work != work:
            _clear(staging)
        staging.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written to ({error.strerror}); give another place with --data_dir"
        ) from error
    try:
        yield staging
    except BaseException:
        if read_shards_record(staging) is None:
            with suppress(OSError, DataError):
                _clear(staging)
            if made:
                remove_listed(folder, [])
        raise
    assert is_half_replaced(folder)
    finish_replacement(folder)


def _clear(staging: Path) -> None:
    """Remove the files of an unfinished preparation, and nothing else.

    Raises:
        DataError: Something else is there.
    """
    if not os.path.lexists(staging):
        return
    if staging.is_symlink() or not staging.is_dir():
        raise DataError(f"{staging} is no folder, and Quill needs one of this name; move it away")
    names = [*MADE_FILES, SHARDS_FILE]
    temporary = [path.name for name in names for path in staging.glob(f".{name}.*.part")]
    if others := remove_listed(staging, [*names, *temporary]):
        raise DataError(f"{staging} holds {join_names(others)}, which Quill did not write; move it away")


def is_half_replaced(folder: Path) -> bool:
    """Return whether a process was killed while it replaced a data set by a complete new one."""
    return (folder / STAGING / MANIFEST_FILE).is_file()


def finish_replacement(folder: Path) -> None:
    """Move the files of a complete new data set to their places, or those that a killed process had not moved.

    The old dataset.json is removed first and the new one comes last: without it, a folder is no data set.
    """
    staging = folder / STAGING
    for name in MADE_FILES:
        if (staging / name).is_file():
            flush_to_disk(staging / name)
    flush_to_disk(staging)
    remove_own(staging / SHARDS_FILE)
    remove_own(folder / MANIFEST_FILE)
    for name in MADE_FILES:
        if (staging / name).is_file():
            (staging / name).replace(folder / name)
            flush_to_disk(folder)
    with suppress(DataError):  # what is not Quill's stays, and the next preparation names it
        _clear(staging)


def keep_aside(folder: Path, names: Iterable[str]) -> None:
    """Rename files that are not Quill's own, to make room for new ones."""
    for name in names:
        kept = next(path for path in _other_names(folder / name) if not os.path.lexists(path))
        (folder / name).rename(kept)
        say(f"{folder / name} is kept as {kept.name}")


def _other_names(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.kept")
    yield from (path.with_name(f"{path.name}.kept{number}") for number in count(2))


def made_files(folder: Path) -> list[str]:
    """Return the names in `MADE_FILES` that exist in a folder."""
    return [name for name in MADE_FILES if os.path.lexists(folder / name)]


def remember_as_made_here(folder: Path) -> None:
    """Remember that a data set was made with this cache folder, so that the paths in its dataset.json are trusted."""
    with suppress(OSError):  # then its text is not compared again by itself
        note = _note(folder)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def was_made_here(folder: Path) -> bool:
    """Return whether a data set was made with this cache folder; any other may name any file."""
    try:
        return _note(folder).is_file()
    except OSError:
        return False


def _note(folder: Path) -> Path:
    return quill_home() / "prepared" / sha256_of(folder / MANIFEST_FILE)[:32]
