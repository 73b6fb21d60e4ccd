"""Finds runs: a run is the folder of its config.toml and checkpoints, wherever it was moved or copied."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from quillgpt.config.layers import Layer
from quillgpt.config.schema import TrainFields
from quillgpt.console import say
from quillgpt.errors import ConfigError
from quillgpt.records import Record, read_record
from quillgpt.run_files import CHECKPOINTS as CHECKPOINTS
from quillgpt.run_files import CONFIG as CONFIG

STATE = "training/state.json"
"""The file of a checkpoint with the settings and the training state of its run."""


class _StateOfRun(Record):
    model_config = ConfigDict(extra="ignore")

    settings: dict[str, Any]


def run_of(source: Path) -> Path | None:
    """Return the run of a config.toml, its folder, or None if there are no checkpoints beside it."""
    if source.name != CONFIG or next(_states(source.parent), None) is None:
        return None
    # Other names are made from it, such as out-finetuned, so the folder needs a name.
    return source.parent if source.parent.name not in ("", "..") else source.parent.resolve()


def settings_in_place(layer: Layer, run: Path) -> Layer:
    """Return the settings of a run with its present folder as out_dir."""
    before = layer.values.get("out_dir")
    if isinstance(before, str) and Path(before).resolve() != run.resolve():
        say(f"the run is {run}, the folder of its {CONFIG}, although that says out_dir = {before}")
    return replace(layer, values={**layer.values, "out_dir": str(run)})


def settings_of_checkpoint(run: Path) -> Layer | None:
    """Return the settings in the newest readable checkpoint of a run, or None if it has no checkpoint.

    Raises:
        ConfigError: No checkpoint's settings can be read.
    """
    refused: ConfigError | None = None
    for path in _states(run):
        try:
            state = read_record(path, _StateOfRun, ConfigError, mend="give the settings of the run as flags")
        except ConfigError as error:
            refused = refused or error
            continue
        known = {name: value for name, value in state.settings.items() if name in TrainFields.model_fields}
        say(f"{run} has no {CONFIG}; its settings are those in {path}")
        return Layer(known, f"in {path}")
    if refused is not None:
        raise refused
    return None


def how_to_go_on(run: str | Path) -> str:
    """Return the command that resumes a run."""
    return f"quill train {shlex.quote(str(Path(run) / CONFIG))} --init_from=resume"


def places_of(path: str, run: Path) -> list[Path]:
    """Return the paths that a path in a run's settings may mean now: itself, or relative to any folder around the run.

    A relative path is relative to the folder in which the run began. The run may be resumed from another folder, or may
    have been moved together with the folders beside it.
    """
    given = Path(path)
    relative = Path(given.name) if given.is_absolute() else given
    return list(dict.fromkeys([given, relative, *(folder / relative for folder in run.absolute().parents)]))


def _states(run: Path) -> Iterator[Path]:
    """Yield the state files of a run's checkpoints, the newest first."""
    folders = (run / CHECKPOINTS).glob("iter-*")
    for folder in sorted(folders, key=lambda folder: (len(folder.name), folder.name), reverse=True):
        if (folder / STATE).is_file():
            yield folder / STATE
