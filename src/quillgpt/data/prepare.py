"""Prepares a data set: text -> train.bin, val.bin, dataset.json and the tokenizer."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quillgpt.console import progress, say, warn
from quillgpt.data.dataset import (
    META_FILE,
    TRAIN_FILE,
    VAL_FILE,
    Dataset,
    dataset_folder,
    is_nanogpt_folder,
    missing_dataset,
    open_dataset,
)
from quillgpt.data.encoding import Mark, Piece, chunk_encoder, chunk_stream, split_stream, write_tokens
from quillgpt.data.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    Manifest,
    SourceRecord,
    TokenizerRecord,
    read_manifest,
)
from quillgpt.data.request import Request, request_from_words, request_of_dataset
from quillgpt.errors import DataError, UserError
from quillgpt.files import atomic_path, sha256_of
from quillgpt.text.corpora import RECIPES, Source
from quillgpt.text.decoding import detect_encoding, read_pieces
from quillgpt.text.tokenizer import Tokenizer, check_spec, load_tokenizer, names_kind, tokenizer_from_spec

CHUNK_CHARACTERS = 1 << 20
BYTES_WORTH_PROCESSES = 50_000_000  # one process needs about 4 seconds for so much, and others 1 to start
MOST_PROCESSES = 16
MOST_BYTES_FOR_CHAR = 10_000_000


@dataclass(frozen=True)
class Preparation:
    """What came of preparing.

    Attributes:
        dataset: The data set, open.
        manifest: What its dataset.json says.
        reused: Whether it was there already, made from the same text in the same way.
        seconds: How long it took.
    """

    dataset: Dataset
    manifest: Manifest
    reused: bool
    seconds: float


def prepare(
    sources: Sequence[str],
    *,
    data_dir: Path,
    dataset: str | None = None,
    tokenizer: str | Tokenizer | None = None,
    val: str | None = None,
    val_fraction: float = 0.1,
    processes: int | None = None,
    chunk_characters: int = CHUNK_CHARACTERS,
) -> Preparation:
    """Prepare a data set from a recipe or from a person's own files, unless it is there and unchanged.

    Args:
        sources: One recipe, one data set whose folder has an input.txt, or paths; `-` is standard input.
        data_dir: Where data sets live.
        dataset: The data set's name; by default the recipe's, or the first file's stem.
        tokenizer: A name (`char`, `byte`, `gpt2`, `bpe:N`, a path), or a tokenizer such as a model's own; by default
            the recipe's, or for own files `char` up to 10 MB and `gpt2` above.
        val: A path whose text is the validation split; by default the last `val_fraction` of the characters.
        val_fraction: The share of characters that the validation split gets.
        processes: How many processes encode; by default one per processor where the text is long enough.
        chunk_characters: About how many characters are encoded at once.

    Raises:
        DataError: A source is missing, no text, or too short.
        TokenizerError: The tokenizer is unknown or cannot represent the text.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction}; it is a share, so give a number between 0 and 1, such as 0.1")
    if isinstance(tokenizer, str):
        check_spec(tokenizer)
    with tempfile.TemporaryDirectory(prefix="quill-") as spool:
        request = request_from_words(
            sources, data_dir=data_dir, dataset=dataset, val=val, val_fraction=val_fraction, spool=Path(spool)
        )
        return _prepare(request, tokenizer, data_dir=data_dir, processes=processes, chunk_characters=chunk_characters)


def ensure_dataset(
    name: str,
    *,
    data_dir: Path,
    tokenizer: str | Tokenizer | None = None,
    processes: int | None = None,
) -> Dataset:
    """Return a data set ready for training: open it, or prepare it where it is a recipe and missing or changed.

    A prepared data set keeps its tokenizer and split; it is made again where its text changed, or where `tokenizer`
    is given and differs. A folder of nanoGPT is used as it is.

    Raises:
        DataError: There is no such data set and no such recipe, or its text cannot be had.
        TokenizerError: The tokenizer is unknown or cannot represent the text.
    """
    if isinstance(tokenizer, str):
        check_spec(tokenizer)
    folder = dataset_folder(name, data_dir)
    if is_nanogpt_folder(folder):
        text = folder / "input.txt"
        if text.is_file() and text.stat().st_mtime > (folder / TRAIN_FILE).stat().st_mtime:
            warn(f"{text} is newer than {folder / TRAIN_FILE}; to use it: quill prepare {folder.name}")
        return open_dataset(folder.name, data_dir)
    manifest = read_manifest(folder)
    request = request_of_dataset(folder, manifest)
    if request is None:
        if manifest is not None:
            return open_dataset(folder.name, data_dir)
        raise missing_dataset(name, data_dir)
    if tokenizer is None and manifest is not None:
        tokenizer = _recorded_tokenizer(folder, manifest)
        if request.recipe and tokenizer != RECIPES[request.recipe].tokenizer:
            warn(
                f"{folder} was prepared with the tokenizer {manifest.tokenizer.name}, not with the recipe's "
                f"{RECIPES[request.recipe].tokenizer}; the recipe's own: quill prepare {request.recipe}"
            )
    done = _prepare(
        request, tokenizer, data_dir=data_dir, processes=processes, chunk_characters=CHUNK_CHARACTERS, quiet=True
    )
    return done.dataset


