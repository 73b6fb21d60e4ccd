"""The texts of the benchmark: words without markup, always the same, cut at their size."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

from quillgpt.bench.quality import texts
from quillgpt.bench.quality.man_pages import plain_text
from quillgpt.errors import DataError

PAGE = r"""'\" t
.\" a comment
.de XX
not text
..
.TH LS 1 "9. Mai 2023" "GNU coreutils"
.SH BEZEICHNUNG
ls \- Verzeichnis\-Inhalte auf\%listen
.SH ÜBERSICHT
.B ls
.RI [ OPTION "] [" DATEI ]
.PP
Mit \fB\-a\fP und \fI\,Größe\/\fR zeigt
.BR ls (1)
\(bualles\(bu, auch \[u00AB]Punkte\[u00BB].
.TP
\fB\-\-all\fP \" so
Zeigt alles.
.in +4n
.nf
a\eb
.fi
.IP \(bu 2
Ein Punkt
"""


def test_a_manual_page_becomes_its_words() -> None:
    assert plain_text(PAGE).split("\n") == [
        "LS 1 9. Mai 2023 GNU coreutils",
        "",
        "BEZEICHNUNG",
        "ls - Verzeichnis-Inhalte auflisten",
        "",
        "ÜBERSICHT",
        "ls",
        "[OPTION] [DATEI]",
        "",
        "Mit -a und Größe zeigt",
        "ls(1)",
        "•alles•, auch «Punkte».",
        "",
        "--all",
        "Zeigt alles.",
        "a\\b",
        "",
        "•",
        "Ein Punkt",
        "",
    ]


@pytest.mark.parametrize("source", ["", '.B "no end\n', "\\", "\\(", "\\f", ".\n'\n", ".TH\n", "\\[u110000000]\n"])
def test_damaged_markup_is_no_error(source: str) -> None:
    plain_text(source)


def test_the_order_of_files_does_not_follow_their_names(tmp_path: Path) -> None:
    names = [f"{number:02}.txt" for number in range(20)]
    for name in names:
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    order = list(texts.files_of(tmp_path, place=".", pattern="*.txt"))
    assert sorted(order) == names != order
    assert order == list(texts.files_of(tmp_path, place=".", pattern="*.txt"))


def test_pages_of_other_macros_and_links_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/man/de/man1"
    folder.mkdir(parents=True)
    for name, source in {"a": ".SH NAME\na\n", "b": ".so man1/a.1\n", "c": ".Dd\n.Sh NAME\n.Nm c\n"}.items():
        (folder / f"{name}.1.gz").write_bytes(gzip.compress(source.encode()))
    assert list(texts.manual_pages(tmp_path, language="de")) == ["NAME\na\n"]


def test_a_text_is_cut_after_a_whole_line() -> None:
    assert texts.joined(["one\r\n", "two\n", "three"], 100, "text") == b"one\n\ntwo\n\nthree\n"
    assert texts.joined(["one\ntwo\nthree\n"] * 9, 10, "text") == b"one\ntwo\n"
    with pytest.raises(DataError, match="have no such text"):
        texts.joined(["\n"], 10, "text")


def test_both_uses_have_texts_of_many_kinds() -> None:
    uses = [text.use for text in texts.TEXTS.values()]
    assert uses.count("held") == 5
    assert len(uses) >= 8
    packages = [{text.packages for text in texts.TEXTS.values() if text.use == use} for use in ("tuning", "held")]
    assert not packages[0] & packages[1]  # no rule has seen a part of a held text


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts.shutil, "which", lambda _: None)
    with pytest.raises(DataError, match="Debian package fortunes, and there is no apt-get here; give texts of your"):
        texts.unpack(["fortunes"], tmp_path, "fortunes")
    monkeypatch.setattr(texts.shutil, "which", lambda _: "/usr/bin/apt-get")

    def fail(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 100, b"", b"W: a warning\nE: Unable to locate package fortunes\n")

    monkeypatch.setattr(texts.subprocess, "run", fail)
    (tmp_path / "again").mkdir()
    with pytest.raises(
        DataError, match=r"fortunes of the text fortunes cannot be had .apt-get: E: Unable to locate package fortunes"
    ):
        texts.unpack(["fortunes"], tmp_path / "again", "fortunes")


def test_a_text_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def documents(_: Path) -> list[str]:
        made.append(1)
        return ["words\n" * 10]

    monkeypatch.setenv("QUILL_HOME", str(tmp_path))
    monkeypatch.setitem(texts.TEXTS, "mine", texts.KnownText("words", "tuning", (), documents))
    assert texts.text_file("mine").read_text() == "words\n" * 10
    assert texts.text_file("mine").is_file()
    assert len(made) == 1
