"""Quill's command line without its start: each command is forked from a process that has imported Quill.

Importing PyTorch takes longer than all else that a command of the tests does. What is forked is a process of its own
all the same, with its own words, folder, environment, streams and signals. Tests of how a command starts start
`python -m quillgpt`, and so does everything where there is no Linux.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

SERVER = Path(__file__).with_name("warm_server.py")
HANDED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


@functools.cache
def commands(modules: str | None = None) -> Path:
    """Return a folder with the commands `quill` and `python`, which differ from the real ones in their start alone.

    That of `python` is Python itself for whatever is not `-m quillgpt`.

    Args:
        modules: PYTHONPATH, so that a copy of the package is imported; None: as it is.
    """
    folder = Path(tempfile.mkdtemp(prefix="quill-warm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    python, server = shlex.quote(sys.executable), str(folder / "server")
    quiet = {"TORCH_CPP_LOG_LEVEL": "FATAL"}  # read when torch is imported; ranks set it before
    environment = os.environ | quiet | ({} if modules is None else {"PYTHONPATH": modules})
    quill = f"exec {python} -m quillgpt"
    if sys.platform == "linux":
        process = subprocess.Popen(
            [sys.executable, str(SERVER), server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert process.stdin is not None
        assert process.stdout is not None
        atexit.register(process.wait)
        atexit.register(process.stdin.close)  # called first
        assert process.stdout.readline() == b"ready\n"
        quill = f"exec {python} -I -S {shlex.quote(__file__)} {server}"
    for name, script in {
        "quill": f'{quill} "$@"\n',
        "python": f'[ "$1 $2" = "-m quillgpt" ] || exec {python} "$@"\nshift 2\n{quill} "$@"\n',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
        (folder / name).chmod(0o700)
    return folder


def quill() -> str:
    """Return the path of the command `quill`; killing what it starts kills Quill a moment later."""
    return str(commands() / "quill")


class Command:
    """A command that runs, itself and not what stands for it: it can be stopped and killed at any point."""

    def __init__(self, server: str, words: list[str], streams: tuple[int, int, int] = (0, 1, 2)) -> None:
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(server)
        request = json.dumps({"words": words, "folder": str(Path.cwd()), "environment": dict(os.environ)}).encode()
        socket.send_fds(self._connection, [struct.pack("i", len(request))], streams)
        self._connection.sendall(request)
        self.pid = self._receive()

    def _receive(self) -> int:
        (number,) = struct.unpack("i", self._connection.recv(4, socket.MSG_WAITALL))
        return int(number)

    def wait(self) -> int:
        """Return the exit status, or the negative number of the signal that has ended the command."""
        if self.returncode is None:
            self.returncode = self._receive()
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return the same, or None where the command still runs."""
        if self.returncode is None and not select.select([self._connection], [], [], 0)[0]:
            return None
        return self.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the command on the spot."""
        self.send_signal(signal.SIGKILL)


Process = Command | subprocess.Popen[bytes]


def start(*words: str, stderr: int = subprocess.DEVNULL) -> Process:
    """Start a command of which only the standard error is read, here and in this environment."""
    if sys.platform != "linux":
        command = words if words[0].endswith(".py") else ("-m", "quillgpt", *words)
        return subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=stderr)
    with Path(os.devnull).open("r+b") as nowhere:
        unread = nowhere.fileno()
        streams = (unread, unread, unread if stderr == subprocess.DEVNULL else stderr)
        return Command(str(commands() / "server"), list(words), streams)


def hand_on(pid: int, number: int) -> None:
    """Send a signal to a command that may just have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def stand_for(server: str, words: list[str]) -> int:
    """Run a command with the streams of this process; hand on signals, and end as it ends."""
    numbers = [signal.Signals[name] for name in HANDED_ON]
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    command = Command(server, words)
    for number in numbers:
        signal.signal(number, lambda number, _: hand_on(command.pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    status = command.wait()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    os._exit(stand_for(sys.argv[1], sys.argv[2:]))  # before a signal can change the status
