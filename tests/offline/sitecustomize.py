"""Keeps a test on this machine: a process that tries to reach another one ends at once and says which.

Python imports a module of this name at its start, so that processes which tests start are kept here too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

MAY_FETCH = "TESTS_MAY_FETCH"
"""The environment variable that lets a process reach other machines."""

HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "")


def stay_here(fail: Callable[[str], object]) -> None:
    """Call `fail` with a message where this process looks for another machine, for the rest of its life."""

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event not in ("socket.connect", "socket.getaddrinfo") or MAY_FETCH in os.environ:
            return
        host = arguments[0]
        if event == "socket.connect":
            address = arguments[1]
            host = address[0] if isinstance(address, tuple) else None  # a socket that is a file has a path
        name = host.decode() if isinstance(host, bytes) else host
        # Names that end in .invalid are nobody's, and never will be.
        if isinstance(name, str) and name not in HERE and not name.endswith(".invalid"):
            fail(f"this test tries to reach {name}, and is not marked `download`")

    sys.addaudithook(watch)


def leave(message: str) -> None:
    """End this process, whatever it would have made of an exception."""
    os.write(2, f"{message}\n".encode())
    os._exit(97)


if __name__ == "sitecustomize":
    stay_here(leave)
