"""Runs whose blocks are computed as one step: when that is chosen, and that such a run is a run like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from equality import assert_equal_runs, state_of
from quillgpt.checkpoint import TrainingState
from quillgpt.errors import ConfigError
from quillgpt.native import library, why_unavailable
from quillgpt.proof.outcome import Refuted
from quillgpt.training import train
from quillgpt.training.start import starting_point
from quillgpt.training.start.setup import set_up

from .conftest import MakeSettings
from .test_resume import train_until

needs_compiler = pytest.mark.skipif(why_unavailable(torch.float32) is not None, reason="there is no C++ compiler")


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "qwen3"},
        {"arch": "qwen3", "dropout": 0.2, "optimizer": "muon", "micro_batch_size": 3},
        {"arch": "gpt2", "dropout": 0.2, "bias": True, "micro_batch_size": 3},
    ],
    ids=str,
)
def test_resumed_equals_uninterrupted(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, changes: dict[str, Any]
) -> None:
    fused = {"attn_path": "fused", "dtype": dtype, **changes}
    train(tiny(out_dir=str(tmp_path / "whole"), **fused))
    parts = tiny(out_dir=str(tmp_path / "parts"), **fused)
    train_until(parts, 7, monkeypatch)
    train(parts.model_copy(update={"init_from": "resume"}))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@needs_compiler
@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_a_run_begun_without_it_goes_on_without_it(
    arch: str, tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tiny(arch=arch, attn_path="explicit", out_dir=str(tmp_path / "run"))
    train_until(begun, 7, monkeypatch)
    assert (
        set_up(begun.model_copy(update={"init_from": "resume", "attn_path": "auto"})).settings.attn_path == "explicit"
    )


@needs_compiler
@pytest.mark.parametrize(
    "changes",
    [{"arch": "gpt2"}, {"arch": "gpt2", "bias": True, "dropout": 0.1}, {"arch": "qwen3", "n_kv_head": 1}],
    ids=str,
)
def test_it_is_chosen_where_it_can_be(changes: dict[str, Any], tiny: MakeSettings) -> None:
    assert set_up(tiny(attn_path="auto", compile="auto", **changes)).settings.attn_path == "fused"


@pytest.mark.parametrize(
    ("changes", "reason", "others"),
    [
        ({"arch": "gpt2", "attn_type": "GK"}, "softmax attention", "recompute or augmented"),
        ({"arch": "qwen3", "attn_type": "GK"}, "softmax attention", "recompute or augmented"),
    ],
    ids=str,
)
def test_it_is_refused_where_it_cannot_be(
    tiny: MakeSettings, changes: dict[str, Any], reason: str, others: str
) -> None:
    with pytest.raises(ConfigError, match=f"attn_path = fused does not work here: .*{reason}.*; give {others}"):
        set_up(tiny(attn_path="fused", **changes))
    assert set_up(tiny(attn_path="auto", **changes)).settings.attn_path != "fused"


def test_a_machine_without_a_compiler_takes_another_path(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    library.kernels.cache_clear()
    assert set_up(tiny(arch="qwen3", attn_path="auto")).settings.attn_path in ("sdpa", "explicit")
    with pytest.raises(ConfigError, match="there is no C\\+\\+ compiler; give sdpa or explicit"):
        set_up(tiny(arch="qwen3", attn_path="fused"))


@needs_compiler
def test_a_run_goes_on_without_a_compiler_in_each_way_that_is_named(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(arch="qwen3", attn_path="fused", max_iters=2))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    library.kernels.cache_clear()
    resumed = tiny(arch="qwen3", attn_path="auto", init_from="resume", max_iters=4)
    with pytest.raises(ConfigError) as refused:
        set_up(resumed)
    named = str(refused.value).rsplit("; give ", 1)[1].split(" or ")
    for attn_path in named:
        assert set_up(resumed.model_copy(update={"attn_path": attn_path})).settings.attn_path == attn_path


@needs_compiler
def test_a_run_begun_before_the_rest_was_fused_goes_on_without_it(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = {"arch": "qwen3", "attn_path": "fused", "optimizer": "muon", "dtype": "bfloat16"}
    old = TrainingState(dropout_by_sequence=True, loss_in_parts=True)
    for name, last in (("whole", 12), ("parts", 8)):
        with monkeypatch.context() as patch:
            patch.setattr(starting_point, "TrainingState", lambda **_: old.model_copy(deep=True))
            train(tiny(out_dir=str(tmp_path / name), max_iters=last, **fused))
    train(tiny(out_dir=str(tmp_path / "parts"), max_iters=12, init_from="resume", **fused))
    train(tiny(out_dir=str(tmp_path / "new"), max_iters=12, **fused))
    assert [state_of(tmp_path / name)["fused_rest"] for name in ("parts", "new")] == [False, True]
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(Refuted):
        assert_equal_runs(tmp_path / "whole", tmp_path / "new")
