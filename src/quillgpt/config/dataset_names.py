"""The names of data sets, their weights in a mixture, and the texts that `data` lists."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final
from urllib.parse import unquote, urlsplit

from quillgpt.config.paths import exists, expand, is_path, is_standard_input, is_stream, split_column
from quillgpt.errors import ConfigError, shorten

ALIASES: Final = {"owt": "openwebtext", "wiki": "wikitext"}
"""Short names of corpora."""

TEXTS: Final = ("http://", "https://", "hf:", "gutenberg:")
"""Beginnings of words that mean a text which is no file here."""

LONGEST_NAME_BYTES: Final = 255
"""The longest name that file systems take."""


LARGEST_WEIGHT: Final = 1e15
"""Of a data set in a mixture: more than any has tokens."""


def dataset_name(given: str) -> str:
    """Return the name of a data set's folder: in lower case, with underscores for all but letters and digits.

    Raises:
        ConfigError: The name is a path, or no folder can have it.
    """
    given = given.strip()
    shown = shorten(given)
    if any(unicodedata.category(character) == "Cc" for character in given):
        raise ConfigError(f"dataset = {shown} has a control character; give a name without it")
    if given.lower().startswith(TEXTS) or (is_path(given) and _is_file(expand(given))):
        raise ConfigError(f"dataset = {shown} is a text, not the name of a data set; give it as --data")
    if is_path(given):
        path = (PurePosixPath if "/" in given else PureWindowsPath)(given)
        instead = "the folder above it as --data_dir, and its name as --dataset"
        if len(given) < LONGEST_NAME_BYTES:
            instead = f"--data_dir={path.parent} --dataset={path.name}"
        raise ConfigError(f"dataset = {shown} is a path, not the name of a folder in data_dir; give {instead}")
    name = _spelled(given)
    if len(os.fsencode(name)) > LONGEST_NAME_BYTES:
        raise ConfigError(f"dataset = {shown} is too long for the name of a folder; give a shorter one")
    return name


def _is_file(path: Path) -> bool:
    return exists(path) and path.is_file()


def is_dataset_name(recorded: str) -> bool:
    """Return whether a name that was read from a file can be the name of a data set."""
    try:
        dataset_name(recorded)
    except ConfigError:
        return False
    return True


def _spelled(text: str) -> str:
    name = re.sub(r"[^\w.]+", "_", text.lower()).strip("_.")
    if not name:
        raise ConfigError(f"{shorten(text)} gives no name for a data set; name it with --dataset NAME")
    if os.name == "nt" and PureWindowsPath(name).is_reserved():
        raise ConfigError(f"{name} is no name for a folder on Windows; choose another with --dataset NAME")
    return name


def split_mixture(given: str) -> dict[str, float | None]:
    """Return the data sets that `dataset` names, with their weights: `a=0.7,b=0.3`; None for all of them in `a,b`.

    Raises:
        ConfigError: A name or a weight is missing or impossible, or a name comes twice.
    """
    shown, form = shorten(given), "give NAME=WEIGHT,NAME=WEIGHT; a name has neither a comma nor an equals sign"
    weights: dict[str, float | None] = {}
    for part in given.split(","):
        name, equals, weight = (word.strip() for word in part.partition("="))
        if not name:
            raise ConfigError(f"dataset = {shown} lacks a name{f' before ={weight}' if equals else ''}; {form}")
        if dataset_name(name) in map(dataset_name, weights):
            raise ConfigError(f"dataset = {shown} names {name} twice; name it once, with the sum of both weights")
        weights[name] = _weight(name, weight, form) if equals else None
    lacking = [name for name, weight in weights.items() if weight is None]
    if 0 < len(lacking) < len(weights):
        raise ConfigError(
            f"dataset = {shown} has no weight for {lacking[0]}; give all of them a weight, or none to mix by size"
        )
    return weights


def spell_mixture(weights: Mapping[str, float | None]) -> str:
    """Return data sets and their weights as `split_mixture` reads them."""
    return ",".join(
        name if weight is None else f"{name}={repr(weight).removesuffix('.0')}" for name, weight in weights.items()
    )


def _weight(name: str, given: str, form: str) -> float:
    try:
        weight = float(given)
    except ValueError:
        what = f"{shorten(given)}, which is no number" if given else "no number after the equals sign"
        raise ConfigError(f"the weight of the data set {shorten(name)} is {what}; {form}") from None
    if not 0 < weight <= LARGEST_WEIGHT:
        raise ConfigError(
            f"the weight of the data set {shorten(name)} is {given}; give one above 0 (up to {LARGEST_WEIGHT:g}), "
            "or leave the data set out"
        )
    return weight


def name_of_sources(sources: Sequence[str]) -> str:
    """Return the name of a data set by its first source.

    That is the stem of a file, the name of a folder or of a pattern's folder, the end of an address, `gutenberg_1513`,
    or `stdin`.

    Raises:
        ConfigError: The source has no letter or digit.
    """
    name = _spelled(_source_name(sources[0].strip()))
    while len(os.fsencode(name)) > LONGEST_NAME_BYTES:
        name = name[:-1]
    return name


def _source_name(source: str) -> str:
    """Return the name of a source as it is, before it is spelled as the name of a folder."""
    if is_standard_input(source):
        return "stdin"
    if source.startswith(("/dev/", "/proc/")) and is_stream(Path(source)):
        return "pipe"
    if source.lower().startswith(("http://", "https://")):
        try:
            address = urlsplit(source)
        except ValueError:  # not a valid address; whoever downloads it says so
            return "address"
        return PurePosixPath(unquote(address.path)).stem or address.hostname or "address"
    if source.startswith("gutenberg:"):
        return source
    if source.startswith("hf:"):
        path = Path(source.removeprefix("hf:").partition(":")[0])
        return path.stem if _is_file(path) else path.name
    path = expand(split_column(source)[0]).resolve()
    while glob.has_magic(path.name) and not exists(path):
        path = path.parent
    return path.name if exists(path) and path.is_dir() else path.stem


def split_sources(data: str) -> list[str]:
    """Return the texts in the setting `data`, separated by commas; a comma may also be part of a file's name."""
    words = data.split(",")
    sources = []
    while words:
        ends = (end for end in range(len(words), 1, -1) if exists(expand(split_column(",".join(words[:end]))[0])))
        end = next(ends, 1)
        sources.append(",".join(words[:end]).strip())
        del words[:end]
    return [source for source in sources if source]
