"""Finds runs: folders with a record."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Final

from quillgpt.errors import DataError, closest
from quillgpt.run_files import CONFIG, HOLDER, METRICS
from quillgpt.runs.small_files import is_file

DEPTH: Final = 2
"""Runs are the folders in a folder, and those one level below."""

MOST_ENTRIES: Final = 1_000
"""Entries of a folder that are looked at, so that a home folder with everything in it holds up nobody."""


def find_runs(folder: Path) -> dict[str, Path]:
    """Return the runs below a folder by their relative paths; links are not followed."""
    found: dict[str, Path] = {}
    level = [folder]
    for _ in range(DEPTH):
        level = [below for above in level for below in _folders(above)]
        found |= {path.relative_to(folder).as_posix(): path for path in level if is_file(path / METRICS)}
    return found


def newest_first(runs: dict[str, Path]) -> list[str]:
    """Return the names of runs in the order in which their records last grew, the newest first."""
    return sorted(runs, key=lambda name: -_age(runs[name] / METRICS))


def run_folder(run: Path) -> Path:
    """Return the folder of a run, given the folder or its metrics.jsonl."""
    return run.parent if run.name == METRICS else run


def check_is_run(run: Path, *, begun: bool = True) -> Path:
    """Return the folder of a run.

    Args:
        run: The folder or its metrics.jsonl.
        begun: Whether it must have a record already; else settings, or a process that trains there, do too.

    Raises:
        DataError: It is none; the message names the run that was probably meant.
    """
    folder = run_folder(run)
    if any((folder / name).is_file() for name in (METRICS, *(() if begun else (CONFIG, HOLDER)))):
        return folder
    nearby = {file.parent.name: file.parent for file in sorted(folder.absolute().parent.glob(f"*/{METRICS}"))}
    meant = closest(folder.name, nearby)
    hint = f"; did you mean {folder.with_name(meant)}?" if meant else ""
    what = f"holds no {METRICS}" if folder.is_dir() else "is not a folder" if folder.exists() else "does not exist"
    raise DataError(f"{folder} {what}; expected the folder of a run (out_dir){hint}")


def named(folders: list[Path]) -> dict[str, Path]:
    """Name each run by its folder, or by its path if two folders have the same name; a run given twice is one."""
    different = {folder.resolve(): folder for folder in reversed(folders)}
    names = [whole.name for whole in different]
    return {
        (whole.name if names.count(whole.name) == 1 else str(folder)): folder
        for whole, folder in reversed(different.items())
    }


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                folder / entry.name
                for entry in islice(entries, MOST_ENTRIES)
                if entry.name.isprintable() and not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
