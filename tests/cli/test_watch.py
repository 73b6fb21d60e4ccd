"""`quill watch` in a pipe and in a real terminal."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runs.folders import a_run, evaluation, row, step, trained_elsewhere

SLOW = {"torch", "numpy", "pydantic", "tomlkit", "requests", "quillgpt.config", "quillgpt.cli.app"}
ALTERNATE, MAIN = "\x1b[?1049h", "\x1b[?1049l"
HIDDEN, VISIBLE = "\x1b[?25l", "\x1b[?25h"
DEADLINE = 60.0
needs_a_terminal = pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [line for i in range(10, 61, 10) for line in (step(i), evaluation(i, 5 - i / 20))]
    return a_run(tmp_path / "out-a", *lines, row("sample", iter=60, text="It was"), summary={"iterations": 60})


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size, path.read_bytes()) for path in files}


def test_once(quill: Any, folder: Path) -> None:
    before = everything(folder.parent)
    assert quill("watch", "out-a", "--once") == 0, quill.err
    lines = quill.out.splitlines()
    assert lines[0] == "out-a   finished   iter 60 of 100 (60%)"
    assert lines[-2:] == ["sample at iter 60", "  It was"]
    assert "\x1b" not in quill.out
    assert quill.err == ""
    assert everything(folder.parent) == before


def test_a_pipe_has_the_present_and_ends_where_nothing_trains(quill: Any, folder: Path) -> None:
    a_run(folder.parent / "out-b", step(1))
    assert quill("watch", "out-a", "out-b/metrics.jsonl") == 0, quill.err
    assert "\nout-b   interrupted   iter 1 of 100 (1%)\n" in quill.out
    a_run(folder.parent / "deep" / "out-c", step(2))
    os.utime(folder.parent / "deep" / "out-c" / "metrics.jsonl", (1, 1))
    trained_elsewhere(folder.parent / "deep" / "out-c")
    os.utime(folder / "metrics.jsonl", (10**10, 10**10))
    assert quill("watch", "--once") == 0, quill.err
    assert quill.out.startswith("out-a ")  # the newest, since nothing trains


def test_what_cannot_be_watched(quill: Any, tmp_path: Path) -> None:
    assert quill("watch") == 1
    assert quill.err == "quill: there is no run below this folder; name one: quill watch out-shakespeare-char\n"
    assert quill("watch", "out-x") == 1
    assert "out-x does not exist; expected the folder of a run" in quill.err
    assert quill("watch", "--onec") == 2
    assert quill.err == "quill: --onec is unknown; did you mean --once?\n"


def started(*words: str) -> list[str]:
    """Return a command line that starts Quill as a user does, and tells on descriptor 3 what was imported."""
    program = (
        "import os, sys; from quillgpt.stopping import end_with\n"
        "import quillgpt.cli as cli, quillgpt.stopping as stopping\n"
        f"told = lambda status: (os.write(3, ' '.join({SLOW!r} & sys.modules.keys()).encode() + b'.'), status)[1]\n"
        "cli.end_with = lambda status: end_with(told(status))\n"
        "sys.argv = ['quill', *sys.argv[1:]]; sys.exit(cli.main())"
    )
    return [sys.executable, "-c", program, *words]


@needs_a_terminal
def test_it_starts_without_anything_slow(folder: Path) -> None:
    reader, writer = os.pipe()
    hand_on = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], sys.argv[2:])"
    done = subprocess.run(
        [sys.executable, "-c", hand_on, str(writer), *started("watch", "--once", str(folder))],
        capture_output=True,
        text=True,
        pass_fds=[writer],
        check=True,
    )
    os.close(writer)
    assert done.stdout.startswith("out-a ")
    assert os.read(reader, 1000) == b"."
    os.close(reader)


class Screen:
    """A command in a pseudo-terminal."""

    def __init__(self, terminal: int, process: subprocess.Popen[bytes], master: int) -> None:
        self.terminal, self.process, self._master = terminal, process, master
        self.shown = ""

    def press(self, keys: str) -> None:
        """Press keys, after which only what is shown from now on counts."""
        self.shown = ""
        os.write(self._master, keys.encode())

    def wait_for(self, wanted: str | Callable[[str], bool]) -> str:
        """Return what is shown, once that has something."""
        end = time.monotonic() + DEADLINE
        found = (lambda text: wanted in text) if isinstance(wanted, str) else wanted
        while not found(self.shown):
            assert time.monotonic() < end, self.shown[-3000:]
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self._master, 1 << 16).decode("utf-8", "replace")
                except OSError:  # the command has ended
                    break
        return self.shown

    def ended(self) -> int:
        """Return the exit status, once the command has ended."""
        self.wait_for(lambda _: self.process.poll() is not None)
        return self.process.wait()


@contextmanager
def in_terminal(*words: str, columns: int = 80, rows: int = 24) -> Iterator[Screen]:
    import fcntl
    import pty
    import termios

    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    take_terminal = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", take_terminal, "-m", "quillgpt", "watch", *words],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment | {"TERM": "xterm-256color"},
    )
    try:
        yield Screen(terminal, process, master)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(master)


@needs_a_terminal
def test_keys_and_growth_in_a_terminal(folder: Path) -> None:
    import termios

    other = trained_elsewhere(a_run(folder.parent / "out-b", step(10)))
    with in_terminal(str(folder), str(other)) as screen:
        before = termios.tcgetattr(screen.terminal)
        text = screen.wait_for("tab next run")
        assert ALTERNATE in text
        assert HIDDEN in text
        assert termios.tcgetattr(screen.terminal)[3] & (termios.ICANON | termios.ECHO) == 0
        screen.press("\t")
        screen.wait_for("iter 10 of 100")
        with (other / "metrics.jsonl").open("a") as record:
            record.write(step(20) + '{"half')
        screen.wait_for("iter 20 of 100")
        screen.press(" ")
        screen.wait_for("paused")
        screen.press("x\x1b[A\x1b ")  # of which only the last means something
        screen.wait_for("space pause")
        (other / "metrics.jsonl").write_text(step(5))
        screen.wait_for("iter 5 of 100")
        screen.press("q")
        assert screen.ended() == 0
        assert screen.shown.rindex(MAIN) > screen.shown.rfind(ALTERNATE)
        assert VISIBLE in screen.shown
        assert termios.tcgetattr(screen.terminal) == before


@needs_a_terminal
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_restores_the_terminal(folder: Path, number: int, status: int) -> None:
    import termios

    with in_terminal(str(folder), columns=20, rows=3) as screen:
        before = termios.tcgetattr(screen.terminal)
        screen.wait_for("out-a")
        screen.shown = ""
        if number == signal.SIGINT:
            screen.press("\x03")
        else:
            screen.process.send_signal(number)
        assert screen.ended() == status
        assert MAIN in screen.shown
        assert VISIBLE in screen.shown
        assert termios.tcgetattr(screen.terminal) == before
        assert ("interrupted" in screen.shown) == (status > 0)


@needs_a_terminal
def test_ctrl_z_leaves_the_screen_until_the_shell_goes_on(folder: Path) -> None:
    import termios

    with in_terminal(str(folder)) as screen:
        before = termios.tcgetattr(screen.terminal)
        screen.wait_for("q quit")
        screen.press("\x1a")
        screen.wait_for(MAIN)
        os.waitid(os.P_PID, screen.process.pid, os.WSTOPPED | os.WNOWAIT)
        assert termios.tcgetattr(screen.terminal) == before
        screen.shown = ""
        screen.process.send_signal(signal.SIGCONT)
        screen.wait_for("q quit")
        screen.press("q")
        assert screen.ended() == 0
