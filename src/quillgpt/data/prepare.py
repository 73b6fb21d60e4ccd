"""Prepares a data set: text -> train.bin, val.bin, dataset.json and the tokenizer."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from quillgpt.config.encoding_rules import EncodingRules
from quillgpt.console import say, warn
from quillgpt.data.build import build
from quillgpt.data.dataset import (
    META_FILE,
    Dataset,
    dataset_folder,
    finish_interrupted,
    is_nanogpt_folder,
    missing_dataset,
    open_dataset,
)
from quillgpt.data.dataset_manifest import TRAIN_FILE, DatasetManifest, read_dataset_manifest
from quillgpt.data.document_stream import Documents
from quillgpt.data.minhash import load_datasketch
from quillgpt.data.near_duplicates import NearDuplicates, find_near_duplicates
from quillgpt.data.replacement import (
    check_folder,
    check_replaceable,
    go_on,
    has_shards,
    how_to_go_on,
    what_is_left,
)
from quillgpt.data.request import (
    Cleaning,
    Request,
    difference,
    names_files_of_others,
    request_from_words,
    request_of_dataset,
)
from quillgpt.data.staging import keep_aside, made_files, one_preparation, remember_as_made_here
from quillgpt.errors import DataError, UserError
from quillgpt.stopping import activity
from quillgpt.text.formats.opened import PLAIN, Wishes
from quillgpt.text.sources.corpora import RECIPES
from quillgpt.text.sources.documents import FileRules, Source
from quillgpt.text.tokenizers.tokenizer import (
    Tokenizer,
    check_spec,
    load_tokenizer,
    tokenizer_from_spec,
    tokenizer_kind,
    usual_tokenizer,
)

CHUNK_CHARACTERS = 1 << 18  # small enough for a processor's cache

Maker = Callable[[Request, str | Tokenizer, Path], Path]
"""Makes the data set of a request with a tokenizer for a folder; returns the folder that it made."""


@dataclass(frozen=True)
class Preparation:
    """The result of `prepare`.

    Attributes:
        dataset: The open data set.
        manifest: The content of its dataset.json.
        reused: Whether it existed already, made from the same text with the same options.
        seconds: The duration.
        near_duplicates: Groups of documents that are nearly equal, if they were asked for.
    """

    dataset: Dataset
    manifest: DatasetManifest
    reused: bool
    seconds: float
    near_duplicates: NearDuplicates | None = None


def prepare(
    sources: Sequence[str],
    *,
    data_dir: Path,
    dataset: str | None = None,
    tokenizer: str | Tokenizer | None = None,
    val: str | None = None,
    val_fraction: float | None = None,
    end_of_text_marks: bool = False,
    deduplicate: bool = False,
    drop_repeated_lines: int | None = None,
    drop_openings: int | None = None,
    drop_endings: int | None = None,
    encoding: str | None = None,
    skip_unreadable: bool = False,
    follow_links: bool = False,
    wishes: Wishes = PLAIN,
    replace: bool = False,
    overwrite: bool = False,
    near_duplicates: float | None = None,
    num_proc: int | None = None,
    chunk_characters: int = CHUNK_CHARACTERS,
    make: Maker | None = None,
) -> Preparation:
    """Prepare a data set from a recipe or from the user's files, unless it exists and is unchanged.

    Args:
        sources: One recipe, one data set whose folder has an input.txt, or texts as `text.sources.corpora.texts_of`
            reads them.
        data_dir: Folder of the data sets.
        dataset: The data set's name; by default the recipe's, or the first file's stem.
        tokenizer: A name (`char`, `byte`, `gpt2`, `bpe:N`, a path) or a tokenizer; by default the recipe's, or for own
            files that of the data set that is there, if it has the same text, else `usual_tokenizer`.
        val: The text of the validation split; by default the corpus' own split, or `val_fraction` of the text.
        val_fraction: The share of the text for the validation split: whole documents if there are enough, else the
            end of the text. By default 0.1, or the corpus' usual share.
        end_of_text_marks: Let each mark such as `<|endoftext|>` in the text end a document; see `data.marks`.
        deduplicate: Leave out documents that are equal to an earlier one.
        drop_repeated_lines: Leave out lines that occur in at least this many documents.
        drop_openings: Leave out what at least this many documents begin with; see `data.announcements`.
        drop_endings: Leave out what at least this many documents end with.
        encoding: The encoding of all or some files: `cp1251`, `old/*.txt=koi8-r,*=utf-8`; by default detected.
        skip_unreadable: Leave out files of a folder or pattern that cannot be read.
        follow_links: Also read files outside of a folder to which links in it lead.
        wishes: What is wanted of chats, mails and other files that are no plain text.
        replace: Whether to replace a data set of this name that was made from other texts.
        overwrite: Whether to replace also what Quill did not make, or of which it cannot tell the origin.
        near_duplicates: Also find documents with at least this similarity, above 0 and up to 1; nothing is left out.
        num_proc: The number of cores that encode; None takes what is fastest.
        chunk_characters: About how many characters are encoded at once.
        make: Makes a data set that is missing or has changed; by default it is built in its own folder.

    Raises:
        DataError: A source is missing, is no text, or is too short.
        TokenizerError: The tokenizer is unknown or cannot represent the text.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction}; it is a share, so give a number between 0 and 1, such as 0.1")
    if isinstance(tokenizer, str):
        check_spec(tokenizer)
    if near_duplicates is not None:
        load_datasketch()  # now, and not when the data set is done
    with tempfile.TemporaryDirectory(prefix="quill-") as spool:
        request = request_from_words(
            sources,
            data_dir=data_dir,
            dataset=dataset,
            val=val,
            val_fraction=val_fraction,
            cleaning=Cleaning(deduplicate, drop_repeated_lines, end_of_text_marks, drop_openings, drop_endings),
            files=_file_rules(encoding, skip_unreadable, follow_links, wishes),
            spool=Path(spool),
        )
        prepared = _prepare(
            request,
            tokenizer,
            data_dir=data_dir,
            replace=replace or overwrite,
            overwrite=overwrite,
            num_proc=num_proc,
            chunk_characters=chunk_characters,
            make=make,
        )
        if near_duplicates is None:
            return prepared
        found = _near_duplicates(request, prepared.manifest, near_duplicates, num_proc)
        return dataclasses.replace(prepared, near_duplicates=found)


