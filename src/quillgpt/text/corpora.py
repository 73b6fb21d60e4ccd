"""Where a text comes from: recipes by name, and what a person points at, such as files, addresses and books."""

from __future__ import annotations

import glob
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quillgpt.config.names import ALIASES, STANDARD_INPUT, expand
from quillgpt.console import say
from quillgpt.errors import DataError, did_you_mean
from quillgpt.files import sha256_of
from quillgpt.text import gutenberg, hub
from quillgpt.text.addresses import is_web_address, recorded_address, shown_address
from quillgpt.text.documents import Source
from quillgpt.text.downloads import TINY_SHAKESPEARE, address_download, fetch
from quillgpt.text.hub import HubCorpus
from quillgpt.text.python_docs import python_docs_file

TEXT_SUFFIXES = (".txt", ".md")
BOOK = "gutenberg:"

VAL_FRACTION = 0.1
HUB_VAL_FRACTION = 0.01
OPENWEBTEXT_VAL_FRACTION = 0.0005  # nanoGPT's


@dataclass(frozen=True)
class Texts:
    """What a data set can be made from.

    Attributes:
        train: The documents.
        val: Those of its own validation split; None where it has none.
        val_fraction: The share to hold out where it has none and nobody said otherwise.
    """

    train: list[Source]
    val: list[Source] | None = None
    val_fraction: float = VAL_FRACTION


@dataclass(frozen=True)
class Recipe:
    """A corpus and the tokenizer that it is prepared with by default.

    Attributes:
        description: One line for lists.
        tokenizer: Its default tokenizer.
        texts: Returns the texts, fetching or making them first.
        hashes: Returns what the training texts hash to today, without a download; None where that is not known.
        val_fraction: The share that is held out where the corpus has no validation split of its own.
        is_large: Whether it is only fetched when somebody asks for just that, and not at the start of a training.
    """

    description: str
    tokenizer: str
    texts: Callable[[], Texts]
    hashes: Callable[[], list[str] | None]
    val_fraction: float = VAL_FRACTION
    is_large: bool = False


def _shakespeare(description: str, tokenizer: str) -> Recipe:
    def texts() -> Texts:
        return Texts([Source(TINY_SHAKESPEARE.title, TINY_SHAKESPEARE.address, fetch(TINY_SHAKESPEARE))])

    assert TINY_SHAKESPEARE.sha256 is not None
    sha256 = TINY_SHAKESPEARE.sha256
    return Recipe(description, tokenizer, texts, lambda: [sha256])


def _hub(description: str, corpus: HubCorpus, val_fraction: float = HUB_VAL_FRACTION) -> Recipe:
    return Recipe(
        f"{description}, from the Hugging Face hub",
        tokenizer="gpt2",
        texts=lambda: Texts(*hub.fetch_corpus(corpus), val_fraction=val_fraction),
        hashes=lambda: hub.recorded_hashes(corpus),
        val_fraction=val_fraction,
        is_large=True,
    )


RECIPES: dict[str, Recipe] = {
    "shakespeare_char": _shakespeare("tiny Shakespeare (1.1 MB), by characters", "char"),
    "shakespeare": _shakespeare("tiny Shakespeare (1.1 MB), by GPT-2's tokens", "gpt2"),
    "python_docs": Recipe(
        "the documentation that comes with this Python (0.7 MB), by characters; works offline",
        tokenizer="char",
        texts=lambda: Texts([Source("python_docs", "python_docs", python_docs_file())]),
        hashes=lambda: [sha256_of(python_docs_file())],
    ),
    "openwebtext": _hub(
        "web pages, GPT-2's kind of data (40 GB)", HubCorpus("Skylion007/openwebtext"), OPENWEBTEXT_VAL_FRACTION
    ),
    "fineweb": _hub(
        "filtered web pages, the sample of 10 billion tokens (50 GB)",
        HubCorpus("HuggingFaceFW/fineweb", config="sample-10BT"),
        OPENWEBTEXT_VAL_FRACTION,
    ),
    "tinystories": _hub("stories for small children, written by GPT (2 GB)", HubCorpus("roneneldan/TinyStories")),
    "wikitext": _hub(
        "good articles of Wikipedia (0.5 GB)",
        HubCorpus("Salesforce/wikitext", config="wikitext-103-raw-v1", rows="lines", title=r" = [^=](.*[^=])? = "),
    ),
    "ptb": _hub(
        "Penn Treebank, sentences of a newspaper (6 MB)",
        HubCorpus("ptb-text-only/ptb_text_only", column="sentence", rows="lines"),
    ),
    "lambada": _hub("novels, and passages whose last word is to be guessed (1 GB)", HubCorpus("cimec/lambada")),
}


