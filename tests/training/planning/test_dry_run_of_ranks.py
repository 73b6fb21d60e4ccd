"""A dry run, the check of memory and the scaled rules for runs of several processes."""

from __future__ import annotations

import math

import pytest
import torch

from quillgpt.config import resolve
from quillgpt.device import Memory
from quillgpt.distributed import ALONE, World
from quillgpt.errors import ConfigError
from quillgpt.model import empty_model
from quillgpt.training.planning import budget, communication, dry_run, scaling, timing
from quillgpt.training.start import memory as memories
from quillgpt.training.start.memory import lack_of_memory, memory_needed
from quillgpt.training.start.setup import set_up

from ..conftest import MakeSettings

CPU = torch.device("cpu")
TWO = World(0, 2, 0, 2)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TRIED_SECONDS", 0.05)
    monkeypatch.setattr(budget, "TRIED_SECONDS", 0.05)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_it_says_what_each_rank_holds_and_sends(
    tiny: MakeSettings, strategy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny(devices=4, strategy=strategy, optimizer="muon")
    planned = dry_run.predict_run(settings)
    alone = dry_run.predict_run(tiny(optimizer="muon"))
    world = World(0, 4, 0, 4)
    assert planned.machine.world == world
    assert planned.settings.micro_batch_size == 2  # 8 sequences of 4 ranks
    model = empty_model(planned.config)
    sent = [
        communication.total_sent(communication.of_iteration(model, planned.settings, World(rank, 4, rank, 4)), 4)
        for rank in range(4)
    ]
    assert communication.total_sent(planned.messages, 4) == max(sent)
    assert planned.sending > 0
    assert (planned.memory.optimizer < alone.memory.optimizer / 2) == (strategy == "fsdp")
    assert (alone.messages, alone.sending) == ([], 0)
    capsys.readouterr()
    dry_run.show_dry_run(planned)
    said = " ".join(capsys.readouterr().out.split())
    for words in (f"4 ranks on one machine, {strategy}, each with 2 sequences", "by each rank", "on each rank"):
        assert words in said
    assert "messages are assumed: gloo within a machine at 1 GB/s" in said
    dry_run.show_dry_run(alone)
    assert "by each rank" not in capsys.readouterr().out


def test_ranks_of_torchrun_are_planned_for_and_devices_do_not_count(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, number in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(number))
    planned = dry_run.predict_run(tiny(devices=8))
    assert planned.machine.world == World(0, 4, 0, 2)
    assert "between machines" in planned.sending_basis


def test_a_batch_that_ranks_cannot_share_is_refused(tiny: MakeSettings) -> None:
    with pytest.raises(ConfigError, match=r"8 sequences .* 3 processes cannot share evenly"):
        dry_run.predict_run(tiny(devices=3))


def test_ranks_of_one_machine_share_the_memory_of_its_cpu(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    run = set_up(tiny())
    least = sum(memories._least_memory(run.settings, run.model.config, TWO).values())
    monkeypatch.setattr(memories, "most_memory", lambda device: 2 * least)
    assert lack_of_memory(run.settings, run.model.config, CPU, TWO) is None
    monkeypatch.setattr(memories, "most_memory", lambda device: 2 * least - 2)
    assert lack_of_memory(run.settings, run.model.config, CPU, World(0, 2, 0, 1)) is None
    lack = lack_of_memory(run.settings, run.model.config, CPU, TWO)
    assert "each of 2 processes needs" in str(lack)
    assert "which 2 processes share; choose --strategy=fsdp, fewer processes here" in str(lack)
    available = memories.memory_of_rank(Memory(100, 50), CPU, TWO)
    assert available == Memory(50, 25)
    assert memories.memory_of_rank(Memory(100, 50), torch.device("cuda"), TWO) == Memory(100, 50)
    assert memories.memory_of_rank(None, CPU, TWO) is None


def test_fsdp_divides_all_but_activations(tiny: MakeSettings) -> None:
    run = set_up(tiny(ema_decay=0.9))
    settings = run.settings.model_copy(update={"strategy": "fsdp"})

    def needed(world: World) -> memories.TrainingMemory:
        return memory_needed(settings, run.model.config, device=CPU, dtype=torch.float32, world=world)(1)

    one, two = needed(ALONE), needed(TWO)
    assert two.weights == pytest.approx(one.weights / 2, rel=0.05)
    assert two.gradients == pytest.approx(one.gradients / 2, rel=0.05)
    assert two.optimizer == pytest.approx(one.optimizer / 2, rel=0.05)
    assert two.activations == one.activations
    assert (one.gathered, two.gathered > 0) == (0, True)
    assert two.total == two.state + two.activations + two.gathered


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("given", [{}, {"gradient_accumulation_steps": "3"}, {"batch_size": "6"}])
def test_the_chosen_batch_can_be_shared(ranks: int, given: dict[str, str]) -> None:
    settings = resolve("own_text", {"block_size": "64", **given}, environ={}, dotenv=None)
    unset = settings.model_copy()
    unset.__pydantic_fields_set__.difference_update({"batch_size", "gradient_accumulation_steps"} - set(given))
    for tokens in (1e4, 1e7, 1e9):
        chosen = scaling.with_batch(unset, tokens, ranks)
        assert chosen.sequences_per_iteration % ranks == 0
        assert all(str(getattr(chosen, name)) == value for name, value in given.items())
        if not given:
            alone = scaling.with_batch(unset, tokens).sequences_per_iteration
            assert abs(math.log2(chosen.sequences_per_iteration / alone)) <= math.log2(max(1.5, ranks))


def test_ranks_are_assumed_to_be_as_fast_as_the_one_that_was_tried(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = set_up(tiny())
    monkeypatch.setattr(budget, "times_of_calls", lambda *_, **__: [0.5])
    rates = []
    for world in (ALONE, World(0, 4, 0, 4)):
        machine = run.machine.__class__(run.machine.device, run.machine.dtype, world)
        rates.append(budget.measured_rate(tiny(patience=0), run.model.config, run.texts[0].train, machine, 1024))
    assert rates[1] == 4 * rates[0]
