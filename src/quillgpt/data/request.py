"""The request for a data set: its texts and options, from the command line or from its dataset.json."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quillgpt.config.dataset_names import dataset_name, name_of_sources
from quillgpt.config.encoding_rules import EncodingRules
from quillgpt.config.paths import STANDARD_INPUT, exists, expand, is_path, is_standard_input, split_column
from quillgpt.data.dataset import dataset_folder, text_beside
from quillgpt.data.dataset_manifest import MANIFEST_FILE, DatasetManifest, SourceRecord, read_dataset_manifest
from quillgpt.data.staging import was_made_here
from quillgpt.errors import DataError, did_you_mean
from quillgpt.files import path_inside
from quillgpt.text.formats.convert import Conversion
from quillgpt.text.formats.opened import Wishes
from quillgpt.text.sources.addresses import is_web_address, shown_address
from quillgpt.text.sources.corpora import BOOK, RECIPES, Texts, recipe_named, texts_of
from quillgpt.text.sources.documents import PLAINLY, FileRules, Source
from quillgpt.text.sources.hub_corpus import PREFIX


@dataclass(frozen=True)
class Cleaning:
    """What is removed from a text.

    Attributes:
        deduplicate: Remove documents that are equal to an earlier one.
        drop_repeated_lines: Remove lines that occur in at least this many documents; None removes none.
        drop_openings: Remove what at least this many documents begin with; None removes nothing.
        drop_endings: Remove what at least this many documents end with; None removes nothing.
        end_of_text_marks: Remove marks such as `<|endoftext|>`, and let each end a document.
    """

    deduplicate: bool = False
    drop_repeated_lines: int | None = None
    end_of_text_marks: bool = False
    drop_openings: int | None = None
    drop_endings: int | None = None

    @classmethod
    def of(cls, manifest: DatasetManifest) -> Cleaning:
        """Return the cleaning with which a data set was made."""
        return cls(
            deduplicate=manifest.deduplicate,
            drop_repeated_lines=manifest.drop_repeated_lines,
            end_of_text_marks=manifest.end_of_text_marks,
            drop_openings=manifest.drop_openings,
            drop_endings=manifest.drop_endings,
        )


@dataclass(frozen=True)
class Request:
    """The texts of a data set, their split and their cleaning.

    Attributes:
        name: The data set's name.
        recipe: The recipe, whose tokenizer is the default, or None for the user's own text.
        own: The texts, or None for the recipe's text, which may not be downloaded yet.
        val_sources: The validation text that the user named, or None.
        val_fraction: The share that the user wants to hold out for validation, or None for the usual one.
        cleaning: What is removed.
        files: How files are found and read.
    """

    name: str
    recipe: str | None
    own: Texts | None
    val_sources: list[Source] | None = None
    val_fraction: float | None = None
    cleaning: Cleaning = Cleaning()
    files: FileRules = PLAINLY

    def texts(self) -> Texts:
        """Return the texts; a recipe's text is downloaded or made if it is missing.

        `val_fraction` overrides the corpus' own validation split, and `val_sources` overrides both.

        Raises:
            DataError: The texts can neither be downloaded nor made.
        """
        texts = self.own
        if texts is None:
            assert self.recipe is not None
            texts = RECIPES[self.recipe].texts()
        if self.val_sources is not None:
            return replace(texts, val=self.val_sources)
        if self.val_fraction is not None:
            return Texts(texts.train, val_fraction=self.val_fraction)
        return texts

    @property
    def usual_val_fraction(self) -> float:
        """The share that is held out by default."""
        if self.own is not None:
            return self.own.val_fraction
        assert self.recipe is not None
        return RECIPES[self.recipe].val_fraction

    def hashes(self) -> list[str | None] | None:
        """Return the SHA-256 of each file to train on, or None if that would need a download."""
        if self.own is not None:
            return [source.sha256_if_readable() for source in self.texts().train]
        assert self.recipe is not None
        hashes = RECIPES[self.recipe].hashes()
        return None if hashes is None else [*hashes]


def request_from_words(
    given: Sequence[str],
    *,
    data_dir: Path,
    dataset: str | None,
    val: str | None,
    val_fraction: float | None,
    cleaning: Cleaning,
    files: FileRules,
    spool: Path,
) -> Request:
    """Return the request that the words after `quill prepare` mean.

    A single word is a recipe, else a text to read, else a data set with an input.txt or a dataset.json.

    Args:
        given: The words.
        data_dir: Folder of the data sets.
        dataset: The data set's name, or None for the usual one.
        val: The text to validate on, or None.
        val_fraction: The share that is held out if `val` is None; None for the usual one.
        cleaning: What is removed.
        files: How files are found and read.
        spool: A folder for copies of input that can be read only once.

    Raises:
        DataError: A word is neither of these.
    """
    if not given:
        raise DataError(f"nothing to prepare was given; give a text file, or a recipe ({', '.join(RECIPES)})")
    if "" in (word.strip() for word in (*given, val or STANDARD_INPUT)):
        raise DataError("an empty word was given as a text to prepare; give a file, a folder or a recipe")
    if sum(word is not None and is_standard_input(word) for word in (*given, val)) > 1:
        raise DataError("- (standard input) was given twice, but can be read only once; give a file")
    val_sources = None if val is None else texts_of([val], spool=spool, files=files).train
    request = _request_for_words(given, data_dir, dataset, files, spool)
    return replace(request, val_sources=val_sources, val_fraction=val_fraction, cleaning=cleaning, files=files)


def _request_for_words(
    given: Sequence[str], data_dir: Path, dataset: str | None, files: FileRules, spool: Path
) -> Request:
    recipe = recipe_named(given[0]) if len(given) == 1 else None
    if recipe is not None:
        name = recipe if dataset is None else dataset_name(dataset)
        own = _own_text(data_dir / name)
        return Request(name, recipe, None if own is None else Texts([own]))
    if len(given) == 1 and not _can_be_read(given[0]):
        again = _request_for_name(given[0], data_dir)
        if again is None:
            beside = _names_beside(given[0])
            known = beside if Path(given[0]).suffix else [*RECIPES, *beside]
            raise DataError(
                f"{shown_address(given[0])} is neither a file, a folder, nor a recipe ({', '.join(RECIPES)})"
                f"{_own_text_hint(given[0], data_dir)}{did_you_mean(given[0], known)}"
            )
        return again if dataset is None else replace(again, name=dataset_name(dataset))
    texts = texts_of(given, spool=spool, files=files)  # first, since it reports wrong words
    return Request(name_of_sources(given) if dataset is None else dataset_name(dataset), None, texts)


def request_of_dataset(folder: Path, manifest: DatasetManifest | None) -> Request | None:
    """Return the request that makes a data set again, or None if its text is not available.

    Its own input.txt comes first, then the recipe, then the files that dataset.json names. Those are read only if Quill
    wrote that dataset.json on this machine: one from elsewhere may name any file.

    Args:
        folder: The data set's folder, which may be missing.
        manifest: The content of its dataset.json, or None.
    """
    own = _own_text(folder)
    if manifest is None:
        recipe = folder.name if folder.name in RECIPES else None
        if own is None and recipe is None:
            return None
        return Request(folder.name, recipe, None if own is None else Texts([own]))
    val_sources = None
    is_ours = was_made_here(folder)
    if own is not None and not is_ours and path_inside(folder, Path(own.name).name) is None:
        own = None
    if manifest.val_sources is not None and not _is_own_split(manifest):
        val_sources = _remembered(manifest.val_sources, manifest) if is_ours else None
        if val_sources is None:
            return None
    recipe = manifest.recipe if manifest.recipe in RECIPES else None
    files = FileRules(EncodingRules.parse(manifest.encoding), wishes=Wishes.of(manifest))
    request = Request(folder.name, recipe, None, val_sources, manifest.val_fraction, Cleaning.of(manifest), files)
    if own is not None and (recipe is not None or [record.location for record in manifest.sources] == [own.location]):
        return replace(request, own=Texts([own]))
    if recipe is not None:
        return request
    sources = _remembered(manifest.sources, manifest) if is_ours else None
    return None if sources is None else replace(request, own=Texts(sources))


def difference(request: Request, manifest: DatasetManifest) -> str | None:
    """Return how a prepared data set differs from the request, or None if it has the same texts and options."""
    if (manifest.encoding or "") != str(request.files.encoding):
        return f"it was prepared with encoding = {manifest.encoding or 'auto'}, not {request.files.encoding or 'auto'}"
    own = request.own
    hashes = request.hashes() if own is None else _hashes_of_read(own.train, request.files, manifest)
    if hashes is not None and hashes != [source.sha256 for source in manifest.sources]:
        return "its text has changed"
    if own is not None and _read_differently(own.train, manifest.sources):
        return "its files were read as other formats, or other columns of them"
    if Wishes.of(manifest) != request.files.wishes:
        return "its chats, mails or documents were read with other settings"
    if request.val_sources is not None:
        wanted = _hashes_of_read(request.val_sources, request.files, manifest)
        recorded = manifest.val_sources or []
        if wanted != [source.sha256 for source in recorded] or _read_differently(request.val_sources, recorded):
            return "its validation text has changed"
    elif request.val_fraction is not None or not _is_own_split(manifest):
        val_fraction = request.usual_val_fraction if request.val_fraction is None else request.val_fraction
        if manifest.val_fraction != val_fraction:
            return f"it was not split with val_fraction {val_fraction}"
    if Cleaning.of(manifest) != request.cleaning:
        return "it was cleaned differently"
    return None


def _hashes_of_read(sources: Sequence[Source], files: FileRules, manifest: DatasetManifest) -> list[str | None]:
    """Return the hashes of files, without the files that were skipped and would be skipped again."""
    skipped = {
        (record.location, record.sha256) for record in manifest.skipped if record.is_empty or files.skip_unreadable
    }
    hashes = [(source.location, source.sha256_if_readable()) for source in sources]
    return [sha256 for location, sha256 in hashes if (location, sha256) not in skipped]


def _read_differently(sources: Sequence[Source], records: Sequence[SourceRecord]) -> bool:
    """Return whether a file was read as another format than now, or another column of it."""
    recorded = {(record.sha256, record.format, record.column) for record in records}
    hashes = {record.sha256 for record in records}
    for source in sources:
        how = source.conversion
        found = source.sha256_if_readable(), how and how.format, how and how.column
        if found[0] in hashes and found not in recorded:
            return True
    return False


def _is_own_split(manifest: DatasetManifest) -> bool:
    """Return whether the validation split came with a corpus from the hub."""
    return manifest.val_sources is not None and all(
        source.location.startswith(PREFIX) for source in manifest.val_sources
    )


def _can_be_read(word: str) -> bool:
    return (
        word == STANDARD_INPUT
        or is_web_address(word)
        or word.startswith((BOOK, PREFIX))
        or expand(split_column(word)[0]).exists()
        or glob.has_magic(word)
    )


def _own_text_hint(name: str, data_dir: Path) -> str:
    folder = data_dir / name
    if not (exists(folder) and folder.is_dir()):
        return ""
    if (text := text_beside(folder)) is None:
        return f", and {folder} has no input.txt"
    return f"; the text in {folder} is prepared with: quill prepare {shlex.quote(str(text))} --dataset {folder.name}"


def _request_for_name(name: str, data_dir: Path) -> Request | None:
    if not name.strip("./\\") or is_path(name):
        return None
    folder = dataset_folder(name, data_dir)
    manifest = read_dataset_manifest(folder)
    request = request_of_dataset(folder, manifest)
    if request is None and manifest is not None and names_files_of_others(folder, manifest):
        raise DataError(
            f"{folder} was not prepared with this cache folder, so the files that its {MANIFEST_FILE} names are "
            f"not trusted; give the text: quill prepare PATH --dataset={folder.name}"
        )
    return request


def names_files_of_others(folder: Path, manifest: DatasetManifest) -> bool:
    """Return whether a data set that was made elsewhere, or before this cache folder, names files that exist here."""
    return not was_made_here(folder) and any(
        Path(record.location).is_absolute() and exists(Path(record.location)) for record in manifest.sources
    )


def _own_text(folder: Path) -> Source | None:
    for name in ("input.txt", f"{folder.name}.txt"):
        if (folder / name).is_file():
            return Source.from_file(folder / name)
    return None


def _remembered(records: list[SourceRecord], manifest: DatasetManifest) -> list[Source] | None:
    paths = [Path(record.location) for record in records]
    if not all(exists(path) and path.is_file() for path in paths):
        return None
    return [recorded_source(record, manifest) for record in records]


def recorded_source(record: SourceRecord, manifest: DatasetManifest) -> Source:
    """Return a file of a data set, which is read as it was when the data set was made."""
    conversion = None
    if record.format is not None:
        conversion = Conversion(record.format, record.column, Wishes.of(manifest))
    return Source.from_file(Path(record.location), conversion)


def _names_beside(given: str) -> list[str]:
    folder = expand(given).parent
    return [str(path) for path in sorted(folder.glob("*"))] if folder.is_dir() else []
