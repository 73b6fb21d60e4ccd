"""Locks between processes; a lock is released when its process ends, in whatever way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, on_wait: Callable[[], object], on_failure: Callable[[Exception], object]) -> Iterator[None]:
    """Hold a lock while the block runs, after waiting for another process that holds it.

    Args:
        path: The file of the lock; it is not removed.
        on_wait: Called once if another process holds the lock.
        on_failure: Called with the reason if locks do not work, as on some network shares; the block runs anyway.
    """
    from filelock import FileLock, Timeout  # slow to import, and rarely needed

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
