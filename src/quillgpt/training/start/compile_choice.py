"""Whether a run is compiled: chosen once, by measurement, and written down as a value."""

from __future__ import annotations

import os
import shutil

import torch

from quillgpt.config.schema import ChosenSettings, TrainSettings
from quillgpt.console import say
from quillgpt.device import autocast, device_description, peak, seconds_per_call
from quillgpt.measuring import remember
from quillgpt.model import GPT, GPTConfig
from quillgpt.model.cost import training_flops_per_token
from quillgpt.training.compilation import compile_model, leave_uncompiled
from quillgpt.training.start.choices import EXPECTED_UTILISATION, NEVER_SECONDS, Machine

LONG_RUN_SECONDS = 60
"""Predicted length from which a run tries torch.compile, which costs half a minute the first time, then seconds."""

LONG_RUN_MINUTES = 1.5
"""The same for a run that has minutes."""


def may_compile(settings: TrainSettings, config: GPTConfig, parameters: int, machine: Machine) -> bool:
    """Whether the model may be compiled: as the setting says, or, for `auto`, in a long run and if there is a compiler.

    Args:
        settings: The run's.
        config: Configuration of the model.
        parameters: Its parameters, position embeddings left out.
        machine: What it runs on.
    """
    if settings.compile != "auto":
        return settings.compile
    if settings.attn_path == "fused":
        return False  # most of the work is compiled already
    if machine.device.type == "cpu" and not _has_cpp_compiler():
        return False
    if settings.minutes is not None:
        return settings.minutes >= LONG_RUN_MINUTES
    flops = training_flops_per_token(config, parameters)
    rate = peak(machine.device, machine.dtype, machine.allowance).flops_per_second * EXPECTED_UTILISATION
    return settings.max_iters * settings.tokens_per_iteration * flops / rate >= LONG_RUN_SECONDS


def choose_compile(settings: ChosenSettings, model: GPT, machine: Machine) -> bool:
    """Whether to compile: as the setting says, or, for `auto` in a long run, as timing a step both ways says."""
    if settings.compile != "auto":
        return settings.compile
    if not may_compile(settings, model.config, model.parameter_count(positions=False), machine):
        return False
    tokens = torch.zeros(settings.micro_batch_size, model.config.block_size, dtype=torch.int64, device=machine.device)
    seeds = torch.zeros_like(tokens[:, 0]) if settings.dropout > 0 or settings.lora_dropout > 0 else None
    key = f"compile {device_description(machine.device)} {model.config} {tuple(tokens.shape)} {machine.dtype}"
    key += f" dropout {settings.dropout > 0} {settings.attn_path} {settings.threads} threads"

    def measure() -> dict[str, float]:
        def step() -> None:
            with autocast(machine.device, machine.dtype):
                loss = model.loss_sum(tokens, tokens, seeds)
            loss.backward()  # type: ignore[no-untyped-call]

        seconds = {"eager": seconds_per_call(step, machine.device)}
        say("compiling the model to see what that gains: up to half a minute the first time, seconds later on")
        compile_model(model)
        try:
            seconds["compiled"] = seconds_per_call(step, machine.device)
        except Exception:  # a compiler can fail in any way; then it is not chosen
            seconds["compiled"] = NEVER_SECONDS
        leave_uncompiled(model)
        model.zero_grad(set_to_none=True)
        return seconds

    seconds = remember(key, measure, of=("eager", "compiled"))
    return seconds["compiled"] < seconds["eager"]


def _has_cpp_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "c++", "g++", "clang++"))
