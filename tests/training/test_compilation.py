"""A model that is compiled from outside, and is again what it was when that is undone."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quillgpt.attention import KernelSpec, spread
from quillgpt.config import TrainSettings
from quillgpt.model import GPT
from quillgpt.native import CACHE_VARIABLE
from quillgpt.training.compilation import (
    compile_model,
    leave_uncompiled,
    try_best_instructions_only,
    uncompiled,
)
from quillgpt.training.start import choices, compile_choice
from tiny import CONFIGS, random_ids, tiny_model


def loss_and_gradients(model: GPT, seeds: torch.Tensor | None = None) -> list[torch.Tensor]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    ids = random_ids(model.config, 4, 9, seed=1)
    loss = model.loss_sum(ids[:, :-1], ids[:, 1:], seeds)
    loss.backward()
    return [loss.detach(), *(each.grad for each in model.parameters() if each.grad is not None)]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(("arch", "kernel", "seeded"), [
    ("gpt2", "SM", False), ("qwen3", "SM", True), ("gpt2", "GK", True),
])  # fmt: skip
def test_a_compiled_model_computes_the_same_with_dropout(arch: str, kernel: str, seeded: bool) -> None:
    path = "explicit" if kernel == "SM" else "recompute"
    config = replace(CONFIGS[arch], kernel=KernelSpec(kernel))
    model = GPT(config, dropout=0.2, attn_path=path, seed=0).train()
    seeds = spread(torch.tensor(0), 4) if seeded else None
    expected = loss_and_gradients(model, seeds)
    compile_model(model)
    for one, other in zip(loss_and_gradients(model, seeds), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_all_blocks_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    model = tiny_model()
    compile_model(model)
    assert [each.__self__ for each in compiled] == [*model.blocks, model]  # type: ignore[attr-defined]


def test_uncompiled_it_can_be_watched_and_afterwards_it_is_compiled_again() -> None:
    model = tiny_model()
    names = set(model.state_dict())
    compile_model(model)
    seen: list[nn.Module] = []
    model.blocks[0].mlp.register_forward_hook(lambda module, *_: seen.append(module))
    with uncompiled(model):
        loss_and_gradients(model)
        assert seen == [model.blocks[0].mlp]
        assert "forward" not in vars(model.blocks[0])
    assert "forward" in vars(model.blocks[0])
    leave_uncompiled(model)
    assert "forward" not in vars(model.blocks[0])
    assert "loss_from_hidden" not in vars(model)
    assert set(model.state_dict()) == names


def test_whether_compiling_gains_is_measured_once_and_a_compiler_that_fails_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(compile_choice, "pays", lambda seconds, gain, *, cost: gain > -1)
    tried: list[int] = []

    def compiler(function: Any) -> Any:
        def compiled(*arguments: Any) -> Any:
            tried.append(1)
            if fails:
                raise RuntimeError("no compiler")
            return function(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    settings = TrainSettings(compile="auto", micro_batch_size=2, attn_path="explicit", device="cpu", dtype="float32")
    chosen_before = {"block_size": tiny_model().config.block_size, "threads": 1, "cuda_graph": False}
    settings = settings.model_copy(update=chosen_before)
    machine = choices.Machine(torch.device("cpu"), torch.float32)
    for fails in (False, True):
        model = tiny_model(n_layer=1 + fails)
        chosen = compile_choice.choose_compile(settings, model, machine)
        assert tried
        assert not (fails and chosen)
        assert "forward" not in vars(model.blocks[0])
        assert all(each.grad is None for each in model.parameters())
        tried.clear()
        assert compile_choice.choose_compile(settings, model, machine) == chosen
        assert not tried


@pytest.mark.parametrize(
    ("compiler_knows", "expected", "tried"),
    [(("avx512 amx_tile", "avx512", "avx2"), ["avx512"], ["avx512"]), (("avx2",), None, ["avx512"])],
)
def test_only_the_best_instructions_of_the_cpu_are_tried(
    monkeypatch: pytest.MonkeyPatch, compiler_knows: tuple[str, ...], expected: list[str] | None, tried: list[str]
) -> None:
    from torch._inductor import cpu_vec_isa

    asked: list[str] = []

    class Instructions(str):
        def __bool__(self) -> bool:
            asked.append(str(self))
            return str(self) in compiler_knows

    every = [Instructions(name) for name in ("avx512 amx_tile", "avx512", "avx2", "asimd")]
    monkeypatch.setattr(cpu_vec_isa, "supported_vec_isa_list", list(every))
    monkeypatch.setattr(cpu_vec_isa, "x86_isa_checker", lambda: ["avx2", "avx512"])
    try_best_instructions_only.__wrapped__()
    assert asked == tried
    assert cpu_vec_isa.supported_vec_isa_list == (expected or every)
    monkeypatch.setattr(cpu_vec_isa, "x86_isa_checker", list)  # another kind of processor
    try_best_instructions_only.__wrapped__()


def test_what_is_compiled_stays_in_the_cache_folder(tmp_path: Path) -> None:
    program = """
import torch
from quillgpt.config import resolve
from quillgpt.training.start.choices import choose_machine
choose_machine(resolve("demo", {"dtype": "float32"}))
torch.optim.AdamW([torch.zeros(1)])
from torch._inductor.runtime.cache_dir_utils import cache_dir
print(cache_dir())
"""
    kept = {name: value for name, value in os.environ.items() if name != CACHE_VARIABLE}
    environment = {**kept, "QUILL_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(tmp_path / "compiled"), done.stderr
