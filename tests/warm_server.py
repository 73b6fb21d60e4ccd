"""The process from which `warm.py` has Quill's commands forked."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import quillgpt.cli
from quillgpt.proof import faulty

PRELOADED = ("torch._dynamo", "torch._inductor.config", "quillgpt.cli.app", "quillgpt.training", "quillgpt.api")


def serve(path: str) -> dict[str, Any] | None:
    """Fork a process for each request until the standard input ends.

    Returns:
        What was asked for, in the process that is to do it; None in the one that has served.
    """
    awake, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking)
    running: dict[int, socket.socket] = {}
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        ready = select.select([0, awake, listener, *running.values()], [], [])[0]
        if 0 in ready:
            return None
        for pid, connection in running.items():
            if connection in ready:  # who waited for it is gone
                os.kill(pid, signal.SIGKILL)
        if awake in ready:
            os.read(awake, 4096)
            while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with running.pop(ended[0]) as connection:
                    answer(connection, os.waitstatus_to_exitcode(ended[1]))
        if listener in ready:
            connection, _ = listener.accept()
            header, streams, _, _ = socket.recv_fds(connection, 4, 3)
            request = connection.recv(*struct.unpack("i", header), socket.MSG_WAITALL)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                for other in (listener, connection, *running.values()):
                    other.close()
                for descriptor in (awake, waking, *streams):
                    os.close(descriptor)
                asked: dict[str, Any] = json.loads(request)
                return asked
            running[pid] = connection
            for stream in streams:
                os.close(stream)
            answer(connection, pid)


def answer(connection: socket.socket, number: int) -> None:
    """Send a number to one who may be gone."""
    with suppress(OSError):
        connection.send(struct.pack("i", number), socket.MSG_NOSIGNAL)


def run(words: list[str], folder: str, environment: Mapping[str, str]) -> NoReturn:
    """Be a process that was started with these words, where the environment names a FAULT with that one.

    The first word may also be a script, which ends the process.
    """
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = str(Path(sys.argv[1]).with_name("python"))  # which starts further commands as quickly
    sys.argv = ["quill", *words]
    sys.path[0] = folder
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        errors = "backslashreplace" if name == "stderr" else "strict"
        stream = open(number, "w" if number else "r", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if fault := environment.get("FAULT"):
        name, _, number = fault.partition(":")
        faulty.FAULTS[name](int(number))
    try:
        if words[0].endswith(".py"):
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        status = quillgpt.cli.main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    leave(status)


def leave(status: int) -> NoReturn:
    """End this process as Python does, but for taking down what has been imported, which takes a second."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # what is there need not be looked at, and so copied, by each process
    request = serve(sys.argv[1])
    if request is None:
        os._exit(0)
    run(**request)
