"""Who takes part in a run of several processes: rank, machine, process and versions."""

from __future__ import annotations

import json
import os
import platform
import socket
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

from quillgpt import __version__
from quillgpt.distributed.world import World
from quillgpt.errors import UserError

VERSIONS = {"quill": "Quill", "torch": "PyTorch", "python": "Python"}
"""The versions that all ranks must share, with their names."""


@dataclass(frozen=True)
class Member:
    """One rank, as it introduces itself to the others.

    Attributes:
        rank: Its number.
        local_rank: Its number among those on its machine.
        host: The name of its machine.
        machine: Tells machines and containers apart even if they share a name.
        process: Its process.
        started: When its process started, seconds since 1970, so that a later process of that number is another one.
        nonce: Differs in every process that was ever started.
        address: Its own address toward rank 0.
        interface: The network interface that has this address.
        quill: Version of Quill.
        torch: Version of PyTorch.
        python: Version of Python.
        drivers: What its GPUs and messages go through, in words.
    """

    rank: int
    local_rank: int
    host: str
    machine: str
    process: int
    started: float
    nonce: str
    address: str
    interface: str
    quill: str
    torch: str
    python: str
    drivers: str

    @classmethod
    def of_this_process(cls, world: World, toward: tuple[str, int]) -> Member:
        """Return what this process says of itself.

        Args:
            world: Its place among the ranks.
            toward: Address and port at which all meet.
        """
        address = own_address(toward)
        return cls(
            rank=world.rank,
            local_rank=world.local_rank,
            host=socket.gethostname(),
            machine=machine(),
            process=os.getpid(),
            started=psutil.Process().create_time(),
            nonce=uuid.uuid4().hex,
            address=address,
            interface=interface_of(address),
            quill=__version__,
            torch=torch.__version__,
            python=platform.python_version(),
            drivers=_drivers(),
        )

    @classmethod
    def read(cls, text: str | bytes) -> Member:
        """Return what `written` has written."""
        return cls(**json.loads(text))

    @property
    def written(self) -> str:
        """All of it in one line."""
        return json.dumps(asdict(self))

    @property
    def name(self) -> str:
        """The rank in words."""
        return f"rank {self.rank} on {self.host}"

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended; of a process on another machine that is never known."""
        if self.machine != machine():
            return False
        try:
            process = psutil.Process(self.process)
            is_another = abs(process.create_time() - self.started) > 1
            return bool(is_another or process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


def machine() -> str:
    """Return what tells this machine, or this container, from all others."""
    facts = [socket.gethostname()]
    for fact in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            path = Path(fact)
            facts.append(str(path.readlink()) if path.is_symlink() else path.read_text(encoding="ascii").strip())
        except OSError:  # on systems other than Linux
            continue
    return " ".join(facts)


def check_versions(members: Sequence[Member]) -> None:
    """Check that all ranks run the same versions as rank 0.

    Raises:
        UserError: One does not; the same on every rank.
    """
    first = members[0]
    for attribute, name in VERSIONS.items():
        expected = getattr(first, attribute)
        for member in members:
            if (version := getattr(member, attribute)) != expected:
                raise UserError(
                    f"{member.name} runs {name} {version}, {first.name} runs {name} {expected}; "
                    "install the same version everywhere"
                )


def in_words(members: Sequence[Member]) -> str:
    """Return the names of ranks, those of one machine together: `ranks 0, 1 on a and rank 2 on b`."""
    hosts: dict[str, list[int]] = {}
    for member in members:
        hosts.setdefault(member.host, []).append(member.rank)
    return " and ".join(f"{ranks_in_words(ranks)} on {host}" for host, ranks in hosts.items()) or "no rank"


def ranks_in_words(ranks: Sequence[int]) -> str:
    """Return ranks in words: `rank 3`, or `ranks 0-2, 5`."""
    spans: list[list[int]] = []
    for rank in sorted(ranks):
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    words = [
        str(first) if first == last else f"{first}, {last}" if last == first + 1 else f"{first}-{last}"
        for first, last in spans
    ]
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(words)


def own_address(toward: tuple[str, int]) -> str:
    """Return the address from which this machine would reach another one; nothing is sent."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(*toward, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return "?"


def interface_of(address: str) -> str:
    """Return the network interface that has an address of this machine; `?` if none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address.split("%")[0] == address for known in addresses):
            return str(name)
    return "?"


def _drivers() -> str:
    if not torch.cuda.is_available():
        return "no GPU"
    parts = [f"CUDA {torch.version.cuda}"]
    try:
        driver = torch._C._cuda_getDriverVersion()  # type: ignore[attr-defined]
        parts.append(f"driver for CUDA {driver // 1000}.{driver % 1000 // 10}")
        parts.append("NCCL " + ".".join(map(str, torch.cuda.nccl.version())))  # type: ignore[no-untyped-call]
    except (AttributeError, RuntimeError):  # another kind of GPU
        pass
    return ", ".join(parts)
