"""How data sets are called."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from quillgpt.errors import ConfigError

STANDARD_INPUT: Final = "-"

ALIASES: Final = {"owt": "openwebtext", "wiki": "wikitext"}
"""Short names of corpora."""


def expand(path: str) -> Path:
    """Return a path with a leading `~` as the home folder, and as it is where nobody has such a home."""
    try:
        return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's own raises where nobody has such a home
    except ValueError:  # no user's name has a NUL character
        return Path(path)


def exists(path: Path) -> bool:
    """Return whether there is a file or folder; what no path can be, such as a name that is too long, does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def dataset_name(given: str) -> str:
    """Return a data set's name as its folder is called: lower case, with underscores for what is no letter or digit.

    Raises:
        ConfigError: Nothing is left of it.
    """
    name = re.sub(r"[^\w.]+", "_", given.lower()).strip("_.")
    if not name:
        raise ConfigError(f"{given!r} gives no name for a data set; name one with --dataset NAME")
    return name


def name_of_sources(sources: Sequence[str]) -> str:
    """Return the name that a data set takes from its first source.

    It is a file's stem, a folder's name, the folder of a pattern, the end of an address, `gutenberg_1513`, or `stdin`.

    Raises:
        ConfigError: There is no letter or digit in it.
    """
    first = sources[0].strip()
    if first == STANDARD_INPUT:
        return "stdin"
    if first.startswith(("http://", "https://")):
        address = urlsplit(first)
        return dataset_name(PurePosixPath(unquote(address.path)).stem or address.netloc)
    if first.startswith("gutenberg:"):
        return dataset_name(first)
    if first.startswith("hf:"):
        path = Path(first.removeprefix("hf:").partition(":")[0])
        return dataset_name(path.stem if exists(path) and path.is_file() else path.name)
    path = expand(first).resolve()
    while glob.has_magic(path.name) and not exists(path):
        path = path.parent
    return dataset_name(path.name if exists(path) and path.is_dir() else path.stem)


def split_sources(data: str) -> list[str]:
    """Return the texts that the setting `data` lists, separated by commas; a comma may be part of a file's own name."""
    words = data.split(",")
    sources = []
    while words:
        ends = (end for end in range(len(words), 1, -1) if exists(expand(",".join(words[:end]))))
        end = next(ends, 1)
        sources.append(",".join(words[:end]).strip())
        del words[:end]
    return [source for source in sources if source]
