"""Opens prepared data sets, Quill's and nanoGPT's, as memory maps."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.filesize import decimal

from quillgpt.config.dataset_names import ALIASES, dataset_name
from quillgpt.console import say
from quillgpt.data.dataset_manifest import (
    MANIFEST_FILE,
    TRAIN_FILE,
    VAL_FILE,
    DatasetManifest,
    again,
    read_dataset_manifest,
)
from quillgpt.data.staging import (
    STAGING,
    finish_replacement,
    is_half_replaced,
    one_preparation,
)
from quillgpt.data.verification import TokenFileContent, content_of
from quillgpt.errors import GIT_LFS_POINTER, DataError, UserError, check_is_no_pointer, did_you_mean
from quillgpt.text.sources.corpora import RECIPES, recipe_named
from quillgpt.text.sources.folders import TEXT_SUFFIXES
from quillgpt.text.tokenizers.gpt2 import gpt2_tokenizer
from quillgpt.text.tokenizers.ids import IdTokenizer
from quillgpt.text.tokenizers.nanogpt_meta import read_nanogpt_meta
from quillgpt.text.tokenizers.tokenizer import Tokenizer, load_tokenizer
from quillgpt.text.tokenizers.tokenizer_files import TOKENIZER_FILE

if TYPE_CHECKING:  # batches.py imports torch, which opening a data set does not need
    from quillgpt.data.batches import Tokens

META_FILE = "meta.pkl"
CHECKED_WINDOWS = 64
CHECKED_WINDOW_TOKENS = 1 << 14


@dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
        name: Its name, as in `--dataset NAME`.
        folder: The folder of its files.
        tokenizer: The tokenizer of its tokens.
        train: Token ids to train on, memory-mapped, (tokens,).
        val: Token ids to evaluate on, memory-mapped, (tokens,).
        ends_documents: Whether each document ends with the tokenizer's end of text.
        fingerprint: Identity of the data: SHA-256 over the hashes of the two token files.
        manifest: The content of dataset.json; None for a folder of nanoGPT.
    """

    name: str
    folder: Path
    tokenizer: Tokenizer
    train: Tokens
    val: Tokens
    ends_documents: bool
    fingerprint: str
    manifest: DatasetManifest | None


def open_dataset(
    name: str, data_dir: Path, *, tokenizer: Tokenizer | None = None, verify_anew: bool = False
) -> Dataset:
    """Open `data_dir/name`, prepared by Quill or by one of nanoGPT's prepare.py.

    Its token files are read completely once, to verify them, and then not again until they change.

    Args:
        name: The data set's name.
        data_dir: Folder of the data sets.
        tokenizer: The tokenizer of a data set that this process has just made and need not verify; None loads it.
        verify_anew: Verify the token files in any case.

    Raises:
        DataError: The data set is missing, unfinished or damaged.
        TokenizerError: Its tokenizer cannot be loaded.
    """
    folder = dataset_folder(name, data_dir)
    finish_interrupted(folder)
    manifest = read_dataset_manifest(folder)
    if manifest is None:
        return _open_nanogpt(folder, data_dir, verify_anew=verify_anew)
    just_made = tokenizer is not None
    tokenizer = tokenizer or load_tokenizer(folder)
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        raise DataError(
            f"{folder / TOKENIZER_FILE} is not the tokenizer {manifest.tokenizer.name} that {folder.name} was "
            f"prepared with; {prepare_hint(folder.name, data_dir)}"
        )
    splits = []
    for file, split in ((TRAIN_FILE, manifest.train), (VAL_FILE, manifest.val)):
        tokens = _memory_map(folder / file, manifest.dtype, data_dir)
        if len(tokens) != split.tokens:
            raise DataError(
                f"{folder / file} has {len(tokens):,} tokens, but {MANIFEST_FILE} says {split.tokens:,}; "
                f"{prepare_hint(folder.name, data_dir)}"
            )
        if not just_made:
            content = _checked_content(folder / file, manifest.dtype, tokenizer, data_dir, anew=verify_anew)
            if content.sha256 != split.sha256:
                raise DataError(
                    f"{folder / file} is damaged, or was changed: its SHA-256 is {content.sha256[:12]}, "
                    f"{MANIFEST_FILE} says {split.sha256[:12]}; {prepare_hint(folder.name, data_dir)}"
                )
        splits.append(tokens)
    return Dataset(
        name=folder.name,
        folder=folder,
        tokenizer=tokenizer,
        train=splits[0],
        val=splits[1],
        ends_documents=manifest.ends_documents,
        fingerprint=dataset_fingerprint(manifest),
        manifest=manifest,
    )