def _prepare(
    request: Request,
    tokenizer: str | Tokenizer | None,
    *,
    data_dir: Path,
    processes: int | None,
    chunk_characters: int,
    quiet: bool = False,
) -> Preparation:
    started = time.perf_counter()
    folder = data_dir / request.name
    if tokenizer is None:
        tokenizer = _default_tokenizer(request)
    reason = None
    if (folder / MANIFEST_FILE).is_file():
        try:
            manifest = read_manifest(folder)
            assert manifest is not None
            reason = _difference(request, tokenizer, manifest)
            if reason is None:
                opened = open_dataset(request.name, data_dir)
                if not quiet:
                    say(f"{folder} is prepared already; its text, split and tokenizer are unchanged")
                return Preparation(opened, manifest, reused=True, seconds=time.perf_counter() - started)
        except UserError as error:
            reason = str(error)
    if is_nanogpt_folder(folder) and request.recipe is None and not (folder / "input.txt").is_file():
        raise DataError(
            f"{folder} holds tokens that nanoGPT prepared and Quill could not make again; name another data set "
            f"with --dataset, such as --dataset={folder.name}_2"
        )
    say(f"Preparing {folder}" if reason is None else f"Preparing {folder} again: {reason}")
    manifest = _write(request, tokenizer, folder, processes=processes, chunk_characters=chunk_characters)
    opened = open_dataset(request.name, data_dir)
    return Preparation(opened, manifest, reused=False, seconds=time.perf_counter() - started)


def _default_tokenizer(request: Request) -> str:
    if request.recipe is not None:
        return RECIPES[request.recipe].tokenizer
    total = sum(source.path.stat().st_size for source in request.documents())
    return "char" if total <= MOST_BYTES_FOR_CHAR else "gpt2"


def _recorded_tokenizer(folder: Path, manifest: Manifest) -> str | Tokenizer:
    requested = manifest.tokenizer.requested
    return requested if requested is not None and names_kind(requested) else load_tokenizer(folder)


def _difference(request: Request, tokenizer: str | Tokenizer, manifest: Manifest) -> str | None:
    """Return why a prepared data set is not the requested one, or None where it is."""
    if request.hashes() != [source.sha256 for source in manifest.sources]:
        return "its text has changed"
    if request.val_sources is not None:
        wanted = [sha256_of(source.path) for source in request.val_sources]
        if wanted != [source.sha256 for source in manifest.val_sources or []]:
            return "its validation text has changed"
    elif manifest.val_fraction != request.val_fraction:
        return f"it was split otherwise than val_fraction {request.val_fraction}"
    if isinstance(tokenizer, str) and names_kind(tokenizer):
        was = manifest.tokenizer.requested or f"a given {manifest.tokenizer.name}"
        return None if tokenizer == was else f"its tokenizer was {was}, not {tokenizer}"
    if isinstance(tokenizer, str):
        tokenizer = tokenizer_from_spec(tokenizer)
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        return f"its tokenizer {manifest.tokenizer.name} is another one than the {tokenizer.name} given"
    return None


class _Text:
    """Documents that are read several times, always in the same pieces."""

    def __init__(self, sources: list[Source], piece_characters: int) -> None:
        self.sources = sources
        self._piece_characters = piece_characters
        self.records = [_record(source) for source in sources]

    def stream(self, *, ends: bool) -> Iterator[Piece]:
        """Yield the text.

        Args:
            ends: Mark the end of each document; if not, a blank line stands between them.
        """
        for index, (source, record) in enumerate(zip(self.sources, self.records, strict=True)):
            last = ""
            for last in read_pieces(source.path, record.encoding, self._piece_characters, name=source.name):
                yield last
            if ends:
                yield Mark.DOCUMENT_END
            elif index + 1 < len(self.sources):
                yield "\n" if last.endswith("\n") else "\n\n"


