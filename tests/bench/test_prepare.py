"""Preparing is measured as whole processes on one text, and the resulting files are compared."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from quillgpt.bench.peers import QUILL, Candidate
from quillgpt.bench.prepare import Preparer, PrepareWork, write_text
from quillgpt.cli import main
from quillgpt.errors import DataError, UserError
from quillgpt.text.sources.downloads import GPT2_MERGES

TEXT = "Some words, and a café.\nMore words follow here.\n"


def test_the_text_is_repeated_up_to_its_size_as_utf8(tmp_path: Path) -> None:
    source, made = tmp_path / "source.txt", tmp_path / "made.txt"
    source.write_bytes(TEXT.replace("\n", "\r\n").encode("utf-8-sig"))
    write_text(made, str(source), None)
    assert made.read_bytes() == TEXT.encode("utf-8")
    write_text(made, str(source), 1)
    repeats, rest = divmod(made.stat().st_size, len(TEXT.encode("utf-8")))
    assert rest == 0
    assert 0 <= repeats * len(TEXT.encode("utf-8")) - 1_000_000 < len(TEXT.encode("utf-8"))


def test_a_text_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        write_text(tmp_path / "made.txt", str(tmp_path), None)


def test_the_command_compares_speed_memory_and_tokens(
    checkout: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "book.txt"
    text.write_text(TEXT * 50, encoding="utf-8")
    words = ["bench", "prepare", str(text), "--tokenizer=char", "--rounds=2", f"--peer=nanogpt={checkout}", "--json"]
    assert main(words) == 0
    ours, theirs = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert [ours["candidate"], theirs["candidate"]] == ["quill", "nanogpt"]
    assert theirs["same_tokens_as_quill"] is True
    for row in (ours, theirs):
        assert row["tokens"] == len(TEXT * 50)
        assert len(row["megabytes_per_second_rounds"]) == len(row["tokens_per_second_rounds"]) == 2
        assert row["megabytes_per_second"] * row["seconds"] == pytest.approx(text.stat().st_size / 1e6)
        assert row["tokens_per_second"] * row["seconds"] == pytest.approx(row["tokens"])
        assert row["peak_memory_bytes"] is None or row["peak_memory_bytes"] > 1e6


def test_what_is_measured_is_the_command_and_imports_no_torch(tmp_path: Path) -> None:
    preparer = Preparer(PrepareWork(tmp_path / "text.txt", "char"), QUILL)
    assert preparer._command(tmp_path)[1:4] == ["-m", "quillgpt", "prepare"]
    program = "import sys, quillgpt.bench.prepare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.download
@pytest.mark.usefixtures("gpt2_files")
def test_nanogpt_gets_the_files_of_tiktoken_that_quill_has(checkout: Path, tmp_path: Path) -> None:
    work = PrepareWork(tmp_path / "text.txt", "gpt2")
    work.text.write_text(TEXT * 50, encoding="utf-8")
    ours, theirs = Preparer(work, QUILL), Preparer(work, Candidate("nanogpt", checkout))
    assert ours.run_round() > 0
    assert theirs.run_round() > 0
    assert ours.hashes == theirs.hashes
    with theirs._folder() as folder:
        stored = folder / "tiktoken" / hashlib.sha1(GPT2_MERGES.address.encode()).hexdigest()
        assert stored.read_bytes() == GPT2_MERGES.cached.read_bytes()


def test_other_tokens_are_noticed(checkout: Path, tmp_path: Path) -> None:
    work = PrepareWork(tmp_path / "text.txt", "char")
    work.text.write_text(TEXT * 50, encoding="utf-8")
    script = checkout / "data" / "shakespeare_char" / "prepare.py"
    script.write_text(script.read_text(encoding="utf-8").replace("0.9", "0.8"), encoding="utf-8")
    ours, theirs = Preparer(work, QUILL), Preparer(work, Candidate("nanogpt", checkout))
    ours.run_round()
    theirs.run_round()
    assert ours.tokens == theirs.tokens
    assert ours.hashes != theirs.hashes


def test_a_script_that_fails_is_quoted(checkout: Path, tmp_path: Path) -> None:
    work = PrepareWork(tmp_path / "text.txt", "char")
    work.text.write_text(TEXT, encoding="utf-8")
    (checkout / "data" / "shakespeare_char" / "prepare.py").write_text("import nothing_like_it", encoding="utf-8")
    with pytest.raises(UserError, match="No module named 'nothing_like_it'"):
        Preparer(work, Candidate("nanogpt", checkout)).run_round()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--peer=transformers"], "does not prepare data sets"),
        (["--peer=nanogpt=/nowhere"], "prepare.py does not exist"),
        (["--peer=nanogpt=/nowhere", "--tokenizer=byte"], "nanoGPT has no script for --tokenizer=byte"),
        (["--tokenizer=morse"], "morse is no tokenizer"),
        (["--megabytes=0"], "megabytes = 0; expected a whole number above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "prepare", *words]) != 0
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert captured.out == ""
