"""Where a run keeps its checkpoints, and how `best` and `last` find them.

`checkpoints/iter-000250` is a checkpoint; `best` and `last` are links to such folders. Where the system has no links
(Windows without the right to make them) they are folders of hard-linked files, or of copies where there are not even
those.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from quillgpt.checkpoint.manifest import MANIFEST
from quillgpt.errors import CheckpointError

BEST, LAST = "best", "last"
UNFINISHED = ".writing-"
"""How the names of checkpoints begin while they are written."""


def checkpoints_folder(out_dir: Path) -> Path:
    """Return the folder that holds a run's checkpoints."""
    return out_dir / "checkpoints"


def iteration_name(iteration: int) -> str:
    """Return the name of the checkpoint after so many iterations."""
    return f"iter-{iteration:06d}"


def has_checkpoint(out_dir: Path) -> bool:
    """Say whether a run folder holds a whole checkpoint."""
    return any(checkpoints_folder(out_dir).glob(f"[!.]*/{MANIFEST}"))


def point(out_dir: Path, name: str, target: str) -> None:
    """Make `best` or `last` mean the checkpoint `target`."""
    folder = checkpoints_folder(out_dir)
    fresh = folder / f".{name}.new"
    remove(fresh)
    try:
        fresh.symlink_to(target, target_is_directory=True)
    except OSError:
        shutil.copytree(folder / target, fresh, copy_function=_link_or_copy)
    take_name(fresh, folder / name)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def take_name(fresh: Path, name: Path) -> None:
    """Rename a folder or a link; what had the name so far is removed, or keeps it if the renaming fails.

    A link replaces a link in one step. A folder is moved aside first, so that for a moment there is none.
    """
    try:
        fresh.replace(name)
    except OSError:  # a folder has the name
        aside = name.with_name(f".{name.name}.old")
        remove(aside)
        name.rename(aside)
        try:
            fresh.rename(name)
        except OSError:
            aside.rename(name)
            raise
        remove(aside)


def prune(out_dir: Path, keep: int) -> None:
    """Remove all checkpoints but `best`, `last` and the newest `keep`, and what a killed process left unfinished."""
    folder = checkpoints_folder(out_dir)
    named = {(folder / name).resolve().name for name in (BEST, LAST)}
    numbered = [path for path in folder.glob("iter-*") if path.is_dir()]
    numbered.sort(key=lambda path: (len(path.name), path.name))  # the number grows a digit at 1,000,000
    old = [path for path in numbered[: max(0, len(numbered) - keep)] if path.name not in named]
    for path in (*old, *folder.glob(f"{UNFINISHED}*"), *folder.glob(".*.old")):
        remove(path)


def remove(path: Path) -> None:
    """Remove a link or a folder, if it is there."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def find_model(model: Path) -> Path:
    """Return the folder with the weights that a user's path means: a run's best, a checkpoint, a Hugging Face folder.

    Raises:
        CheckpointError: There is no model at this path.
    """
    if (model / "config.json").is_file():
        return model
    folder = checkpoints_folder(model)
    for name in (BEST, LAST):
        if (folder / name).is_dir():
            return folder / name
    if folder.is_dir():
        raise CheckpointError(f"{model} is a run without a checkpoint yet; train on, or wait for its first evaluation")
    if model.is_file():
        raise CheckpointError(f"{model} is a file; give the folder of a run, a checkpoint or a Hugging Face model")
    if model.is_dir():
        raise CheckpointError(
            f"{model} holds no model: expected a run folder (checkpoints/), a checkpoint or a Hugging Face folder "
            "(config.json and model.safetensors)"
        )
    raise CheckpointError(
        f"{model} does not exist; expected the folder of a run, a checkpoint or a Hugging Face model. Train one with "
        "quill train shakespeare_char_cpu, or fetch one: hf download openai-community/gpt2 --local-dir gpt2"
    )
