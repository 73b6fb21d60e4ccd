"""What is shown, where, and how it looks in a file, in a notebook, and where the command is quiet."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from quillgpt import console

LONG = "/a/long/path" * 30


def test_nothing_is_folded_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("set-up", {"device": "cpu", "a folder": LONG, "[bold]": ":warning:"})
    said = capsys.readouterr().err
    assert said.splitlines() == ["set-up", "device   cpu", f"a folder {LONG}", "[bold]   :warning:"]


class Screen(io.StringIO):
    """A terminal of 40 columns."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_lines_of_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    terminal = Console(file=screen, width=40)
    console.table("set-up", {"a folder": LONG}, console=terminal)
    assert max(map(len, screen.getvalue().splitlines())) <= 60  # with its colours
    assert console.is_screen(terminal)


@pytest.mark.parametrize("silence", [console.quietly, None], ids=["switch", "environment"])
def test_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, silence: Callable[..., object] | None
) -> None:
    def speak() -> None:
        console.say("log")
        console.table("set-up", {"device": "cpu"})
        console.table("result", {"loss": 1}, console=console.stdout)
        console.warn("careful")
        console.outcome("done")

    if silence is None:
        monkeypatch.setenv("QUILL_QUIET", "1")
        speak()
        monkeypatch.setenv("QUILL_QUIET", "0")
    else:
        with console.quietly():
            speak()
    out, err = capsys.readouterr()
    assert err == "warning: careful\ndone\n"
    assert "loss" in out
    console.say("log")
    assert capsys.readouterr().err == "log\n"


def test_a_notebook_gets_plain_lines_in_order() -> None:
    """Kernels of notebooks force colours, which rich takes for a terminal; and IPython need not be importable."""
    program = (
        "import builtins\n"
        "class ZMQInteractiveShell: pass\n"
        "builtins.get_ipython = lambda: ZMQInteractiveShell()\n"
        "from quillgpt import console\n"
        "with console.progress('evaluating', 3) as advance:\n"
        "    console.say('one')\n"
        "    advance()\n"
        "    console.warn('two')\n"
        "console.table('three', {'name': 'x' * 100})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"FORCE_COLOR": "1"}
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.splitlines() == ["one", "\x1b[33mwarning: two\x1b[0m", "three", "name " + "x" * 100]
