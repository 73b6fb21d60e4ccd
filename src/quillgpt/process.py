"""What the system knows about this process; imports no torch."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SPINS = 10_000
"""Looks at a flag, some tens of microseconds, after which a thread that waits for others leaves its core to them."""

UNLIMITED = 1 << 60
"""Version 1 of control groups spells "no limit" as a number above this."""


def is_one_of_several() -> bool:
    """Return whether the environment says that this process is one rank of several, as torchrun starts them."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "") not in ("", "1")


def is_started_by_torchrun() -> bool:
    """Return whether torchrun, or a program like it, has started this process, maybe as the only one."""
    return is_one_of_several() or "TORCHELASTIC_RUN_ID" in os.environ


def is_first_of_several() -> bool:
    """Return whether it is rank 0, or the only process."""
    return not is_one_of_several() or os.environ["RANK"] == "0"


LAUNCHED = "quill-"
"""How the ids of runs begin whose processes `quill train --devices` has started."""


def is_launched_by_quill() -> bool:
    """Return whether `quill train --devices` has started this process, and said what there is to say before."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(LAUNCHED)


def is_running(process: int) -> bool:
    """Return whether another process of this number runs on this machine."""
    import psutil

    return process != os.getpid() and 0 < process < 1 << 31 and psutil.pid_exists(process)


def has_open(process: int, path: Path) -> bool | None:
    """Return whether a process has a file open; None if the system does not tell."""
    import psutil

    if os.name == "nt":  # where the answer may take without end
        return None
    try:
        wanted = path.stat()
        opened = [file.path for file in psutil.Process(process).open_files()]
    except (OSError, psutil.Error):
        return None
    for name in opened:
        with suppress(OSError):
            if os.path.samestat(Path(name).stat(), wanted):
                return True
    return False


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait_politely() -> None:
    """Let threads that wait for others leave their cores soon, unless the user decided otherwise.

    GNU's OpenMP, which PyTorch uses on Linux, lets them look at a flag 300,000 times first. If another program computes
    on one of the cores, the thread that all wait for is not even running meanwhile. This has an effect only before
    PyTorch is imported. docs/results.md has the measurements.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def own_command() -> str | None:
    """Return the command that started this process, as one types it; None if it is not `quill`."""
    program = Path(sys.argv[0])
    if program.stem != "quill" and program.parts[-2:] != ("quillgpt", "__main__.py"):
        return None
    return shlex.join(["quill", *sys.argv[1:]])


LONGEST_START = 300.0
"""Seconds; a command that seems to have been started longer ago was not, but the system's clock was set."""


def seconds_since_start() -> float:
    """Return how many seconds ago this command was started, with the start of Python; 0 if another program calls it."""
    import psutil

    if own_command() is None:
        return 0.0
    with suppress(psutil.Error, OSError):  # a system that does not tell
        seconds = time.time() - psutil.Process().create_time()
        return seconds if 0 < seconds < LONGEST_START else 0.0
    return 0.0


def why_it_ended(status: int, complaints: IO[bytes]) -> str:
    """Return in words why a process that this one had started ended too early.

    Args:
        status: Its exit status; negative if a signal killed it.
        complaints: The file that was its standard error.
    """
    if hasattr(signal, "SIGKILL") and status == -signal.SIGKILL:
        return "the system killed it, probably for lack of memory"
    complaints.seek(0)
    said = complaints.read().decode("utf-8", "replace").strip().splitlines()
    return said[-1] if said else f"its exit status is {status}"


def peak_resident_bytes() -> int | None:
    """Return the highest resident memory of this process so far; None if the system does not tell.

    psutil has the peak on Windows only. On Linux `/proc/self/status` is read, since `getrusage` starts from the peak of
    the process that started this one.
    """
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kibibytes = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if kibibytes is None else int(kibibytes) * 1024


@dataclass(frozen=True)
class MemoryGroup:
    """A control group of this process, as containers and batch systems set them up.

    Attributes:
        limit: The bytes that the processes of the group may hold together.
        used: The bytes that they hold, without cached files that the system can drop.
    """

    limit: int
    used: int


def memory_groups(root: Path = Path("/")) -> list[MemoryGroup]:
    """Return the control groups that limit the memory of this process; none on systems other than Linux.

    The files are read here because psutil knows the memory of the machine, not that of a container.

    Args:
        root: The root of the file system.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    mounted, limited = root / "sys/fs/cgroup", []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):  # of version 2, or version 1's own for memory
            base = mounted / controllers
            names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
            inner = base / path.lstrip("/")
            # In a container the path may be the one outside of it, while its own group is mounted as the base.
            folders = [inner, *(parent for parent in inner.parents if parent.is_relative_to(base))]
            groups = [_memory_group(folder, *names) for folder in folders]
            limited += [group for group in groups if group is not None]
    return limited


def _memory_group(folder: Path, *names: str) -> MemoryGroup | None:
    try:
        limit, used = (int((folder / f"memory.{name}").read_text(encoding="ascii")) for name in names)
        rows = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        used -= int(rows.get("total_inactive_file") or rows.get("inactive_file") or 0)
    except (OSError, ValueError):  # there is none, or it is `max`
        return None
    return MemoryGroup(limit, used) if limit < UNLIMITED else None