def _record(source: Source) -> SourceRecord:
    encoding = detect_encoding(source.path, name=source.name)
    if not encoding.startswith("utf"):
        say(f"{source.name} is not UTF-8; it is read as {encoding}. If letters come out wrong, save it as UTF-8.")
    return SourceRecord(
        location=source.location,
        sha256=sha256_of(source.path),
        bytes=source.path.stat().st_size,
        encoding=encoding,
    )


def _write(
    request: Request, tokenizer: str | Tokenizer, folder: Path, *, processes: int | None, chunk_characters: int
) -> Manifest:
    text = _Text(request.documents(), chunk_characters)
    val_text = None if request.val_sources is None else _Text(request.val_sources, chunk_characters)
    several = len(text.sources) > 1 or (val_text is not None and len(val_text.sources) > 1)
    # Of the tokenizers that have yet to be made, char is the only one without an end of text.
    known = None if isinstance(tokenizer, str) and tokenizer.startswith(("char", "bpe:")) else tokenizer
    made = tokenizer_from_spec(known) if isinstance(known, str) else known
    ends = several and (tokenizer != "char" if made is None else made.end_of_text is not None)

    characters, alphabet = _scan(text, ends=ends)
    cut = characters
    if val_text is None:
        cut = int(characters * (1 - request.val_fraction))
        if cut == 0 or cut == characters:
            raise DataError(
                f"the text is too short to cut off val_fraction {request.val_fraction} of its characters (it has "
                f"{characters:,}); give a longer text, another val_fraction, or --val PATH"
            )
    else:
        alphabet |= _scan(val_text, ends=ends)[1]
    if made is None:
        assert isinstance(tokenizer, str)
        pieces = sorted(alphabet) if tokenizer == "char" else _plain(text.stream(ends=ends))
        made = tokenizer_from_spec(tokenizer, pieces)

    stream = text.stream(ends=ends)
    train_pieces, val_pieces = split_stream(stream, cut) if val_text is None else (stream, val_text.stream(ends=ends))
    dtype: Literal["uint16", "uint32"] = "uint16" if made.vocab_size <= 1 << 16 else "uint32"
    if processes is None:
        worth = sum(record.bytes for record in text.records) >= BYTES_WORTH_PROCESSES
        processes = min(_processors(), MOST_PROCESSES) if worth else 1
    with (
        atomic_path(folder / TRAIN_FILE) as train_path,
        atomic_path(folder / VAL_FILE) as val_path,
        chunk_encoder(made, processes if made.worth_processes else 1) as encode,
        progress(f"Encoding {folder.name}", characters) as advance,
    ):
        splits = []
        for pieces_of_split, path in ((train_pieces, train_path), (val_pieces, val_path)):
            chunks = chunk_stream(pieces_of_split, made.last_cut, chunk_characters)
            with path.open("wb") as file:
                splits.append(write_tokens(encode(chunks), file, dtype, on_progress=advance))
        # From here to the new dataset.json the folder has a tokenizer.json but no manifest: not finished.
        made.save(folder)
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
    if (folder / META_FILE).is_file():
        say(f"Removing {folder / META_FILE}, which described the earlier tokens")
        (folder / META_FILE).unlink()
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=folder.name,
        recipe=request.recipe,
        sources=text.records,
        val_fraction=request.val_fraction if val_text is None else None,
        val_sources=None if val_text is None else val_text.records,
        ends_documents=ends,
        tokenizer=TokenizerRecord(
            requested=tokenizer if isinstance(tokenizer, str) else None,
            name=made.name,
            fingerprint=made.fingerprint,
            vocab_size=made.vocab_size,
            end_of_text=made.end_of_text,
        ),
        dtype=dtype,
        train=splits[0],
        val=splits[1],
    )
    manifest.save(folder)
    return manifest


def _scan(text: _Text, *, ends: bool) -> tuple[int, set[str]]:
    characters = 0
    alphabet: set[str] = set()
    for piece in _plain(text.stream(ends=ends)):
        characters += len(piece)
        alphabet.update(piece)
    return characters, alphabet


def _plain(stream: Iterator[Piece]) -> Iterator[str]:
    return (piece for piece in stream if isinstance(piece, str))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
