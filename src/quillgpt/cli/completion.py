"""Completions for the Tab key: names that Quill knows, and files.

The shell runs `quill __complete ...` at each Tab, so nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from quillgpt.config import preset_description, preset_names
from quillgpt.config.paths import expand
from quillgpt.config.sources import SUFFIXES


class TypedWord(Protocol):
    """The word that is being typed, as cyclopts describes it."""

    @property
    def incomplete(self) -> str:
        """The word so far."""


Offers = Iterable[str | tuple[str, str]]
Completer = Callable[[TypedWord], Offers]


def complete_words(words: Sequence[str]) -> Completer:
    """Return a completer that offers these words."""
    return lambda _: words


def complete_path(word: TypedWord) -> Offers:
    """Offer files and folders."""
    return paths(word.incomplete)


def complete_preset(word: TypedWord) -> Offers:
    """Offer presets with their descriptions, folders, and files of settings."""
    yield from ((name, preset_description(name)) for name in preset_names())
    yield from (path for path in paths(word.incomplete) if path.endswith(("/", *SUFFIXES)))


def complete_source(word: TypedWord) -> Offers:
    """Offer recipes with their descriptions, files and folders."""
    from quillgpt.text.sources.corpora import RECIPES

    yield from ((name, recipe.description) for name, recipe in RECIPES.items())
    yield from paths(word.incomplete)


def complete_model(word: TypedWord) -> Offers:
    """Offer folders."""
    return (path for path in paths(word.incomplete) if path.endswith("/"))


def paths(incomplete: str) -> Iterator[str]:
    """Yield the paths that begin with what was typed, folders with a slash at their end."""
    typed, slash, beginning = incomplete.rpartition("/")
    try:
        files = sorted(expand(typed + slash).iterdir())
    except OSError:  # there is no such folder
        return
    for path in files:
        if path.name.startswith(beginning) and (beginning.startswith(".") or not path.name.startswith(".")):
            yield f"{typed}{slash}{path.name}{'/' if path.is_dir() else ''}"
