"""The index is found by the data's hash, is made again when it is damaged, and needs no memory of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quillgpt.data.dataset import Dataset
from quillgpt.errors import UserError
from quillgpt.trace import index as index_module
from quillgpt.trace import open_tracer
from quillgpt.trace.index import open_index

Prepare = Callable[..., Dataset]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count how often an index is made."""
    times: list[str] = []
    make = index_module._make
    monkeypatch.setattr(index_module, "_make", lambda *given: times.append("made") or make(*given))
    return times


def test_an_index_is_made_once(prepared: Prepare, book: Path, made: list[str], home: Path) -> None:
    dataset = prepared(book)
    index = open_index([dataset])
    assert open_index([dataset]).folder == index.folder
    assert len(made) == 1
    assert index.folder.parent == home / "trace"
    stored = sum(file.stat().st_size for file in index.folder.iterdir())
    assert stored <= 6 * index.size
    assert isinstance(index.suffixes.base, np.memmap)


@pytest.mark.parametrize("name", ["text.bin", "suffixes.bin", "lines.bin", "index.json"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_index_is_made_again(prepared: Prepare, book: Path, made: list[str], name: str, damage: str) -> None:
    dataset = prepared(book)
    file = open_index([dataset]).folder / name
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(
            whole[: len(whole) // 2] + (b"?" + whole[len(whole) // 2 + 1 :] if damage == "changed" else b"")
        )
    assert open_index([dataset]).size > 0
    assert len(made) == 2
    if name != "index.json":
        assert file.read_bytes() == whole


def test_touched_files_are_not_damaged(prepared: Prepare, book: Path, made: list[str]) -> None:
    dataset = prepared(book)
    (open_index([dataset]).folder / "text.bin").touch()
    open_index([dataset])
    assert len(made) == 1


def test_other_data_have_another_index(prepared: Prepare, book: Path, made: list[str]) -> None:
    first = open_index([prepared(book)]).folder
    book.write_text(book.read_text(encoding="utf-8") + "One more line.\n", encoding="utf-8")
    assert open_index([prepared(book, replace=True)]).folder != first
    assert len(made) == 2


def test_a_damaged_calibration_is_made_again(prepared: Prepare, book: Path) -> None:
    dataset = prepared(book)
    tracer = open_tracer([dataset])
    (tracer.index.folder / "calibration.json").write_text("{}")
    assert open_tracer([dataset]).calibration == tracer.calibration


def test_a_missing_package_is_named(prepared: Prepare, book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = prepared(book)
    monkeypatch.setitem(sys.modules, "pydivsufsort", None)
    with pytest.raises(UserError, match=r"quill trace needs the package pydivsufsort.*quillgpt\[trace\]"):
        open_index([dataset])


def test_a_text_that_is_too_long_is_refused(
    prepared: Prepare, book: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(index_module, "LARGEST_BYTES", 1000)
    with pytest.raises(UserError, match="the training text has more than"):
        open_index([prepared(book)])
    assert not list((home / "trace").rglob("*.bin"))


def test_only_the_text_of_the_finetuning_is_indexed_and_that_is_said(prepared: Prepare, book: Path) -> None:
    (note,) = open_tracer([prepared(book)], finetuned_from="gpt2").notes
    assert note.startswith("the model was trained on from gpt2; only the text that it was finetuned on is indexed")


def test_lines_are_counted(prepared: Prepare, book: Path) -> None:
    index = open_index([prepared(book)])
    text = index.text.tobytes()
    for position in (0, 1, 4095, 4096, 4097, 10_000, index.size - 1):
        assert index.lines_before(position) == text.count(b"\n", 0, position) + text.count(b"\xff", 0, position)