def find_dataset(name: str, fingerprint: str, tokenizer: Tokenizer, data_dirs: Iterable[Path]) -> Dataset | None:
    """Return the data set with a fingerprint, whatever its name is now, or None if no folder has it.

    Args:
        name: The name that it had.
        fingerprint: Its fingerprint.
        tokenizer: Its tokenizer: the fingerprint covers ids, and other tokenizers may give the same ids.
        data_dirs: Folders that may have it.
    """
    for data_dir in data_dirs:
        for candidate in [name, *_names_of(fingerprint, data_dir)]:
            try:
                dataset = open_dataset(candidate, data_dir, verify_anew=True)
            except UserError:  # missing there, or damaged
                continue
            if dataset.fingerprint == fingerprint and dataset.tokenizer.fingerprint == tokenizer.fingerprint:
                return dataset
    return None


def _names_of(fingerprint: str, data_dir: Path) -> Iterator[str]:
    for path in sorted(data_dir.glob(f"*/{MANIFEST_FILE}")):
        with suppress(OSError, UserError):  # a data set that cannot be read is not this one
            manifest = read_dataset_manifest(path.parent)
            if manifest is not None and dataset_fingerprint(manifest) == fingerprint:
                yield path.parent.name


def dataset_folder(name: str, data_dir: Path) -> Path:
    """Return the folder of a data set: under the name as given if it exists, else under its usual spelling.

    Raises:
        ConfigError: The name is a path, or no folder can have it.
    """
    usual = data_dir / dataset_name(name)
    given = data_dir / name.strip().rstrip("/\\")
    if given.is_dir():
        return given
    return data_dir / ALIASES[usual.name] if usual.name in ALIASES and not usual.is_dir() else usual


def finish_interrupted(folder: Path) -> None:
    """Finish a preparation that was killed while it moved the finished files to their places."""
    if is_half_replaced(folder):
        with one_preparation(folder):
            if is_half_replaced(folder):  # still, after waiting for another process
                try:
                    finish_replacement(folder)
                except OSError as error:
                    raise DataError(
                        f"the preparation of {folder} was interrupted, and cannot be finished ({error.strerror}); "
                        f"remove what is in the way, or make it writable"
                    ) from error


def is_nanogpt_folder(folder: Path) -> bool:
    """Return whether a folder has nanoGPT's token files; an unfinished one of Quill's has a tokenizer.json."""
    ours = any((folder / name).exists() for name in (MANIFEST_FILE, TOKENIZER_FILE, STAGING))
    return not ours and (folder / TRAIN_FILE).is_file() and (folder / VAL_FILE).is_file()


def prepare_hint(name: str, data_dir: Path, *, what: str | None = None) -> str:
    """Return the command that prepares a data set, as the end of a message."""
    what = what or (name if name in RECIPES else "PATH")
    dataset = "" if what == name else f" --dataset {name}"
    where = "" if data_dir == Path("data") else f" --data_dir {data_dir}"
    return f"prepare it with: quill prepare {what}{dataset}{where}"


def text_beside(folder: Path) -> Path | None:
    """Return the largest text in a folder that is not prepared, or None if there is none."""
    texts = [path for path in folder.glob("*") if path.suffix.lower() in TEXT_SUFFIXES and path.is_file()]
    return max(texts, key=lambda path: (path.stat().st_size, path.name), default=None)


def missing_dataset(name: str, data_dir: Path) -> DataError:
    """Return the error for a data set that is not prepared."""
    recipe = recipe_named(name)
    if recipe is not None:
        what = RECIPES[recipe].description
        return DataError(f"{data_dir / recipe} is not prepared: {what}; {prepare_hint(recipe, data_dir)}")
    folder = dataset_folder(name, data_dir)
    if folder.is_dir():
        text = text_beside(folder)
        what = "no tokens are in it" if text is None else f"its text {text.name} is not prepared"
        as_input = "put its text there as input.txt, or " if text is None else ""
        hint = prepare_hint(folder.name, data_dir, what=None if text is None else shlex.quote(str(text)))
        return DataError(f"{folder} is there, but {what}: {as_input}{hint}")
    prepared = [folder.name for folder in sorted(data_dir.glob("*")) if folder.is_dir()]
    guess = did_you_mean(name, [*RECIPES, *prepared])
    hint = f"{prepare_hint(dataset_name(name), data_dir)}, or train on a text: quill train --data PATH"
    return DataError(
        f"there is no data set {name} in {data_dir} ({data_dir / dataset_name(name)} is missing or has no tokens)"
        f"{guess or '; ' + hint}"
    )


