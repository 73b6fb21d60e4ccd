"""What of a run can be compared: its numbers without the clock's, its tensors, and the machine they come from."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

CLOCKS = ("seconds", "start_seconds", "train_seconds", "saving_seconds", "wall_seconds", "tokens_per_second", "mfu")
TENSORS = ("model.safetensors", "training/optimizer.safetensors", "training/weights.safetensors")
INSTRUCTIONS = ("fma", "avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")


def machine() -> dict[str, str]:
    """What the last bits of a sum depend on, but for the number of threads, which is 1 in all runs."""
    place = Path("/proc/cpuinfo")
    lines = place.read_text().splitlines() if place.exists() else []
    cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    names = (cpu.get("model name", platform.processor()), cpu.get("cpu family", ""), cpu.get("model", ""))
    has = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "cpu": " ".join(filter(None, names)),
        "instructions": " ".join(name for name in INSTRUCTIONS if name in has),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def clockless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in CLOCKS}


def rows(metrics: Path) -> list[dict[str, Any]]:
    return [clockless(json.loads(line)) for line in metrics.read_text(encoding="utf-8").splitlines()]


def state_of(checkpoint: Path) -> dict[str, Any]:
    return clockless(json.loads((checkpoint / "training/state.json").read_text(encoding="utf-8")))


def tensors_of(checkpoint: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(checkpoint / name) for name in TENSORS if (checkpoint / name).exists()}


def tensors_sha256(checkpoint: Path) -> dict[str, str]:
    """A hash of each file's tensors, whatever their order and the file's header."""
    hashes = {}
    for name, tensors in tensors_of(checkpoint).items():
        content = hashlib.sha256()
        for key, tensor in sorted(tensors.items()):
            content.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
            content.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        hashes[name] = content.hexdigest()
    return hashes
