"""What ranks send and hold is counted in real runs, and is what the formulas say to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quillgpt.config.schema import ChosenSettings, TrainSettings
from quillgpt.distributed import World
from quillgpt.distributed.shards import held_values
from quillgpt.model import GPT, empty_model
from quillgpt.model.cost import FLOAT32_BYTES
from quillgpt.optim.groups import group_parameters
from quillgpt.optim.optimizers import remembered_values
from quillgpt.training.planning import communication
from quillgpt.training.planning.communication import Interconnect, Message
from quillgpt.training.start.adapter_base import with_adapters
from quillgpt.training.start.memory import memory_needed
from quillgpt.training.start.model_config import config_for
from ranks import Ranks

from .conftest import TINY, Words

CPU = torch.device("cpu")
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


def out_dir_of(command: list[str]) -> Path:
    return Path(next(word.removeprefix("--out_dir=") for word in command if word.startswith("--out_dir=")))


def count_run(words: Words, size: int, name: str, **changes: Any) -> Counted:
    """Train in several ranks that count."""
    command = words(name, **SHORT | changes)
    counts = out_dir_of(command).with_name(f"{name}.json")
    processes = Ranks(size, COUNTED_RANK, *command, environment={"COUNTS": str(counts)})
    assert processes.wait() == [0] * size, processes.said()
    ranks = [json.loads(Path(f"{counts}.{rank}").read_text(encoding="utf-8")) for rank in range(size)]
    return Counted(*model_of(**changes), ranks)


def model_of(**changes: Any) -> tuple[GPT, ChosenSettings]:
    given = {name: value for name, value in (TINY | SHORT | changes).items() if name != "quiet"}
    settings = ChosenSettings.of(TrainSettings(**given, cuda_graph=False))
    return with_adapters(empty_model(config_for(settings, "byte", 257)), settings), settings


RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "ddp": (2, {}),
    "ddp, muon, average": (4, {"optimizer": "muon", "ema_decay": 0.9, "arch": "qwen3"}),
    "fsdp": (2, {"strategy": "fsdp", "gradient_checkpointing": True, "micro_batch_size": 3}),
    "fsdp, muon, average": (2, {"strategy": "fsdp", "optimizer": "muon", "ema_decay": 0.9, "arch": "qwen3"}),
    "fsdp, uneven rows": (4, {"strategy": "fsdp", "optimizer": "muon", "n_embd": 18, "n_head": 1, "block_size": 13}),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_ranks_send_and_hold_is_what_the_formulas_say(name: str, words: Words) -> None:
    size, changes = RUNS[name]
    assert_as_the_formulas_say(count_run(words, size, name.replace(", ", "-").replace(" ", "-"), **changes))


def test_where_adapters_are_trained_the_rest_is_gathered_only(words: Words) -> None:
    base = words("base", **SHORT)
    processes = Ranks(1, *base)
    assert processes.wait() == [0], processes.said()
    start = {"init_from": str(out_dir_of(base)), "lora_rank": 2, "strategy": "fsdp", "patience": 0}
    assert_as_the_formulas_say(count_run(words, 2, "adapters", **start))


def assert_as_the_formulas_say(counted: Counted) -> None:
    model, settings, size = counted.model, counted.settings, len(counted.ranks)
    blocks = [settings.batch_size * TINY["eval_iters"]] * 2  # type: ignore[operator]
    groups = group_parameters(model)
    remembered = remembered_values(groups, settings)
    for rank, counts in enumerate(counted.ranks):
        world = World(rank, size, rank, size)
        for phase, messages in {
            "iteration": communication.of_iteration(model, settings, world),
            "evaluation": communication.of_evaluation(model, settings, world, blocks),
            "save": communication.of_save(model, settings, world),
        }.items():
            for actual in counts[phase][-1:] if phase == "save" else counts[phase]:  # none is remembered at the start
                sent = {kind: tuple(number) for kind, number in actual.items() if kind != "agreement"}
                assert sent == in_all(messages), (phase, rank)
        assert len(counts["iteration"]) == SHORT["max_iters"]
        assert len(counts["save"]) >= 1

        def held(parameter: Tensor, rank: int) -> int:
            share = held_values(parameter, rank, size) if settings.strategy == "fsdp" else parameter.numel()
            return FLOAT32_BYTES * share

        weights = sum(held(each, 0) for each in model.parameters())  # all ranks reserve as much as the first
        expected = {
            "weights": weights,
            "average": weights if settings.ema_decay else 0,
            "optimizer": sum(
                remembered[name] // each.numel() * held(each, rank) for name, each in groups.trained.items()
            ),
        }
        assert counts["memory"] == [expected] * len(counts["memory"])
        assert counts["gradients"] == [sum(held(each, 0) for each in groups.trained.values())] * len(
            counts["gradients"]
        )
        if rank == 0:
            planned = memory_needed(settings, model.config, device=CPU, dtype=torch.float32, world=world)(1)
            assert planned.weights == expected["weights"] + expected["average"]
            assert planned.optimizer == expected["optimizer"]
            assert planned.gradients == counts["gradients"][0]
            if settings.strategy == "ddp":  # the first iterations make what is kept from then on
                assert counts["peak"][-1] < counts["peak"][0] - 0.5 * planned.gradients
            # The rest of a step in one process is the same, but for tensors that live so shortly that none is counted.
            assert planned.gathered <= counts["peak"][0] - counts["gradients"][0]


def in_all(messages: Iterable[Message]) -> dict[str, tuple[int, int]]:
    """Return how many messages of each kind there are, and their bytes."""
    total: dict[str, tuple[int, int]] = {}
    for message in messages:
        count, payload = total.get(message.operation, (0, 0))
        total[message.operation] = (count + message.count, payload + round(message.payload * message.count))
    return total


def test_a_ring_sends_less_than_two_tensors() -> None:
    gradients = Message("gradients", "all-reduce", 1000, 3)
    assert gradients.sent(1) == 0
    assert gradients.sent(2) == 3000
    assert gradients.sent(4) == 4500
    weights = Message("weights", "all-gather", 1000)
    assert weights.sent(4) == 750
    assert Message("directions", "all-to-all", 1000).sent(4) == 1000
    interconnect = Interconnect(1e6, 1e-3)
    assert interconnect.seconds([gradients, weights], 4) == pytest.approx((4500 + 750) / 1e6 + 4 * 2e-3)
    assert interconnect.seconds([], 1) == 0


def test_the_busiest_rank_of_muon_sends_at_least_as_much_as_the_others(words: Words) -> None:
    model, settings = model_of(optimizer="muon", strategy="ddp")
    sent = [
        communication.total_sent(communication.of_iteration(model, settings, World(rank, 4, rank, 4)), 4)
        for rank in range(4)
    ]
    assert communication.total_sent(communication.of_busiest_rank(model, settings, 4), 4) == max(sent)
    assert communication.of_busiest_rank(model, settings, 1) == []
