"""Run folders that were never trained, for comparing and damaging."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quillgpt.checkpoint import TrainingState, save_checkpoint
from quillgpt.checkpoint.names import BEST, LAST, point
from quillgpt.text.tokenizers.byte import ByteTokenizer
from tiny import GPT2, tiny_model


class Run:
    """A run's folder with one checkpoint, and ways to change it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights = folder / "checkpoints" / LAST / "model.safetensors"
        model = tiny_model(GPT2, vocab_size=257, n_layer=1)
        optimizer = {"head/exp_avg": torch.arange(6.0)}
        save_checkpoint(folder, model, ByteTokenizer(), about={}, optimizer=optimizer, state=TrainingState(iteration=2))
        for name in (BEST, LAST):
            point(folder, name, "iter-000002")
        self.record([{"kind": "train", "iter": 1, "loss": 5.0}, {"kind": "eval", "iter": 2, "val_loss": 4.0}])

    def record(self, rows: list[dict[str, object]]) -> None:
        (self.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def flip_last_bit(self) -> None:
        content = bytearray(self.weights.read_bytes())
        content[-4] ^= 1  # the lowest bit of the last value
        self.weights.write_bytes(bytes(content))

    def drop_tensor(self) -> None:
        save_file({"only": torch.zeros(1)}, self.weights)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Run, Run]:
    return Run(tmp_path / "one"), Run(tmp_path / "other")
