"""The folder of a run's checkpoints, and the names `best` and `last`.

`checkpoints/iter-000250` is a checkpoint; `best` and `last` are links to such folders. If the system has no links
(Windows without the right to make them), they are folders of hard links, or of copies if there are no hard links.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from quillgpt.checkpoint.manifest import MANIFEST, files_listed
from quillgpt.config.runs import CHECKPOINTS
from quillgpt.console import warn
from quillgpt.errors import CheckpointError, join_names
from quillgpt.files import flush_to_disk
from quillgpt.ownership import files_below, remove_listed, remove_own

NUMBERED = re.compile(r"iter-(\d{6}|[1-9]\d{6,17})", re.ASCII)
"""The names of checkpoints; a folder with another name belongs to the user."""

BEST, LAST = "best", "last"
REPLACED = ".replaced"
"""The folder for the checkpoints of an earlier run until the run that replaces it has saved one."""

UNFINISHED = ".writing-"
"""The beginning of the names of checkpoints that are being written."""

LEFT_OVER = re.compile(rf"{re.escape(UNFINISHED)}\w+|\.(iter-\d{{6,}}|{BEST}|{LAST})\.(old|new)")
"""The names of folders and links that a killed process leaves behind."""

LAST_AND_BEFORE = 2
"""The number of newest checkpoints that are always kept."""


def checkpoints_folder(out_dir: Path) -> Path:
    """Return the folder that holds a run's checkpoints."""
    return out_dir / CHECKPOINTS


def iteration_name(iteration: int) -> str:
    """Return the name of the checkpoint of an iteration."""
    return f"iter-{iteration:06d}"


def iteration_of(name: str) -> int | None:
    """Return the iteration in a checkpoint's name; None if the name is not that of a checkpoint."""
    match = NUMBERED.fullmatch(name)
    return int(match[1]) if match else None


def has_checkpoint(out_dir: Path) -> bool:
    """Whether a run folder holds a complete checkpoint."""
    named = (checkpoints_folder(out_dir) / name for name in (BEST, LAST))
    return any((path / MANIFEST).is_file() for path in (*numbered(out_dir), *named))


def point(out_dir: Path, name: str, target: str) -> None:
    """Point `best` or `last` to the checkpoint `target`."""
    folder = checkpoints_folder(out_dir)
    fresh = folder / f".{name}.new"
    remove_own(fresh)
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
    """Rename a folder or a link, replacing the one that has the name, which is restored if the renaming fails.

    A link replaces a link atomically. A folder is moved aside first, so for a moment the name does not exist.
    """
    try:
        fresh.replace(name)
    except OSError:  # a folder has the name
        aside = name.with_name(f".{name.name}.old")
        remove_checkpoint(aside)
        name.rename(aside)
        try:
            fresh.rename(name)
        except OSError:
            aside.rename(name)
            raise
        remove_checkpoint(aside)


