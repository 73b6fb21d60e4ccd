"""Prepares a data set: text -> train.bin, val.bin, dataset.json and the tokenizer."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quillgpt.console import say, warn
from quillgpt.data.build import build
from quillgpt.data.dataset import (
    TRAIN_FILE,
    Dataset,
    dataset_folder,
    is_nanogpt_folder,
    missing_dataset,
    open_dataset,
)
from quillgpt.data.manifest import MANIFEST_FILE, Manifest, read_manifest
from quillgpt.data.request import Cleaning, Request, difference, request_from_words, request_of_dataset
from quillgpt.errors import DataError, UserError
from quillgpt.text.corpora import RECIPES
from quillgpt.text.tokenizer import Tokenizer, check_spec, load_tokenizer, names_kind, tokenizer_from_spec

CHUNK_CHARACTERS = 1 << 18  # what is computed from so many stays in a processor's cache
MOST_BYTES_FOR_CHAR = 10_000_000

Maker = Callable[[Request, str | Tokenizer, Path], Path]
"""Makes the data set of a request with a tokenizer, for a folder, and returns the folder that it is in."""


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
    val_fraction: float | None = None,
    deduplicate: bool = False,
    drop_repeated_lines: int | None = None,
    replace: bool = False,
    chunk_characters: int = CHUNK_CHARACTERS,
    make: Maker | None = None,
) -> Preparation:
    """Prepare a data set from a recipe or from a person's own files, unless it is there and unchanged.

    Args:
        sources: One recipe, one data set whose folder has an input.txt, or what `text.corpora.texts_of` reads.
        data_dir: Where data sets live.
        dataset: The data set's name; by default the recipe's, or the first file's stem.
        tokenizer: A name (`char`, `byte`, `gpt2`, `bpe:N`, a path), or a tokenizer such as a model's own; by default
            the recipe's, or for own files `char` up to 10 MB and `gpt2` above.
        val: What the validation split is read from; by default a corpus' own split, or `val_fraction` of the text.
        val_fraction: The share of the text that the validation split gets: whole documents where there are enough,
            else the end of the text. By default 0.1, or what is usual for the corpus.
        deduplicate: Leave out documents that are equal to an earlier one.
        drop_repeated_lines: Leave out lines that stand in at least so many documents.
        replace: Whether a data set of this name that was made from other files may be replaced.
        chunk_characters: About how many characters are encoded at once.
        make: Makes a data set that is missing or has changed; by default it is built in its own folder.

    Raises:
        DataError: A source is missing, no text, or too short.
        TokenizerError: The tokenizer is unknown or cannot represent the text.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction}; it is a share, so give a number between 0 and 1, such as 0.1")
    if isinstance(tokenizer, str):
        check_spec(tokenizer)
    with tempfile.TemporaryDirectory(prefix="quill-") as spool:
        request = request_from_words(
            sources,
            data_dir=data_dir,
            dataset=dataset,
            val=val,
            val_fraction=val_fraction,
            cleaning=Cleaning(deduplicate, drop_repeated_lines),
            spool=Path(spool),
        )
        return _prepare(
            request,
            tokenizer,
            data_dir=data_dir,
            replace=replace,
            chunk_characters=chunk_characters,
            make=make,
        )


def ensure_dataset(
    name: str,
    *,
    data_dir: Path,
    tokenizer: str | Tokenizer | None = None,
    make: Maker | None = None,
) -> Dataset:
    """Return a data set ready for training: open it, or prepare it where it is a recipe and missing or changed.

    A prepared data set keeps its tokenizer and split; it is made again where its text changed, or where `tokenizer`
    is given and differs. A folder of nanoGPT is used as it is. `make` is that of `prepare`.

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
    if manifest is None and request.recipe is not None and RECIPES[request.recipe].is_large and request.own is None:
        raise missing_dataset(name, data_dir)
    if tokenizer is None and manifest is not None:
        tokenizer = _recorded_tokenizer(folder, manifest)
        if request.recipe and tokenizer != RECIPES[request.recipe].tokenizer:
            warn(
                f"{folder} was prepared with the tokenizer {manifest.tokenizer.name}, not with the recipe's "
                f"{RECIPES[request.recipe].tokenizer}; the recipe's own: quill prepare {request.recipe}"
            )
    return _prepare(
        request,
        tokenizer,
        data_dir=data_dir,
        replace=True,
        chunk_characters=CHUNK_CHARACTERS,
        quiet=True,
        make=make,
    ).dataset


def _prepare(
    request: Request,
    tokenizer: str | Tokenizer | None,
    *,
    data_dir: Path,
    replace: bool,
    chunk_characters: int,
    quiet: bool = False,
    make: Maker | None = None,
) -> Preparation:
    started = time.perf_counter()
    folder = data_dir / request.name
    if tokenizer is None:
        tokenizer = _default_tokenizer(request)
    reason, manifest = None, None
    if (folder / MANIFEST_FILE).is_file():
        try:
            manifest = read_manifest(folder)
            assert manifest is not None
            reason = difference(request, manifest) or _tokenizer_difference(tokenizer, manifest)
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
    if not replace:
        _check_place(request, folder, manifest)
    say(f"Preparing {folder}" if reason is None else f"Preparing {folder} again: {reason}")
    made = None
    if make is None:
        made = build(request, tokenizer, folder, chunk_characters=chunk_characters)
    else:
        folder = make(request, tokenizer, folder)
    opened = open_dataset(folder.name, folder.parent, tokenizer=made)
    assert opened.manifest is not None
    return Preparation(opened, opened.manifest, reused=False, seconds=time.perf_counter() - started)


def _check_place(request: Request, folder: Path, manifest: Manifest | None) -> None:
    """Check that a person's own text does not take the place of another one by having the same name."""
    if request.own is None or request.recipe is not None:
        return
    there = {record.location for record in manifest.sources} if manifest and manifest.recipe is None else set()
    # A file that is no longer where it was may have been moved; what is no file of the person's cannot have been.
    still_there = any(Path(each).is_file() or not Path(each).is_absolute() for each in there)
    if still_there and there.isdisjoint(source.location for source in request.own.train):
        taken = f"was made from {min(there)}"
    elif folder.name in RECIPES and not (folder / "input.txt").is_file():
        taken = "is the place of a recipe"
    else:
        return
    raise DataError(f"{folder} {taken}, and this is another text; name its data set: --dataset={folder.name}_2")


def _default_tokenizer(request: Request) -> str:
    if request.recipe is not None:
        return RECIPES[request.recipe].tokenizer
    total = sum(source.path.stat().st_size for source in request.texts().train)
    return "char" if total <= MOST_BYTES_FOR_CHAR else "gpt2"


def _recorded_tokenizer(folder: Path, manifest: Manifest) -> str | Tokenizer:
    requested = manifest.tokenizer.requested
    return requested if requested is not None and names_kind(requested) else load_tokenizer(folder)


def _tokenizer_difference(tokenizer: str | Tokenizer, manifest: Manifest) -> str | None:
    """Return why a data set's tokenizer is not the one that is wanted, or None where it is."""
    if isinstance(tokenizer, str) and names_kind(tokenizer):
        was = manifest.tokenizer.requested or f"a given {manifest.tokenizer.name}"
        return None if tokenizer == was else f"its tokenizer was {was}, not {tokenizer}"
    if isinstance(tokenizer, str):
        tokenizer = tokenizer_from_spec(tokenizer)
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        return f"its tokenizer {manifest.tokenizer.name} is another one than the {tokenizer.name} given"
    return None
