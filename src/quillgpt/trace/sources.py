"""The files that a data set was made from, as far as they are there and unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quillgpt.config.paths import exists
from quillgpt.data.dataset import Dataset
from quillgpt.data.dataset_manifest import DatasetManifest, SourceRecord
from quillgpt.data.request import recorded_source, request_of_dataset
from quillgpt.data.staging import was_made_here
from quillgpt.data.verification import FileState
from quillgpt.errors import UserError, join_names
from quillgpt.text.sources.documents import Source


@dataclass(frozen=True)
class TracedSource:
    """A source of a data set.

    Attributes:
        record: What dataset.json says of it.
        source: Where it is read now; None if it is missing, or may not be read.
        has_changed: Whether it is there with another content.
        state: The state of its file, if it is as it was.
    """

    record: SourceRecord
    source: Source | None
    has_changed: bool
    state: FileState | None

    @property
    def is_intact(self) -> bool:
        """Whether it is there, as it was when the data set was made."""
        return self.state is not None


def traced_sources(dataset: Dataset, known: dict[str, FileState]) -> list[TracedSource]:
    """Return the sources of a data set in their order; none for a folder of nanoGPT, which names none.

    Args:
        dataset: The data set.
        known: States of files, by location, at which they were as dataset.json says.
    """
    if dataset.manifest is None:
        return []
    places = _places(dataset.folder, dataset.manifest)
    return [_traced(record, places.get(record.location), known) for record in dataset.manifest.sources]


def describe_unread(dataset: Dataset, sources: Sequence[TracedSource]) -> list[str]:
    """Return sentences about the sources to which no line can be traced."""
    if dataset.manifest is None:
        return [f"{dataset.folder} does not say what it was made from, so lines are those of its training text"]
    sentences = []
    changed = [one.record.location for one in sources if one.has_changed]
    if changed:
        sentences.append(
            f"changed since {dataset.folder} was prepared: {join_names(changed)}; their lines are those of the "
            "training text"
        )
    missing = [one.record.location for one in sources if not one.is_intact and not one.has_changed]
    if missing and not was_made_here(dataset.folder):
        sentences.append(
            f"{dataset.folder} was not prepared with this cache folder, so the files that its dataset.json names are "
            "not read, and lines are those of the training text"
        )
    elif missing:
        sentences.append(f"not there any more: {join_names(missing)}; their lines are those of the training text")
    return sentences


def _places(folder: Path, manifest: DatasetManifest) -> dict[str, Source]:
    """Return the sources that may be read, by location; a dataset.json from elsewhere may name any file."""
    with suppress(UserError):  # such as a recipe whose text cannot be fetched
        request = request_of_dataset(folder, manifest)
        # The hashes of a recipe's text are known only if it need not be downloaded.
        if request is not None and (request.own is not None or request.hashes() is not None):
            return {source.location: source for source in request.texts().train}
    if not was_made_here(folder):
        return {}
    paths = [Path(record.location) for record in manifest.sources]
    return {
        record.location: recorded_source(record, manifest)
        for record, path in zip(manifest.sources, paths, strict=True)
        if path.is_absolute() and exists(path) and path.is_file()
    }


def _traced(record: SourceRecord, source: Source | None, known: dict[str, FileState]) -> TracedSource:
    if source is None:
        return TracedSource(record, None, has_changed=False, state=None)
    try:
        state = FileState.of(source.path.stat())
    except OSError:
        return TracedSource(record, None, has_changed=False, state=None)
    if known.get(record.location) != state and source.sha256_if_readable() != record.sha256:
        return TracedSource(record, source, has_changed=True, state=None)
    return TracedSource(record, source, has_changed=False, state=state)
