"""How data sets are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from quillgpt.errors import ConfigError

STANDARD_INPUT: Final = "-"


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
    """Return the name that a data set takes from its first source: the file's stem, or `stdin` for `-`.

    Raises:
        ConfigError: The file's name has no letter or digit.
    """
    first = sources[0].strip()
    if first == STANDARD_INPUT:
        return "stdin"
    path = Path(first).expanduser().resolve()
    return dataset_name(path.name if path.is_dir() else path.stem)
