"""Locks between processes, which go when their process goes, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, on_wait: Callable[[], object], on_failure: Callable[[Exception], object]) -> Iterator[None]:
    """Hold a lock while the block runs, after waiting for whoever holds it.

    Args:
        path: The lock's file, which stays.
        on_wait: Called once where it has to be waited for.
        on_failure: Called with the reason where nothing can be locked, as on some network shares; the block runs.
    """
    from filelock import FileLock, Timeout  # slow to import, and only needed where something is made

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_wait()
            lock.acquire()
    except (NotImplementedError, OSError) as error:
        on_failure(error)
    try:
        yield
    finally:
        lock.release()
