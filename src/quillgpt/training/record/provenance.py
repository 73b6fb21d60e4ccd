"""provenance.json: how a run came about. Its sessions with their machines, how they were asked for, and its data."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from quillgpt import __version__
from quillgpt.config import Given
from quillgpt.console import warn
from quillgpt.data.dataset import Dataset
from quillgpt.files import write_json
from quillgpt.records import Record
from quillgpt.run_files import PROVENANCE
from quillgpt.training.run import Run
from quillgpt.training.start.run_data import without_secrets

FORMAT_VERSION: Final = 1
PACKAGES: Final = ("torch", "numpy", "tokenizers", "tiktoken", "safetensors", "triton")
"""Packages on which the numbers of a run depend."""

MOST_FILES: Final = 200
"""Files of a text that are listed; dataset.json has all."""


def record_session(run: Run, given: Given) -> None:
    """Add a session to a run's provenance.json; a run that begins has a new one.

    Args:
        run: The run, before the first iteration of the session.
        given: How its settings were given.
    """
    path = run.out_dir / PROVENANCE
    sessions = [*(_sessions(path) if run.resumed else []), _session(run, given)]
    data = [_data(dataset) for dataset in run.texts]
    try:
        write_json(path, {"format_version": FORMAT_VERSION, "sessions": sessions, "data": data})
    except OSError as error:
        warn(f"{path} was not written ({error.strerror or error}); a report will not know the machine and the data")


def _sessions(path: Path) -> list[Any]:
    """Return the sessions so far; none where they cannot be read, as of a run that began before they were kept."""
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return sessions if isinstance(sessions, list) else []


def _session(run: Run, given: Given) -> dict[str, Any]:
    asked = without_secrets(given.settings).model_dump(mode="json")
    settings = run.settings
    return {
        "iteration": run.state.iteration,
        "seconds": run.state.seconds,
        "start_seconds": run.state.start_seconds,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quill": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "device": run.machine.description,
        "dtype": settings.dtype,
        "threads": settings.threads,
        "processes": run.world.size,
        "reasons": run.machine.reasons,
        "minutes": settings.minutes,
        "max_iters": settings.max_iters,
        "given": {
            name: {"value": asked[name], "place": given.places.get(name)}
            for name in sorted(given.settings.model_fields_set)
            if name in asked
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _data(dataset: Dataset) -> dict[str, Any]:
    """Return what a data set's dataset.json says, with the first of its files."""
    about: dict[str, Any] = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "train_tokens": len(dataset.train),
        "val_tokens": len(dataset.val),
    }
    if dataset.manifest is None:
        return about
    manifest: dict[str, Any] = dataset.manifest.model_dump(exclude={"sources", "val_sources", "skipped"})
    given = dataset.manifest.val_sources or []
    lists: dict[str, Sequence[Record]] = {
        "sources": dataset.manifest.sources,
        "val_sources": given,
        "skipped": dataset.manifest.skipped,
    }
    for name, records in lists.items():
        manifest[name] = [record.model_dump() for record in records[:MOST_FILES]]
        manifest[f"{name}_count"] = len(records)
    return about | {"manifest": manifest}
