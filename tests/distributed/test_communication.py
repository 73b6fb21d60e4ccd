"""What ranks send and hold is counted in real runs, and is what the formulas say to the byte."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quillgpt.config.schema import ChosenSettings, TrainSettings
from quillgpt.distributed import World
from quillgpt.interop import open_model
from quillgpt.model import GPT, empty_model
from quillgpt.training.planning import communication
from quillgpt.training.planning.communication import Message
from quillgpt.training.start.adapter_base import with_adapters
from ranks import in_ranks

from .conftest import TINY, Words

COUNTED_RANK = str(Path(__file__).with_name("counted_rank.py"))
SHORT = {"max_iters": 3, "eval_interval": 3, "lr_decay_iters": 3, "warmup_iters": 0, "micro_batch_size": 1}


@dataclass(frozen=True)
class Counted:
    """A run that has been counted.

    Attributes:
        model: Its model, without values.
        settings: Its settings.
        ranks: What each rank has counted.
    """

    model: GPT
    settings: ChosenSettings
    ranks: list[dict[str, Any]]

    def world(self, rank: int) -> World:
        return World(rank, len(self.ranks), rank, len(self.ranks))


def count_run(words: Words, size: int, name: str, **changes: Any) -> Counted:
    """Train in several ranks that count."""
    command = words(name, **SHORT | changes)
    out_dir = Path(next(word.removeprefix("--out_dir=") for word in command if word.startswith("--out_dir=")))
    counts = out_dir.with_name(f"{name}.json")
    in_ranks(size, COUNTED_RANK, *command, environment={"COUNTS": str(counts)})
    ranks = [json.loads(Path(f"{counts}.{rank}").read_text(encoding="utf-8")) for rank in range(size)]
    config = open_model(str(out_dir)).config
    known = {key: value for key, value in (TINY | SHORT | changes).items() if key != "quiet"}
    settings = ChosenSettings.of(TrainSettings(**known))
    return Counted(with_adapters(empty_model(config), settings), settings, ranks)


def payloads(messages: Iterable[Message]) -> Counter[str]:
    """Return the bytes of each kind of message."""
    total: Counter[str] = Counter()
    for message in messages:
        total[message.operation] += round(message.payload * message.count)
    return total


def without_agreements(counts: Mapping[str, list[int]]) -> dict[str, int]:
    return {kind: payload for kind, (_, payload) in counts.items() if kind != "agreement"}


RUNS: dict[str, dict[str, Any]] = {
    "ddp-adamw": {},
    "ddp-muon-average": {"optimizer": "muon", "ema_decay": 0.9, "arch": "qwen3"},
    "fsdp-adamw": {"strategy": "fsdp"},
    "fsdp-muon-average": {"strategy": "fsdp", "optimizer": "muon", "ema_decay": 0.9, "n_embd": 36},
}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", RUNS)
def test_what_ranks_send_and_hold_is_what_the_formulas_say(size: int, name: str, words: Words) -> None:
    counted = count_run(words, size, f"{name}-{size}", **RUNS[name])
    model, settings = counted.model, counted.settings
    for rank, counts in enumerate(counted.ranks):
        world = counted.world(rank)
        expected = payloads(communication.of_iteration(model, settings, world))
        print(counts["iteration"])
        assert [without_agreements(each) for each in counts["iteration"]] == [expected] * 3
