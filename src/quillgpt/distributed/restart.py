"""What outlasts the processes of a run that torchrun starts again: notes in torchrun's own store."""

from __future__ import annotations

import os

from torch.distributed import Store  # type: ignore[attr-defined]

OVER, BEFORE = "quill/over", "quill/before"


def restarts() -> int:
    """Return how often torchrun has started the ranks again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)


def restarts_left() -> int:
    """Return how often torchrun will start them again."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) - restarts()


def kept_by_agent() -> bool:
    """Whether torchrun keeps the store, and not rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def say_over(store: Store, status: int) -> None:
    """Let no process of this run train again: it was asked to stop, or was refused for a reason that will not go."""
    if kept_by_agent():
        store.set(OVER, str(status))


def leave_if_over(store: Store) -> None:
    """End this process if an earlier one has called `say_over`.

    Raises:
        SystemExit: With the status that the earlier one had.
    """
    if restarts() and store.check([OVER]):
        raise SystemExit(int(store.get(OVER)))


def unlike_before(store: Store, fact: str) -> bool:
    """Return whether a fact is another one than when the ranks were started for the first time."""
    if not store.check([BEFORE]):
        store.set(BEFORE, fact)
    return bool(store.get(BEFORE).decode() != fact)
