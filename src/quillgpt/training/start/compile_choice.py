"""Whether a run is compiled: as the setting says, or where it pays by prediction.

A prediction weighs the seconds of compiling against a share of the seconds that are left. Before a model has been
compiled, both are rules. Afterwards they are measurements, kept in the folder of the compiled code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import ChosenSettings, ResolvedSettings, TrainSettings
from quillgpt.console import clock_time, say
from quillgpt.data.batches import Source
from quillgpt.device import device_description, peak, synchronize
from quillgpt.errors import DeviceError, UserError
from quillgpt.files import write_json
from quillgpt.model import GPT, GPTConfig
from quillgpt.model.cost import training_flops_per_token
from quillgpt.native import CACHE_VARIABLE
from quillgpt.optim.optimizers import make_optimizers
from quillgpt.records import Record, read_record
from quillgpt.training.compilation import compile_model, leave_uncompiled, reason_of, uncompiled
from quillgpt.training.run import training_batches
from quillgpt.training.start.choices import EXPECTED_UTILISATION, NEVER_SECONDS, Machine
from quillgpt.training.step import TrainStep

USUAL_GAIN = {"cpu": 0.2, "cuda": 0.4, "mps": 0.2}
"""Share of the time that compiled code usually saves, by the kind of device; a cautious rule."""

SERIAL_SECONDS, PARALLEL_SECONDS = 8.0, 25.0
"""Processor seconds of compiling a model: tracing it on one core, and the C++ compiler on all."""

GPU_SECONDS = 30.0
"""Seconds of compiling a model for a GPU."""

LOAD_SECONDS = 6.0
"""Seconds of compiling a model whose code is in the cache, where that has not been measured."""

SPEEDS = "quill"
"""The folder, in that of the compiled code, for what it costs and gains."""

TIMING_SECONDS = 2.0
FEWEST_ROUNDS = 3


class CompiledSpeed(Record):
    """What compiling a model has cost and gained; kept beside the compiled code, so that both go together.

    Attributes:
        about: What it was measured on.
        eager_seconds: Of an uncompiled micro-batch, forward and backward.
        compiled_seconds: Of a compiled one; `NEVER_SECONDS` if the compiler failed.
        load_seconds: Processor seconds of compiling again, with the code from the cache; None: not measured yet.
    """

    about: str
    eager_seconds: float = Field(gt=0)
    compiled_seconds: float = Field(gt=0)
    load_seconds: float | None = Field(None, ge=0)

    @property
    def gain(self) -> float:
        """Share of the time that compiled code saves; below 0 if it is slower."""
        return 1 - self.compiled_seconds / self.eager_seconds

    @property
    def cost(self) -> float:
        """Seconds of compiling again."""
        return LOAD_SECONDS if self.load_seconds is None else self.load_seconds


def choose_compile(
    settings: ChosenSettings,
    model: GPT,
    machine: Machine,
    state: TrainingState | None = None,
    *,
    in_background: bool = False,
) -> bool | Literal["auto"]:
    """Choose whether to compile: as the setting says, or, for `auto`, where it pays.

    What a model gains is measured once. For that it is compiled here, or later in the background.

    Args:
        settings: The run's.
        model: Its model.
        machine: What it runs on.
        state: Where it stands; None: at its start.
        in_background: Leave the choice open the first time, and where there is no time left to load compiled code.

    Returns:
        True, False, or `auto` if the choice is left open.
    """
    if settings.compile != "auto":
        return settings.compile
    parameters = model.parameter_count(positions=False)
    if reason := why_not_compiled(settings, model.config, parameters, machine, state):
        machine.because(reason, "compile")
        return False
    known = known_speed(settings, model.config, machine)
    if in_background and (known is None or known.cost > machine.allowance.left):
        machine.because("may gain more than it takes: tried in the background while the run trains", "compile")
        return "auto"
    if known is not None:
        machine.because(f"compiled code is measured to take {known.gain:.0%} less time", "compile")
        return True
    say("compiling the model, which pays in a run of this length: up to half a minute the first time, seconds later on")
    try:
        speed = measure_speed(settings, model, machine)
    except DeviceError:
        speed = failed_speed(settings, model.config, machine)
    keep_speed(settings, model.config, machine, speed)
    machine.because(f"compiled code is measured to take {speed.gain:.0%} less time", "compile")
    return pays(seconds_left(settings, model.config, parameters, machine, state, speed), speed.gain, cost=0)


def may_compile(
    settings: TrainSettings,
    config: GPTConfig,
    parameters: int,
    machine: Machine,
    state: TrainingState | None = None,
) -> bool:
    """Whether the model may be compiled: as the setting says, or, for `auto`, where that pays by prediction.

    Args:
        settings: The run's.
        config: Configuration of the model.
        parameters: Its parameters, position embeddings left out.
        machine: What it runs on.
        state: Where the run stands; None: at its start.
    """
    if settings.compile != "auto":
        return settings.compile
    return why_not_compiled(settings, config, parameters, machine, state) is None


def why_not_compiled(
    settings: TrainSettings, config: GPTConfig, parameters: int, machine: Machine, state: TrainingState | None = None
) -> str | None:
    """Return why a model is not compiled where `compile` is `auto`; None where that pays by prediction."""
    if settings.attn_path == "fused" or settings.cuda_graph is True:
        gained = "attn_path = fused" if settings.attn_path == "fused" else "cuda_graph"
        return f"{gained} gains most of what it could gain"
    if settings.eval_only:
        return "nothing is trained"
    if machine.device.type == "cpu" and not _has_cpp_compiler():
        return "there is no C++ compiler"
    speed = known_speed(settings, config, machine)
    left = seconds_left(settings, config, parameters, machine, state, speed)
    gain, cost, basis = USUAL_GAIN[machine.device.type], usual_cost(machine.device), "usually"
    if speed is not None:
        gain, cost, basis = speed.gain, speed.cost, "as measured"
    if pays(left, gain, cost=cost):
        return None
    saved = f"saves {gain:.0%}" if gain > 0 else "saves nothing"
    return f"compiled code {saved} of the {clock_time(max(0.0, left))} that are left and takes {cost:.0f} s, {basis}"


def pays(seconds: float, gain: float, *, cost: float) -> bool:
    """Whether compiled code saves more than it costs in the seconds that an uncompiled run would still take."""
    return (seconds - cost) * gain > cost


def usual_cost(device: torch.device) -> float:
    """Return the usual seconds of compiling a model for the first time, on all threads of this process."""
    if device.type != "cpu":
        return GPU_SECONDS
    return SERIAL_SECONDS + PARALLEL_SECONDS / torch.get_num_threads()


def seconds_left(
    settings: TrainSettings,
    config: GPTConfig,
    parameters: int,
    machine: Machine,
    state: TrainingState | None,
    speed: CompiledSpeed | None,
) -> float:
    """Predict the seconds that a run still takes uncompiled, before any of its iterations has been timed."""
    state = state or TrainingState()
    if settings.minutes is not None:
        return 60 * settings.minutes - state.seconds
    iterations = settings.max_iters - state.iteration
    if speed is not None and settings.micro_batch_size != "auto":
        micro_batches = math.ceil(settings.sequences_per_iteration / settings.micro_batch_size)
        return iterations * micro_batches * speed.eager_seconds
    flops = training_flops_per_token(config, parameters)
    rate = peak(machine.device, machine.dtype, machine.allowance).flops_per_second * EXPECTED_UTILISATION
    return iterations * settings.tokens_per_iteration * flops / rate


def measure_speed(settings: ChosenSettings, model: GPT, machine: Machine) -> CompiledSpeed:
    """Compile a model, time micro-batches uncompiled and compiled in turn, and leave it uncompiled.

    What is compiled is exactly what training computes, so that training finds all of it in the cache.

    Raises:
        DeviceError: The compiler has failed.
    """
    step = trial_step(settings, model, machine)

    def eager() -> None:
        with uncompiled(model):
            compiled()

    def compiled() -> None:
        step.try_gradient(of_one=True)
        synchronize(machine.device)

    try:
        compile_model(model)
        step.try_gradient()
        eager_seconds, compiled_seconds = _fastest_in_turn(eager, compiled, machine)
    except Exception as error:  # a compiler can fail in any way
        raise DeviceError(reason_of(error)) from error
    finally:
        leave_uncompiled(model)
        model.zero_grad(set_to_none=True)
    return CompiledSpeed(
        about=_about(settings, model.config, machine), eager_seconds=eager_seconds, compiled_seconds=compiled_seconds
    )


def trial_step(settings: ChosenSettings, model: GPT, machine: Machine) -> TrainStep:
    """Return what does the iterations of a run on one process, uncompiled, on a text without meaning."""
    resolved = ResolvedSettings.of(settings.model_copy(update={"compile": False, "patience": 0}))
    batches = training_batches(resolved, [Source(np.zeros(4 * settings.block_size, dtype=np.uint16))])
    return TrainStep(model, make_optimizers(model, resolved), batches, resolved, Machine(machine.device, machine.dtype))


def _fastest_in_turn(one: Callable[[], object], other: Callable[[], object], machine: Machine) -> tuple[float, float]:
    """Return the seconds of the fastest call of each of two functions.

    Of one thread they are the processor's, which other programs do not change.
    """
    alone = machine.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + TIMING_SECONDS
    while len(times[0]) <= FEWEST_ROUNDS or time.perf_counter() < end:
        for function, own in zip((one, other), times, strict=True):
            before = clock()
            function()
            own.append(clock() - before)
    first, second = (max(min(own[1:]), 1e-9) for own in times)
    return first, second


def failed_speed(settings: TrainSettings, config: GPTConfig, machine: Machine) -> CompiledSpeed:
    """Return what is known of a model that the compiler cannot take."""
    return CompiledSpeed(
        about=_about(settings, config, machine), eager_seconds=1.0, compiled_seconds=NEVER_SECONDS, load_seconds=0.0
    )


def known_speed(settings: TrainSettings, config: GPTConfig, machine: Machine) -> CompiledSpeed | None:
    """Return what compiling this model has cost and gained before; None if it is not known here."""
    path = _speed_path(settings, config, machine)
    with suppress(UserError):
        if path is not None and path.is_file():
            return read_record(path, CompiledSpeed, UserError, mend="")
    return None


def keep_speed(settings: TrainSettings, config: GPTConfig, machine: Machine, speed: CompiledSpeed) -> None:
    """Keep what compiling a model has cost and gained; if that cannot be written, it is measured again."""
    path = _speed_path(settings, config, machine)
    with suppress(OSError):
        if path is not None:
            write_json(path, speed.model_dump(mode="json"))


def _speed_path(settings: TrainSettings, config: GPTConfig, machine: Machine) -> Path | None:
    folder = os.environ.get(CACHE_VARIABLE)
    if folder is None:
        return None
    name = hashlib.sha256(_about(settings, config, machine).encode()).hexdigest()[:32]
    return Path(folder) / SPEEDS / f"{name}.json"


def _about(settings: TrainSettings, config: GPTConfig, machine: Machine) -> str:
    """Return everything that compiled code and its speed depend on."""
    sequences = settings.sequences_per_iteration // machine.world.size
    rest = sequences % settings.micro_batch_size if settings.micro_batch_size != "auto" else 0
    return json.dumps(
        {
            "device": device_description(machine.device),
            "dtype": str(machine.dtype),
            "threads": torch.get_num_threads(),
            "model": str(config),
            "sequences": [settings.micro_batch_size, rest],
            "settings": {name: str(getattr(settings, name)) for name in OF_COMPILED_CODE},
            "torch": torch.__version__,
            "source": source_hash(),
        }
    )


OF_COMPILED_CODE = (
    *("block_size", "attn_path", "dropout", "range_penalty", "gradient_checkpointing", "deterministic", "strategy"),
    *("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"),
)
"""The settings on which compiled code and its speed depend, besides those of the model."""


@functools.cache
def source_hash() -> str:
    """Return the hash of the source that is compiled: a new version of Quill may leave it as it was."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[2]
    for path in sorted([package / "activations.py", *package.glob("model/*.py"), *package.glob("attention/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _has_cpp_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "c++", "g++", "clang++"))
