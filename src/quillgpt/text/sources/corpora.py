"""Where a text comes from: recipes by name, and files, addresses and books that the user gives."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quillgpt.config.dataset_names import ALIASES
from quillgpt.config.paths import expand, split_column
from quillgpt.errors import DataError, did_you_mean
from quillgpt.files import sha256_of
from quillgpt.text.sources import gutenberg, hub
from quillgpt.text.sources.addresses import is_web_address, recorded_address, shown_address
from quillgpt.text.sources.documents import PLAINLY, FileRules, Source, conversion_of, source_of_file
from quillgpt.text.sources.downloads import TINY_SHAKESPEARE, address_download, fetch
from quillgpt.text.sources.folders import files_of_folder, files_of_pattern, source_of_stream
from quillgpt.text.sources.hub_corpus import PREFIX, HubCorpus, parse_address
from quillgpt.text.sources.python_docs import python_docs_file

BOOK = "gutenberg:"

VAL_FRACTION = 0.1
HUB_VAL_FRACTION = 0.01
OPENWEBTEXT_VAL_FRACTION = 0.0005  # nanoGPT's


@dataclass(frozen=True)
class Texts:
    """The texts of a data set.

    Attributes:
        train: The sources of the training split.
        val: The sources of its own validation split; None if it has none.
        val_fraction: The share to hold out by default if it has none.
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
        texts: Returns the texts, after fetching or making them.
        hashes: Returns the present hashes of the training texts without a download; None if they are unknown.
        val_fraction: The share to hold out if the corpus has no validation split.
        is_large: Whether only `quill prepare` fetches it, and not the start of a training run.
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
    """Return the name of the recipe that a word names, by any alias or spelling; None if it names none."""
    name = given.lower().replace("-", "_")
    name = ALIASES.get(name, name)
    return name if name in RECIPES else None


def texts_of(words: Sequence[str], *, spool: Path, files: FileRules = PLAINLY) -> Texts:
    """Return the texts that words stand for, together.

    Args:
        words: Files, folders, patterns such as `books/*.txt`, pipes, http(s) addresses, `gutenberg:1513`,
            `hf:owner/name[:column]`, or `-` for standard input. The column of tables may follow a file after a colon.
        spool: A folder for copies of standard input and pipes, which can be read only once.
        files: How files are found and read.

    Raises:
        DataError: A word stands for nothing, or its text cannot be read or fetched.
    """
    train: list[Source] = []
    val: list[Source] = []
    val_fraction = VAL_FRACTION
    for word in words:
        if word.startswith(PREFIX):
            corpus = parse_address(word)
            training, validation = hub.fetch_corpus(corpus)
            train += training
            val += validation or []
            if not corpus.is_local:
                val_fraction = HUB_VAL_FRACTION
        else:
            train += _sources(word, spool, files)
    return Texts(train, val or None, val_fraction)


def _sources(word: str, spool: Path, files: FileRules) -> list[Source]:
    stream = source_of_stream(word, spool, files.wishes)
    if stream is not None:
        return [stream]
    if is_web_address(word):
        fetched = fetch(address_download(word))
        source = Source(shown_address(word), recorded_address(word), fetched)
        return [source.converted_by(conversion_of(fetched, files.wishes))]
    if word.startswith(BOOK):
        number = word.removeprefix(BOOK)
        if not re.fullmatch(r"[1-9][0-9]*", number):
            raise DataError(f"{word} is no book; give its number at Project Gutenberg, as in gutenberg:1513")
        return [Source(word, word, gutenberg.fetch_book(int(number)))]
    name, column = split_column(word)
    path = expand(name)
    if path.is_dir():
        return files_of_folder(name, path, follow_links=files.follow_links, wishes=files.wishes, column=column)
    if path.exists():
        return [source_of_file(path, files.wishes, column)]
    if glob.has_magic(name):
        return files_of_pattern(name, files.wishes, column)
    if recipe_named(word):
        raise DataError(f"{word} is a recipe, which is prepared alone: quill prepare {word}")
    if "://" in word:
        raise DataError(
            f"{shown_address(word)} is no address that can be read; give one that begins with http:// or https://"
        )
    raise DataError(f"{word} is neither a file nor a recipe ({', '.join(RECIPES)}){did_you_mean(word, RECIPES)}")
