"""Holds the source to docs/architecture.md: imports go strictly downward."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import quillgpt

PACKAGE = Path(quillgpt.__file__).parent
DOCUMENT = PACKAGE.parents[1] / "docs" / "architecture.md"
FILES = sorted(PACKAGE.rglob("*.py"))
FRONT_DOOR = PACKAGE / "__init__.py"
OF_FRONT_DOOR = {"__version__"}
"""What a room may take from quillgpt/__init__.py itself."""


def levels() -> dict[str, int]:
    """Return the height of each room, as the block `levels` of the document lists them, lowest first."""
    block = re.search(r"^```levels\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert block, f"{DOCUMENT} has no block of levels"
    return {room: height for height, line in enumerate(block[1].splitlines()) for room in line.split()}


LEVELS = levels()


def room_of(file: Path) -> str:
    """Return the room that a file belongs to: its folder below the package, or itself."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that is imported, at the top or inside a function or condition."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, "." * node.level + f"{node.module or ''}.{alias.name}") for alias in node.names)


def room_violations(room: str, tree: ast.AST) -> list[str]:
    """Return the imports of a room's file that do not go strictly downward."""
    found = []
    for line, name in imported_names(tree):
        top, _, rest = name.partition(".")
        if not top:
            found.append(f"line {line}: {name} is relative; write the full name")
        if top != "quillgpt" or rest in OF_FRONT_DOOR:
            continue
        other = rest.partition(".")[0]
        if other not in LEVELS:
            found.append(f"line {line}: {name} is no room of docs/architecture.md")
        elif other != room and LEVELS[other] >= LEVELS[room]:
            where = "beside" if LEVELS[other] == LEVELS[room] else "above"
            found.append(f"line {line}: {name} is {where} {room}")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_strictly_downward(file: Path) -> None:
    if file == FRONT_DOOR:  # its imports are lazy; see below
        return
    assert room_of(file) in LEVELS, f"docs/architecture.md gives {room_of(file)} no level"
    assert room_violations(room_of(file), ast.parse(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("room", "statement", "complaint"),
    [
        ("data", "from quillgpt.model import GPT", "beside data"),
        ("data", "from quillgpt.training.step import TrainStep", "above data"),
        ("data", "from quillgpt import training", "above data"),
        ("data", "import quillgpt.cli.app", "above data"),
        ("data", "def f():\n    from quillgpt.cli import main", "above data"),
        ("data", "from quillgpt import load", "no room"),
        ("data", "from . import batches", "relative"),
        (
            "data",
            "from quillgpt.data.batches import gather\nfrom quillgpt import __version__, errors\nimport torch",
            "",
        ),
    ],
)
def test_the_check_sees_what_it_should(room: str, statement: str, complaint: str) -> None:
    found = room_violations(room, ast.parse(statement))
    assert (complaint in " ".join(found)) if complaint else not found


def test_model_neither_prints_nor_opens_files() -> None:
    for file in sorted((PACKAGE / "model").glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        used = {name for _, name in imported_names(tree)}
        assert not [name for name in used if name.startswith(("quillgpt.console", "quillgpt.files", "transformers"))]
        calls = {getattr(node.func, "id", None) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not calls & {"print", "open"}, file


@pytest.mark.parametrize("module", ["quillgpt", "quillgpt.config", "quillgpt.cli.app"])
def test_importing_imports_neither_torch_nor_requests(module: str) -> None:
    program = f"import sys, {module}; sys.exit(bool({{'torch', 'requests'}} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_front_door_imports_lazily_and_keeps_its_promises() -> None:
    tree = ast.parse(FRONT_DOOR.read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in at_once for alias in node.names}
    assert names == {"annotations", "TYPE_CHECKING"}
    for name in quillgpt.__all__:
        assert getattr(quillgpt, name) is not None
    with pytest.raises(AttributeError):
        _ = quillgpt.no_such_name


def test_one_place_removes_what_is_on_the_disk() -> None:
    removing = re.compile(r"\.unlink\(|\.rmdir\(|rmtree\(|os\.(remove|rmdir|unlink)")
    places = {file.name for file in FILES if removing.search(file.read_text(encoding="utf-8"))}
    assert places == {"ownership.py", "files.py"}, "files.py removes what it made itself; all else asks ownership.py"
