"""The origins of a training text, kept beside its index until the sources are others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from quillgpt.data.dataset import Dataset
from quillgpt.data.dataset_manifest import SourceRecord
from quillgpt.data.verification import FileState
from quillgpt.errors import DataError, UserError
from quillgpt.files import atomic_path, sha256_of, write_json
from quillgpt.records import Record, read_record
from quillgpt.trace.index import Index
from quillgpt.trace.origins import Origins, find_origins
from quillgpt.trace.sources import describe_unread, traced_sources

FORMAT_VERSION: Literal[1] = 1
RECORD, PARTS = "origins.json", "origins.bin"


class OriginsRecord(Record):
    """The content of origins.json.

    Attributes:
        format_version: 1.
        sources: The sources of all data sets, in order.
        states: The states of the files in which lines were found, by location.
        sha256: The hash of origins.bin.
    """

    format_version: Literal[1]
    sources: list[SourceRecord]
    states: dict[str, FileState]
    sha256: str


def open_origins(datasets: Sequence[Dataset], index: Index, notes: list[str]) -> Origins:
    """Open the origins of an indexed training text; find them if they are missing, or more sources are there now.

    Args:
        datasets: The data sets that are indexed.
        index: The index.
        notes: Takes sentences about sources that are not there as they were.
    """
    kept = _read(index.folder)
    states = {} if kept is None else kept[0].states
    sources = [traced_sources(dataset, states) for dataset in datasets]
    for dataset, of_dataset in zip(datasets, sources, strict=True):
        notes += describe_unread(dataset, of_dataset)
    every = [source for of_dataset in sources for source in of_dataset]
    intact = {source.record.location: source.state for source in every if source.state is not None}
    records = [source.record for source in every]
    if kept is not None and kept[0].sources == records and intact.keys() <= states.keys():
        return kept[1].without(states.keys() - intact.keys())
    manifests = [dataset.manifest for dataset in datasets]
    found = find_origins(list(zip(manifests, sources, strict=True)), index)
    with atomic_path(index.folder / PARTS) as path:
        found.parts.astype("<i8").tofile(path)
    sha256 = sha256_of(index.folder / PARTS)
    record = OriginsRecord(format_version=FORMAT_VERSION, sources=records, states=intact, sha256=sha256)
    write_json(index.folder / RECORD, record.model_dump())
    return found


def _read(folder: Path) -> tuple[OriginsRecord, Origins] | None:
    with suppress(OSError, UserError):  # missing or damaged: they are found again
        record = read_record(folder / RECORD, OriginsRecord, DataError, mend="")
        if sha256_of(folder / PARTS) == record.sha256:
            parts = np.fromfile(folder / PARTS, dtype="<i8").reshape(-1, 4)
            return record, Origins([source.location for source in record.sources], parts)
    return None
