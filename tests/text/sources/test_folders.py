"""What a folder, a pattern or a pipe gives, and that all else in it is named with its reason."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from quillgpt.config.dataset_names import name_of_sources
from quillgpt.errors import DataError
from quillgpt.text.sources.corpora import texts_of
from quillgpt.text.sources.documents import FileRules, Source

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="links and pipes of Unix")


@pytest.fixture
def books(tmp_path: Path) -> Path:
    books, elsewhere = tmp_path / "books", tmp_path / "elsewhere"
    for folder in (books / "sub", elsewhere):
        folder.mkdir(parents=True)
        (folder / "b.txt").write_text(f"text of {folder.name}")
    (books / "a.txt").write_text("text")
    (books / "inner.txt").symlink_to("a.txt")
    (books / "out.txt").symlink_to(elsewhere / "b.txt")
    (books / "linked").symlink_to(elsewhere)
    (books / "sub/up").symlink_to(books)
    (books / "gone.txt").symlink_to("nowhere")
    (books / "round.txt").symlink_to("round.txt")
    (books / "zero.txt").symlink_to("/dev/zero")
    os.mkfifo(books / "pipe.txt")
    return books


def _texts(given: str, spool: Path, options: dict[str, bool]) -> list[Source]:
    return texts_of([given], spool=spool, files=FileRules(**options)).train


def found(given: str, tmp_path: Path, **options: bool) -> list[str]:
    return [str(source.path.relative_to(tmp_path)) for source in _texts(given, tmp_path, options)]


def test_what_a_folder_has_besides_files_is_named_once_with_its_reason(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as plug:
        os.chdir(books)  # a socket's path must be short
        plug.bind("s.txt")
    assert found(str(books), tmp_path) == ["books/a.txt", "books/inner.txt", "books/sub/b.txt"]
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    for words in (
        "linked folders, which --follow_links reads: 2 (linked, sub/up)",
        "links to files elsewhere, which --follow_links reads: 1 (out.txt)",
        "links that lead nowhere: 1 (gone.txt)",
        "links in a circle: 1 (round.txt)",
        "named pipes: 1 (pipe.txt)",
        "sockets: 1 (s.txt)",
        "devices: 1 (zero.txt)",
    ):
        assert words in said


def test_links_are_followed_where_somebody_says_so_and_no_folder_is_read_twice(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = found(str(books), tmp_path, follow_links=True)
    assert names == ["books/a.txt", "books/inner.txt", "books/linked/b.txt", "books/out.txt", "books/sub/b.txt"]
    assert "links to folders that are read already: 1 (sub/up)" in capsys.readouterr().err


def test_a_file_whose_name_is_not_utf8_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/a.txt").write_text("text")
    try:
        (tmp_path / "mixed/caf\udce9.txt").write_text("text")
    except (OSError, UnicodeError):
        pytest.skip("this file system has only names in UTF-8")
    assert found(str(tmp_path / "mixed"), tmp_path) == ["mixed/a.txt"]
    assert r"names are not UTF-8, so that nothing could record them: 1 ('caf\udce9.txt')" in capsys.readouterr().err


def test_of_many_that_are_left_out_the_first_few_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "many").mkdir()
    (tmp_path / "many/a.txt").write_text("text")
    for number in range(200):
        (tmp_path / f"many/gone{number:03d}.txt").symlink_to("nowhere")
    assert found(str(tmp_path / "many"), tmp_path) == ["many/a.txt"]
    said = capsys.readouterr().err
    assert "links that lead nowhere: 200 (gone000.txt, gone001.txt, " in said
    assert len(said) < 300


def test_a_folder_with_nothing_but_links_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/a.txt").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match=r"no texts or documents .*; it has links to files elsewhere.*--follow_links"):
        found(str(tmp_path / "linked"), tmp_path)


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may open everything")
def test_a_folder_that_may_not_be_opened_is_named(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (books / "sub").chmod(0)
    found(str(books), tmp_path)
    assert "folders that cannot be opened (Permission denied): 1 (sub)" in capsys.readouterr().err


def test_what_a_pattern_matches_besides_files_is_named(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found(f"{books}/[agp]*.txt", tmp_path) == ["books/a.txt"]
    said = capsys.readouterr().err
    assert "links that lead nowhere: 1" in said
    assert "named pipes: 1" in said
    with pytest.raises(DataError, match=r"no file matches .*it matches named pipes: 1"):
        found(f"{books}/p*.txt", tmp_path)


@pytest.fixture
def lectures(tmp_path: Path) -> Path:
    """Return a folder with two recordings, a transcript of one, and what else may lie there."""
    folder = tmp_path / "my lectures"
    folder.mkdir()
    for name in ("one.mp3", "two.wav"):
        (folder / name).write_bytes(b"ID3")
    (folder / "one.txt").write_text("What was said.")
    record = {"version": 1, "source": {}, "made_with": {}, "text_sha256": None, "segments": []}
    (folder / "one.json").write_text(json.dumps(record))
    return folder


def test_of_transcripts_only_the_texts_are_read(
    lectures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found(str(lectures), tmp_path) == ["my lectures/one.txt"]
    said = " ".join(capsys.readouterr().err.split())
    assert "skipped: 1 .json, 1 .mp3, 1 .wav" in said
    assert found(f"{lectures}/*.[tj]*", tmp_path) == ["my lectures/one.txt"]
    assert "the .json beside transcripts is left out: 1 files" in " ".join(capsys.readouterr().err.split())


def test_other_json_that_a_pattern_matches_is_read_as_it_was(lectures: Path, tmp_path: Path) -> None:
    (lectures / "two.json").write_text((lectures / "one.json").read_text())
    (lectures / "three.txt").write_text("A text.")
    (lectures / "three.json").write_text('{"text": "three"}')
    names = ["one.txt", "three.json", "three.txt", "two.json"]
    assert found(f"{lectures}/*.[tj]*", tmp_path) == [f"my lectures/{name}" for name in names]


def test_a_folder_of_recordings_is_named_with_the_command_that_turns_them_into_text(
    lectures: Path, tmp_path: Path
) -> None:
    (lectures / "one.txt").unlink()
    (lectures / "one.json").unlink()
    with pytest.raises(DataError, match=r"it has 1 \.mp3, 1 \.wav\. .*: quill transcribe '.*my lectures' --out TEXTS$"):
        texts_of([str(lectures)], spool=tmp_path)


@pytest.fixture
def pipe_of(tmp_path: Path) -> Callable[[str], Path]:
    def make(text: str) -> Path:
        path = tmp_path / "fox.txt"
        os.mkfifo(path)
        threading.Thread(target=path.write_text, args=(text,), daemon=True).start()
        return path

    return make


def test_a_named_pipe_is_read_until_it_is_closed(pipe_of: Callable[[str], Path], tmp_path: Path) -> None:
    path = pipe_of("a fox\n" * 30_000)
    (source,) = texts_of([str(path)], spool=tmp_path).train
    assert source.path.read_text() == "a fox\n" * 30_000
    assert source.location == str(path.resolve())
    assert name_of_sources([str(path)]) == "fox"


def test_what_a_shell_puts_in_place_of_a_command_is_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a fox\n")
    os.close(writer)
    try:
        assert name_of_sources([f"/dev/fd/{reader}"]) == "pipe"
        (source,) = texts_of([f"/dev/fd/{reader}"], spool=tmp_path).train
    finally:
        os.close(reader)
    assert source.path.read_text() == "a fox\n"
    assert source.location == "pipe"


def test_standard_input_is_read_and_a_closed_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a fox\n")))
    (source,) = texts_of(["-"], spool=tmp_path).train
    assert (source.location, source.path.read_text()) == ("-", "a fox\n")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        texts_of(["-"], spool=tmp_path)


def test_devices_are_no_texts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="/dev/zero is a device, not a text"):
        texts_of(["/dev/zero"], spool=tmp_path)
