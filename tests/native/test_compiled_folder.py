"""Compiled code is kept where nobody else can put any."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from quillgpt.native import CACHE_VARIABLE, compiled_folder


@pytest.mark.skipif(os.name == "nt", reason="has no such modes")
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, None),
        (0o700, None),
        (0o755, None),
        (0o775, "may be written by others"),
        (0o777, "may be written by others"),
        ("link", "is no folder, or a link"),
        ("somebody's", "belongs to somebody else"),
        ("replaceable", "lies in a folder in which others may replace it"),
    ],
)
def test_code_is_taken_only_from_a_folder_that_is_this_users_alone(
    tmp_path: Path, made: int | str | None, said: str | None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """PyTorch runs what it finds there."""
    monkeypatch.setenv("QUILL_HOME", str(tmp_path))
    monkeypatch.setenv(CACHE_VARIABLE, "to be restored")
    monkeypatch.delenv(CACHE_VARIABLE)
    folder = tmp_path / "compiled"
    if made == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif made is not None:
        folder.mkdir()
        folder.chmod(made if isinstance(made, int) else 0o755)
    if made == "somebody's":
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    if made == "replaceable":
        tmp_path.chmod(0o777)
    used = compiled_folder()
    assert os.environ[CACHE_VARIABLE] == str(used)
    assert (used == folder) == (said is None)
    assert used.stat().st_mode & 0o777 == 0o700
    told = capsys.readouterr().err
    assert told.startswith(f"warning: {folder} {said}, and what is in it would be run") if said else told == ""
