"""What becomes of words and results where nobody reads them, a disk is full, or a stream was never there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quillgpt import console
from quillgpt.cli.sample import write
from quillgpt.streams import ESCAPE, Results, Words, visible

QUILL = [sys.executable, "-m", "quillgpt"]


class Failing(io.RawIOBase):
    """A file that takes nothing."""

    def __init__(self, number: int) -> None:
        self.number = number

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def write(self, content: object) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [32, 28, 5, 9], ids=["reader gone", "disk full", "terminal closed", "closed"])
def test_what_is_said_ends_nothing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BufferedWriter(Failing(number)), line_buffering=True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    for _ in range(3):
        console.say("set-up " * 10_000)
        console.warn("careful")
        console.table("set-up", {"device": "cpu"})
        with console.progress("evaluating", 3) as advance:
            advance()
            console.outcome("done")
    monkeypatch.setattr(sys, "stderr", None)
    console.outcome("nobody is there")
    console.say_from_signal("nor here")
    stream.buffer.raw.write = len  # so that it can be closed


def test_a_stream_of_results_says_what_could_not_be_written() -> None:
    with pytest.raises(OSError, match="No space left on device: 'standard output'"):
        Results(io.TextIOWrapper(Failing(28), write_through=True)).write("loss 1.0")
    with pytest.raises(BrokenPipeError):
        Results(io.TextIOWrapper(Failing(32), write_through=True)).write("loss 1.0")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["configs"], ["configs", "show", "demo"], ["nonsense"]])
def test_a_reader_that_has_enough(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*QUILL, *words], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    expected = (2, 1) if words == ["nonsense"] else (141, 0)
    assert (done.returncode, len(done.stderr.splitlines())) == expected, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["configs", "show", "demo"]])
def test_results_that_cannot_be_written_are_one_line_and_a_status(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*QUILL, *words], stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "quill: standard output: No space left on device\n")
        unread = subprocess.run([*QUILL, "nonsense"], stdout=subprocess.PIPE, stderr=full, text=True)
    assert (unread.returncode, unread.stdout) == (2, "")


@pytest.mark.skipif(os.name == "nt", reason="closes descriptors as a shell does")
@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">&-"])
def test_descriptors_that_are_closed_at_the_start_are_taken_by_no_file(closed: str, tmp_path: Path) -> None:
    program = (
        "import os, sys; from quillgpt.streams import settle_standard_streams; settle_standard_streams();"
        "file = open('opened', 'w'); print(file.fileno(), file=file); print('words', file=sys.stderr);"
        "file.write(repr(sys.stdin.read()))"
    )
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, program], cwd=tmp_path, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0
    number, read = (tmp_path / "opened").read_text().split()
    assert int(number) > 2
    assert read == "''"
    configs = subprocess.run(["sh", "-c", f'"$0" -m quillgpt configs {closed}', sys.executable], capture_output=True)
    assert configs.returncode == (1 if ">&- " in f"{closed} ".replace("2>&-", "") else 0)
    assert b"Traceback" not in configs.stderr


def test_what_an_encoding_lacks_is_written_as_json_writes_it() -> None:
    text = "naïve 漢字 😀 \ud83d"
    for encoding in ("ascii", "latin-1", "utf-8"):
        written = json.dumps(text, ensure_ascii=False).encode(encoding, ESCAPE)
        assert json.loads(written.decode(encoding)) == text
    assert "é 😀".encode("ascii", ESCAPE) == b"\\u00e9 \\ud83d\\ude00"


def test_words_from_elsewhere_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b]0;title\x07b\x1b[2J\rc\x9b31m\u202ed\x7f"
    console.outcome(hostile)
    console.table(hostile, {hostile: hostile}, console=console.stdout)
    out, err = capsys.readouterr()
    assert err == "a\\x1b]0;title\\x07b\\x1b[2J\\x0dc\\x9b31m\\u202ed\\x7f\n"
    assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e"} & set(out)
    assert visible("two lines\n\tand a tab, naïve 漢字") == "two lines\n\tand a tab, naïve 漢字"
    assert Words(None).isatty() is False


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_model_writes_cannot_steer_a_terminal_and_is_as_it_is_elsewhere(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", out)
    write("To be\x1b[2J,\n\tor not")
    assert out.getvalue() == ("To be\\x1b[2J,\n\tor not" if terminal else "To be\x1b[2J,\n\tor not")
