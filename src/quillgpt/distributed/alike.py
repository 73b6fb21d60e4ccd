"""Ranks must be told the same, and must have the same data."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from quillgpt.distributed.world import World
from quillgpt.errors import ConfigError, DataError, UserError, shorten

MOST_SHOWN = 3


def check_settings_alike(world: World, settings: Mapping[str, object]) -> None:
    """Check that all ranks have the settings of rank 0.

    Raises:
        ConfigError: One has not; the same on every rank.
    """
    _check(world, settings, ConfigError, "give all ranks the same settings")


def check_data_alike(world: World, facts: Mapping[str, object]) -> None:
    """Check that all ranks have opened the same files, by their hashes.

    Raises:
        DataError: One has not; the same on every rank.
    """
    _check(world, facts, DataError, "copy them from the machine of rank 0, or put them on a disk that all share")


def _check(world: World, facts: Mapping[str, object], error: type[UserError], mend: str) -> None:
    (first_host, first), *others = world.gather((socket.gethostname(), dict(facts)))
    for rank, (host, own) in enumerate(others, 1):
        differing = [name for name in first | own if first.get(name) != own.get(name)]
        if differing:
            shown = ", ".join(
                f"{name} = {shorten(own.get(name))} instead of {shorten(first.get(name))}"
                for name in differing[:MOST_SHOWN]
            )
            more = f" and {len(differing) - MOST_SHOWN} more" if len(differing) > MOST_SHOWN else ""
            raise error(f"rank {rank} on {host} has {shown}{more}, as rank 0 on {first_host} has; {mend}")