def ensure_dataset(
    name: str,
    *,
    data_dir: Path,
    tokenizer: str | Tokenizer | None = None,
    make: Maker | None = None,
) -> Dataset:
    """Open a data set for training; prepare it first if its text has changed, or if it is a recipe and missing.

    A prepared data set keeps its tokenizer and split; it is also made again if `tokenizer` is given and differs. A
    folder of nanoGPT is used as it is. `make` is as in `prepare`.

    Raises:
        DataError: There is no such data set or recipe, or its text is not available.
        TokenizerError: The tokenizer is unknown or cannot represent the text.
    """
    if isinstance(tokenizer, str):
        check_spec(tokenizer)
    folder = dataset_folder(name, data_dir)
    finish_interrupted(folder)
    if is_nanogpt_folder(folder):
        text = folder / "input.txt"
        if text.is_file() and text.stat().st_mtime > (folder / TRAIN_FILE).stat().st_mtime:
            warn(f"{text} is newer than {folder / TRAIN_FILE}; to use it: quill prepare {folder.name} --overwrite")
        return open_dataset(folder.name, data_dir)
    manifest = read_dataset_manifest(folder)
    request = request_of_dataset(folder, manifest)
    if request is None:
        if manifest is not None and names_files_of_others(folder, manifest):
            say(
                f"{folder} was not prepared with this cache folder, so it is used as it is, without checking "
                f"whether its text has changed; to prepare it again: quill prepare PATH --dataset={folder.name}"
            )
        if manifest is not None or made_files(folder):
            return open_dataset(folder.name, data_dir)  # reports what is wrong with it
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
    overwrite: bool = False,
    num_proc: int | None = None,
    quiet: bool = False,
    make: Maker | None = None,
) -> Preparation:
    started = time.perf_counter()
    folder = data_dir / request.name
    check_folder(folder)
    finish_interrupted(folder)
    if tokenizer is None and request.recipe is not None:
        tokenizer = RECIPES[request.recipe].tokenizer
    state = _folder_state(request, tokenizer, folder)
    if state.dataset is None and make is not None:
        check_replaceable(request, folder, state.manifest, state.reason, replace=replace, overwrite=overwrite)
        made_at = make(request, tokenizer or _usual_tokenizer(request, folder), folder)
        return _preparation(open_dataset(made_at.name, made_at.parent), started, reused=False)
    if state.dataset is None:
        with one_preparation(folder):
            state = _folder_state(request, tokenizer, folder)  # again, since another process may have made it meanwhile
            if state.dataset is None:
                check_replaceable(request, folder, state.manifest, state.reason, replace=replace, overwrite=overwrite)
                if state.manifest is None:
                    keep_aside(folder, made_files(folder))
                say(f"Preparing {folder}" + (f" again: {state.reason}" if state.reason else ""))
                with activity(lambda: f"while {folder} was prepared: {how_to_go_on(folder)}"):
                    try:
                        made = build(
                            request,
                            tokenizer or _usual_tokenizer(request, folder),
                            folder,
                            chunk_characters=chunk_characters,
                            overwrite=overwrite,
                            num_proc=num_proc,
                        )
                    except ChildProcessError as error:
                        raise DataError(
                            f"{folder} could not be prepared: {error}; {how_to_go_on(folder)}; a smaller "
                            "--num_proc needs less memory"
                        ) from error
                    except OSError as error:
                        reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
                        remedy = f"and {go_on()}" if has_shards(folder) else "or give another place with --data_dir"
                        raise DataError(
                            f"{folder} could not be prepared ({reason}): {what_is_left(folder)}; make room, {remedy}"
                        ) from error
                remember_as_made_here(folder)
                dataset = open_dataset(folder.name, folder.parent, tokenizer=made)
                return _preparation(dataset, started, reused=False)
    if not quiet:
        say(f"{folder} is already prepared; its text, split and tokenizer are unchanged")
        _trust(request, folder, state.dataset.manifest)
    return _preparation(state.dataset, started, reused=True)


