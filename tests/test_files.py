import errno
import hashlib
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from quillgpt.files import (
    atomic_path,
    let_hub_libraries_keep_files,
    open_to_append,
    path_inside,
    quill_home,
    sha256_of,
    write_json,
    write_text,
)


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same file system, so that the rename is one step
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_failing_rename_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, flushed = tmp_path / "file.txt", []

    def flush(flushed_path):
        flushed.append((flushed_path.suffix, path.exists()))

    monkeypatch.setattr("quillgpt.files.flush_to_disk", flush)
    write_text(path, "x")
    assert flushed == [(".part", False), ("", True)]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_rights_that_any_new_file_gets(mask, tmp_path):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file.txt", "x")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o666 & ~mask


def test_text_is_utf8_with_the_line_ends_it_has(tmp_path):
    write_text(tmp_path / "file.txt", "ä\r\nb\n")
    assert (tmp_path / "file.txt").read_bytes() == b"\xc3\xa4\r\nb\n"


def test_json_is_readable_and_ends_in_a_newline(tmp_path):
    write_json(tmp_path / "file.json", {"name": "Zoë"})
    assert (tmp_path / "file.json").read_text(encoding="utf-8") == '{\n  "name": "Zoë"\n}\n'


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 17])
def test_a_hash_is_that_of_the_whole_file(size, tmp_path):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "mine"))
    assert quill_home() == tmp_path / "mine"
    monkeypatch.delenv("QUILL_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert quill_home() == tmp_path / "quill"


def unusable(tmp_path, kind):
    """Return a cache folder that cannot be written."""
    (tmp_path / "file").touch()
    if kind == "a user without a home":
        return "~nobody-of-this-name/quill"
    if kind == "a file among its folders":
        (tmp_path / "home" / "downloads").mkdir(parents=True)
        (tmp_path / "home" / "corpora").touch()
        (tmp_path / "home" / "downloads" / "book.txt").write_text("fetched before")
        (tmp_path / "home" / "downloads" / "other.txt.part").write_text("half")
        return str(tmp_path / "home")
    return {"a file": str(tmp_path / "file"), "below a file": str(tmp_path / "file" / "home"), "a name": "a" * 300}[
        kind
    ]


@pytest.mark.parametrize(
    "kind", ["a file", "below a file", "a name", "a user without a home", "a file among its folders"]
)
def test_a_temporary_folder_replaces_an_unwritable_cache_and_it_is_said_once(monkeypatch, tmp_path, kind, capsys):
    monkeypatch.chdir(tmp_path)
    given = unusable(tmp_path, kind)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("QUILL_HOME", given)
    home = quill_home()
    assert quill_home() == home
    assert Path(os.environ["QUILL_HOME"]) == home  # for the processes that this one starts
    write_text(home / "corpora" / "a.txt", "made again")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"warning: nothing can be kept in {given} (")
    assert "set QUILL_HOME to a folder that can be written" in said
    assert sorted(tmp_path.rglob("*")) == before
    if kind == "a file among its folders":
        assert [path.name for path in (home / "downloads").iterdir()] == ["book.txt"]
        assert (home / "downloads" / "book.txt").read_text() == "fetched before"


@pytest.mark.parametrize("usable", [True, False])
def test_libraries_of_the_hub_keep_their_files_with_ours_where_their_own_place_cannot_be_used(
    monkeypatch, tmp_path, usable, capsys
):
    monkeypatch.setenv("HF_HOME", "to be restored")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "mine"))
    (tmp_path / "caches").mkdir() if usable else (tmp_path / "caches").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    let_hub_libraries_keep_files()
    assert os.environ.get("HF_HOME") == (None if usable else str(tmp_path / "mine" / "huggingface"))
    assert capsys.readouterr().err == ""


@pytest.fixture
def box(tmp_path):
    """A folder with a file, beside a file outside of it."""
    (tmp_path / "box" / "inner").mkdir(parents=True)
    (tmp_path / "box" / "inner" / "a").touch()
    (tmp_path / "secret").touch()
    return tmp_path / "box"


@pytest.mark.parametrize("name", ["a", "inner/a", "./inner/a", "..a", "not there"])
def test_a_plain_relative_name_is_inside(name, box):
    assert path_inside(box, name) == box / name


UPWARD = ("../secret", "inner/../../secret", "inner/..", "..\\secret")
ABSOLUTE = ("/etc/passwd", "C:/a", "C:a", "\\\\host\\share\\a")


@pytest.mark.parametrize("name", [*UPWARD, *ABSOLUTE, "", ".", 3, None, "a\0b"])
def test_a_name_that_may_lead_out_is_not_inside(name, box):
    assert path_inside(box, name) is None


def test_a_link_is_inside_where_its_target_is(box):
    (box / "near").symlink_to("inner/a")
    (box / "far").symlink_to("../secret")
    (box / "circle").symlink_to("circle")
    assert path_inside(box, "near") == box / "near"
    assert path_inside(box, "far") is None
    (box.parent / "link").symlink_to("box")  # as `best` is
    assert path_inside(box.parent / "link", "inner/a") is not None
    (box / "outside").symlink_to("..")
    assert path_inside(box, "outside/secret") is None


def test_the_cache_of_the_hub_counts_as_one_folder(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "12ab"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "99").touch()
    (snapshot / "part").symlink_to("../../blobs/99")
    (snapshot / "secret").symlink_to("../../../secret")
    assert path_inside(snapshot, "part") == snapshot / "part"
    assert path_inside(snapshot, "secret") is None


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path):
    old, other, fresh = (
        tmp_path / name for name in (".train.bin.abc.part", ".val.bin.abc.part", ".train.bin.def.part")
    )
    for path in (old, other, fresh):
        path.write_bytes(b"x")
        if path != fresh:
            os.utime(path, (0, 0))
    with atomic_path(tmp_path / "train.bin") as part:
        part.write_bytes(b"whole")
    assert not old.exists()
    assert fresh.exists()
    assert other.exists()


def test_a_name_that_no_file_can_have_is_not_inside(tmp_path):
    assert path_inside(tmp_path, "a" * 300) is None


def test_what_utf8_cannot_write_is_escaped_in_json(tmp_path):
    value = {"name": "caf\udce9 \U0001f600"}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_folders_is_no_trouble(tmp_path, monkeypatch, number):
    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EINVAL])
def test_a_file_that_cannot_be_flushed_is_not_taken_for_written(tmp_path, monkeypatch, number):
    (tmp_path / "file").write_text("before")

    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_text(tmp_path / "file", "after")
    assert (tmp_path / "file").read_text() == "before"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_what_is_appended_to_is_no_link_and_has_the_mode_of_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        with open_to_append(tmp_path / "file") as file:
            file.write(b"a")
        with open_to_append(tmp_path / "file") as file:
            file.write(b"b")
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"ab"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic links"):
        open_to_append(tmp_path / "link")
