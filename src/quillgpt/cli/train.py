"""`quill train`."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from quillgpt.cli.flags import preset_argument, settings_flags, switch
from quillgpt.config import preset_names, resolve_given
from quillgpt.config.foreign import describe_file
from quillgpt.config.schema import TrainFields
from quillgpt.config.sources import SUFFIXES
from quillgpt.config.values import seconds_of
from quillgpt.console import is_quiet, muted
from quillgpt.errors import ConfigError
from quillgpt.process import is_first_of_several, is_launched_by_quill, is_started_by_torchrun, seconds_since_start

DRY_RUN = switch(
    "--dry_run",
    "Check everything, print what would happen (data, parameters, memory, time), and change no folder.",
)
VERBOSE = switch("--verbose", "Print all settings, not only those that differ from the default.")
RESUME = switch("--resume", "Continue the run in out_dir: the same as --init_from=resume.")


@Parameter(name="*", group=Group("Several machines", sort_key=90), show_default=False)
@dataclass(frozen=True)
class MachineFlags:
    """torchrun's flags for a run on several machines, each of which starts its own processes."""

    nnodes: Annotated[int | None, Parameter(help="How many machines train together. On each: --devices processes.")] = (
        None
    )
    node_rank: Annotated[int | None, Parameter(help="Which of them this one is, from 0.")] = None
    master_addr: Annotated[str | None, Parameter(help="Name or address of the machine of --node_rank=0.")] = None
    master_port: Annotated[int | None, Parameter(help="A free port of that machine. [default: 29500]")] = None


@settings_flags(TrainFields)
def train(
    source: Annotated[str | None, preset_argument("[default: train_gpt2, or own_text if --data is given]")] = None,
    /,
    *,
    dry_run: Annotated[bool, DRY_RUN] = False,
    resume: Annotated[bool, RESUME] = False,
    verbose: Annotated[bool, VERBOSE] = False,
    machine_flags: MachineFlags = MachineFlags(),
    **flags: str,
) -> None:
    """Train or finetune a model."""
    started = time.perf_counter() - seconds_since_start()
    check_source(source, flags)
    if resume:
        if flags.get("init_from", "resume") != "resume":
            raise ConfigError(
                f"--resume continues a run, --init_from={flags['init_from']} starts one; give one of them"
            )
        flags["init_from"] = "resume"
    with muted(is_launched_by_quill()):  # the process that has started this one has said it
        given = replace(resolve_given(source, flags), verbose=verbose)
    settings = given.settings

    if dry_run:
        from quillgpt.training.planning.dry_run import check_dry_run, predict_run, show_dry_run

        if not is_first_of_several():
            return
        outcome = predict_run(settings)
        show_dry_run(outcome, given)
        check_dry_run(outcome)
        return

    if is_started_by_torchrun():
        if machine_flags != MachineFlags():
            raise ConfigError(
                "torchrun itself takes --nnodes, --node_rank, --master_addr and --master_port; give them to it"
            )
    elif settings.devices not in (None, 1) or machine_flags != MachineFlags():
        from quillgpt.distributed.launch import launch, process_count
        from quillgpt.distributed.machines import machines_of
        from quillgpt.training.start.restarted import after_loss

        machines = machines_of(**asdict(machine_flags))
        count = process_count(settings.devices, settings.device)
        if count * machines.count > 1:
            words = [*([source] if source else []), *(f"--{name}={value}" for name, value in flags.items())]
            switches = {"--verbose": verbose, "--quiet": is_quiet(), "--debug": "--debug" in sys.argv}
            words += [name for name, is_on in switches.items() if is_on]
            limit = seconds_of(settings.rank_timeout)
            advice = partial(after_loss, settings)
            raise SystemExit(launch(count, ["train", *words], machines, timeout_seconds=limit, advice=advice))

    from quillgpt.training import Interruption
    from quillgpt.training import train as train_model

    interruption = Interruption()
    train_model(settings, interruption=interruption, started=started, given=given)
    if interruption.requested:
        raise SystemExit(interruption.exit_status)


def check_source(source: str | None, flags: dict[str, str]) -> None:
    """Check that the argument for a preset is not a text.

    Raises:
        ConfigError: It is a file but not a preset; the message says how to give texts.
    """
    if source is None or source.endswith(SUFFIXES) or source.replace("-", "_") in preset_names():
        return
    if Path(source).is_file() and describe_file(Path(source)) is None:
        if data := flags.get("data"):
            raise ConfigError(
                f"{source} is given where a preset is expected; give several texts as --data {data},{source} or "
                f"--data {data} --data {source}"
            )
        raise ConfigError(f"{source} is not a preset; to train on a text: quill train --data {source}")
