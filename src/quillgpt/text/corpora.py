"""Where a text comes from: recipes by name, and the files, folders and standard input that a person points at."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quillgpt.config.names import STANDARD_INPUT
from quillgpt.errors import DataError, did_you_mean
from quillgpt.files import sha256_of
from quillgpt.text.downloads import TINY_SHAKESPEARE, fetch
from quillgpt.text.python_docs import python_docs_file

TEXT_SUFFIXES = (".txt", ".md")


@dataclass(frozen=True)
class Source:
    """One document: a text file on this machine, and where it came from.

    Attributes:
        name: What messages call it.
        location: What dataset.json records: an address, an absolute path, `-`, or a built-in corpus' name.
        path: Where it can be read now.
    """

    name: str
    location: str
    path: Path

    @classmethod
    def from_file(cls, path: Path) -> Source:
        """Return the source of a file."""
        return cls(str(path), str(path.resolve()), path)


@dataclass(frozen=True)
class Recipe:
    """A corpus and the tokenizer that it is prepared with by default.

    Attributes:
        description: One line for lists.
        tokenizer: Its default tokenizer.
        location: What dataset.json records as the place of its text.
        text: Returns the text as a file, fetching or making it first.
        sha256: What the text hashes to, where that is known without fetching it.
    """

    description: str
    tokenizer: str
    location: str
    text: Callable[[], Path]
    sha256: str | None = None

    def source(self, name: str) -> Source:
        """Return the recipe's one document.

        Raises:
            DataError: It can neither be fetched nor made.
        """
        return Source(name, self.location, self.text())

    def current_sha256(self) -> str:
        """Return what the text hashes to today, without a download."""
        return self.sha256 or sha256_of(self.text())


RECIPES: dict[str, Recipe] = {
    "shakespeare_char": Recipe(
        "tiny Shakespeare (1.1 MB), by characters",
        tokenizer="char",
        location=TINY_SHAKESPEARE.address,
        text=lambda: fetch(TINY_SHAKESPEARE),
        sha256=TINY_SHAKESPEARE.sha256,
    ),
    "shakespeare": Recipe(
        "tiny Shakespeare (1.1 MB), by GPT-2's tokens",
        tokenizer="gpt2",
        location=TINY_SHAKESPEARE.address,
        text=lambda: fetch(TINY_SHAKESPEARE),
        sha256=TINY_SHAKESPEARE.sha256,
    ),
    "python_docs": Recipe(
        "the documentation that comes with this Python (0.7 MB), by characters; works offline",
        tokenizer="char",
        location="python_docs",
        text=python_docs_file,
    ),
}


def path_sources(given: str, *, spool: Path) -> list[Source]:
    """Return the documents that a path stands for: a file, the texts of a folder in order, or standard input.

    Args:
        given: A path, or `-`.
        spool: A folder for what comes from standard input, which can be read only once.

    Raises:
        DataError: There is no such file, or the folder has no texts.
    """
    if given == STANDARD_INPUT:
        spooled = spool / "standard-input.txt"
        with spooled.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return [Source("standard input", STANDARD_INPUT, spooled)]
    path = Path(given).expanduser()
    if path.is_dir():
        texts = sorted(file for file in path.rglob("*") if file.suffix.lower() in TEXT_SUFFIXES and file.is_file())
        if not texts:
            raise DataError(f"the folder {given} has no {' or '.join(TEXT_SUFFIXES)} files; give a text file")
        return [Source.from_file(file) for file in texts]
    if not path.exists() and given in RECIPES:
        raise DataError(f"{given} is a recipe, which is prepared alone: quill prepare {given}")
    if not path.exists():
        raise DataError(f"{given} is neither a file nor a recipe ({', '.join(RECIPES)}){did_you_mean(given, RECIPES)}")
    return [Source.from_file(path)]
