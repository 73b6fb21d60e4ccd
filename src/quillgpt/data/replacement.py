"""Checks that a new data set replaces nothing that it must not."""

from __future__ import annotations

from pathlib import Path

from quillgpt.data.dataset import is_nanogpt_folder
from quillgpt.data.dataset_manifest import MANIFEST_FILE, DatasetManifest, again
from quillgpt.data.request import Request
from quillgpt.data.shards import read_shards_record
from quillgpt.data.staging import STAGING, made_files
from quillgpt.errors import DataError, shorten
from quillgpt.process import own_command
from quillgpt.text.sources.addresses import shown_address
from quillgpt.text.sources.corpora import RECIPES


def check_folder(folder: Path) -> None:
    """Check that a data set's folder is a folder or can be made.

    Raises:
        DataError: Something else is in its place.
    """
    if folder.is_symlink() and not folder.exists():
        raise DataError(f"{folder} is a broken link; correct it, or name another data set: --dataset")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, and a data set needs a folder of this name; name another one: --dataset")
    if folder.parent.exists() and not folder.parent.is_dir():
        raise DataError(f"{folder.parent} is a file, and data sets are kept in a folder; give another --data_dir")


def check_replaceable(
    request: Request, folder: Path, manifest: DatasetManifest | None, damage: str, *, replace: bool, overwrite: bool
) -> None:
    """Check that a new data set may replace what is in its folder.

    By default it replaces neither a data set of another text nor files that Quill did not make.

    Args:
        request: The new data set.
        folder: Its folder.
        manifest: The content of the folder's dataset.json, or None if it has none that can be read.
        damage: What is wrong with the data set in the folder; empty if nothing is.
        replace: Whether a data set of Quill's may be replaced by one of another text.
        overwrite: Whether anything may be replaced.

    Raises:
        DataError: It may not; the message names what would be replaced.
    """
    there = made_files(folder)
    if in_the_way := next((name for name in there if (folder / name).is_dir()), None):
        raise DataError(f"{folder / in_the_way} is a folder, and a file of this name has to be made; move it away")
    if overwrite:
        return
    elsewhere = f"name another data set, such as --dataset={folder.name}_2"
    if manifest is None and there:
        why = f"{damage.partition(';')[0]}, so" if damage else f"{folder} has no {MANIFEST_FILE}, and"
        as_it_is = f", train on it as it is (quill train --dataset={folder.name})" if is_nanogpt_folder(folder) else ""
        raise DataError(
            f"{why} Quill cannot tell what {', '.join(there)} in {folder} were made from; {elsewhere}{as_it_is}, or "
            f"replace them: quill prepare PATH {again(folder)}"
        )
    if replace or (manifest and manifest.recipe is not None and manifest.recipe == request.recipe):
        return
    if (manifest is None or manifest.recipe is not None) and folder.name in RECIPES:
        if request.recipe is None and not (folder / "input.txt").is_file():
            raise DataError(f"{folder} is the folder of a recipe, and this is another text; {elsewhere}")
        return
    if manifest is None or request.hashes() == [record.sha256 for record in manifest.sources]:
        return
    places = [record.location for record in manifest.sources] or [manifest.name]
    if request.own is None or {source.location for source in request.own.train}.isdisjoint(places):
        place = shorten(shown_address(min(places)), 300)
        raise DataError(
            f"{folder} was made from {place}, and this is another text; {elsewhere}, or replace it: quill"
            f" prepare PATH {again(folder).removesuffix(' --overwrite')}"
        )


def what_is_left(folder: Path) -> str:
    """Return what remains of a data set when preparing it fails, for a message."""
    shards = read_shards_record(folder / STAGING)
    if shards is not None:
        return f"{shards.in_words()} are done"
    return "the earlier data set is unchanged" if made_files(folder) else "nothing of it is kept"


def has_shards(folder: Path) -> bool:
    """Return whether an interrupted preparation of a data set can go on."""
    return read_shards_record(folder / STAGING) is not None


def how_to_go_on(folder: Path) -> str:
    """Return what remains of a data set when preparing it is interrupted, and what to do."""
    return f"{what_is_left(folder)}; {go_on() if has_shards(folder) else 'the same command starts again'}"


def go_on() -> str:
    """Return the words that tell with which command an interrupted preparation goes on."""
    command = own_command()
    if command is None or "://" in command or " - " in f"{command} ":  # it may have secrets, or input from a pipe
        return "the same command goes on"
    return f"go on with: {command}"
