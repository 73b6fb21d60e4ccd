"""All files are inspected before any is used; those that cannot be read are named together, and may be left out."""

from pathlib import Path

import pytest

from languages import CHINESE, GERMAN, RUSSIAN
from quillgpt.data.dataset_manifest import read_dataset_manifest
from quillgpt.data.prepare import ensure_dataset, prepare
from quillgpt.errors import DataError


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "novels"
    folder.mkdir()
    for number in range(12):
        (folder / f"good{number:02d}.txt").write_text(f"{number}\n{GERMAN}")
    return folder


def spoil(folder: Path) -> None:
    for number in range(3):
        (folder / f"scan{number}.txt").write_bytes(b"%PDF-1.7\n")
    (folder / "program.txt").write_bytes(b"\x7fELF\2\1\1")
    (folder / "torn.txt").write_bytes((GERMAN * 5).encode() + b"gr\xff\n" + GERMAN.encode())


def test_every_file_that_cannot_be_read_is_named_at_once_and_each_reason_once(folder, data_dir):
    spoil(folder)
    with pytest.raises(DataError) as caught:
        prepare([str(folder)], data_dir=data_dir)
    message = str(caught.value)
    assert "5 of 17 files cannot be read" in message
    assert all(name in message for name in ("scan0.txt", "scan1.txt", "scan2.txt", "program.txt", "torn.txt"))
    assert message.count("a PDF document") == 1
    assert "--skip_unreadable" in message


def test_unreadable_files_are_left_out_where_somebody_says_so_and_the_data_set_stays(folder, data_dir, capsys):
    spoil(folder)
    prepared = prepare([str(folder)], data_dir=data_dir, skip_unreadable=True)
    assert len(prepared.manifest.sources) == 12
    assert len(prepared.manifest.skipped) == 5
    said = capsys.readouterr().err
    assert "5 of 17 files" in said
    assert "scan2.txt" in said
    assert prepare([str(folder)], data_dir=data_dir, skip_unreadable=True).reused
    assert ensure_dataset("novels", data_dir=data_dir).fingerprint == prepared.dataset.fingerprint
    with pytest.raises(DataError, match="5 of 17 files cannot be read"):
        prepare([str(folder)], data_dir=data_dir)
    (folder / "program.txt").write_text("mended\n")
    again = prepare([str(folder)], data_dir=data_dir, skip_unreadable=True)
    assert not again.reused
    assert len(again.manifest.sources) == 13


def test_an_empty_file_among_others_is_named_and_left_out(folder, data_dir, capsys):
    (folder / "empty.txt").touch()
    (folder / "padded.txt").write_bytes(b"\0" * 512)
    (folder / "marked.txt").write_bytes(b"\xef\xbb\xbf")
    prepared = prepare([str(folder)], data_dir=data_dir)
    assert len(prepared.manifest.sources) == 12
    said = capsys.readouterr().err
    assert all(f"{name}.txt" in said.split("they are empty")[1] for name in ("empty", "padded", "marked"))
    assert prepare([str(folder)], data_dir=data_dir).reused


def test_files_that_are_all_empty_are_an_error(tmp_path, data_dir):
    for name in "ab":
        (tmp_path / f"{name}.txt").touch()
    with pytest.raises(DataError, match="none of the 2 files has any text"):
        prepare([str(tmp_path / "*.txt")], data_dir=data_dir)
    with pytest.raises(DataError, match=r"a.txt is empty"):
        prepare([str(tmp_path / "a.txt")], data_dir=data_dir)


def test_the_same_remark_about_many_files_is_made_once(folder, data_dir, capsys):
    for number in range(30):
        (folder / f"old{number:02d}.txt").write_bytes(f"{number}\n{RUSSIAN}".encode("koi8_r"))
        (folder / f"rows{number:02d}.txt").write_text('{"text": "a"}\n' * (2 + number))
    prepare([str(folder)], data_dir=data_dir)
    said = capsys.readouterr().err
    assert said.count("is read as KOI8-R") == 1
    assert said.count("looks like JSON lines") == 1
    assert said.count("The same holds for 29 more: ") == 2


def test_a_given_encoding_is_recorded_and_a_change_is_noticed(tmp_path, data_dir, capsys):
    (tmp_path / "book.txt").write_bytes((RUSSIAN * 3).encode("koi8_r"))
    given = [str(tmp_path / "book.txt")]
    first = prepare(given, data_dir=data_dir, encoding="windows-1251")
    assert (first.manifest.encoding, first.manifest.sources[0].encoding) == ("cp1251", "cp1251")
    assert "looks like KOI8-R" in capsys.readouterr().err
    assert prepare(given, data_dir=data_dir, encoding="cp1251").reused
    assert ensure_dataset("book", data_dir=data_dir).fingerprint == first.dataset.fingerprint
    second = prepare(given, data_dir=data_dir, encoding="book.*=koi8-r")
    assert not second.reused
    assert second.manifest.sources[0].encoding == "koi8_r"
    assert "prepared with encoding = cp1251, not book.*=koi8_r" in capsys.readouterr().err
    third = prepare(given, data_dir=data_dir)
    assert not third.reused
    assert third.dataset.fingerprint == second.dataset.fingerprint
    assert read_dataset_manifest(third.dataset.folder).encoding is None


def test_patterns_decide_for_some_files_and_the_validation_text_too(tmp_path, data_dir):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/a.txt").write_bytes("価格".encode("euc_jp") * 20)
    (tmp_path / "b.txt").write_text(CHINESE)
    (tmp_path / "val.txt").write_bytes(RUSSIAN.encode("cp866"))
    prepared = prepare(
        [str(tmp_path / "old"), str(tmp_path / "b.txt")],
        data_dir=data_dir,
        val=str(tmp_path / "val.txt"),
        encoding="old/*=euc-jp,val*=cp866",
    )
    assert [record.encoding for record in prepared.manifest.sources] == ["euc_jp", "utf-8"]
    assert prepared.manifest.val_sources[0].encoding == "cp866"
    with pytest.raises(DataError, match="is no encoding"):
        prepare([str(tmp_path / "b.txt")], data_dir=data_dir, encoding="utf9000")
