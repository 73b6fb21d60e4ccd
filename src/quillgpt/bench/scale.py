"""What training GPT-2 would cost on many GPUs: counted memory and messages, with assumed speeds.

The formulas are those of the planner, which tests hold equal to what runs send and hold. The speeds are assumptions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from rich.filesize import decimal

from quillgpt.config import resolve
from quillgpt.config.schema import ChosenSettings
from quillgpt.distributed import World
from quillgpt.errors import ConfigError
from quillgpt.model import GPTConfig, empty_model
from quillgpt.model.cost import training_flops_per_token
from quillgpt.training.planning.communication import Interconnect, of_busiest_rank, total_sent
from quillgpt.training.start.memory import USABLE_SHARE, memory_needed
from quillgpt.training.start.model_config import config_for

SIZES = {"124M": (12, 12, 768), "350M": (24, 16, 1024), "774M": (36, 20, 1280), "1.5B": (48, 25, 1600)}
"""Blocks, heads and width of GPT-2's models."""

LARGEST_MICRO_BATCH = 32
GPU = torch.device("cuda")

HEADINGS = (
    "GPT-2",
    "GPUs",
    "strategy",
    "sequences of a GPU",
    "memory of a GPU",
    "sent by a GPU",
    "computing",
    "messages",
    "iteration",
    "tokens/s",
)


@dataclass(frozen=True)
class Assumptions:
    """What was not measured.

    Attributes:
        peak: Peak rate of a GPU, FLOP/s.
        mfu: Share of it that one GPU alone reaches.
        memory: Memory of a GPU, bytes.
        within: How fast GPUs of a machine send.
        between: How fast a machine sends to others.
        devices_per_node: GPUs of a machine.
        batch: Sequences of the global batch; at least one for each GPU.
    """

    peak: float
    mfu: float
    memory: float
    within: Interconnect
    between: Interconnect
    devices_per_node: int
    batch: int


@dataclass(frozen=True)
class Projection:
    """One row of the table.

    Attributes:
        model: GPT-2's name for the size.
        gpus: How many GPUs.
        strategy: How they share the model.
        sequences: Sequences of an iteration on each GPU.
        micro_batch: How many of them are computed at once; 0 if the memory has no room for one.
        memory: Bytes that an iteration needs on a GPU.
        sent: Bytes that a GPU sends in an iteration.
        computing: Seconds of computing in an iteration.
        messages: Seconds of messages in an iteration.
        tokens: Tokens of an iteration.
    """

    model: str
    gpus: int
    strategy: str
    sequences: int
    micro_batch: int
    memory: int
    sent: float
    computing: float
    messages: float
    tokens: int

    @property
    def shortest(self) -> float:
        """Seconds of an iteration if messages are sent while it computes."""
        return max(self.computing, self.messages)

    @property
    def longest(self) -> float:
        """Seconds of an iteration if it computes nothing while messages are sent."""
        return self.computing + self.messages

    def cells(self) -> tuple[str, ...]:
        """Return the row in words."""
        known = (self.model, f"{self.gpus:,}", self.strategy if self.gpus > 1 else "-")
        if not self.micro_batch:
            return (*known, str(self.sequences), f"{decimal(self.memory)}: too much", *["-"] * 5)
        rates = sorted(self.tokens / seconds for seconds in (self.longest, self.shortest))
        return (
            *known,
            f"{self.sequences} ({self.micro_batch} at once)",
            decimal(self.memory),
            decimal(round(self.sent)) if self.gpus > 1 else "-",
            _seconds(self.computing),
            _seconds(self.messages) if self.gpus > 1 else "-",
            _range(_seconds(self.shortest), _seconds(self.longest)),
            _range(*(_rate(rate) for rate in rates)),
        )


def project(
    models: Sequence[str], gpus: Sequence[int], assumed: Assumptions, optimizer: Literal["adamw", "muon"] = "adamw"
) -> Iterator[Projection]:
    """Yield the rows for some models, numbers of GPUs and both strategies.

    Raises:
        ConfigError: A model is no GPT-2, or the batch cannot be shared.
    """
    for model in models:
        if model not in SIZES:
            raise ConfigError(f"--models {model} is no size of GPT-2; expected some of {', '.join(SIZES)}")
        for count in gpus:
            if max(assumed.batch, count) % count:
                raise ConfigError(
                    f"{count} GPUs cannot share --batch {assumed.batch} sequences evenly; give a multiple of {count}"
                )
            for strategy in ("ddp", "fsdp") if count > 1 else ("ddp",):
                yield project_one(model, count, strategy, assumed, optimizer)


def project_one(model: str, gpus: int, strategy: str, assumed: Assumptions, optimizer: str) -> Projection:
    """Return one row."""
    layers, heads, width = SIZES[model]
    batch = max(assumed.batch, gpus)
    settings = resolve(
        "train_gpt2",
        {
            "n_layer": str(layers),
            "n_head": str(heads),
            "n_embd": str(width),
            "batch_size": str(batch),
            "gradient_accumulation_steps": "1",
            "strategy": strategy,
            "optimizer": optimizer,
            "attn_path": "sdpa",
            "device": GPU.type,
            "dtype": "bfloat16",
            "threads": "1",
        },
        environ={},
        dotenv=None,
    )
    config = config_for(settings, "gpt2", 50257)
    world = World(0, gpus, 0, min(gpus, assumed.devices_per_node))
    sequences = batch // gpus
    needed = memory_needed(settings, config, device=GPU, dtype=torch.bfloat16, world=world)
    room = USABLE_SHARE * assumed.memory
    sizes = (size for size in range(min(LARGEST_MICRO_BATCH, sequences), 0, -1) if sequences % size == 0)
    micro_batch = next((size for size in sizes if needed(size).total <= room), 0)
    choices = {"micro_batch_size": max(1, micro_batch), "cuda_graph": False}
    chosen = ChosenSettings.of(settings.model_copy(update=choices))
    messages = of_busiest_rank(empty_model(config), chosen, gpus)
    tokens = batch * config.block_size
    return Projection(
        model,
        gpus,
        strategy,
        sequences,
        micro_batch,
        needed(max(1, micro_batch)).total,
        total_sent(messages, gpus),
        tokens / gpus * _flops_per_token(config) / (assumed.peak * assumed.mfu),
        interconnect(gpus, assumed).seconds(messages, gpus),
        tokens,
    )


def interconnect(gpus: int, assumed: Assumptions) -> Interconnect:
    """Return what carries the messages of so many GPUs: of several machines, the connection between them.

    A ring enters and leaves each machine once, so its machines' connection carries what one GPU sends. In an
    all-to-all, the GPUs of a machine share it.
    """
    if gpus <= assumed.devices_per_node:
        return assumed.within
    return replace(assumed.between, sharing=assumed.devices_per_node)


def markdown(rows: Sequence[Projection]) -> str:
    """Return the table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _flops_per_token(config: GPTConfig) -> float:
    return training_flops_per_token(config, empty_model(config).parameter_count(positions=False))


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{_digits(seconds)} s"
    return f"{_digits(seconds * 1e3)} ms"


def _rate(rate: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= size:
            return f"{_digits(rate / size)}{unit}"
    return _digits(rate)


def _digits(value: float) -> str:
    """Write a number with two digits, or all those before the point."""
    return f"{value:,.{max(0, 1 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
