"""Where a run keeps its checkpoints, and how `best` and `last` find them.

`checkpoints/iter-000250` is a checkpoint; `best` and `last` are links to such folders. Where the system has no links
(Windows without the right to make them) they are folders of hard-linked files, or of copies where there are not even
those.
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
"""What checkpoints are called, and nothing else: a folder of another name is a person's own."""

BEST, LAST = "best", "last"
REPLACED = ".replaced"
"""Where the files of an earlier run are until the one that takes its place has saved something."""

UNFINISHED = ".writing-"
"""How the names of checkpoints begin while they are written."""

LEFT_OVER = re.compile(rf"{re.escape(UNFINISHED)}\w+|\.(iter-\d{{6,}}|{BEST}|{LAST})\.(old|new)")
"""Names of what a killed process leaves unfinished."""

LAST_AND_BEFORE = 2
"""The newest checkpoints that are always kept."""


def checkpoints_folder(out_dir: Path) -> Path:
    """Return the folder that holds a run's checkpoints."""
    return out_dir / CHECKPOINTS


def iteration_name(iteration: int) -> str:
    """Return the name of the checkpoint after so many iterations."""
    return f"iter-{iteration:06d}"


def iteration_of(name: str) -> int | None:
    """Return the iteration of a checkpoint's name; None for a name that Quill gives no checkpoint."""
    found = NUMBERED.fullmatch(name)
    return int(found[1]) if found else None


def has_checkpoint(out_dir: Path) -> bool:
    """Say whether a run folder holds a whole checkpoint."""
    named = (checkpoints_folder(out_dir) / name for name in (BEST, LAST))
    return any((path / MANIFEST).is_file() for path in (*numbered(out_dir), *named))


def point(out_dir: Path, name: str, target: str) -> None:
    """Make `best` or `last` mean the checkpoint `target`."""
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
    """Rename a folder or a link; what had the name so far is removed, or keeps it if the renaming fails.

    A link replaces a link in one step. A folder is moved aside first, so that for a moment there is none.
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
    """Return a run's checkpoints, the oldest first; damaged ones are among them."""
    return checkpoints_in(checkpoints_folder(out_dir))


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder of them, the oldest first; damaged ones are among them."""
    found = ((iteration_of(path.name), path) for path in folder.glob("iter-*") if path.is_dir())
    return [path for _, path in sorted((iteration, path) for iteration, path in found if iteration is not None)]


def prune(out_dir: Path, keep: int, *, spared: Collection[str] = ()) -> None:
    """Remove old checkpoints, and what a killed process left unfinished.

    Kept are `best`, `last`, the one before it, which is used should `last` be damaged, and the newest `keep`.

    Args:
        out_dir: The run's folder.
        keep: How many of the newest stay in any case.
        spared: Names of further ones that stay.
    """
    folder = checkpoints_folder(out_dir)
    flush_to_disk(folder)  # the links first: a power cut must not leave them pointing at what is removed here
    named = {(folder / name).resolve().name for name in (BEST, LAST)} | set(spared)
    old = [path for path in numbered(out_dir)[: -max(keep, LAST_AND_BEFORE)] if path.name not in named]
    for path in (*old, *_unfinished(folder)):
        remove_checkpoint(path)


def drop_checkpoints_after(out_dir: Path, folder: Path, *, iteration: int, best_iteration: int | None) -> None:
    """Make a run's checkpoints what they were after an iteration: it is `last`, what came later goes.

    Args:
        out_dir: The run's folder.
        folder: The checkpoint of that iteration: `last`, or the one that stands in for it.
        iteration: Its iteration.
        best_iteration: The best one so far, by then.
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
    """Remove a checkpoint, or a link to one, if it is there; files in it that are not the checkpoint's stay.

    What the system does not let go is told; it costs room, and is tried again after the next save.
    """
    try:
        if path.is_symlink() or path.name.startswith(UNFINISHED):
            remove_own(path)
        elif kept := remove_listed(path, files_listed(path)):
            warn(f"{path} is no checkpoint any more, but keeps {join_names(kept)}, not written by Quill")
    except OSError as error:
        warn(f"{path} cannot be removed ({error.strerror or error}); it is not needed any more")


def unlisted(checkpoint: Path) -> list[str]:
    """Return the files in a checkpoint that are not its own, as paths from it."""
    return sorted(set(files_below(checkpoint)) - set(files_listed(checkpoint)))


OTHER_MODELS = ("*.pt", "*.pth", "*.ckpt", "*.bin", "*.safetensors", "*.gguf", "*.h5")
"""What a model may be called that is not where it is expected."""


def find_models(model: Path, *, prefer: str = BEST) -> list[Path]:
    """Return the folder with the weights that a user's path means: a run's best, a checkpoint, a Hugging Face folder.

    Where it means a run, the checkpoints that may stand in for a damaged one follow, the newest first.

    Args:
        model: What the user gave.
        prefer: Which of a run's checkpoints is meant, `best` or `last`.

    Raises:
        CheckpointError: There is no model at this path.
    """
    if (model / "config.json").is_file():
        return [model]
    folder = checkpoints_folder(model)
    for place in (folder, folder / REPLACED):  # an earlier run's, as long as the one in its place has saved nothing
        found: dict[Path, Path] = {}
        for name in (prefer, LAST, *(path.name for path in reversed(checkpoints_in(place))), BEST):
            if (place / name).is_dir():
                found.setdefault((place / name).resolve(), place / name)
        if found:
            return list(found.values())
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
