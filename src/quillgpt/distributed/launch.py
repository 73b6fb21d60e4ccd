"""Starting the processes of a run on each machine: torch's elastic agent, as torchrun uses it, with words of our own.

The agent starts the processes and ends all of them when one fails. Signals are handed on to them, once each, and the
exit status is theirs.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Literal

import psutil
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from quillgpt.console import outcome, warn
from quillgpt.device import choose_device
from quillgpt.distributed.machines import ONE_MACHINE, Machines, wait_for_all
from quillgpt.errors import ConfigError, DeviceError
from quillgpt.process import LAUNCHED, usable_cores
from quillgpt.stopping import answered_by, interrupt, leave_words_to_others

FASTEST_ON_CPUS = 1
"""What `devices = auto` starts where there are CPUs only: two are slower than two threads (docs/results.md)."""

FEW_PROCESSES = 8
"""Processes that may share the cores of any machine: too many are slow, but harmless."""

UNHANDLED = "SIGQUIT"
"""The only signal that the agent answers itself: with SIGKILL for all that is left after half a minute."""


def process_count(devices: int | Literal["auto"] | None, device: str) -> int:
    """Return how many processes a run starts on this machine.

    Args:
        devices: The setting.
        device: The setting `device`.

    Raises:
        ConfigError: The device is one of several.
        DeviceError: There are not as many devices.
    """
    if devices is None or devices == 1:
        return 1
    kind = choose_device(device)
    if kind.type == "cpu":
        return FASTEST_ON_CPUS if devices == "auto" else _checked_for_cpus(devices)
    if kind.type == "mps":
        if devices == "auto":
            return 1
        raise DeviceError(f"devices = {devices}, but an Apple GPU is one device; use --devices=1 or --device=cpu")
    if ":" in device:
        if devices == "auto":
            return 1
        raise ConfigError(f"devices = {devices} takes the first GPUs, device = {device} only one; give one of them")
    there = torch.cuda.device_count()
    if devices == "auto":
        return there
    if devices > there:
        gpus = "1 GPU" if there == 1 else f"{there} GPUs"
        raise DeviceError(f"devices = {devices}, but this machine has {gpus}; use --devices={there}, or --devices=auto")
    return devices


def _checked_for_cpus(devices: int) -> int:
    cores = usable_cores()
    if devices > max(cores, FEW_PROCESSES):
        raise DeviceError(
            f"devices = {devices}, but there are no GPUs here that it would use, and {cores} cores; "
            f"use --devices={cores} or fewer"
        )
    if devices > cores:
        warn(f"devices = {devices} share {cores} cores; {cores} processes would be faster")
    return devices


def launch(
    count: int,
    arguments: Sequence[str],
    machines: Machines = ONE_MACHINE,
    *,
    timeout_seconds: float = 600.0,
    advice: Callable[[], str] = lambda: "",
) -> int:
    """Run `quill` with some arguments in several processes, and return their exit status.

    Args:
        count: How many on this machine.
        arguments: The arguments after `quill`.
        machines: On which machines; each starts its own processes.
        timeout_seconds: How long this machine waits for the others.
        advice: Returns what to do after all were killed, for the end of the message.

    Raises:
        UserError: A machine is missing or cannot be reached.
    """
    if machines.count == 1:
        backend, endpoint, run_id, configs = "c10d", "localhost:0", uuid.uuid4().hex, {}
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    else:
        _store, run_id = wait_for_all(machines, timeout_seconds)  # it lasts as long as this call; the agents use it
        backend, endpoint = "static", f"{machines.address}:{machines.port}"
        configs = {"rank": machines.rank, "timeout": int(timeout_seconds)}
    config = LaunchConfig(
        min_nodes=machines.count,
        max_nodes=machines.count,
        nproc_per_node=count,
        run_id=f"{LAUNCHED}{run_id}",
        rdzv_backend=backend,
        rdzv_endpoint=endpoint,
        rdzv_configs=configs,
        local_addr="localhost" if machines.count == 1 else None,
        max_restarts=0,
        signals_to_handle=UNHANDLED,
    )
    logging.disable()  # the agent's words about signals and failures, which have a line of their own
    try:
        with _signals_handed_on():
            elastic_launch(config, sys.executable)("-m", "quillgpt", *arguments)
    except ChildFailedError as error:
        return _status(error.failures, advice)
    return 0


@contextmanager
def _signals_handed_on() -> Iterator[None]:
    """Hand signals on to the processes that this one has started; before there are any, a signal ends this one."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        processes = psutil.Process().children()
        if not processes:
            interrupt(number, frame)
        leave_words_to_others()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.Signals(number))

    with answered_by(hand_on):
        yield


def _status(failures: Mapping[int, ProcessFailure], advice: Callable[[], str]) -> int:
    """Return the exit status of all; if none of them could say what had happened, say it.

    When one has ended, the agent ends the others with SIGTERM, so that one tells nothing beside another status.
    """
    exits = {rank: failure.exitcode for rank, failure in sorted(failures.items())}
    statuses = [status for status in exits.values() if status > 0]
    said = [status for status in statuses if status < 128]
    of_others = [status for status in statuses if status != 128 + signal.SIGTERM]
    killed = {
        rank: failure
        for rank, failure in sorted(failures.items())
        if exits[rank] < 0 and not (statuses and exits[rank] == -signal.SIGTERM)
    }
    if killed and not said:
        names = ", ".join(
            f"rank {rank} on {socket.gethostname()} (process {failure.pid}) by {failure.signal_name()}"
            for rank, failure in killed.items()
        )
        outcome(f"quill: killed: {names}{advice()}", style="red")
        return 1
    return next(iter(said or of_others or statuses), 1)


def _loopback() -> str:
    """Return the network interface for messages within this machine."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.family == socket.AF_INET and address.address.startswith("127.") for address in addresses):
            return str(name)
    return "lo"
