"""The folder of a run: whether it may be used, and how a run replaces an earlier one.

A run that starts over sets the files of the earlier run aside. They are removed when the new run has saved its first
checkpoint; until then config.toml stays the earlier run's too. A run that ends before that, in whatever way, leaves the
earlier run as it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quillgpt.checkpoint.manifest import is_of_quill
from quillgpt.checkpoint.names import BEST, LAST, REPLACED, checkpoints_folder, numbered, remove_checkpoint, unlisted
from quillgpt.config import to_toml
from quillgpt.config.runs import how_to_go_on
from quillgpt.config.schema import TrainSettings
from quillgpt.console import say, warn
from quillgpt.errors import CheckpointError, ConfigError, join_names
from quillgpt.files import nearest_existing, write_text
from quillgpt.ownership import claim, foreign, recorded, remove_listed
from quillgpt.run_files import CHECKPOINTS, CONFIG, HOLDER, LOCK, METRICS, PROVENANCE, REPORT, SUMMARY
from quillgpt.training.record.loggers import TENSORBOARD, WANDB_STATE, event_files


def claim_folder(settings: TrainSettings, *, anew: bool) -> None:
    """Record that the files of a run in out_dir are Quill's, and set the files of an earlier run aside.

    Args:
        settings: The run's.
        anew: Whether it starts over.
    """
    if anew:
        set_aside(Path(settings.out_dir))
    claim(Path(settings.out_dir), [CHECKPOINTS, *_written(settings)])


def _written(settings: TrainSettings) -> list[str]:
    report = [REPORT] if settings.report else []
    return [CONFIG, METRICS, SUMMARY, PROVENANCE, *report, *([WANDB_STATE] if settings.wandb_log else [])]


def check_out_dir(settings: TrainSettings) -> None:
    """Check that out_dir is, or can become, a folder that may be written to, and holds nobody else's files.

    Raises:
        ConfigError: It cannot, or it holds files that are not Quill's and would be written over.
    """
    if not settings.out_dir.strip():
        raise ConfigError("out_dir is empty, as from a shell variable that is not set; give --out_dir=FOLDER")
    out_dir = Path(settings.out_dir)
    if out_dir.is_symlink() and not out_dir.exists():
        raise ConfigError(f"out_dir = {out_dir} is a link to {out_dir.readlink()}, which is not there; make that first")
    there = nearest_existing(out_dir)
    if not there.is_dir():
        raise ConfigError(f"out_dir = {out_dir}, but {there} is a file; choose another --out_dir")
    if settings.eval_only:
        return
    if not os.access(there, os.W_OK):
        raise ConfigError(f"out_dir = {out_dir}, but nothing may be written to {there}; choose another --out_dir")
    if others := taken(settings):
        raise ConfigError(
            f"{out_dir} holds {join_names(others)}, which this run would remove or write over and Quill did not write; "
            "move what you need, or choose another --out_dir"
        )


def check_earlier_run(settings: TrainSettings) -> None:
    """Check that a run that is in out_dir already is to be resumed or replaced.

    Raises:
        ConfigError: The settings contradict each other.
        CheckpointError: It is neither.
    """
    out_dir = Path(settings.out_dir)
    resuming = settings.init_from == "resume"
    if resuming and settings.overwrite:
        raise ConfigError("--init_from=resume goes on with a run, --overwrite starts it over; give one of them")
    if numbered(out_dir) and not (resuming or settings.overwrite or settings.eval_only):
        raise CheckpointError(
            f"{out_dir} already holds a checkpoint; go on training it with {how_to_go_on(out_dir)}, start over "
            "with --overwrite, or choose another --out_dir"
        )
    if settings.overwrite and settings.init_from != "scratch" and numbered(out_dir):
        source = Path(settings.init_from).resolve()
        if source.exists() and (source.is_relative_to(out_dir.resolve()) or out_dir.resolve().is_relative_to(source)):
            raise ConfigError(
                f"--overwrite would remove {settings.init_from}, which the run starts from; choose another --out_dir"
            )


def taken(settings: TrainSettings) -> list[str]:
    """Return what a run would remove or overwrite in out_dir although it is not Quill's, as paths relative to it."""
    out_dir, resuming = Path(settings.out_dir), settings.init_from == "resume"
    known = recorded(out_dir)
    if not known and any(map(is_of_quill, numbered(out_dir))):  # a run from before there were records
        known = dict.fromkeys([CHECKPOINTS, TENSORBOARD, *_written(settings)])
    others = foreign(out_dir, _written(settings), known=known)
    others += [name for name in (LOCK, HOLDER) if not _may_lock_with(out_dir / name)]
    folders = (CHECKPOINTS, *([TENSORBOARD] if settings.tensorboard else []))
    for name in folders:
        if name not in known and (out_dir / name).is_symlink() | (out_dir / name).exists():
            others += [name] if not (out_dir / name).is_dir() or any((out_dir / name).iterdir()) else []
    if CHECKPOINTS in known and not resuming:
        others += [f"{CHECKPOINTS}/{folder.name}/{name}" for folder in numbered(out_dir) for name in unlisted(folder)]
    return others


