"""Reading a run's newest undamaged checkpoint, even while the run is training."""

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
"""How often a model is read again because its folder was replaced in the meantime."""

Content = TypeVar("Content")


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint exists and all its files are as they were written."""
    try:
        verify_manifest(folder, needed=NEEDED)
    except CheckpointError:
        return False
    return True


def read_whole_model(model: Path, read: Callable[[Path], Content], *, prefer: str = BEST) -> Content:
    """Find the model folder at a path, check it, and return what `read` reads from it.

    If a checkpoint of a run is damaged, a warning names the damage, and the newest undamaged one is read. A run may
    remove or replace a checkpoint while it is being read. Then everything is read again, so that the result comes from
    one checkpoint, the one that was checked.

    Args:
        model: A run, a checkpoint, or a Hugging Face folder, which has no hashes to check.
        read: Opens everything that is needed of a folder; tensors may be read later.
        prefer: The checkpoint of a run to read, `best` or `last`.

    Raises:
        CheckpointError: There is no model at this path, all are damaged, or they are replaced too fast to be read.
    """
    for _ in range(MOST_TRIES):
        try:
            return _read_once(model, read, prefer)
        except _ReplacedError:
            continue
    raise CheckpointError(f"{model} is replaced faster than it can be read; copy a checkpoint of it, and give the copy")


def _read_once(model: Path, read: Callable[[Path], Content], prefer: str) -> Content:
    folders = find_models(model, prefer=prefer)
    damage: list[str] = []
    for named in folders:
        with _unchanged(named) as folder:
            try:
                is_ours = named != model or any((folder / file).exists() for file in (MANIFEST, STATE))
                if is_ours:
                    verify_manifest(folder, needed=NEEDED)
            except NewerFormatError:
                raise
            except CheckpointError as error:
                damage.append(str(error))
                continue
            content = read(folder)
        for message in damage:
            warn(message)
        if damage:
            warn(f"going back to {folder}, the newest undamaged checkpoint of the run")
        return content
    others = f"; the {len(folders) - 1} other checkpoints of the run are damaged too" if len(folders) > 1 else ""
    raise CheckpointError(f"{damage[0]}{others}; start from another model with --init_from, or train again")


class _ReplacedError(Exception):
    """A folder was replaced after it was opened."""


@contextmanager
def _unchanged(named: Path) -> Iterator[Path]:
    """Yield the folder that a name points to now; after the block, raise _ReplacedError if it was replaced."""
    try:
        folder = named
        while folder.is_symlink():  # `best` and `last` may point to another checkpoint at any time
            folder = folder.parent / folder.readlink()
        before = _identity(folder)
    except OSError:
        raise _ReplacedError from None
    try:
        yield folder
    finally:
        try:
            unchanged = _identity(folder) == before
        except OSError:
            unchanged = False
        if not unchanged:
            raise _ReplacedError


def _identity(folder: Path) -> tuple[int, ...]:
    """Return what changes if the folder is replaced, or if a file in it is added or removed."""
    status = folder.stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns
