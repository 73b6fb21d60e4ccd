"""How the ranks of a run find each other: through a TCPStore, which torchrun or rank 0 keeps.

torchrun may keep the same store when it starts the ranks again after a failure, so it still holds what earlier
processes wrote. Therefore each process introduces itself with a nonce, rank 0 answers every nonce with its own, and all
that follows is under the nonce of rank 0. A rank that has taken part before cannot answer.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from quillgpt.distributed.members import Member, in_words, ranks_in_words
from quillgpt.distributed.restart import kept_by_agent, leave_if_over
from quillgpt.distributed.world import World
from quillgpt.errors import ConfigError, RankError, UserError

RESOLVE_SECONDS = 10.0
"""How long the address may be unknown: names of machines that are just starting appear a moment later."""

PROGRESS_SECONDS = 15.0
"""Between two lines that say who is missing."""

Value = TypeVar("Value")

ARRIVALS, EARLY_FAILURES = "quill/arrivals", "quill/failures"


@dataclass
class Meeting:
    """The ranks of a run, together.

    Attributes:
        world: The place of this process among them.
        members: Who they are, by rank.
        store: What they tell each other besides tensors, under keys of this meeting.
        where: The address and port of the store.
        keeps_store: Whether the store lives in this process, rank 0, and ends with it.
    """

    world: World
    members: list[Member]
    store: PrefixStore
    where: str
    keeps_store: bool

    @property
    def me(self) -> Member:
        """This process."""
        return self.members[self.world.rank]

    @property
    def lasting_store(self) -> Store:
        """The store with the keys of all meetings, which outlast the processes if torchrun keeps it."""
        return self.store.underlying_store

    def another_connection(self, timeout_seconds: float) -> PrefixStore:
        """Return the store through a connection of its own: one that waits for an answer blocks all its users."""
        store = self.store.underlying_store.clone()  # type: ignore[attr-defined]
        store.set_timeout(timedelta(seconds=timeout_seconds))
        return PrefixStore(self.members[0].nonce, store)


def meet(world: World, limit_seconds: float) -> Meeting:
    """Wait until all ranks are there.

    Args:
        world: The place of this process among them.
        limit_seconds: How long to wait.

    Raises:
        UserError: The store cannot be reached or made, a rank is missing, or one has failed before.
    """
    address, port = place()
    check_resolves(address, port)
    store = open_store(world, address, port, limit_seconds)
    leave_if_over(store)
    me = Member.of_this_process(world, (address, port))
    say_arrival(store, me)
    leading = world.is_main
    members = _gather(store, me, world, limit_seconds) if leading else _answer(store, me, world, limit_seconds)
    return Meeting(
        world, members, PrefixStore(members[0].nonce, store), f"{address}:{port}", leading and not kept_by_agent()
    )


def place() -> tuple[str, int]:
    """Return the address and the port at which the ranks meet.

    Raises:
        ConfigError: The environment does not say, or says no port.
    """
    address, port = os.environ.get("MASTER_ADDR", "").strip("[]"), os.environ.get("MASTER_PORT", "")
    if not address or not port:
        raise ConfigError(
            f"{'MASTER_ADDR' if not address else 'MASTER_PORT'} is not set, but WORLD_SIZE = "
            f"{os.environ.get('WORLD_SIZE')} says that there are several processes; torchrun sets both"
        )
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ConfigError(f"MASTER_PORT = {port}, expected a port: a number from 1 to 65535")
    return address, int(port)


def check_resolves(address: str, port: int, limit_seconds: float = RESOLVE_SECONDS) -> None:
    """Check that an address has a meaning on this machine.

    Raises:
        UserError: It has none.
    """
    for _ in waiting(limit_seconds):
        try:
            socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        except OSError as error:
            reason = error.strerror
        else:
            return
    raise UserError(
        f"--master_addr={address} is no machine that {socket.gethostname()} knows ({reason}); give the name or the "
        "address of the machine of rank 0"
    )


def open_store(world: World, address: str, port: int, limit_seconds: float) -> TCPStore:
    """Return the store at which all ranks meet; rank 0 makes it where nobody else keeps it.

    Raises:
        UserError: It does not answer, or the port is in use.
    """
    if world.is_main and not kept_by_agent():
        return make_store(address, port, limit_seconds, "rank 0")
    return reach_store(address, port, limit_seconds, f"rank {world.rank}", "rank 0", partial(say_here, world))


def reach_store(
    address: str, port: int, limit_seconds: float, me: str, leader: str, say: Callable[[str], object]
) -> TCPStore:
    """Return the store that another process keeps.

    Args:
        address: Where it is.
        port: Where it is.
        limit_seconds: How long to wait.
        me: What this process calls itself in messages.
        leader: Who keeps the store.
        say: Takes a line of progress.

    Raises:
        UserError: It does not answer.
    """
    reason = ""
    for seconds, is_time_for_a_line in progressing(limit_seconds):
        try:
            socket.create_connection((address, port), timeout=5).close()
            return TCPStore(
                address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=limit_seconds)
            )
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        if is_time_for_a_line:
            say(f"waiting for {leader} at {address}:{port} since {seconds:.0f} s ({reason})")
    raise UserError(
        f"{me} on {socket.gethostname()} cannot reach {leader} at {address}:{port} ({reason}) since "
        f"{limit_seconds:g} s; is {leader} running, and does a firewall close the port?"
    )


def make_store(address: str, port: int, limit_seconds: float, me: str) -> TCPStore:
    """Return a store that this process keeps.

    Raises:
        UserError: The port is in use, or the address is another machine's.
    """
    if not reaches_itself(address, port):
        raise UserError(
            f"{me} on {socket.gethostname()} does not reach itself at {address}:{port}; "
            f"--master_addr must be an address of the machine of {me}"
        )
    try:
        return TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            multi_tenant=True,
            timeout=timedelta(seconds=limit_seconds),
        )
    except RuntimeError as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise UserError(
                f"port {port} of {socket.gethostname()} is in use by another program; choose another --master_port, "
                "the same on all machines"
            ) from error
        raise UserError(
            f"{me} on {socket.gethostname()} cannot listen at {address}:{port} ({str(error).splitlines()[0]}); "
            f"--master_addr must be an address of the machine of {me}"
        ) from error


def reaches_itself(address: str, port: int, limit_seconds: float = 5.0) -> bool:
    """Return whether an address is one of this machine, perhaps one that a router translates to it.

    At another machine's, the store would try for long, and print what only its authors understand.
    """
    family, kind, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as own, suppress(OSError):
        own.bind((place[0], 0))
        return True
    try:
        with socket.create_server(("", port), family=family) as server:
            server.settimeout(limit_seconds)
            socket.create_connection((address, port), timeout=limit_seconds).close()
            server.accept()[0].close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE  # of which the store has a message
    return True


def say_arrival(store: Store, me: Member) -> None:
    """Add this process to the list of all that ever arrived."""
    store.append(ARRIVALS, me.written + "\n")  # type: ignore[attr-defined]


def arrivals(store: Store) -> dict[str, Member]:
    """Return all processes that ever arrived, by nonce, in their order."""
    if not store.check([ARRIVALS]):
        return {}
    members = [Member.read(line) for line in store.get(ARRIVALS).splitlines()]
    return {member.nonce: member for member in members}


def _gather(store: Store, me: Member, world: World, limit_seconds: float) -> list[Member]:
    """Answer everyone who arrives, until all ranks have confirmed the answer."""
    answered: dict[str, Member] = {}
    confirmed_key = f"{me.nonce}/confirmed"
    confirmed: dict[int, Member] = {0: me}
    for seconds, is_time_for_a_line in progressing(limit_seconds):
        for nonce, member in arrivals(store).items():
            if nonce not in answered:
                answered[nonce] = member
                store.set(f"quill/answer/{nonce}", me.nonce)
        if store.check([confirmed_key]):
            nonces = store.get(confirmed_key).decode().split()
            confirmed |= {answered[nonce].rank: answered[nonce] for nonce in nonces}
        if len(confirmed) == world.size:
            members = [confirmed[rank] for rank in range(world.size)]
            store.set(f"{me.nonce}/members", "\n".join(member.written for member in members))
            return members
        check_early_failures(store)
        if is_time_for_a_line:
            say_here(world, f"{_who_is_missing(confirmed, world)} since {seconds:.0f} s")
    raise UserError(f"{_who_is_missing(confirmed, world)} after {limit_seconds:g} s; are the other machines started?")


def _answer(store: Store, me: Member, world: World, limit_seconds: float) -> list[Member]:
    """Wait for the answer of rank 0, confirm it, and wait for the list of all."""
    answer, leader = f"quill/answer/{me.nonce}", ""
    for seconds, is_time_for_a_line in progressing(limit_seconds):
        if not leader and store.check([answer]):
            leader = store.get(answer).decode()
            store.append(f"{leader}/confirmed", me.nonce + "\n")  # type: ignore[attr-defined]
        if leader and store.check([f"{leader}/members"]):
            return [Member.read(line) for line in store.get(f"{leader}/members").splitlines()]
        check_early_failures(store)
        if is_time_for_a_line:
            say_here(world, f"{_who_is_missing(_present(store), world)} since {seconds:.0f} s")
    raise UserError(
        f"{_who_is_missing(_present(store), world)} after {limit_seconds:g} s; are the other machines started?"
    )


def say_here(world: World, message: str) -> None:
    """Print a line of progress, once on each machine: another one may wait for this one, or the other way round."""
    if world.local_rank == 0:
        with suppress(OSError):
            os.write(2, f"{message}\n".encode())


def _present(store: Store) -> dict[int, Member]:
    return {member.rank: member for member in arrivals(store).values()}


def _who_is_missing(present: dict[int, Member], world: World) -> str:
    address, port = place()
    missing = [rank for rank in range(world.size) if rank not in present]
    there = in_words([present[rank] for rank in sorted(present)])
    if not missing:
        return f"all {world.size} ranks have arrived at {address}:{port}, but not all have answered"
    arrived = f"{len(present)} of {world.size} have arrived at {address}:{port}: {there}"
    return f"waiting for {ranks_in_words(missing)}; {arrived}"


def failures_key() -> str:
    """Return the key of failures of processes that had not met the others yet."""
    return f"{EARLY_FAILURES}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def check_early_failures(store: Store, key: str | None = None) -> None:
    """Check that no rank has failed.

    Args:
        store: What they tell each other.
        key: The list of failures; None: of those that failed before they met.

    Raises:
        RankError: One has; the first.
    """
    key = key or failures_key()
    if store.check([key]):
        raise RankError(**json.loads(store.get(key).splitlines()[0]))


def is_published(store: Store, failure: RankError) -> bool:
    """Return whether the ranks that have met know a failure already."""
    if not store.check(["failures"]):
        return False
    return any(json.loads(line)["key"] == failure.key for line in store.get("failures").splitlines())


def publish_failure(store: Store, failure: RankError, key: str | None = None) -> None:
    """Tell the other ranks why this one ends."""
    text = json.dumps(
        {"message": str(failure), "status": failure.status, "key": failure.key, "is_loss": failure.is_loss}
    )
    store.append(key or failures_key(), text + "\n")  # type: ignore[attr-defined]


def within(seconds: float, call: Callable[[], Value]) -> Value:
    """Return what a call returns; a store whose machine is cut off may never answer one.

    Raises:
        RuntimeError: It takes longer, or raises that itself, as a store that is gone does.
    """
    outcomes: list[Value | Exception] = []

    def work() -> None:
        try:
            outcomes.append(call())
        except Exception as error:
            outcomes.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcomes:
        raise RuntimeError(f"no answer within {seconds:g} s")
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]
    return outcomes[0]


def waiting(limit_seconds: float, first_pause_seconds: float = 0.02) -> Iterator[float]:
    """Yield the seconds since the beginning, at growing distances of up to a second, until the limit."""
    start, pause = time.monotonic(), first_pause_seconds
    while (seconds := time.monotonic() - start) < limit_seconds:
        yield seconds
        time.sleep(min(pause, max(0.0, limit_seconds - seconds)))
        pause = min(1.0, pause * 1.2)


def progressing(limit_seconds: float) -> Iterator[tuple[float, bool]]:
    """Yield as `waiting` does, and whether a line of progress is due."""
    said = 0.0
    for seconds in waiting(limit_seconds):
        is_due = seconds - said >= PROGRESS_SECONDS
        said = seconds if is_due else said
        yield seconds, is_due
