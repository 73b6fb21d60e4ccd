"""One process at a time trains in a folder: a lock of the operating system, which goes when its process goes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from quillgpt.console import warn
from quillgpt.errors import CheckpointError
from quillgpt.ownership import remove_listed, remove_own

LOCK = ".lock"
HOLDER = ".running"
"""Says who holds the lock. Only read where the lock is held, so what a killed process left misleads nobody."""


@contextmanager
def occupied(out_dir: Path) -> Iterator[None]:
    """Keep other processes from training in a folder while the block runs.

    The folder is made if need be, and removed again where the block leaves nothing else in it.

    Raises:
        CheckpointError: Another process trains there; nothing of its folder has been touched.
    """
    made = not out_dir.exists()
    out_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out_dir / LOCK)
    holder = out_dir / HOLDER
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CheckpointError(
            f"{out_dir} is in use: {_describe(holder)} trains there; wait for it, stop it, or choose another --out_dir"
        ) from None
    except (NotImplementedError, OSError) as error:  # some network shares lock nothing; that should stop no run
        warn(f"{out_dir} cannot be locked here ({error}); see to it that nothing else trains there")
    try:
        with suppress(OSError):  # it is only told to others; a full disk is noticed where it matters
            holder.write_text(f"{os.getpid()} {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            remove_own(holder)
        if made and [path.name for path in out_dir.iterdir()] == [LOCK]:
            _remove_with_its_lock(out_dir, lock)
        lock.release()


def _remove_with_its_lock(out_dir: Path, lock: FileLock) -> None:
    """Remove a folder that a run which never began leaves empty."""
    if os.name == "nt":  # where an open file cannot be removed
        lock.release()
    with suppress(OSError):
        remove_listed(out_dir, [LOCK])


def _describe(holder: Path) -> str:
    try:
        process, host = holder.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "another process"
    return f"process {process}" + ("" if host == socket.gethostname() else f" on {host}")
