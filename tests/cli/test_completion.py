"""Completions for the Tab key, in a real shell if there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quillgpt.cli.completion import paths
from quillgpt.config import preset_names

BASH = shutil.which("bash")

TAB = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _quill
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("run.toml", "a book.txt", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "out-x" / "checkpoints").mkdir(parents=True)
    return tmp_path


@pytest.mark.skipif(BASH is None or os.name == "nt", reason="there is no bash here")
def test_in_bash(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert BASH is not None
    home = tmp_path_factory.mktemp("home")
    command = home / "quill"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m quillgpt "$@"\n')
    command.chmod(0o755)
    script = home / "completion.bash"
    environment = os.environ | {"HOME": str(home), "PATH": f"{home}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(
        [command, "--install-completion", "--shell", "bash", "--output", script],
        env=environment,
        check=True,
        capture_output=True,
    )
    assert str(script) in (home / ".bashrc").read_text()

    def tab(*words: str) -> list[str]:
        asked = [BASH, "--norc", "-c", TAB, "tab", str(script), "quill", *words]
        done = subprocess.run(asked, env=environment, check=True, capture_output=True, text=True, cwd=folder)
        return done.stdout.split("\n")[:-1]

    assert tab("tra") == ["train", "trace", "transcribe"]
    assert tab("train", "") == [*preset_names(), "out-x/", "run.toml"]
    assert tab("train", "demo", "--dry") == ["--dry_run"]
    assert tab("train", "--optimizer", "") == ["adamw", "muon"]
    assert tab("train", "--data", "a") == ["a\\ book.txt"]
    assert tab("prepare", "python") == ["python_docs"]
    assert tab("configs", "show", "train_gpt2_gkp") == ["train_gpt2_gkpoly8"]
    assert tab("sample", "") == ["out-x/"]
    assert tab("info", "--q") == ["--quiet"]
    assert tab("watch", "") == tab("compare", "") == tab("runs", "") == ["out-x/"]
    assert tab("watch", "--o") == ["--once"]
    assert tab("runs", "--sort", "mi") == ["minutes"]


def test_asking_imports_nothing_heavy(folder: Path) -> None:
    program = (
        "import sys; from quillgpt.cli import main; status = main(sys.argv[1:]); "
        "print([name for name in ('torch', 'numpy') if name in sys.modules], file=sys.stderr); sys.exit(status)"
    )
    for words in (["train", ""], ["prepare", ""], ["train", "--compile", ""]):
        asked = [sys.executable, "-c", program, "__complete", *words]
        done = subprocess.run(asked, capture_output=True, text=True, cwd=folder)
        assert (done.returncode, done.stderr.strip()) == (0, "[]")
        assert len(done.stdout.splitlines()) > 3


@pytest.mark.usefixtures("folder")
def test_paths() -> None:
    assert list(paths("")) == ["a book.txt", "out-x/", "run.toml"]
    assert list(paths(".h")) == [".hidden"]
    assert list(paths("out-x/c")) == ["out-x/checkpoints/"]
    assert list(paths("nowhere/")) == []
