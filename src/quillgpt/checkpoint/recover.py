"""Passing over a run's damaged checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from quillgpt.checkpoint.manifest import MANIFEST, NewerFormatError, verify_manifest
from quillgpt.checkpoint.names import BEST, find_models
from quillgpt.checkpoint.save import OPTIMIZER
from quillgpt.checkpoint.state import STATE
from quillgpt.checkpoint.weights import WEIGHTS
from quillgpt.console import warn
from quillgpt.errors import CheckpointError
from quillgpt.text.tokenizers.tokenizer_files import TOKENIZER_FILE

NEEDED = ("config.json", WEIGHTS, TOKENIZER_FILE, OPTIMIZER, STATE)
"""Files that every checkpoint has."""


MOST_TRIES = 20
"""How often a model is read anew because the folder was replaced meanwhile."""

Read = TypeVar("Read")


def is_whole(folder: Path) -> bool:
    """Say whether a checkpoint is there, with all its files as they were written."""
    try:
        verify_manifest(folder, needed=NEEDED)
    except CheckpointError:
        return False
    return True


def read_whole_model(model: Path, read: Callable[[Path], Read], *, prefer: str = BEST) -> Read:
    """Return what is read from the folder with the weights that a user's path means, after checking that it is whole.

    Where that is a damaged checkpoint of a run, it is named in a warning, and the newest whole one of the run is read.
    A run that trains meanwhile may remove or replace what is being read: then all is read again, so that what is
    returned is of one checkpoint, and of the one that was checked.

    Args:
        model: A run, a checkpoint, or a Hugging Face folder, which nothing can be checked of.
        read: Opens all that is needed of a folder; what it opened may be read later.
        prefer: Which of a run's checkpoints is meant, `best` or `last`.

    Raises:
        CheckpointError: There is no model at this path, no whole one, or none that stays for long enough.
    """
    for _ in range(MOST_TRIES):
        try:
            return _read_once(model, read, prefer)
        except _ReplacedError:
            continue
    raise CheckpointError(f"{model} is replaced faster than it can be read; copy a checkpoint of it, and give the copy")


def _read_once(model: Path, read: Callable[[Path], Read], prefer: str) -> Read:
    folders = find_models(model, prefer=prefer)
    damage: list[str] = []
    for named in folders:
        with _unchanged(named) as folder:
            try:
                if named != model or any((folder / file).exists() for file in (MANIFEST, STATE)):  # one of ours
                    verify_manifest(folder, needed=NEEDED)
            except NewerFormatError:
                raise
            except CheckpointError as error:
                damage.append(str(error))
                continue
            found = read(folder)
        for message in damage:
            warn(message)
        if damage:
            warn(f"going back to {folder}, the newest checkpoint of the run that is whole")
        return found
    others = f"; the {len(folders) - 1} other checkpoints of the run are damaged too" if len(folders) > 1 else ""
    raise CheckpointError(f"{damage[0]}{others}; start from another model with --init_from, or train again")


class _ReplacedError(Exception):
    """A folder is not the one any more that it was when it was opened."""


@contextmanager
def _unchanged(named: Path) -> Iterator[Path]:
    """Yield the folder that a name means now; raise _ReplacedError, whatever else happened, where it did not stay."""
    try:
        folder = named
        while folder.is_symlink():  # `best` and `last` may mean another checkpoint at any time
            folder = folder.parent / folder.readlink()
        before = _identity(folder)
    except OSError:
        raise _ReplacedError from None
    try:
        yield folder
    finally:
        try:
            stayed = _identity(folder) == before
        except OSError:
            stayed = False
        if not stayed:
            raise _ReplacedError


def _identity(folder: Path) -> tuple[int, ...]:
    """Return what is another for another folder of this name, and for one in which something came or went."""
    found = folder.stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns
