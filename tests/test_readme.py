"""Runs every block of the README as a reader would, in order, with a tiny model, few iterations and little text."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8")
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


def blocks() -> list[Block]:
    """Return the README's blocks that can be run here: those that install have run before any test can."""
    found = re.findall(
        r"^```(\w*)\n(.*?)^```", README.replace("--minutes=5", "--minutes=0.1"), re.DOTALL | re.MULTILINE
    )
    assert {language for language, _ in found} == {"sh", "python"}
    return [(language, content) for language, content in found if not INSTALLS.search(content)]


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


def test_blocks_run_in_order(tmp_path: Path) -> None:
    text = python_docs_file().read_text(encoding="utf-8")
    (tmp_path / "mybook.txt").write_text(text[:OWN_TEXT_CHARACTERS], encoding="utf-8")
    (tmp_path / "letters").mkdir()
    for number, letter in enumerate(text[:OWN_TEXT_CHARACTERS].split("\n\n")):
        (tmp_path / "letters" / f"{number}.txt").write_text(letter, encoding="utf-8")
    mirror = make_mirror(tmp_path / "mirror", text[:OWN_TEXT_CHARACTERS])
    offline = [block for block in blocks() if not FETCHES.search(block[1])]
    assert len(offline) >= 8
    for block in offline:
        run(block, tmp_path, mirror)


@pytest.mark.download
def test_blocks_that_fetch_a_text_run(tmp_path: Path, published: Callable[[Download], Path]) -> None:
    published(TINY_SHAKESPEARE)
    fetching = [block for block in blocks() if FETCHES.search(block[1])]
    assert fetching
    for block in fetching:
        run(block, tmp_path)


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"