def numbered(out_dir: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first, including damaged ones."""
    return checkpoints_in(checkpoints_folder(out_dir))


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first, including damaged ones."""
    folders = ((iteration_of(path.name), path) for path in folder.glob("iter-*") if path.is_dir())
    return [path for _, path in sorted((iteration, path) for iteration, path in folders if iteration is not None)]


def prune(out_dir: Path, keep: int, *, spared: Collection[str] = ()) -> None:
    """Remove old checkpoints, and what a killed process left behind.

    `best`, `last` and the newest `keep` stay, and so does the one before `last`, in case `last` is damaged.

    Args:
        out_dir: The run's folder.
        keep: The number of newest checkpoints to keep.
        spared: Names of further checkpoints to keep.
    """
    folder = checkpoints_folder(out_dir)
    flush_to_disk(folder)  # flush the links first: after a power cut they must not point at removed folders
    named = {(folder / name).resolve().name for name in (BEST, LAST)} | set(spared)
    old = [path for path in numbered(out_dir)[: -max(keep, LAST_AND_BEFORE)] if path.name not in named]
    for path in (*old, *_unfinished(folder)):
        remove_checkpoint(path)


def drop_checkpoints_after(out_dir: Path, folder: Path, *, iteration: int, best_iteration: int | None) -> None:
    """Remove a run's checkpoints after an iteration, and point `last` and `best` to those of that time.

    Args:
        out_dir: The run's folder.
        folder: The checkpoint of that iteration: `last`, or an earlier one if `last` is damaged.
        iteration: The iteration.
        best_iteration: The iteration of the best checkpoint until then.
    """
    parent = checkpoints_folder(out_dir)
    if folder.name != LAST:
        point(out_dir, LAST, folder.name)
    best = iteration_name(iteration if best_iteration is None else best_iteration)
    if (parent / BEST).resolve().name != best and (parent / best).is_dir():
        point(out_dir, BEST, best)
    later = [path for path in numbered(out_dir) if (iteration_of(path.name) or 0) > iteration]
    for path in (*later, *_unfinished(parent)):
        remove_checkpoint(path)


def _unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.glob(".*") if LEFT_OVER.fullmatch(path.name)]


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint or a link to one, if it exists; files that do not belong to the checkpoint stay.

    If the system refuses, it is a warning: the folder only takes space, and is tried again after the next save.
    """
    try:
        if path.is_symlink() or path.name.startswith(UNFINISHED):
            remove_own(path)
        elif kept := remove_listed(path, files_listed(path)):
            warn(f"{path} is not a checkpoint any more, but keeps {join_names(kept)}, not written by Quill")
    except OSError as error:
        warn(f"{path} cannot be removed ({error.strerror or error}); it is no longer needed")


def unlisted(checkpoint: Path) -> list[str]:
    """Return the files in a checkpoint's folder that do not belong to it, as relative paths."""
    return sorted(set(files_below(checkpoint)) - set(files_listed(checkpoint)))


OTHER_MODELS = ("*.pt", "*.pth", "*.ckpt", "*.bin", "*.safetensors", "*.gguf", "*.h5")
"""Names of files that may be models of other programs."""


def find_models(model: Path, *, prefer: str = BEST) -> list[Path]:
    """Return the model folder at a path: a run's best checkpoint, a checkpoint, or a Hugging Face folder.

    For a run, its other checkpoints follow, newest first, in case the first one is damaged.

    Args:
        model: The path that the user gave.
        prefer: The checkpoint of a run to load, `best` or `last`.

    Raises:
        CheckpointError: There is no model at this path.
    """
    if (model / "config.json").is_file():
        return [model]
    folder = checkpoints_folder(model)
    for place in (folder, folder / REPLACED):  # those of an earlier run, until the new run has saved one
        candidates: dict[Path, Path] = {}
        for name in (prefer, LAST, *(path.name for path in reversed(checkpoints_in(place))), BEST):
            if (place / name).is_dir():
                candidates.setdefault((place / name).resolve(), place / name)
        if candidates:
            return list(candidates.values())
    if folder.is_dir():
        raise CheckpointError(f"{model} is a run without a checkpoint yet; train on, or wait for its first evaluation")
    if model.is_file():
        raise CheckpointError(
            f"{model} is a file; give the folder of a run, a checkpoint or a Hugging Face model, "
            "or a ckpt.pt of nanoGPT"
        )
    if model.is_dir():
        if others := sorted(path.name for pattern in OTHER_MODELS for path in model.glob(pattern)):
            raise CheckpointError(
                f"{model} has no config.json and no ckpt.pt, but {others[0]}; give that file if it is nanoGPT's or of "
                "a program like it, else the folder of a Hugging Face model"
            )
        raise CheckpointError(
            f"{model} holds no model: expected a run folder (checkpoints/), a checkpoint or a Hugging Face folder "
            "(config.json and model.safetensors)"
        )
    raise CheckpointError(
        f"{model} does not exist; expected the folder of a run, a checkpoint or a Hugging Face model, or a name of the "
        "hub such as gpt2. Train one with quill train shakespeare_char_cpu"
    )
