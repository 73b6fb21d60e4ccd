"""Which machines take part in a run that `quill train` starts on each of them, and how they wait for each other.

torchrun waits too, but without a word, and ends with a traceback. So the machines meet here first, at the address where
torch's agents meet afterwards.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from torch.distributed import Store  # type: ignore[attr-defined]

from quillgpt.console import say
from quillgpt.distributed.meeting import check_resolves, make_store, progressing, reach_store
from quillgpt.errors import ConfigError, UserError

USUAL_PORT = 29500
"""That of torchrun."""

PRESENT, RUN = "quill/machines", "quill/run"


@dataclass(frozen=True)
class Machines:
    """The machines of a run, seen from one of them.

    Attributes:
        count: How many they are.
        rank: Which one this is; the first is 0.
        address: The name or address of the first one, which the others can reach.
        port: A free port there.
    """

    count: int = 1
    rank: int = 0
    address: str = "localhost"
    port: int = USUAL_PORT

    @property
    def is_first(self) -> bool:
        """Whether the machines meet at this one."""
        return self.rank == 0


ONE_MACHINE = Machines()


def machines_of(
    nnodes: int | None, node_rank: int | None, master_addr: str | None, master_port: int | None
) -> Machines:
    """Return the machines that torchrun's flags describe.

    Raises:
        ConfigError: The flags say too little, or contradict each other.
    """
    given = {"node_rank": node_rank, "master_addr": master_addr, "master_port": master_port}
    if nnodes is None:
        if names := [f"--{name}" for name, value in given.items() if value is not None]:
            raise ConfigError(f"{names[0]} is for several machines; give their number with --nnodes")
        return ONE_MACHINE
    if nnodes < 1:
        raise ConfigError(f"--nnodes={nnodes}, expected a number of machines: 1 or more")
    if nnodes == 1 and node_rank is None:
        return ONE_MACHINE
    if node_rank is None or not 0 <= node_rank < nnodes:
        stated = f"--node_rank={node_rank}, but" if node_rank is not None else "--node_rank is missing:"
        raise ConfigError(f"{stated} of {nnodes} machines each has a number from 0 to {nnodes - 1}")
    if nnodes == 1:
        return ONE_MACHINE
    if not master_addr:
        raise ConfigError("--master_addr is missing: the name or the address of the machine of --node_rank=0")
    port = USUAL_PORT if master_port is None else master_port
    if not 0 < port < 1 << 16:
        raise ConfigError(f"--master_port={port}, expected a port: a number from 1 to 65535")
    return Machines(nnodes, node_rank, master_addr.strip("[]"), port)


def wait_for_all(machines: Machines, limit_seconds: float) -> tuple[Store, str]:
    """Wait until all machines are there.

    Returns:
        What they have in common, which the first machine keeps as long as it is referred to, and an id of the run.

    Raises:
        UserError: One is missing or cannot be reached, the port is in use, or two say that they are the same one.
    """
    me, place = f"node_rank {machines.rank}", f"{machines.address}:{machines.port}"
    check_resolves(machines.address, machines.port)
    if machines.is_first:
        store: Store = make_store(machines.address, machines.port, limit_seconds, "node_rank 0")
    else:
        store = reach_store(machines.address, machines.port, limit_seconds, me, "node_rank 0", say)
    if store.add(f"{PRESENT}/{machines.rank}", 1) > 1:
        raise UserError(f"another machine at {place} has --node_rank={machines.rank} too; give each its own")
    store.append(PRESENT, f"{machines.rank} of {machines.count} on {socket.gethostname()}\n")  # type: ignore[attr-defined]
    for seconds, is_time_for_a_line in progressing(limit_seconds):
        present = dict(_read(store.get(PRESENT).decode().splitlines(), machines))
        missing = [rank for rank in range(machines.count) if rank not in present]
        who = f"waiting for node_rank {', '.join(map(str, missing))} at {place}; here: {', '.join(present.values())}"
        if not missing:
            if machines.is_first:
                store.set(RUN, uuid.uuid4().hex)
            return store, store.get(RUN).decode()
        if is_time_for_a_line:
            say(f"{who} (since {seconds:.0f} s)")
    raise UserError(f"{who} (after {limit_seconds:g} s); start the same command there, with its own --node_rank")


def _read(lines: Iterable[str], machines: Machines) -> Iterable[tuple[int, str]]:
    for line in lines:
        place, _, host = line.partition(" on ")
        rank, count = map(int, place.split(" of "))
        if count != machines.count:
            raise UserError(
                f"--nnodes={machines.count} here, but {count} on {host} (node_rank {rank}); give the same everywhere"
            )
        yield rank, f"{rank} ({host})"