def dataset_fingerprint(manifest: DatasetManifest) -> str:
    """Return the fingerprint of the data set that a dataset.json describes."""
    return _fingerprint(manifest.train.sha256, manifest.val.sha256)


def _open_nanogpt(folder: Path, data_dir: Path, *, verify_anew: bool) -> Dataset:
    if not is_nanogpt_folder(folder):
        if (folder / TOKENIZER_FILE).exists() or (folder / STAGING).exists():
            how = f"quill prepare PATH {again(folder)}"
            raise DataError(
                f"the preparation of {folder} was not finished (it has no {MANIFEST_FILE}); prepare it with: {how}"
            )
        raise missing_dataset(folder.name, data_dir)
    meta = folder / META_FILE
    tokenizer: Tokenizer = read_nanogpt_meta(meta) if meta.is_file() else gpt2_tokenizer()
    if isinstance(tokenizer, IdTokenizer):
        say(f"{meta} has only vocab_size, so the text of the tokens in {folder} is unknown, and ids are written")
    files = [folder / TRAIN_FILE, folder / VAL_FILE]
    train, val = (_memory_map(file, "uint16", data_dir) for file in files)
    contents = [_checked_content(file, "uint16", tokenizer, data_dir, anew=verify_anew) for file in files]
    end = tokenizer.end_of_text
    return Dataset(
        name=folder.name,
        folder=folder,
        tokenizer=tokenizer,
        train=train,
        val=val,
        ends_documents=end is not None and any(bool(np.any(window == end)) for window in _windows(train)),
        fingerprint=_fingerprint(*(content.sha256 for content in contents)),
        manifest=None,
    )


def _fingerprint(train_sha256: str, val_sha256: str) -> str:
    return hashlib.sha256(f"{train_sha256}\n{val_sha256}\n".encode()).hexdigest()


def _memory_map(path: Path, dtype: str, data_dir: Path) -> NDArray[Any]:
    hint = prepare_hint(path.parent.name, data_dir)
    if not path.is_file():
        raise DataError(f"{path} is missing; {hint}")
    item = np.dtype(dtype).newbyteorder("<")
    size = path.stat().st_size
    with path.open("rb") as file:
        check_is_no_pointer(file.read(len(GIT_LFS_POINTER)), path, DataError)
    if size == 0 or size % item.itemsize:
        raise DataError(f"{path} is damaged: {size} bytes are no whole number of {dtype} tokens; {hint}")
    try:
        return np.memmap(path, dtype=item, mode="r")
    except OSError as error:  # the system has no such mapping, or ulimit -v is less than the file
        raise DataError(
            f"{path} ({decimal(size)}) cannot be mapped: {error.strerror or error}; training reads it piece "
            "by piece, but its whole size counts as address space: raise the limit (ulimit -v)"
        ) from error


def _windows(tokens: Tokens) -> list[Tokens]:
    """Return the whole of a short split, or windows spread evenly over a long one."""
    if len(tokens) <= CHECKED_WINDOWS * CHECKED_WINDOW_TOKENS:
        return [tokens]
    starts = np.linspace(0, len(tokens) - CHECKED_WINDOW_TOKENS, CHECKED_WINDOWS).astype(np.int64)
    return [tokens[start : start + CHECKED_WINDOW_TOKENS] for start in starts]


def _checked_content(file: Path, dtype: str, tokenizer: Tokenizer, data_dir: Path, *, anew: bool) -> TokenFileContent:
    """Return the content of a token file, after checking that the tokenizer has all of its ids."""
    content = content_of(file, dtype, anew=anew)
    if content.largest_id >= tokenizer.vocab_size:
        raise DataError(
            f"{file} has the token id {content.largest_id} (token {content.place:,} of the file), but its tokenizer "
            f"{tokenizer.name} has only {tokenizer.vocab_size}; the file is damaged or was made with another "
            f"tokenizer, so {prepare_hint(file.parent.name, data_dir)}"
        )
    return content