def recipe_named(given: str) -> str | None:
    """Return the recipe that a word means, by its own name or an alias, in any spelling; None where it means none."""
    name = given.lower().replace("-", "_")
    name = ALIASES.get(name, name)
    return name if name in RECIPES else None


def texts_of(words: Sequence[str], *, spool: Path) -> Texts:
    """Return what words stand for, all together.

    Args:
        words: Files, folders, patterns such as `books/*.txt`, http(s) addresses, `gutenberg:1513`,
            `hf:owner/name[:column]`, or `-` for standard input.
        spool: A folder for what comes from standard input, which can be read only once.

    Raises:
        DataError: A word stands for nothing, or what it stands for cannot be had.
    """
    train: list[Source] = []
    val: list[Source] = []
    val_fraction = VAL_FRACTION
    for word in words:
        if word.startswith(hub.PREFIX):
            corpus = hub.parse_address(word)
            more, held_out = hub.fetch_corpus(corpus)
            train += more
            val += held_out or []
            if not corpus.is_local:
                val_fraction = HUB_VAL_FRACTION
        else:
            train += _sources(word, spool)
    return Texts(train, val or None, val_fraction)


def _sources(word: str, spool: Path) -> list[Source]:
    if word == STANDARD_INPUT:
        spooled = spool / "standard-input.txt"
        with spooled.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        return [Source("standard input", STANDARD_INPUT, spooled)]
    if is_web_address(word):
        return [Source(shown_address(word), recorded_address(word), fetch(address_download(word)))]
    if word.startswith(BOOK):
        number = word.removeprefix(BOOK)
        if not re.fullmatch(r"[1-9][0-9]*", number):
            raise DataError(f"{word} is no book; give the number that Project Gutenberg has for it: gutenberg:1513")
        return [Source(word, word, gutenberg.fetch_book(int(number)))]
    path = expand(word)
    if path.is_dir():
        return _folder(word, path)
    if path.exists():
        return [Source.from_file(path)]
    if glob.has_magic(word):
        return _pattern(word)
    if recipe_named(word):
        raise DataError(f"{word} is a recipe, which is prepared alone: quill prepare {word}")
    if "://" in word:
        raise DataError(
            f"{shown_address(word)} is no address that can be read; give one that begins with http:// or https://"
        )
    raise DataError(f"{word} is neither a file nor a recipe ({', '.join(RECIPES)}){did_you_mean(word, RECIPES)}")


def _folder(word: str, folder: Path) -> list[Source]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(folder)))
    texts = [file for file in files if file.suffix.lower() in TEXT_SUFFIXES]
    others = Counter(file.suffix.lower() or file.name for file in files if file.suffix.lower() not in TEXT_SUFFIXES)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
    if not texts:
        found = f"; it has {kinds}" if kinds else "; it is empty"
        raise DataError(f"the folder {word} has no {' or '.join(TEXT_SUFFIXES)} files{found}. Give plain text files")
    if kinds:
        say(f"Of the folder {word}, {' and '.join(TEXT_SUFFIXES)} files are read ({len(texts)}); skipped: {kinds}")
    return [Source.from_file(file) for file in texts]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _pattern(word: str) -> list[Source]:
    found = glob.glob(str(expand(word)), recursive=True)  # noqa: PTH207 - it leaves hidden files out
    files = [path for path in map(Path, sorted(found)) if path.is_file()]
    if not files:
        raise DataError(f"no file matches {word}; check the folder and the pattern")
    return [Source.from_file(path) for path in files]
