"""What a data set is to be made from: what a person typed, or what its dataset.json recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quillgpt.config.names import STANDARD_INPUT, dataset_name, name_of_sources
from quillgpt.data.dataset import dataset_folder
from quillgpt.data.manifest import Manifest, SourceRecord, read_manifest
from quillgpt.errors import DataError, did_you_mean
from quillgpt.files import sha256_of
from quillgpt.text.corpora import RECIPES, Source, path_sources


@dataclass(frozen=True)
class Request:
    """The texts and the split of a data set.

    Attributes:
        name: The data set's name.
        recipe: The recipe it belongs to, whose tokenizer is the default, or None for a person's own text.
        sources: The documents; None where they are the recipe's own text, which may not be here yet.
        val_sources: The documents of the validation split, or None where it is cut from the text.
        val_fraction: The share of characters that is cut off for validation.
    """

    name: str
    recipe: str | None
    sources: list[Source] | None
    val_sources: list[Source] | None
    val_fraction: float

    def documents(self) -> list[Source]:
        """Return the documents, fetching or making the recipe's text if it is not here.

        Raises:
            DataError: It can neither be fetched nor made.
        """
        if self.sources is not None:
            return self.sources
        assert self.recipe is not None
        return [RECIPES[self.recipe].source(self.recipe)]

    def hashes(self) -> list[str]:
        """Return the SHA-256 of each document; a published text that is not here is not fetched for it."""
        if self.sources is None:
            assert self.recipe is not None
            return [RECIPES[self.recipe].current_sha256()]
        return [sha256_of(source.path) for source in self.sources]


def request_from_words(
    given: Sequence[str], *, data_dir: Path, dataset: str | None, val: str | None, val_fraction: float, spool: Path
) -> Request:
    """Return what the words after `quill prepare` mean.

    A single word is a recipe, else a path, else a data set that has an input.txt or remembers its files.

    Args:
        given: The words.
        data_dir: Where data sets live.
        dataset: The data set's name, or None for the usual one.
        val: A path for the validation split, or None.
        val_fraction: The share of characters that is cut off where `val` is None.
        spool: A folder for standard input's text.

    Raises:
        DataError: A word means nothing.
    """
    if not given:
        raise DataError(f"nothing to prepare was given; give a text file, or a recipe ({', '.join(RECIPES)})")
    if [*given, val].count(STANDARD_INPUT) > 1:
        raise DataError("- (standard input) was given twice, but can be read only once; give a file")
    val_sources = None if val is None else path_sources(val, spool=spool)
    recipe = given[0].lower().replace("-", "_") if len(given) == 1 else None
    if recipe in RECIPES:
        name = recipe if dataset is None else dataset_name(dataset)
        own = _own_text(data_dir / name)
        return Request(name, recipe, None if own is None else [own], val_sources, val_fraction)
    if len(given) == 1 and given[0] != STANDARD_INPUT and not Path(given[0]).expanduser().exists():
        again = _request_for_name(given[0], data_dir)
        if again is None:
            known = [*RECIPES, *_names_beside(given[0])]
            raise DataError(
                f"{given[0]} is neither a file, a folder, nor a recipe ({', '.join(RECIPES)})"
                f"{_own_text_hint(given[0], data_dir)}{did_you_mean(given[0], known)}"
            )
        name = again.name if dataset is None else dataset_name(dataset)
        return replace(again, name=name, val_sources=val_sources, val_fraction=val_fraction)
    sources = [source for word in given for source in path_sources(word, spool=spool)]
    name = name_of_sources(given) if dataset is None else dataset_name(dataset)
    return Request(name, None, sources, val_sources, val_fraction)


def request_of_dataset(folder: Path, manifest: Manifest | None) -> Request | None:
    """Return how a data set is made today, or None where its text is not to be had.

    Its own input.txt comes first, then the recipe, then the files that dataset.json remembers.

    Args:
        folder: The data set's folder, which may be missing.
        manifest: What its dataset.json says, if it has one.
    """
    recipe = folder.name if manifest is None else manifest.recipe
    recipe = recipe if recipe in RECIPES else None
    val_fraction, val_sources = 0.1, None
    if manifest is not None:
        val_fraction = 0.1 if manifest.val_fraction is None else manifest.val_fraction
        if manifest.val_sources is not None:
            val_sources = _remembered(manifest.val_sources)
            if val_sources is None:
                return None
    own = _own_text(folder)
    remembered = None if manifest is None else [record.location for record in manifest.sources]
    if own is not None and (manifest is None or recipe is not None or remembered == [own.location]):
        return Request(folder.name, recipe, [own], val_sources, val_fraction)
    if recipe is not None:
        return Request(folder.name, recipe, None, val_sources, val_fraction)
    sources = None if manifest is None else _remembered(manifest.sources)
    return None if sources is None else Request(folder.name, None, sources, val_sources, val_fraction)


def _own_text_hint(name: str, data_dir: Path) -> str:
    folder = data_dir / name
    return f", and {folder} has no input.txt" if folder.is_dir() else ""


def _request_for_name(name: str, data_dir: Path) -> Request | None:
    if not name.strip("./\\") or "/" in name:
        return None
    folder = dataset_folder(name, data_dir)
    return request_of_dataset(folder, read_manifest(folder))


def _own_text(folder: Path) -> Source | None:
    for name in ("input.txt", f"{folder.name}.txt"):
        if (folder / name).is_file():
            return Source.from_file(folder / name)
    return None


def _remembered(records: list[SourceRecord]) -> list[Source] | None:
    paths = [Path(record.location) for record in records]
    return [Source.from_file(path) for path in paths] if all(path.is_file() for path in paths) else None


def _names_beside(given: str) -> list[str]:
    folder = Path(given).expanduser().parent
    return [str(path) for path in sorted(folder.glob("*"))] if folder.is_dir() else []
