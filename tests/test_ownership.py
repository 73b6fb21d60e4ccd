"""A folder's record decides which files are Quill's."""

from __future__ import annotations

from pathlib import Path

import pytest

from quillgpt.errors import ConfigError
from quillgpt.ownership import RECORD, check_ours, claim, claim_as_written, foreign, recorded, remove_listed, remove_own


def put(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_only_what_is_recorded_is_ours(tmp_path: Path) -> None:
    put(tmp_path / "a.txt")
    put(tmp_path / "b.txt")
    claim(tmp_path, ["a.txt"])
    assert foreign(tmp_path, ["a.txt", "b.txt", "c.txt"]) == ["b.txt"]
    with pytest.raises(ConfigError, match=r"holds b\.txt, not written by Quill.*give another --out"):
        check_ours(tmp_path, ["a.txt", "b.txt"], remedy="give another --out")


def test_what_was_changed_since_is_no_longer_ours(tmp_path: Path) -> None:
    path = put(tmp_path / "table.csv")
    claim_as_written(tmp_path, ["table.csv"])
    assert foreign(tmp_path, ["table.csv"]) == []
    path.write_text("edited", encoding="utf-8")
    assert foreign(tmp_path, ["table.csv"]) == ["table.csv"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', '{"files": {"a": 1}}', "\x00", '{"mine": true}'])
def test_a_damaged_record_owns_nothing_and_is_not_written_over(tmp_path: Path, text: str) -> None:
    put(tmp_path / RECORD, text)
    assert recorded(tmp_path) == {}
    assert foreign(tmp_path, ["a.txt"]) == [RECORD]


def test_a_link_that_leads_nowhere_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere")
    assert foreign(tmp_path, ["a.txt"]) == ["a.txt"]


def test_only_listed_files_are_removed_and_what_stays_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("a", "in/b", "in/deep/c", "in/mine", "in/deep/mine"):
        put(folder / name)
    assert remove_listed(folder, ["a", "in/b", "in/deep/c", "absent"]) == ["in", "in/deep", "in/deep/mine", "in/mine"]
    (folder / "in" / "mine").unlink()
    (folder / "in" / "deep" / "mine").unlink()
    assert remove_listed(folder, ["in/deep/mine"]) == []
    assert not folder.exists()


def test_names_and_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside" / "a")
    folder = tmp_path / "folder"
    put(folder / "b")
    (folder / "link").symlink_to(outside.parent)
    (folder / "file").symlink_to(outside)
    remove_listed(folder, ["../outside/a", "link/a", str(outside), "file"])
    assert outside.read_text(encoding="utf-8") == "text"
    assert not (folder / "file").is_symlink()
    remove_own(folder / "link")
    assert outside.exists()
