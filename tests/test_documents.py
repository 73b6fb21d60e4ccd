"""Whatever a document links to or names by its path is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "quillgpt"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ALSO_USERS = {"config", "proof"}
"""Rooms whose names are also those of nanoGPT's folder of configs and of what `quill prove` writes."""

ROOMS = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - ALSO_USERS

LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
TEST_FILE = re.compile(r"\b((?:[\w.]+/)*test_\w+\.py)\b")
TEST_FUNCTION = re.compile(r"(?:`|::)(test_\w+)`")
SOURCE_FILE = re.compile(r"`((?:\w+/)+[\w.]+\.(?:py|toml|md))`")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives a document's headings."""
    headings = HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    wrong = []
    for path, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(f"{path}#{anchor}")
    assert not wrong, f"{document.name} links to what is not there"


@each_document
def test_tests_that_a_document_names_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    sources = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")}
    functions = {name for source in sources.values() for name in re.findall(r"def (test_\w+)", source)}
    wrong = [name for name in TEST_FILE.findall(text) if not any(f"/{path}".endswith(f"/{name}") for path in sources)]
    wrong += [name for name in TEST_FUNCTION.findall(text) if name not in functions]
    assert not wrong, f"{document.name} names tests that are not there"


@each_document
def test_files_that_a_document_names_are_there(document: Path) -> None:
    named = SOURCE_FILE.findall(document.read_text(encoding="utf-8"))
    paths = [name for name in named if name.partition("/")[0] in {*ROOMS, "src", "docs"}]
    wrong = [path for path in paths if not (ROOT / path).exists() and not (PACKAGE / path).exists()]
    assert not wrong, f"{document.name} names files that are not there"


def test_the_checks_see_what_they_should(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("# A `b`: c, d (2026-11-21)\n", encoding="utf-8")
    assert anchors(document) == {"a-b-c-d-2026-11-21"}
    assert LINK.findall("[a](b.md#c) ![d](e/f.png) [g](#h) [i](https://j)") == [
        ("b.md", "c"),
        ("e/f.png", ""),
        ("", "h"),
    ]
    assert TEST_FILE.findall("`tests/a/test_b.py::test_c`, `test_d.py`") == ["tests/a/test_b.py", "test_d.py"]
    assert TEST_FUNCTION.findall("`tests/a/test_b.py::test_c`, `test_d.py::test_e`, `test_f`") == [
        "test_c",
        "test_e",
        "test_f",
    ]
    assert SOURCE_FILE.findall("`model/gpt.py` and `gpt.py`") == ["model/gpt.py"]


def section(heading: str) -> str:
    """Return a section of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_the_list_of_rooms_names_every_room_and_only_files_that_are_there() -> None:
    rooms = dict(re.findall(r"^- `([\w.]+)/?`: (.*(?:\n  .*)*)", section("Rooms"), re.MULTILINE))
    there = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(rooms) == there - {"__init__.py", "__main__.py", "__pycache__"}
    for room, description in rooms.items():
        files = {path.name for path in (PACKAGE / room).rglob("*.py")}
        wrong = [name for name in re.findall(r"`(\w+\.py)`", description) if name not in files]
        assert not wrong, f"docs/architecture.md lists what is not in {room}"


@pytest.mark.parametrize("heading", ["One training run", "One sample"])
def test_a_call_graph_names_what_is_there(heading: str) -> None:
    file = PACKAGE
    lines = re.findall(r"^    +(\S.*?)  +\S", section(heading), re.MULTILINE)
    assert len(lines) >= 10
    for line in lines:
        for name in line.split(", "):
            path, _, qualified = name.rpartition("/")
            module, *attributes = qualified.split(".")
            if (PACKAGE / path / f"{module}.py").is_file():
                file = PACKAGE / path / f"{module}.py"
            else:
                attributes = [module, *attributes]
            source = file.read_text(encoding="utf-8")
            for attribute in attributes:
                assert re.search(rf"^ *(def|class) {attribute}\b", source, re.MULTILINE), f"{file} has no {attribute}"
