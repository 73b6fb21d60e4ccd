"""What the system knows about this process; imports no torch."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60
"""What version 1 of control groups says where there is no limit is above this."""


def is_running(process: int) -> bool:
    """Return whether there is a process of this number on this machine, other than this one."""
    if process == os.getpid() or not 0 < process < 1 << 31:
        return False
    if os.name == "nt":  # where asking would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


def peak_resident_bytes() -> int | None:
    """Return the highest resident memory of this process so far; None on systems other than Linux and macOS.

    Linux carries the figure of `getrusage` over from the process that started this one, so its own record is read.
    """
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
    """A control group that this process is in, as containers and batch systems set them up.

    Attributes:
        limit: Bytes that its processes may hold together.
        used: Bytes that they hold, without files that the system keeps in memory and can drop.
    """

    limit: int
    used: int


def memory_groups(root: Path = Path("/")) -> list[MemoryGroup]:
    """Return the control groups around this process that limit its memory; none on systems other than Linux.

    Args:
        root: The root of the file system.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    mounted, found = root / "sys/fs/cgroup", []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):  # of version 2, or version 1's own for memory
            base = mounted / controllers
            names = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
            inner = base / path.lstrip("/")
            # In a container the path may be that outside of it, where its own group is mounted as the base.
            groups = [inner, *(each for each in inner.parents if each.is_relative_to(base))]
            found += [group for group in (_memory_group(each, *names) for each in groups) if group is not None]
    return found


def _memory_group(folder: Path, *names: str) -> MemoryGroup | None:
    try:
        limit, used = (int((folder / f"memory.{name}").read_text(encoding="ascii")) for name in names)
        rows = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        used -= int(rows.get("total_inactive_file") or rows.get("inactive_file") or 0)
    except (OSError, ValueError):  # there is none, or it is `max`
        return None
    return MemoryGroup(limit, used) if limit < UNLIMITED else None
