"""Passing over a run's damaged checkpoints."""

from __future__ import annotations

from pathlib import Path

from quillgpt.checkpoint.manifest import MANIFEST, NewerFormatError, verify_manifest
from quillgpt.checkpoint.names import BEST, find_models
from quillgpt.checkpoint.save import OPTIMIZER
from quillgpt.checkpoint.state import STATE
from quillgpt.checkpoint.weights import WEIGHTS
from quillgpt.console import warn
from quillgpt.errors import CheckpointError
from quillgpt.text.tokenizer_files import TOKENIZER_FILE

NEEDED = ("config.json", WEIGHTS, TOKENIZER_FILE, OPTIMIZER, STATE)
"""Files that every checkpoint has."""


def is_whole(folder: Path) -> bool:
    """Say whether a checkpoint is there, with all its files as they were written."""
    try:
        verify_manifest(folder, needed=NEEDED)
    except CheckpointError:
        return False
    return True


def find_whole_model(model: Path, *, prefer: str = BEST) -> Path:
    """Return the folder with the weights that a user's path means, after checking that it is whole.

    Where that is a damaged checkpoint of a run, it is named in a warning, and the newest whole one of the run is
    returned.

    Args:
        model: A run, a checkpoint, or a Hugging Face folder, which nothing can be checked of.
        prefer: Which of a run's checkpoints is meant, `best` or `last`.

    Raises:
        CheckpointError: There is no model at this path, or no whole one.
    """
    folders = find_models(model, prefer=prefer)
    damage = []
    for folder in folders:
        try:
            if folder != model or any((folder / file).exists() for file in (MANIFEST, STATE)):  # a checkpoint of ours
                verify_manifest(folder, needed=NEEDED)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            damage.append(str(error))
            continue
        for message in damage:
            warn(message)
        if damage:
            warn(f"going back to {folder}, the newest checkpoint of the run that is whole")
        return folder
    others = f"; the {len(folders) - 1} other checkpoints of the run are damaged too" if len(folders) > 1 else ""
    raise CheckpointError(f"{damage[0]}{others}; start from another model with --init_from, or train again")
