"""README.md of an export: the card of its model, with the numbers of the run's summary.json."""

from __future__ import annotations

from typing import Any, Final

from quillgpt.checkpoint import LoadedModel
from quillgpt.checkpoint.card import model_card
from quillgpt.checkpoint.state import STATE, TrainingState
from quillgpt.errors import CheckpointError
from quillgpt.records import read_record
from quillgpt.run_files import CHECKPOINTS
from quillgpt.runs.small_files import is_finite, read_summary

OF_RUN: Final = ("best_val_loss", "best_iter", "iterations", "tokens")
OF_BEST: Final = ("val_loss_full", "val_loss_part", "val_part", "copied_share", "expected_copied_share")
"""Numbers of a summary that hold for the best checkpoint."""


def card_of_export(loaded: LoadedModel, target: str) -> str:
    """Return the card of a model that is exported.

    Args:
        loaded: The model. If it is a checkpoint of a run that has ended, the numbers are those of its summary.json.
        target: A key of TARGETS.
    """
    state = _state(loaded)
    return model_card(
        loaded.config,
        about=loaded.about,
        parameters=loaded.model.parameter_count(),
        settings={} if state is None else state.settings,
        results={} if state is None else _results(loaded, state),
        target=target,
    )


def _state(loaded: LoadedModel) -> TrainingState | None:
    try:
        return read_record(loaded.folder / STATE, TrainingState, CheckpointError, mend="")
    except CheckpointError:  # no checkpoint of a run, or what only training needs is gone
        return None


def _results(loaded: LoadedModel, state: TrainingState) -> dict[str, int | float]:
    """Return what is known of a checkpoint: by its run's summary, or by its own state where there is none of it."""
    own: dict[str, Any] = {"best_val_loss": state.best_val_loss, "best_iter": state.best_iteration}
    own |= {"iterations": state.iteration, "tokens": state.tokens}
    folder = loaded.folder.resolve().parent
    summary = read_summary(folder.parent) if folder.name == CHECKPOINTS else {}
    if summary.get("best_iter") == state.iteration:
        own |= {name: summary.get(name) for name in (*OF_RUN, *OF_BEST)}
    return {name: value for name, value in own.items() if is_finite(value)}
