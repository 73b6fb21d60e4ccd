"""Where a run is: in the folder that holds its config.toml and its checkpoints, wherever it was moved or copied."""

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

CONFIG = "config.toml"
CHECKPOINTS = "checkpoints"
STATE = "training/state.json"
"""Where a checkpoint keeps what resuming needs besides weights and optimizer, the settings of its run among it."""


class _StateOfRun(Record):
    model_config = ConfigDict(extra="ignore")

    settings: dict[str, Any]


def run_of(source: Path) -> Path | None:
    """Return the run whose settings a file is: the folder in which it lies beside checkpoints; None for any other."""
    if source.name != CONFIG or next(_states(source.parent), None) is None:
        return None
    # Names are made of it, such as out-finetuned: it needs one of its own.
    return source.parent if source.parent.name not in ("", "..") else source.parent.resolve()


def settings_in_place(layer: Layer, run: Path) -> Layer:
    """Return the settings of a run with the folder where it is, instead of the one where it was once."""
    before = layer.values.get("out_dir")
    if isinstance(before, str) and Path(before).resolve() != run.resolve():
        say(f"the run is {run}, where its {CONFIG} lies, though that says out_dir = {before}")
    return replace(layer, values={**layer.values, "out_dir": str(run)})


def settings_of_checkpoint(run: Path) -> Layer | None:
    """Return the settings that the newest readable checkpoint of a run keeps; None where it has no checkpoint.

    Raises:
        ConfigError: No checkpoint's can be read.
    """
    refused: ConfigError | None = None
    for path in _states(run):
        try:
            found = read_record(path, _StateOfRun, ConfigError, mend="give the settings of the run as flags")
        except ConfigError as error:
            refused = refused or error
            continue
        known = {name: value for name, value in found.settings.items() if name in TrainFields.model_fields}
        say(f"{run} has no {CONFIG}; its settings are those in {path}")
        return Layer(known, f"in {path}")
    if refused is not None:
        raise refused
    return None


def how_to_go_on(run: str | Path) -> str:
    """Return the command that goes on with a run."""
    return f"quill train {shlex.quote(str(Path(run) / CONFIG))} --init_from=resume"


def places_of(path: str, run: Path) -> list[Path]:
    """Return where something may be that a run knows by a path: there, or likewise beside a folder around the run.

    A relative path was relative to the folder in which the run began, and runs are moved together with what is beside
    them, or resumed from another folder.
    """
    given = Path(path)
    relative = Path(given.name) if given.is_absolute() else given
    return list(dict.fromkeys([given, relative, *(folder / relative for folder in run.absolute().parents)]))


def _states(run: Path) -> Iterator[Path]:
    """Yield the training states of a run's checkpoints, the newest first."""
    folders = (run / CHECKPOINTS).glob("iter-*")
    for folder in sorted(folders, key=lambda folder: (len(folder.name), folder.name), reverse=True):
        if (folder / STATE).is_file():
            yield folder / STATE
