"""Batches are computed in parts that the memory has room for, and blocks' activations computed again where told so."""

from pathlib import Path

import pytest
import torch

from equality import assert_equal_runs
from quillgpt.checkpoint import TrainingState
from quillgpt.config import resolve
from quillgpt.device import Memory
from quillgpt.distributed import World
from quillgpt.errors import ConfigError
from quillgpt.plots.record import read_metrics
from quillgpt.training import train
from quillgpt.training.start import choices
from quillgpt.training.start.memory import memory_needed
from quillgpt.training.start.model_config import config_for
from quillgpt.training.start.setup import set_up
from quillgpt.training.start.starting_point import adopt_choices

from .conftest import MakeSettings


def room_for(monkeypatch: pytest.MonkeyPatch, settings, sequences: int) -> None:
    """Let the machine have just enough memory for parts of so many sequences."""
    run = set_up(settings)
    needed = memory_needed(run.settings, run.model.config, device=torch.device("cpu"), dtype=torch.float32)
    room = int(needed(sequences).total / 0.9) + 1000
    monkeypatch.setattr(choices, "memory", lambda device: Memory(2 * room, room))


@pytest.mark.parametrize(("room", "parts"), [(8, 8), (7, 4), (3, 2), (1, 1)])
def test_a_part_of_the_batch_is_as_large_as_fits(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], room: int, parts: int
) -> None:
    room_for(monkeypatch, tiny(), room)
    capsys.readouterr()
    assert set_up(tiny()).settings.micro_batch_size == parts
    said = " ".join(capsys.readouterr().err.split())
    assert (f"computing {parts} sequences at once instead of 8: the memory has no room for more" in said) == (parts < 8)


def test_the_global_batch_stays_exact_where_memory_is_short(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {}
    for name, room in (("ample", 8), ("short", 2)):
        room_for(monkeypatch, tiny(), room)
        settings = tiny(out_dir=str(tmp_path / name))
        train(settings)
        rows = read_metrics(Path(settings.out_dir) / "metrics.jsonl")
        losses[name] = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses["short"] == pytest.approx(losses["ample"], abs=1e-5)


def test_where_nothing_fits_it_is_said_what_takes_less(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choices, "memory", lambda device: Memory(1000, 500))
    assert set_up(tiny()).settings.micro_batch_size == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "less take --block_size, --gradient_checkpointing, --lora_rank" in said


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_computing_again_changes_nothing_but_the_memory(tiny: MakeSettings, tmp_path: Path, arch: str) -> None:
    for name, again in (("kept", False), ("again", True)):
        train(tiny(out_dir=str(tmp_path / name), gradient_checkpointing=again, arch=arch, dropout=0.2))
    assert_equal_runs(tmp_path / "kept", tmp_path / "again")


def test_less_is_needed_where_blocks_are_computed_again(tiny: MakeSettings) -> None:
    run = set_up(tiny(n_layer=12))
    device, dtype = torch.device("cpu"), torch.float32

    def activations(**changes: bool) -> int:
        settings = run.settings.model_copy(update=changes)
        return memory_needed(settings, run.model.config, device=device, dtype=dtype)(4).activations

    assert activations(gradient_checkpointing=True) < activations() / 3
    kept = []
    for again in (False, True):
        run.model.gradient_checkpointing = again
        run.model.train()
        total = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        inputs, targets = run.batches.batch(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            run.model.loss_sum(inputs, targets)
        kept.append(total)
    assert kept[1] < kept[0] / 3


def test_it_is_not_recorded_as_a_graph() -> None:
    with pytest.raises(ConfigError, match="leave one of them out"):
        resolve(None, {"gradient_checkpointing": "True", "cuda_graph": "True"}, environ={}, dotenv=None)


GPU = choices.Machine(torch.device("cuda"), torch.bfloat16)


@pytest.mark.parametrize(
    ("preset", "flags", "parts", "recorded"),
    [
        ("train_gpt2", {}, 48, False),
        ("train_gpt2", {"batch_size": "64", "gradient_accumulation_steps": "2"}, 64, False),
        ("train_gpt2", {"batch_size": "7", "gradient_accumulation_steps": "3"}, 21, False),
        ("shakespeare_char", {}, 64, False),
        ("shakespeare_char_fast", {}, 8, True),
        ("shakespeare_char_fast", {"gradient_checkpointing": "True"}, 8, False),
        ("shakespeare_char_fast", {"cuda_graph": "False"}, 8, False),
    ],
)
def test_a_gpu_computes_much_at_once_and_records_what_is_small(
    monkeypatch: pytest.MonkeyPatch, preset: str, flags: dict[str, str], parts: int, recorded: bool
) -> None:
    monkeypatch.setattr(choices, "memory", lambda device: Memory(80 << 30, 79 << 30))
    chosen_before = {"attn_path": "sdpa", "device": "cuda", "dtype": "bfloat16", "threads": "1"}
    settings = resolve(preset, chosen_before | flags, environ={}, dotenv=None)
    chosen = choices.choose_paths(settings, config_for(settings, "gpt2", 50304), GPU, measuring=False)
    assert (chosen.micro_batch_size, chosen.cuda_graph) == (parts, recorded)
    if recorded:
        with_float16 = choices.Machine(GPU.device, torch.float16)
        chosen = choices.choose_paths(settings, config_for(settings, "char", 65), with_float16, measuring=False)
        assert not chosen.cuda_graph


@pytest.mark.parametrize(("ranks", "kept"), [(1, True), (2, "auto")])
def test_several_ranks_go_on_without_the_graph_that_one_has_recorded(ranks: int, kept: object) -> None:
    state = TrainingState(settings={"cuda_graph": True, "threads": 3})
    settings = adopt_choices(resolve("own_text", {}, environ={}, dotenv=None), state, World(0, ranks, 0, ranks))
    assert (settings.cuda_graph, settings.threads) == (kept, 3)
