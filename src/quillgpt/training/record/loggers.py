"""Loggers besides metrics.jsonl: Weights & Biases, TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from quillgpt.config.schema import TrainSettings
from quillgpt.console import say
from quillgpt.errors import UserError
from quillgpt.extras import import_extra
from quillgpt.files import write_json
from quillgpt.ownership import claim
from quillgpt.records import Record, read_record

WANDB_STATE = "wandb.json"
TENSORBOARD = "tensorboard"

NAMES = {"train_loss": "train/loss", "val_loss": "val/loss", "loss": "train/batch_loss"}
"""nanoGPT's names of losses; its `lr` and `mfu` are ours too."""

EVENTS = "events.out.tfevents.*"
"""How TensorBoard names its files."""

WAYS_OUT = "train with WANDB_MODE=offline to upload later, or without it: --wandb_log=False"


def event_files(out_dir: Path) -> list[str]:
    """Return the paths of a run's TensorBoard files, from its folder."""
    return sorted(f"{TENSORBOARD}/{path.name}" for path in (out_dir / TENSORBOARD).glob(EVENTS))


class Logger(Protocol):
    """Takes the rows of metrics.jsonl as they are written."""

    def write(self, numbers: Mapping[str, float]) -> None:
        """Take one row, under the names of `named`."""

    def close(self, *, failed: bool) -> None:
        """Write all numbers out."""


def named(row: Mapping[str, float]) -> dict[str, float]:
    """Return a row's numbers under nanoGPT's names; mfu is in percent, as nanoGPT has it."""
    numbers = {NAMES.get(name, name): value for name, value in row.items()}
    return numbers | {"mfu": 100 * row["mfu"]} if "mfu" in row else numbers


def check_loggers(settings: TrainSettings) -> None:
    """Check that the packages and the account that the settings ask for are there; never ask for input.

    Raises:
        UserError: One is missing.
    """
    if settings.eval_only:
        return
    if settings.tensorboard:
        _import("tensorboard", flag="--tensorboard")
    if settings.wandb_log:
        wandb = _import("wandb", flag="--wandb_log")
        try:
            session = wandb.setup(wandb.Settings(silent=True))
            is_online = session.settings.mode in ("online", "run", "shared")
            has_account = not is_online or wandb.login(prompt=False, verify=False)
        except (wandb.Error, ValueError) as error:  # a malformed key; a WANDB_ variable that it does not take
            raise _unusable(error) from None
        if not has_account:
            raise UserError(f"--wandb_log needs an account, and none is set: wandb login; or {WAYS_OUT}")


def open_loggers(settings: TrainSettings, *, iteration: int | None) -> list[Logger]:
    """Open the loggers that the settings ask for, in out_dir.

    Args:
        settings: The run's.
        iteration: The iteration from which a run is resumed; None starts it over.

    Raises:
        UserError: Weights & Biases cannot be reached.
    """
    loggers: list[Logger] = []
    if settings.wandb_log:
        loggers.append(WandbLogger(settings, resumed=iteration is not None))
    if settings.tensorboard:
        loggers.append(TensorBoardLogger(Path(settings.out_dir) / TENSORBOARD, iteration=iteration))
    return loggers


class WandbRun(Record):
    """The content of the file that keeps a run of wandb."""

    id: str


def read_wandb_run(path: Path) -> str:
    """Return the id of the wandb run that a file keeps.

    Raises:
        UserError: The file is damaged.
    """
    return read_record(path, WandbRun, UserError, mend="remove it, and a new run of wandb begins").id


class WandbLogger:
    """Weights & Biases, in the mode that WANDB_MODE says.

    Args:
        settings: The run's; they become the config of the wandb run.
        resumed: Go on with the wandb run whose id is kept in out_dir.
    """

    def __init__(self, settings: TrainSettings, *, resumed: bool) -> None:
        wandb = _import("wandb", flag="--wandb_log")
        out_dir = Path(settings.out_dir)
        out_dir.mkdir(parents=True, exist_ok=True)
        state = out_dir / WANDB_STATE
        known = read_wandb_run(state) if resumed and state.is_file() else None
        try:
            self._run = wandb.init(
                project=settings.wandb_project,
                name=settings.wandb_run_name,
                id=known,
                resume="allow" if known else None,  # looking for a run that is not there takes a minute offline
                dir=str(out_dir),
                config=settings.model_dump(mode="json"),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise _unusable(error) from None
        write_json(state, {"id": self._run.id})
        place = f"kept in {self._run.settings.sync_dir}" if self._run.offline else self._run.url
        say(f"wandb: {settings.wandb_project}/{settings.wandb_run_name}, {place or 'disabled, nothing is kept'}")

    def write(self, numbers: Mapping[str, float]) -> None:
        """Take one row; rows of one iteration become one step."""
        self._run.log(dict(numbers), step=int(numbers["iter"]))

    def close(self, *, failed: bool) -> None:
        """Upload all numbers, and mark the run as finished or failed."""
        self._run.finish(exit_code=int(failed))


class TensorBoardLogger:
    """TensorBoard's event files.

    Args:
        folder: Where they are.
        iteration: The iteration from which a run is resumed, after which earlier numbers are dropped; None begins.
    """

    def __init__(self, folder: Path, *, iteration: int | None) -> None:
        _import("tensorboard", flag="--tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        purge_step = None if iteration is None else iteration + 1
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge_step)
        claim(folder.parent, [TENSORBOARD])
        say(f"tensorboard: tensorboard --logdir {folder}")

    def write(self, numbers: Mapping[str, float]) -> None:
        """Take one row; `iter` is the step."""
        for name, value in numbers.items():
            if name != "iter":
                self._writer.add_scalar(name, value, int(numbers["iter"]))
        self._writer.flush()

    def close(self, *, failed: bool) -> None:  # noqa: ARG002
        """Write all numbers out."""
        self._writer.close()


def _unusable(error: Exception) -> UserError:
    return UserError(f"--wandb_log: Weights & Biases cannot be used ({' '.join(str(error).split())}); {WAYS_OUT}")


def _import(package: str, *, flag: str) -> ModuleType:
    try:
        return import_extra(package, extra=package, purpose=flag)
    except UserError as error:
        raise UserError(f"{error}, or train without it: {flag}=False") from None
