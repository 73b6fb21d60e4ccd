"""All that can be checked is checked before anything is measured or made, and what is too large is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quillgpt.bench.sample import bench_sampling
from quillgpt.bench.train import bench_training
from quillgpt.config import TrainSettings, resolve
from quillgpt.device import Memory
from quillgpt.distributed import World
from quillgpt.errors import ConfigError, DataError, UserError
from quillgpt.model import GPT, GPTConfig, count_parameters
from quillgpt.training import train
from quillgpt.training.planning import budget, timing
from quillgpt.training.planning.dry_run import check_dry_run, predict_run, show_dry_run
from quillgpt.training.start import choices, memory, setup
from quillgpt.training.start.memory import lack_of_memory, memory_needed
from quillgpt.training.start.model_config import config_for

from .conftest import TINY, MakeSettings

OPEN = ("n_layer", "n_head", "n_embd", "block_size", "learning_rate", "min_lr", "batch_size", "attn_path")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TRIED_SECONDS", 0.1)
    monkeypatch.setattr(budget, "TRIAL_SECONDS", 0.1)


@pytest.fixture
def own(tiny: MakeSettings, tmp_path: Path) -> Any:
    """Make settings in which the rules decide what is not set."""

    def make(**changes: Any) -> TrainSettings:
        fixed = {name: value for name, value in TINY.items() if name not in OPEN}
        places = {"out_dir": str(tmp_path / "out"), "data_dir": str(tmp_path / "data"), "defaults": "scaled"}
        return TrainSettings(**(fixed | places | {"max_iters": 2, "eval_iters": 1} | changes))

    return make


@pytest.fixture
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: object, **__: object) -> None:
        raise AssertionError("measured before everything was checked")

    monkeypatch.setattr(choices, "seconds_per_call", measure)
    monkeypatch.setattr(budget, "times_of_calls", measure)
    monkeypatch.setattr(budget, "GPT", measure)
    monkeypatch.setattr(setup, "GPT", measure)


@pytest.mark.usefixtures("no_measuring")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_size": 100_000}, "block_size = 100000 needs 100,001"),
        ({"vocab_size": 2}, "vocab_size = 2 is smaller than"),
        ({"vocab_size": 1_000_000}, "rows without a token"),
        ({"range_penalty": 0.1}, "range_penalty = 0.1 is for GK"),
        ({"replay": 0.5, "replay_dataset": "gone"}, "gone"),
        ({"n_embd": 1_000_000, "n_head": 1}, "GB"),
        ({"n_embd": 1_000_000, "n_head": 1, "arch": "qwen3"}, "GB"),
    ],
)
@pytest.mark.parametrize("start", [setup.set_up, predict_run])
def test_nothing_is_measured_before_all_is_checked(own: Any, start: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        start(own(**changes))


@pytest.mark.parametrize("changes", [{"learning_rate": 1e10}, {"attn_type": "PA_exp", "attn_bias": 1e30}])
def test_measuring_survives_what_is_not_finite(own: Any, changes: dict[str, Any]) -> None:
    assert setup.set_up(own(**changes)).settings.max_iters == 2
    assert predict_run(own(**changes)).iterations == 2


SIZES = {
    "a model of": {"n_embd": 500_000, "n_head": 1},
    "a batch of": {"batch_size": 1_000_000, "gradient_accumulation_steps": 1_000_000},
    "the logits of": {"micro_batch_size": 1_000_000, "batch_size": 1_000_000, "vocab_size": 60_000, "n_embd": 2},
}


@pytest.mark.parametrize("largest", SIZES)
def test_what_no_machine_holds_is_refused_with_both_numbers(
    tiny: MakeSettings, largest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quillgpt.model.loss.MANY_LOGITS", 1 << 62)  # all logits at once, as on a GPU
    with pytest.raises(ConfigError, match=rf"at least [0-9,.]+ [GT]B of memory, .* for {largest}.* has [0-9,.]+ GB"):
        train(tiny(**SIZES[largest]))
    assert not list(tmp_path.glob("out/*.toml"))


def test_a_plan_of_it_is_shown_all_the_same(tiny: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    """Who plans on a laptop for a large machine wants the numbers."""
    planned = predict_run(tiny(n_embd=500_000, n_head=1, attn_path="auto", micro_batch_size="auto"))
    show_dry_run(planned)
    assert "TB" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"[GT]B of memory"):
        check_dry_run(planned)


def test_benchmarks_refuse_it_too() -> None:
    settings = resolve("demo", {"n_embd": "1000000", "device": "cpu", "dtype": "float32"}, environ={}, dotenv=None)
    peers: dict[str, Any] = {"vocabulary": None, "rounds": 1, "peers": [], "trace": None}
    with pytest.raises(ConfigError, match=r"[GT]B of memory"):
        bench_training(settings, iterations=1, compile_peers=False, **peers)
    with pytest.raises(ConfigError, match=r"[GT]B of memory"):
        bench_sampling(settings, tokens=1, samples=1, quantize="none", **peers)


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}, {"ema_decay": 0.9}, {"micro_batch_size": 4}])
def test_the_bound_is_never_above_the_estimate(tiny: MakeSettings, arch: str, changes: dict[str, Any]) -> None:
    settings = tiny(arch=arch, **changes)
    config = config_for(settings, "char", 65)
    cpu = torch.device("cpu")
    sequences = 1 if settings.micro_batch_size == "auto" else settings.micro_batch_size
    estimate = memory_needed(settings, config, device=cpu, dtype=torch.bfloat16)(sequences).total
    least = sum(memory._least_memory(settings, config).values())
    assert 0.2 * estimate < least < estimate + 8 * settings.tokens_per_iteration + 8 * settings.sequences_per_iteration


def test_limits_of_the_machine_are_heeded(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny()
    config = config_for(settings, "char", 65)
    least = sum(memory._least_memory(settings, config).values())
    for swap, refused in ((0, True), (2, False)):
        found = Memory(least - 1, 0, swap)
        monkeypatch.setattr("quillgpt.device.memory", lambda _, found=found: found)
        assert (lack_of_memory(settings, config, torch.device("cpu")) is not None) == refused
    monkeypatch.setattr("quillgpt.device.memory", lambda _: None)
    assert lack_of_memory(settings, config, torch.device("cpu")) is None


def test_ranks_that_share_the_weights_need_less_memory_each(tiny: MakeSettings) -> None:
    ddp, fsdp = tiny(n_embd=256), tiny(n_embd=256, strategy="fsdp")
    config = config_for(ddp, "char", 65)

    def least(settings: TrainSettings, ranks: int) -> int:
        return next(iter(memory._least_memory(settings, config, World(0, ranks)).values()))

    assert least(ddp, 1) == least(ddp, 2) == least(fsdp, 1)
    assert least(fsdp, 2) == pytest.approx(least(ddp, 1) / 2, rel=0.01)
    assert least(fsdp, 8) == least(fsdp, 4) == pytest.approx(least(ddp, 1) / 4, rel=0.01)  # the model at the start


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_parameters_are_counted_without_making_them(tiny: MakeSettings, arch: str) -> None:
    for layers in (1, 2, 5):
        config: GPTConfig = config_for(tiny(arch=arch, n_layer=layers), "char", 65)
        for positions in (True, False):
            assert count_parameters(config, positions=positions) == GPT(config).parameter_count(positions=positions)


def test_evaluations_of_a_plan_are_counted_without_a_list(tiny: MakeSettings) -> None:
    planned = predict_run(tiny(max_iters=10**12, eval_interval=1, eval_iters=10**12))
    assert planned.evaluations == 10**12 + 1


def test_a_run_measures_with_the_threads_that_it_was_given(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    measure = budget.times_of_calls

    def noting_threads(*given: Any, **limits: float) -> list[float]:
        threads.append(torch.get_num_threads())
        return measure(*given, **limits)

    monkeypatch.setattr(budget, "times_of_calls", noting_threads)
    setup.set_up(own(threads=1))
    assert set(threads) == {1}


def test_a_text_that_is_too_short_for_the_context_is_refused_when_finetuning(own: Any, tiny: MakeSettings) -> None:
    train(tiny(max_iters=1))
    with pytest.raises((ConfigError, DataError), match="block_size = 64"):
        setup.set_up(own(init_from=tiny().out_dir, out_dir=tiny().out_dir + "-2", block_size=64))


@pytest.mark.usefixtures("no_measuring")
def test_measuring_what_would_take_too_long_is_left_out(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual share of the machine's peak stands in, so that no one waits for minutes before the first line."""
    monkeypatch.setattr(budget, "usual_rate", lambda machine: 1.0)
    start = setup.find_starting_point(own())
    settings = own(n_layer=1, n_head=1, n_embd=16, block_size=16)
    config = config_for(settings, "char", 65)
    assert budget.measured_rate(settings, config, np.zeros(100, dtype=np.uint16), start.machine, 1024) is None
