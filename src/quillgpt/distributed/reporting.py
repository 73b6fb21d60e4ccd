"""One line for a failure: every rank ends with the same message, and each machine prints it once."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from torch.distributed import Store  # type: ignore[attr-defined]

from quillgpt.distributed import meeting as meetings
from quillgpt.distributed.meeting import Meeting
from quillgpt.distributed.members import machine
from quillgpt.distributed.restart import kept_by_agent, say_over
from quillgpt.distributed.world import World
from quillgpt.errors import CheckpointError, ConfigError, RankError, UserError

CONNECT_SECONDS = 3.0
LONGEST_SECONDS = 20.0
"""How long a rank that ends may talk to the others."""

PART_SECONDS = 10.0
"""How long the rank that keeps the store waits for the others before it ends."""

WAIT_SECONDS = 6.0
"""How long a rank waits for the first one on its machine to print the line that both have."""

_meeting: Meeting | None = None
"""The meeting that this process takes part in, or took part in last."""


def remember_meeting(meeting: Meeting) -> None:
    """Let later failures of this process be told to the others."""
    global _meeting
    _meeting = meeting


def present_meeting() -> Meeting | None:
    """Return the meeting that this process takes part in; None in one process."""
    return _meeting


def refuse_restart(status: int) -> None:
    """Let torchrun's further attempts end at once, with this status."""
    if _meeting is not None:
        store = _meeting.lasting_store
        with suppress(RuntimeError):  # torchrun is gone, and starts nothing
            meetings.within(CONNECT_SECONDS, lambda: say_over(store, status))


def line_of_all(error: BaseException, message: str, status: int) -> str | None:
    """Tell the other ranks how this one ends, and return the line that it prints; None if another rank prints it.

    Args:
        error: What it ends with.
        message: That in words.
        status: The exit status.
    """
    try:
        world = World.from_environment()
    except UserError:
        return message
    if world.size == 1:
        return message
    if isinstance(error, RankError):
        failure = error
    else:
        named = message if world.is_main else f"rank {world.rank} on {socket.gethostname()}: {message}"
        failure = RankError(named, status, key=message)
    write_for_torchrun(failure)
    try:
        prints = meetings.within(LONGEST_SECONDS, lambda: _tell(failure, error, world, message))
    except RuntimeError:  # the store is gone
        prints = _is_first_alive(world)
    return str(failure) if prints else None


def _tell(failure: RankError, error: BaseException, world: World, message: str) -> bool:
    """Tell the other ranks of a failure; return whether this one prints it."""
    store = _store(world)
    if store is None:
        return True
    if _meeting is None or not meetings.is_published(store, failure):
        _publish(store, failure, world, message)
    if isinstance(error, (CheckpointError, ConfigError)):  # which another attempt meets again
        say_over(_meeting.lasting_store if _meeting else store, failure.status)
    prints = _prints(store, failure, world)
    if _meeting is not None:
        _part(_meeting)
    return prints


def write_for_torchrun(failure: RankError) -> None:
    """Write the failure where torchrun looks for what it reports of each rank."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError):
            Path(file).write_text(json.dumps({"message": str(failure), "timestamp": int(time.time())}), "utf-8")


def _publish(store: Store, failure: RankError, world: World, message: str) -> None:
    """Tell the others, who name this rank even if it is rank 0."""
    told = RankError(
        str(failure) if failure.is_loss or not world.is_main else f"rank 0 on {socket.gethostname()}: {message}",
        failure.status,
        failure.key,
    )
    meetings.publish_failure(store, told, "failures" if _meeting is not None else None)


def _store(world: World) -> Store | None:
    """Return the store of the meeting, or, before this process has met the others, that of torchrun."""
    if _meeting is not None:
        return _meeting.store
    if not kept_by_agent():
        return None
    with suppress(UserError):
        return meetings.open_store(world, *meetings.place(), CONNECT_SECONDS)
    return None


def _prints(store: Store, failure: RankError, world: World) -> bool:
    """Whether this rank prints a failure: the first one of its machine that has it."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    key = f"printed/{attempt}/{sha256(f'{machine()} {failure.key}'.encode()).hexdigest()}"
    if world.local_rank > 0:
        for _ in meetings.waiting(WAIT_SECONDS):
            if store.check([f"{key}/first"]):
                return False
            if _is_first_alive(world):
                break
    else:
        store.set(f"{key}/first", "1")
    return bool(store.add(key, 1) == 1)


def _part(meeting: Meeting) -> None:
    """Say that this rank needs nothing more; if it keeps the store, wait until that is true of all."""
    meeting.store.set(f"left/{meeting.world.rank}", "1")
    if not meeting.keeps_store:
        return
    for _ in meetings.waiting(PART_SECONDS):
        others = [member for member in meeting.members[1:] if not member.is_gone]
        if meeting.store.check([f"left/{member.rank}" for member in others]):
            return


def _is_first_alive(world: World) -> bool:
    """Whether this rank is the first of its machine, as far as they are alive."""
    members = _meeting.members[: world.rank] if _meeting is not None else []
    before = [member for member in members if member.machine == machine() and not member.is_gone]
    return not before if members else world.local_rank == 0


def end_process(failure: RankError) -> NoReturn:
    """End this process, whose main thread waits for ranks that do not answer any more."""
    line = line_of_all(failure, str(failure), failure.status)
    if line is not None:
        with suppress(OSError):
            os.write(2, f"quill: {' '.join(line.split())}\n".encode("utf-8", "replace"))
    time.sleep(0.1)
    os._exit(failure.status)
