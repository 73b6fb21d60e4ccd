"""One process at a time trains in a folder: a lock of the operating system, which goes when its process goes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from quillgpt.console import warn
from quillgpt.errors import CheckpointError, UserError
from quillgpt.files import make_folder, write_text
from quillgpt.ownership import remove_listed, remove_own
from quillgpt.process import is_running
from quillgpt.run_files import CONFIG, HOLDER, LOCK


class Occupation:
    """A folder in which this process trains, and no other.

    Args:
        out_dir: The folder.
    """

    def __init__(self, out_dir: Path) -> None:
        self._out_dir = out_dir
        self._lock = FileLock(out_dir / LOCK)
        self._note = f"{os.getpid()} {socket.gethostname()}\n"

    def begin(self) -> None:
        """Make the folder if need be, and take it.

        Raises:
            CheckpointError: Another process trains there; nothing of its folder has been touched.
        """
        make_folder(self._out_dir, "--out_dir")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise _in_use(self._out_dir, _read(self._out_dir / HOLDER)) from None
        except (NotImplementedError, OSError) as error:  # some network shares lock nothing; that should stop no run
            self._check_unheld()
            warn(f"{self._out_dir} cannot be locked here ({error}); see to it that nothing else trains there")
        with suppress(OSError):  # a full disk is noticed where it matters
            write_text(self._out_dir / HOLDER, self._note)

    def is_lost(self) -> bool:
        """Whether the folder, with the settings that the run has written there, was removed or moved.

        Raises:
            CheckpointError: Another process has taken its place since.
        """
        holder = _read(self._out_dir / HOLDER)
        if holder is None:
            return not (self._out_dir / CONFIG).exists()
        if holder != _parse(self._note):
            raise _in_use(self._out_dir, holder, "; it was taken from this run, which saves nothing more")
        return False

    def take_anew(self) -> None:
        """Make and take the folder again after it was lost, and say so.

        Raises:
            CheckpointError: Another process trains there.
            UserError: It cannot be made.
        """
        lost = f"{self._out_dir} was removed or moved while the run trains, and with it the checkpoints and the record"
        try:
            self._renew()
        except OSError as error:
            raise UserError(
                f"{lost} so far; it cannot be made again ({error.strerror}), so nothing can be saved"
            ) from error
        warn(f"{lost} so far; the run goes on, and saves in a new {self._out_dir} from now on")

    def _renew(self) -> None:
        self._lock.release()
        self._lock = FileLock(self._out_dir / LOCK)
        self.begin()

    def end(self, *, made: bool) -> None:
        """Release the folder; remove it if this process `made` it and left nothing in it."""
        with suppress(OSError):
            if _read(self._out_dir / HOLDER) == _parse(self._note):
                remove_own(self._out_dir / HOLDER)
        with suppress(OSError):
            if made and [path.name for path in self._out_dir.iterdir()] == [LOCK]:
                _remove_with_its_lock(self._out_dir, self._lock)
        self._lock.release()

    def _check_unheld(self) -> None:
        """Check, on a disk that cannot lock, that the process that the note names is gone."""
        note = self._out_dir / HOLDER
        holder = _read(note)
        if holder is not None and (holder[1] != socket.gethostname() or is_running(holder[0])):
            raise _in_use(self._out_dir, holder, f"; if that has ended, remove {note}")


@contextmanager
def occupied(out_dir: Path) -> Iterator[Occupation]:
    """Keep other processes from training in a folder while the block runs.

    The folder is made if need be, and removed again where the block leaves nothing else in it.

    Raises:
        CheckpointError: Another process trains there; nothing of its folder has been touched.
    """
    made = not out_dir.exists()
    occupation = Occupation(out_dir)
    occupation.begin()
    try:
        yield occupation
    finally:
        occupation.end(made=made)


def _remove_with_its_lock(out_dir: Path, lock: FileLock) -> None:
    """Remove a folder that a run which never began leaves empty."""
    if os.name == "nt":  # where an open file cannot be removed
        lock.release()
    with suppress(OSError):
        remove_listed(out_dir, [LOCK])


def _in_use(out_dir: Path, holder: tuple[int, str] | None, otherwise: str = "") -> CheckpointError:
    who = "another process" if holder is None else f"process {holder[0]}"
    where = "" if holder is None or holder[1] == socket.gethostname() else f" on {holder[1]}"
    return CheckpointError(
        f"{out_dir} is in use: {who}{where} trains there; wait for it, stop it, or choose another --out_dir{otherwise}"
    )


def _read(holder: Path) -> tuple[int, str] | None:
    """Return the process and the machine that a note names; None where there is none, or a damaged one."""
    try:
        return _parse(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _parse(note: str) -> tuple[int, str]:
    process, host = note.split()
    return int(process), host
