"""The corpus `python_docs`: English that comes with every Python, its language reference and library docstrings."""

from __future__ import annotations

import ast
import hashlib
import platform
import re
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from quillgpt.console import say
from quillgpt.errors import DataError
from quillgpt.files import quill_home, write_text

RECIPE_VERSION = 1  # counts changes of the selection, so that texts of an older Quill are made again
LINE_WIDTH = 72
SHORTEST_PARAGRAPH = 40

# Tests, tools that are no library, and what was installed beside the library.
SKIPPED_FOLDERS = {"__pycache__", "ensurepip", "idle_test", "idlelib", "lib2to3", "site-packages", "dist-packages"}
SKIPPED_FOLDERS |= {"test", "tests", "turtledemo", "pydoc_data"}

_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "…": "...", "—": "-", "–": "-", "\t": " "})
_MARKUP = re.compile(r"``|\*\*|:[a-z]+:(?=`)")
_PROSE_END = (".", ":", "!", "?", ".)", '."', ".'")
_NOT_PROSE = re.compile(r"[<>=|\\{}~^@#$%&\[\]]|__|\(\)|--|::|^\W*[-*+]\s|\.\. ")


def python_docs_file() -> Path:
    """Return the corpus as a file, which is made on the first call of an interpreter.

    Raises:
        DataError: This Python lacks the source of its library.
    """
    library = Path(sysconfig.get_path("stdlib"))
    identity = f"{RECIPE_VERSION} {platform.python_implementation()} {sys.version} {library}"
    key = hashlib.sha256(identity.encode("utf-8")).hexdigest()[:16]
    path = quill_home() / "corpora" / f"python_docs-{key}.txt"
    if not path.is_file():
        say("Collecting the documentation of this Python and its standard library")
        write_text(path, python_docs_text(library))
    return path


def python_docs_text(library: Path) -> str:
    """Return the prose of the topics of `help()` and of the docstrings of a library, without repetitions.

    Args:
        library: The folder of the standard library; its modules are read, not imported.

    Raises:
        DataError: There are no docstrings in that folder.
    """
    texts = [*_topics(library), *_docstrings(library)]
    if not texts:
        raise DataError(f"{library} has no Python source to take documentation from; give a text file of your own")
    seen: set[str] = set()
    kept = []
    for text in texts:
        paragraphs = [p for p in prose_paragraphs(text) if p not in seen]
        seen.update(paragraphs)
        kept += paragraphs
    return "\n\n".join(kept) + "\n"


def prose_paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of English sentences, filled to one width, without code, tables and lists."""
    for block in re.split(r"\n\s*\n", text.translate(_TYPOGRAPHY)):
        lines = block.strip("\n").split("\n")
        if any(line[:1].isspace() for line in lines):
            continue
        paragraph = _MARKUP.sub("", " ".join(" ".join(lines).split())).replace("`", "")
        if _is_prose(paragraph):
            yield textwrap.fill(paragraph, LINE_WIDTH, break_long_words=False, break_on_hyphens=False)


def _is_prose(paragraph: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return (
        len(paragraph) >= SHORTEST_PARAGRAPH
        and paragraph.isascii()
        and paragraph.isprintable()
        and paragraph[0].isupper()
        and paragraph.endswith(_PROSE_END)
        and _NOT_PROSE.search(paragraph) is None
        and letters >= 0.93 * len(paragraph)
    )


def _topics(library: Path) -> Iterator[str]:
    """Yield the texts of the topics of `help()`, by name, from their source."""
    source = library / "pydoc_data" / "topics.py"
    if not source.is_file():
        return
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Dict):
            pairs = [
                (ast.literal_eval(key), ast.literal_eval(value))
                for key, value in zip(node.keys, node.values, strict=True)
                if key is not None
            ]
            yield from (text for _, text in sorted(pairs))


def _docstrings(library: Path) -> Iterator[str]:
    """Yield the docstrings of the modules of a library, by module name and line."""
    sources = {path.relative_to(library).with_suffix("").parts: path for path in library.rglob("*.py")}
    for module in sorted(sources):
        if SKIPPED_FOLDERS.intersection(module):
            continue
        try:
            tree = ast.parse(sources[module].read_bytes())
        except (SyntaxError, ValueError, OSError):  # templates and broken links are no modules
            continue
        documented = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        for node in sorted(documented, key=lambda node: getattr(node, "lineno", 0)):
            text = ast.get_docstring(node)
            if text:
                yield text