def _may_lock_with(path: Path) -> bool:
    """Whether a lock, or the note beside it, is absent or one of ours."""
    if not os.path.lexists(path):
        return True
    try:  # a pipe could be waited for without end
        return (
            not path.is_symlink() and path.is_file() and re.fullmatch(rb"(\d+ \S+\n)?", path.read_bytes()) is not None
        )
    except OSError:
        return False


def replaced_by(settings: TrainSettings) -> list[str]:
    """Return what a run that starts over would remove in out_dir, as paths relative to it."""
    out_dir = Path(settings.out_dir)
    if settings.init_from == "resume" or settings.eval_only or not out_dir.is_dir():
        return []
    checkpoints = [f"{CHECKPOINTS}/{path.name}" for path in numbered(out_dir)]
    return [name for name in (CONFIG, *_run_files(out_dir)) if (out_dir / name).exists()] + checkpoints


def _run_files(out_dir: Path) -> list[str]:
    has_report = out_dir.name == REPLACED or REPORT in recorded(out_dir)
    return [METRICS, SUMMARY, PROVENANCE, *([REPORT] if has_report else []), WANDB_STATE, *event_files(out_dir)]


def set_aside(out_dir: Path) -> None:
    """Move the files of an earlier run in out_dir out of the way."""
    for parent, names in ((out_dir, _run_files(out_dir)), (checkpoints_folder(out_dir), _checkpoint_names(out_dir))):
        for name in names:
            if (parent / name).is_symlink() or (parent / name).exists():
                target = parent / REPLACED / name
                target.parent.mkdir(parents=True, exist_ok=True)
                (parent / name).rename(target)


def record_settings(settings: TrainSettings) -> None:
    """Write config.toml, unless it is still the earlier run's."""
    out_dir = Path(settings.out_dir)
    if not _is_set_aside(out_dir):
        write_text(out_dir / CONFIG, to_toml(settings))


def begin_record(out_dir: Path) -> None:
    """Remove the record of a run that begins; it has one if it went back to its beginning."""
    remove_listed(out_dir, [METRICS, SUMMARY, PROVENANCE])


def forget_attempt(settings: TrainSettings) -> None:
    """Remove the record of a run that begins again before it has saved anything; else it is an earlier run from now on.

    Only one earlier run can be set aside, and there may be one.
    """
    out_dir = Path(settings.out_dir)
    if not numbered(out_dir):
        remove_listed(out_dir, _run_files(out_dir))


@contextmanager
def earlier_run_kept(settings: TrainSettings) -> Iterator[None]:
    """Put an earlier run back if the block ends before the run that replaces it has saved anything.

    The same is done first for a run that was killed.
    """
    if settings.eval_only:
        yield
        return
    put_back(Path(settings.out_dir))
    try:
        yield
    finally:
        put_back(Path(settings.out_dir))


def put_back(out_dir: Path) -> None:
    """Put back what a run had set aside if it never saved a checkpoint of its own; remove it otherwise."""
    if not _is_set_aside(out_dir):
        return
    if numbered(out_dir):
        _drop_replaced(out_dir)
        return
    aside, checkpoints = out_dir / REPLACED, checkpoints_folder(out_dir)
    for path in sorted((checkpoints / REPLACED).glob("*")):
        path.rename(checkpoints / path.name)
    for name in _run_files(aside):
        if (aside / name).exists():
            (aside / name).replace(out_dir / name)
    remove_listed(checkpoints / REPLACED, [])
    remove_listed(aside, [TENSORBOARD])
    say(f"the earlier run in {out_dir} is what it was: the one that was to replace it has saved nothing")


def take_over(settings: TrainSettings) -> None:
    """Remove what was set aside, once the new run has saved a checkpoint."""
    out_dir = Path(settings.out_dir)
    if _is_set_aside(out_dir):
        write_text(out_dir / CONFIG, to_toml(settings))
        _drop_replaced(out_dir)


def _drop_replaced(out_dir: Path) -> None:
    aside = checkpoints_folder(out_dir) / REPLACED
    for path in sorted(aside.glob("*")):
        remove_checkpoint(path)
    kept = remove_listed(aside, [])
    kept += remove_listed(out_dir / REPLACED, [*_run_files(out_dir / REPLACED), TENSORBOARD])
    if kept:
        warn(f"{join_names(kept)} of the earlier run stay in {REPLACED}, since Quill did not write them")


def _is_set_aside(out_dir: Path) -> bool:
    return (out_dir / REPLACED).is_dir() or (checkpoints_folder(out_dir) / REPLACED).is_dir()


def _checkpoint_names(out_dir: Path) -> list[str]:
    return [*(path.name for path in numbered(out_dir)), BEST, LAST]
