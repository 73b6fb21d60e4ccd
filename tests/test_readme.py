"""Runs every block of the README and of the guide as a reader would, in order, with a tiny model and little text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import warm
from quillgpt.text.sources.downloads import TINY_SHAKESPEARE, Download
from quillgpt.text.sources.python_docs import python_docs_file

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "guide.md"]
INSTALLS = re.compile(r"^(make|pip|source) ", re.MULTILINE)
FETCHES = re.compile(r"quill (train|prepare) shakespeare")
SMALL = {
    "QUILL_N_LAYER": "1",
    "QUILL_N_EMBD": "64",
    "QUILL_MAX_ITERS": "6",
    "QUILL_EVAL_INTERVAL": "3",
    "QUILL_EVAL_ITERS": "2",
    "QUILL_BATCH_SIZE": "4",
    "QUILL_VAL_FRACTION": "0.02",
    "QUILL_MAX_NEW_TOKENS": "40",
}
OWN_TEXT_CHARACTERS = 100_000

Block = tuple[str, str]
"""A block's language and its content."""


def blocks(document: Path) -> list[Block]:
    """Return a document's blocks that can be run here: those that install have run before any test can."""
    text = document.read_text(encoding="utf-8").replace("--minutes=5", "--minutes=0.05")
    languages_and_contents = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert {language for language, _ in languages_and_contents} <= {"sh", "python"}
    return [block for block in languages_and_contents if not INSTALLS.search(block[1])]


def make_mirror(folder: Path, text: str) -> Path:
    """Return a folder that stands for Project Gutenberg and the hub: a book, and stories in Parquet."""
    book = folder / "gutenberg" / "1513.txt"
    book.parent.mkdir(parents=True)
    marks = "*** {} OF THE PROJECT GUTENBERG EBOOK A BOOK ***"
    book.write_text("\n\n".join([marks.format("START"), text, marks.format("END")]), encoding="utf-8")
    stories = folder / "hub" / "roneneldan" / "TinyStories" / "data"
    stories.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = pa.table({"text": text.split("\n\n")})
        pq.write_table(rows, stories / f"{split}-00000-of-00001.parquet")
    return folder


def run(block: Block, folder: Path, mirror: Path | None = None) -> None:
    """Run one block in a folder, and fail with all that it printed where it fails."""
    language, content = block
    command = ["bash", "-euo", "pipefail", "-c", content] if language == "sh" else [sys.executable, "-c", content]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUILL_")}
    places = {name: os.environ[name] for name in ("QUILL_HOME", "QUILL_MIRROR") if name in os.environ}
    path = os.pathsep.join([str(warm.commands()), str(Path(sys.executable).parent), os.environ["PATH"]])
    if mirror is not None:
        places["QUILL_MIRROR"] = str(mirror)
    environment = {**kept, **places, **SMALL, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{content}\nprinted\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(("document", "fewest"), list(zip(DOCUMENTS, (2, 12), strict=True)), ids=["README", "guide"])
def test_blocks_run_in_order(tmp_path: Path, document: Path, fewest: int) -> None:
    text = python_docs_file().read_text(encoding="utf-8")
    (tmp_path / "mybook.txt").write_text(text[:OWN_TEXT_CHARACTERS], encoding="utf-8")
    (tmp_path / "letters").mkdir()
    for number, letter in enumerate(text[:OWN_TEXT_CHARACTERS].split("\n\n")):
        (tmp_path / "letters" / f"{number}.txt").write_text(letter, encoding="utf-8")
    mirror = make_mirror(tmp_path / "mirror", text[:OWN_TEXT_CHARACTERS])
    offline = [block for block in blocks(document) if not FETCHES.search(block[1])]
    assert len(offline) >= fewest
    for block in offline:
        run(block, tmp_path, mirror)


@pytest.mark.download
def test_blocks_that_fetch_a_text_run(tmp_path: Path, published: Callable[[Download], Path]) -> None:
    published(TINY_SHAKESPEARE)
    fetching = [block for document in DOCUMENTS for block in blocks(document) if FETCHES.search(block[1])]
    assert len(fetching) >= len(DOCUMENTS)
    for block in fetching:
        run(block, tmp_path)
