"""Corpora from the Hugging Face hub, streamed into files of our own, one shard after the other.

Finished shards are kept, so a fetch that was stopped continues with the next one. Only one batch of rows is in memory
at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from quillgpt.config.paths import expand
from quillgpt.console import progress, say, warn
from quillgpt.errors import DataError, UserError
from quillgpt.extras import import_extra
from quillgpt.files import atomic_path, let_hub_libraries_keep_files, sha256_of, write_json
from quillgpt.locks import locked
from quillgpt.text.formats.take_out import SEPARATOR
from quillgpt.text.sources.compressed import check_compressed
from quillgpt.text.sources.documents import Source
from quillgpt.text.sources.downloads import check_downloads_are_allowed
from quillgpt.text.sources.hub_corpus import HubCorpus
from quillgpt.text.sources.rows import ROW_FILES, FileRows

if TYPE_CHECKING:
    from datasets import IterableDataset

CORPUS_FILE = "corpus.json"
CONVERTED = "refs/convert/parquet"
"""The branch on which the hub keeps all data sets in Parquet, also those published as a program."""

READER = 2
"""The version of how single files are read; if it has changed, they are read again."""

VALIDATION_SPLITS = ("validation", "valid", "val", "dev")


class ShardRecord(BaseModel):
    """A finished file of texts."""

    number: int
    documents: int
    bytes: int
    sha256: str


class CorpusRecord(BaseModel):
    """The content of corpus.json: the fetched shards, the revision of the data set, and whether they are all."""

    address: str
    revision: str
    complete: bool = False
    splits: dict[str, list[ShardRecord]] = {}


def fetch_corpus(corpus: HubCorpus) -> tuple[list[Source], list[Source] | None]:
    """Return the texts of the training and validation split of a corpus, after fetching what is missing.

    The validation texts are None if the data set has no such split, or if that split is not wanted.

    Raises:
        DataError: The corpus cannot be reached, or lacks what was asked for.
        UserError: The package `datasets` is not installed.
    """
    record = _read_record(corpus)
    if record is None or not _is_current(corpus, record):
        try:
            with _one_process_at_a_time(corpus):
                record = _read_record(corpus)  # another process may have fetched it while this one waited
                if record is None or not _is_current(corpus, record):
                    record = _fetch(corpus, record)
        except UserError:
            raise
        except Exception as error:  # the library and what it uses raise whatever they like
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
            advice = (
                "check its files; a single one is read more exactly: hf:FILE"
                if corpus.is_local
                else "check the name and the connection and try again: shards that are finished are kept"
            )
            raise DataError(f"{corpus.address} could not be read ({reason[:300]}); {advice}") from error
    splits = {name: _sources(corpus, name, shards) for name, shards in record.splits.items()}
    if not splits["train"]:
        raise DataError(f"{corpus.address} has no text in it; name another column: hf:owner/name:COLUMN")
    return splits["train"], splits.get("validation")


def _one_process_at_a_time(corpus: HubCorpus) -> AbstractContextManager[None]:
    return locked(
        corpus.folder / ".lock",
        on_wait=lambda: say(f"Waiting for another process that is fetching {corpus.address}"),
        on_failure=lambda error: warn(f"{corpus.folder} cannot be locked ({error}); fetch with one process"),
    )


def recorded_hashes(corpus: HubCorpus) -> list[str] | None:
    """Return the hashes of the training texts of a fetched corpus; None if it was not fetched."""
    record = _read_record(corpus)
    return [shard.sha256 for shard in record.splits["train"] if shard.documents] if record and record.complete else None


def _fetch(corpus: HubCorpus, record: CorpusRecord | None) -> CorpusRecord:
    splits, revision = _open(corpus, None if record is None else record.revision)
    if record is None or record.revision != revision:
        record = CorpusRecord(address=corpus.address, revision=revision)
    for name, rows in splits.items():
        done = [shard for shard in record.splits.get(name, []) if _shard_is_whole(corpus, name, shard)]
        record.splits[name] = done
        if done:
            say(f"{corpus.address}, {name}: {len(done)} of {rows.num_shards} shards are here already")
        if not isinstance(rows, FileRows):
            rows = rows.select_columns([_text_column(corpus, rows)])
        with progress(f"Fetching {corpus.address}, {name}", rows.num_shards) as advance:
            advance(len(done))
            for number in sorted(set(range(rows.num_shards)) - {shard.number for shard in done}):
                done.append(_fetch_shard(corpus, name, rows.shard(num_shards=rows.num_shards, index=number), number))
                _write_record(corpus, record)
                advance()
        done.sort(key=lambda shard: shard.number)
    record.complete = True
    _write_record(corpus, record)
    return record


def _fetch_shard(corpus: HubCorpus, split: str, rows: IterableDataset | FileRows, number: int) -> ShardRecord:
    path = _shard_path(corpus, split, number)
    documents = 0
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        for piece in _document_pieces(corpus, rows):
            file.write(piece)
            documents += piece == SEPARATOR
    return ShardRecord(number=number, documents=documents, bytes=path.stat().st_size, sha256=sha256_of(path))


def _document_pieces(corpus: HubCorpus, rows: IterableDataset | FileRows) -> Iterator[str]:
    """Yield the texts of rows, and `SEPARATOR` after each document."""
    title = re.compile(corpus.title) if corpus.title else None
    open_document = False
    for row in rows:
        text = (next(iter(row.values())) or "").replace("\r\n", "\n").replace("\r", "\n").replace(SEPARATOR, "")
        if _rows_are_lines(corpus):
            if title and open_document and title.fullmatch(text.rstrip("\n")):
                yield SEPARATOR
            if open_document or text.strip():  # empty lines before the first are no document
                yield text.rstrip("\n") + "\n"
                open_document = True
        elif text:
            yield text
            yield SEPARATOR
    if open_document:
        yield SEPARATOR


def _rows_are_lines(corpus: HubCorpus) -> bool:
    path = Path(corpus.repository)
    return corpus.rows == "lines" or path.suffix == ".txt" or (path.is_dir() and _format_of_folder(path) == "text")


def _format_of_folder(path: Path) -> str | None:
    formats = {ROW_FILES.get(file.suffix.lower()) for file in path.rglob("*") if file.suffix.lower() in ROW_FILES}
    return formats.pop() if len(formats) == 1 else None


def _open(corpus: HubCorpus, revision: str | None) -> tuple[Mapping[str, IterableDataset | FileRows], str]:
    """Return the splits to read, and the revision of the data set."""
    path = Path(corpus.repository)
    mirror = expand(os.environ.get("QUILL_MIRROR", "")) / "hub" / corpus.repository
    if "QUILL_MIRROR" in os.environ and mirror.is_dir():
        path = mirror
    for file in [path] if path.is_file() else path.rglob("*") if path.is_dir() else []:
        check_compressed(file)
    if path.is_file():
        return {"train": FileRows(path, corpus.column)}, _state_of_files(path)
    let_hub_libraries_keep_files()
    datasets = import_extra("datasets", extra="hub", purpose=f"reading {corpus.address}")
    check_downloads_are_allowed(corpus.address)
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said by the error
    if path.is_dir():
        loaded = _load(datasets, str(path), corpus.config, None)
    else:
        revision, loaded = _load_from_hub(datasets, corpus, revision)
        return _splits(corpus, loaded), revision
    return _splits(corpus, loaded), _state_of_files(path)


def _load_from_hub(datasets: Any, corpus: HubCorpus, revision: str | None) -> tuple[str, Any]:
    let_hub_libraries_keep_files()
    hub = import_extra("huggingface_hub", extra="hub", purpose=f"reading {corpus.address}")
    hub.logging.set_verbosity_error()
    find = hub.HfApi().dataset_info
    commit = revision or find(corpus.repository).sha
    try:
        return commit, _load(datasets, corpus.repository, corpus.config, commit)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        commit = find(corpus.repository, revision=CONVERTED).sha
        return commit, _load(datasets, corpus.repository, corpus.config, commit)


def _load(datasets: Any, place: str, config: str | None, revision: str | None) -> Any:
    names = datasets.get_dataset_config_names(place, revision=revision)
    if len(names) == 1:  # also where the hub's conversion has renamed the only one
        config = names[0]
    elif config is None and "default" not in names:
        raise DataError(f"{place} has several parts; name one: hf:{place}/NAME, with NAME one of {', '.join(names)}")
    elif config is not None and config not in names:
        raise DataError(f"{place} has no part {config}; it has {', '.join(names)}")
    return datasets.load_dataset(place, config, revision=revision, streaming=True)


def _splits(corpus: HubCorpus, loaded: Any) -> dict[str, IterableDataset]:
    if "train" not in loaded and len(loaded) != 1:
        raise DataError(f"{corpus.address} has no split named train; it has {', '.join(loaded)}")
    splits = {"train": loaded["train"] if "train" in loaded else next(iter(loaded.values()))}
    own = next((name for name in VALIDATION_SPLITS if name in loaded), None)
    if corpus.val_split and own and len(loaded) > 1:
        splits["validation"] = loaded[own]
    return splits


def _text_column(corpus: HubCorpus, rows: IterableDataset) -> str:
    features = rows.features or dict.fromkeys(next(iter(rows), {}))
    texts = [name for name, kind in features.items() if kind is None or getattr(kind, "dtype", "").endswith("string")]
    if corpus.column is not None:
        if corpus.column not in features:
            raise DataError(f"{corpus.address} has no column {corpus.column}; it has {', '.join(features)}")
        if corpus.column not in texts:
            raise DataError(
                f"the column {corpus.column} of {corpus.address} holds no text; columns with text are "
                f"{', '.join(texts) or 'none'}"
            )
        return corpus.column
    if "text" in texts or len(texts) == 1:
        return "text" if "text" in texts else texts[0]
    raise DataError(
        f"{corpus.address} has no column named text; name the one that holds it: {corpus.address}:COLUMN, with COLUMN "
        f"one of {', '.join(texts or features)}"
    )


def _state_of_files(path: Path) -> str:
    files = sorted(file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    listing = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return hashlib.sha256(json.dumps([*listing, READER] if path.is_file() else listing).encode()).hexdigest()


def _sources(corpus: HubCorpus, split: str, shards: list[ShardRecord]) -> list[Source]:
    return [
        Source(
            name=f"{corpus.address}, {split} shard {shard.number}",
            location=f"{corpus.address}#{split}/{shard.number}",
            path=_shard_path(corpus, split, shard.number),
            holds_many=True,
            recorded_sha256=shard.sha256,
        )
        for shard in shards
        if shard.documents
    ]


def _shard_path(corpus: HubCorpus, split: str, number: int) -> Path:
    return corpus.folder / split / f"{number:05d}.txt"


def _shard_is_whole(corpus: HubCorpus, split: str, shard: ShardRecord) -> bool:
    path = _shard_path(corpus, split, shard.number)
    return path.is_file() and path.stat().st_size == shard.bytes


def _is_current(corpus: HubCorpus, record: CorpusRecord) -> bool:
    """Return whether all shards are here, and local files have not changed since."""
    local = Path(corpus.repository)
    return (
        record.complete
        and all(_shard_is_whole(corpus, name, shard) for name, shards in record.splits.items() for shard in shards)
        and (not local.exists() or record.revision == _state_of_files(local))
    )


def _read_record(corpus: HubCorpus) -> CorpusRecord | None:
    try:
        record = CorpusRecord.model_validate_json((corpus.folder / CORPUS_FILE).read_bytes())
    except (OSError, ValidationError):  # never fetched, or damaged: then it is fetched
        return None
    known = record.splits.keys() <= {"train", "validation"}
    return record if known and ("train" in record.splits or not record.complete) else None


def _write_record(corpus: HubCorpus, record: CorpusRecord) -> None:
    write_json(corpus.folder / CORPUS_FILE, record.model_dump())