def _near_duplicates(request: Request, manifest: DatasetManifest, least: float, num_proc: int | None) -> NearDuplicates:
    texts = request.texts()
    documents = [Documents(texts.train, CHUNK_CHARACTERS, known=manifest.sources)]
    if texts.val is not None and manifest.val_sources is not None:
        documents.append(Documents(texts.val, CHUNK_CHARACTERS, known=manifest.val_sources))
    if manifest.end_of_text_marks:
        for text in documents:
            text.divide_at_marks()
    with (
        tempfile.TemporaryDirectory(prefix="quill-") as folder,
        activity("while nearly equal documents were looked for; the data set is complete"),
    ):
        try:
            return find_near_duplicates(documents, least, folder=Path(folder), num_proc=num_proc)
        except OSError as error:  # also of a worker process
            raise DataError(
                f"the data set is complete, but its nearly equal documents could not be found: {error}; the files for "
                f"it are in {tempfile.gettempdir()}, and TMPDIR names another place"
            ) from error


def _trust(request: Request, folder: Path, manifest: DatasetManifest | None) -> None:
    """Trust dataset.json to name its texts, if they are exactly the texts that the user has just named."""
    given = [source.location for source in (request.own.train if request.own else [])]
    val = None if request.val_sources is None else [source.location for source in request.val_sources]
    if manifest is not None and given == [record.location for record in manifest.sources]:
        recorded = None if manifest.val_sources is None else [record.location for record in manifest.val_sources]
        if val == recorded:
            remember_as_made_here(folder)


def _preparation(dataset: Dataset, started: float, *, reused: bool) -> Preparation:
    assert dataset.manifest is not None
    return Preparation(dataset, dataset.manifest, reused=reused, seconds=time.perf_counter() - started)


@dataclass(frozen=True)
class FolderState:
    """The state of a data set's folder.

    Attributes:
        manifest: The content of its dataset.json, or None if it has none that can be read.
        dataset: The data set, if it is as requested.
        reason: Why it has to be made again; empty if there is nothing.
    """

    manifest: DatasetManifest | None = None
    dataset: Dataset | None = None
    reason: str = ""


def _folder_state(request: Request, tokenizer: str | Tokenizer | None, folder: Path) -> FolderState:
    """Look at a data set's folder; without a tokenizer, any will do."""
    manifest = None
    try:
        manifest = read_dataset_manifest(folder)
        if manifest is None:
            return FolderState()
        reason = difference(request, manifest)
        if reason is None and tokenizer is not None:
            reason = _tokenizer_difference(tokenizer, manifest)
        if reason is None:
            return FolderState(manifest, open_dataset(request.name, folder.parent))
    except UserError as error:
        reason = str(error)
    return FolderState(manifest, reason=reason)


def _file_rules(encoding: str | None, skip_unreadable: bool, follow_links: bool, wishes: Wishes) -> FileRules:
    try:
        return FileRules(EncodingRules.parse(encoding), skip_unreadable, follow_links, wishes)
    except ValueError as error:
        raise DataError(str(error)) from None


def _usual_tokenizer(request: Request, folder: Path) -> str:
    """Choose the tokenizer of a text whose user has named none, and say so."""
    if (folder / META_FILE).exists():  # which nanoGPT has prepared by characters, for models that it has trained
        return "char"
    total = sum(_text_bytes(source, request.files) for source in request.texts().train)
    tokenizer = usual_tokenizer(total)
    if total == 0:  # nothing can be read, as `build` says
        return tokenizer
    say(f"tokenizer {usual_for(tokenizer, total)}; --tokenizer names another")
    return tokenizer


def usual_for(tokenizer: str, text_bytes: int) -> str:
    """Return the reason for the usual tokenizer in words."""
    return f"{tokenizer}, the usual one for {decimal(text_bytes)} of text"


def _text_bytes(source: Source, files: FileRules) -> int:
    """Return the size of a source's text; 0 if it cannot be read, which `build` says."""
    try:
        return source.as_text(files.encoding.encoding_of(source.location)).path.stat().st_size
    except DataError:
        return 0


def _recorded_tokenizer(folder: Path, manifest: DatasetManifest) -> str | Tokenizer:
    requested = manifest.tokenizer.requested
    return requested if requested is not None and tokenizer_kind(requested) else load_tokenizer(folder)


def _tokenizer_difference(tokenizer: str | Tokenizer, manifest: DatasetManifest) -> str | None:
    """Return how a data set's tokenizer differs from the requested one, or None if it does not."""
    if isinstance(tokenizer, str) and tokenizer_kind(tokenizer):
        was = manifest.tokenizer.requested or f"a given {manifest.tokenizer.name}"
        return None if tokenizer == was else f"its tokenizer was {was}, not {tokenizer}"
    if isinstance(tokenizer, str):
        tokenizer = tokenizer_from_spec(tokenizer)
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        return f"its tokenizer {manifest.tokenizer.name} is not the same as the {tokenizer.name} given"
    return None
