"""How the processes of a run find each other, and part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import DistError, PrefixStore  # type: ignore[attr-defined]

from quillgpt.distributed.meeting import Meeting, meet
from quillgpt.distributed.members import check_versions, in_words, interface_of, own_address
from quillgpt.distributed.reporting import remember_meeting
from quillgpt.distributed.watch import Watch
from quillgpt.distributed.world import World, default_backend
from quillgpt.errors import ConfigError, DeviceError, RankError
from quillgpt.stopping import ignore_signals

CONNECT_SECONDS = 180.0
"""Longest time for the first all-reduce, which connects all ranks."""

PART_SECONDS = 60.0

_groups: list[dist.ProcessGroup] = []
"""Process groups of this process, which are kept: the last reference to one may be dropped while Python's lock is held,
by DDP for example. Then gloo's destructor waits for a thread that waits for that lock."""

OF_CONNECTIONS = ("gloo", "nccl", "connection", "socket", "timed out", "collective", "process group", "peer")
"""Words in the errors that torch raises when another rank does not answer."""


@contextmanager
def joined(
    world: World,
    device: torch.device,
    backend: str = "auto",
    *,
    timeout_seconds: float = 600.0,
    advice: Callable[[], str] = lambda: "",
) -> Iterator[None]:
    """Let the ranks talk to each other while the block runs; in one process nothing is to be done.

    Args:
        world: The ranks, as torchrun's variables in the environment describe them.
        device: The device that this rank computes on.
        backend: nccl, gloo, or auto: the usual one for the device.
        timeout_seconds: How long a rank waits for the others.
        advice: Returns what to do after a rank was lost, for the end of the message.

    Raises:
        UserError: A rank is missing, cannot be reached, or runs other versions.
        RankError: Another rank has failed.
    """
    if world.size == 1:
        yield
        return
    backend = default_backend(device) if backend == "auto" else backend
    if device.type == "cuda":
        torch.cuda.set_device(device)
    meeting = meet(world, timeout_seconds)
    remember_meeting(meeting)
    watch = Watch(meeting, timeout_seconds, advice)
    watch.start()
    try:
        check_versions(meeting.members)
        if backend == "nccl" and device.type != "cuda":
            raise ConfigError(
                f"backend = nccl needs a CUDA device for each rank, and this one computes on {device}; use gloo"
            )
        connect(meeting, watch, device, backend, timeout_seconds)
        yield
    except SystemExit:  # as another rank that has failed has asked for
        watch.say_left()
        raise
    except (KeyboardInterrupt, Exception) as error:
        ignore_signals()  # torchrun sends one when another rank has failed, and this one ends anyway
        failure = watch.gone_neighbour() if isinstance(error, KeyboardInterrupt) else cause_of(error, watch)
        watch.end()
        if backend == "gloo" and dist.is_initialized():  # which lets those go that wait for this rank
            dist.destroy_process_group()
        if failure is None:
            raise
        raise watch.advised(failure) from error
    else:
        part(watch)
        dist.destroy_process_group()
    finally:
        watch.end()


def connect(meeting: Meeting, watch: Watch, device: torch.device, backend: str, timeout_seconds: float) -> None:
    """Make the process group, and see that a sum over all ranks comes out.

    Raises:
        RankError: It does not within the time limit; the message says what is known.
    """
    world, store = meeting.world, meeting.store
    limit = min(CONNECT_SECONDS, timeout_seconds)

    def not_connected(reason: str = f"within {limit:g} s") -> RankError:
        done = [member for member in meeting.members if store_of_watch.check([f"connected/{member.rank}"])]
        waiting = [member for member in meeting.members if member not in done]
        places = ", ".join(
            dict.fromkeys(f"{member.host} is {member.address} on {member.interface}" for member in meeting.members)
        )
        variable = f"{backend.upper()}_SOCKET_IFNAME"
        return RankError(
            f"all {world.size} ranks have arrived at {meeting.where}, but their first all-reduce over {backend} did "
            f"not end {reason}: ended by {in_words(done)}, not by {in_words(waiting)}; toward rank 0, {places}; "
            f"{meeting.me.drivers}; {variable} names the interface to use",
            key="first all-reduce",
            is_loss=True,
        )

    store_of_watch = meeting.another_connection(limit)
    watch.expect_connection(limit, not_connected)
    if backend == "gloo" and (interface := interface_to_others(meeting)) != "?":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    try:
        dist.init_process_group(
            backend,
            store=PrefixStore("group", meeting.another_connection(timeout_seconds)),
            rank=world.rank,
            world_size=world.size,
            timeout=timedelta(seconds=timeout_seconds),
        )
        _groups.append(dist.group.WORLD)  # type: ignore[arg-type]
        ranks = world.sum(torch.ones(1, device=device))
        arrived = int(ranks.item())
    except RuntimeError as error:
        if not is_of_connections(error):
            raise
        raise watch.failure or not_connected(f"({' '.join(str(error).split())[:200]})") from error
    if arrived != world.size:
        raise DeviceError(f"a sum over {world.size} ranks counts {arrived} of them; the connection cannot be trusted")
    store.set(f"connected/{world.rank}", "1")
    watch.connected()


def interface_to_others(meeting: Meeting) -> str:
    """Return the network interface through which the other machines reach this one.

    gloo takes that of the host's own name, which is often the loopback interface.
    """
    others = [member for member in meeting.members if member.machine != meeting.me.machine]
    if not others or not meeting.world.is_main:
        return meeting.me.interface
    return interface_of(own_address((others[0].address, 1)))


def part(watch: Watch) -> None:
    """Wait until all ranks are done: gloo aborts a process whose connections close while it uses them."""
    watch.say_left()
    watch.wait_until_all_left(PART_SECONDS)


def cause_of(error: Exception, watch: Watch) -> RankError | None:
    """Return the failure of another rank that an error on this one comes from; None if it is this one's own."""
    if isinstance(error, RankError):
        return error
    if not is_of_connections(error):
        return watch.failure
    failure = watch.cause()
    if failure is not None:
        return failure
    try:
        silent = watch.silent_ranks()
    except RuntimeError:  # the store is gone, and rank 0 with it
        silent = watch.meeting.members[:1]
    who = f"{in_words(silent)} does not answer any more" if silent else "the connection to another rank broke"
    reason = " ".join(str(error).split())
    return RankError(f"{who} ({reason[:300]})", key="connection", is_loss=True)


def is_of_connections(error: Exception) -> bool:
    """Whether an error says that another rank did not answer."""
    if isinstance(error, DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in OF_CONNECTIONS)
