from __future__ import annotations

import sys
from pathlib import Path

import pytest

from quillgpt.errors import UserError
from quillgpt.extras import import_extra


def test_installed_package_is_imported() -> None:
    assert import_extra("json", extra="plots", purpose="drawing") is sys.modules["json"]


def test_missing_package_is_asked_for_by_its_extra() -> None:
    with pytest.raises(UserError) as raised:
        import_extra("no_such_package.part", extra="plots", purpose="quill plot")
    expected = "quill plot needs the package no_such_package, which is not installed: pip install 'quillgpt[plots]'"
    assert str(raised.value) == expected


def test_package_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unloadable_extra.py").write_text("raise ImportError('libav.so: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"unloadable_extra, which is installed but cannot be loaded \(libav"):
        import_extra("unloadable_extra", extra="voice", purpose="reading recordings")


def test_fault_inside_an_installed_package_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_extra.py").write_text("import a_package_that_it_forgot\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_it_forgot"):
        import_extra("broken_extra", extra="plots", purpose="quill plot")
