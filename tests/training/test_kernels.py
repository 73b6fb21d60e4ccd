"""Training with every attention kernel: learning, going on exactly, finetuning with another, evaluating with one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from equality import assert_equal_tensors
from quillgpt.activations import ACTIVATIONS
from quillgpt.api import load
from quillgpt.attention import KernelSpec
from quillgpt.checkpoint import load_model
from quillgpt.cli import main
from quillgpt.device import autocast
from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.export import export_model
from quillgpt.lab.ranges import measure_ranges
from quillgpt.model import GPT
from quillgpt.plots.record import read_metrics
from quillgpt.training import train
from quillgpt.training.compilation import compile_model
from quillgpt.training.start.setup import set_up
from tiny import CONFIGS, random_ids, randomize

from .conftest import MakeSettings

NAMES = ["SM", "GK", "GKn", "GKpoly-1", "GKpoly-4", "GKpoly-8", *(f"PA_{name}" for name in ACTIVATIONS)]


@pytest.mark.parametrize("attn_type", NAMES)
def test_every_kernel_learns(attn_type: str, tiny: MakeSettings) -> None:
    settings = tiny(attn_type=attn_type, attn_path="auto", max_iters=80, lr_decay_iters=80, eval_interval=80)
    summary = train(settings)
    assert summary is not None
    losses = [
        row["val_loss"] for row in read_metrics(Path(settings.out_dir) / "metrics.jsonl") if row["kind"] == "eval"
    ]
    assert losses[-1] < losses[0] - 1.0
    stored = load_model(Path(settings.out_dir)).config.kernel
    assert stored.attn_type == attn_type
    found = load(settings.out_dir, dtype="float32").evaluate("tiny", data_dir=settings.data_dir)
    assert found.loss == pytest.approx(summary.val_loss_full, abs=1e-5)


@pytest.mark.parametrize(("attn_type", "path"), [("GKpoly-14", "recompute"), ("GK", "recompute"), ("GK", "augmented")])
@pytest.mark.parametrize("compiled", [False, True])
def test_training_in_bfloat16_weighs_by_unrounded_arguments(attn_type: str, path: str, compiled: bool) -> None:
    def loss_and_gradients(model: GPT, dtype: torch.dtype) -> list[torch.Tensor]:
        ids = random_ids(model.config, 8, model.config.block_size, seed=1)
        with autocast(torch.device("cpu"), dtype):
            loss = model.loss_sum(ids[:, :-1], ids[:, 1:])
        loss.backward()
        return [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]

    def model(attn_type: str, path: str) -> GPT:
        found = GPT(replace(CONFIGS["gpt2"], kernel=KernelSpec(attn_type)), attn_path=path).train()
        randomize(found)
        return found

    exact = loss_and_gradients(model("GK", "recompute"), torch.float32)
    rounded = model(attn_type, path)
    if compiled:
        compile_model(rounded)
    # 1 + x/2^14 in bfloat16 is 1, and so is every weight then
    for one, other in zip(loss_and_gradients(rounded, torch.bfloat16), exact, strict=True):
        assert (one - other).norm() <= 0.05 * other.norm()


@pytest.mark.parametrize("attn_type", ["GK", "PA_gelu"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_resumed_run_drops_the_same_weights(
    attn_type: str, compiled: bool, tiny: MakeSettings, tmp_path: Path
) -> None:
    options = {
        "attn_type": attn_type,
        "attn_path": "recompute",
        "dropout": 0.2,
        "learn_gain": True,
        "compile": compiled,
    }
    whole = tiny(out_dir=str(tmp_path / "whole"), **options)
    train(whole)
    halves = tiny(out_dir=str(tmp_path / "halves"), max_iters=8, **options)
    train(halves)
    train(tiny(out_dir=str(tmp_path / "halves"), init_from="resume", **options))
    one, other = (load_model(tmp_path / name, prefer="last").model.state_dict() for name in ("whole", "halves"))
    assert_equal_tensors(one, other)


def test_another_kernel_goes_on_from_softmax(tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(tiny(out_dir=str(tmp_path / "SM")))
    changed = {"attn_type": "PA_gelu", "attn_path": "auto", "learn_gain": True}
    settings = tiny(out_dir=str(tmp_path / "PA"), init_from=str(tmp_path / "SM"), **changed)
    train(settings)
    assert "computes SM; this run goes on with PA_gelu, learn_gain = True" in " ".join(capsys.readouterr().err.split())
    found = load_model(tmp_path / "PA")
    assert str(found.config.kernel) == "PA_gelu, learn_gain = True"
    again = tiny(out_dir=str(tmp_path / "again"), init_from=str(tmp_path / "PA"), attn_path="auto")
    again = again.model_validate(again.model_dump(exclude_defaults=True))
    train(again)
    assert load_model(tmp_path / "again").config.kernel == found.config.kernel  # the model's, unless another is named


def test_a_resumed_run_keeps_its_kernel(tiny: MakeSettings) -> None:
    train(tiny(attn_type="GK", attn_path="auto"))
    with pytest.raises(
        ConfigError, match=r"attn_type = GKn, but the run in .* has attn_type = GK; a resumed run keeps"
    ):
        train(tiny(attn_type="GKn", attn_path="auto", init_from="resume"))


def test_evaluating_with_another_kernel_is_said(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = tiny(max_iters=60, lr_decay_iters=60)
    train(settings)
    capsys.readouterr()
    flags = ["eval", settings.out_dir, f"--data_dir={settings.data_dir}", "--split=val", "--json"]
    losses = {}
    for name in ("SM", "GKn", "PA_gelu"):
        assert main([*flags, f"--attn_type={name}"]) == 0
        out, err = capsys.readouterr()
        assert f"attention is computed by {name}, whatever the model was trained with" in " ".join(err.split())
        losses[name] = json.loads(out)["loss"]
    assert main(flags) == 0
    out, err = capsys.readouterr()
    assert "attention is computed by" not in err
    assert json.loads(out)["loss"] == pytest.approx(losses["SM"])
    assert losses["SM"] < losses["GKn"]
    assert main([*flags, "--attn_type=GKpoly-0"]) != 0
    assert "GKpoly-0 is no attention kernel; expected SM" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("target", ["hf", "gguf", "onnx", "nanogpt"])
def test_no_other_program_is_given_a_kernel_that_it_does_not_know(
    target: str, tiny: MakeSettings, tmp_path: Path
) -> None:
    settings = tiny(attn_type="GK", attn_path="auto")
    train(settings)
    with pytest.raises(CheckpointError, match=f"computes attention by GK, and --to {target} can write softmax"):
        export_model(load_model(Path(settings.out_dir)), target, tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"attn_type": "GK", "len_scale": "pos"}, "len_scale = pos is for PA, and attn_type is GK; leave it out"),
        (
            {"attn_type": "PA_relu", "learn_tau": True},
            "learn_tau = True is for GK, GKn, GKpoly, and attn_type is PA_relu",
        ),
        ({"attn_type": "SM", "poly_form": "limit"}, "poly_form = limit is for GKpoly, and attn_type is SM"),
        ({"attn_type": "PA_tanh", "row_norm": True}, "those of PA_tanh can be negative"),
        ({"attn_type": "GKpoly-3", "poly_form": "taylor", "row_norm": True}, "those of GKpoly-3 can be negative"),
        ({"attn_type": "softmax"}, "softmax is no attention kernel; expected SM, GK"),
    ],
)
def test_an_option_of_another_kernel_is_refused(changes: dict, complaint: str, tiny: MakeSettings) -> None:
    with pytest.raises(ValueError, match=r"attention kernel|is for|can be negative") as error:
        tiny(**changes)
    assert complaint in str(error.value)


@pytest.mark.parametrize("attn_type", ["GK", "PA_relu"])
def test_a_path_of_another_kernel_is_refused(attn_type: str, tiny: MakeSettings) -> None:
    with pytest.raises(ConfigError, match=f"attn_path = sdpa is no way to compute {attn_type}; give recompute"):
        train(tiny(attn_type=attn_type, attn_path="sdpa"))


@pytest.mark.parametrize("options", [{}, {"compile": True}, {"gradient_checkpointing": True}, {"micro_batch_size": 2}])
def test_a_penalty_pulls_arguments_into_the_range(options: dict, tiny: MakeSettings, tmp_path: Path) -> None:
    common = {"attn_type": "GKpoly-3", "attn_path": "auto", "max_iters": 40, "lr_decay_iters": 40, "range_limit": 0.05}
    train(tiny(out_dir=str(tmp_path / "free"), range_penalty=0.0, **common))
    train(tiny(out_dir=str(tmp_path / "bound"), range_penalty=20.0, **(common | options)))
    least = {
        name: min(each.minimum for each in measure_ranges(load_model(tmp_path / name).model, [torch.arange(16)[None]]))
        for name in ("free", "bound")
    }
    assert least["bound"] > 0.5 * least["free"]
    rows = {name: read_metrics(tmp_path / name / "metrics.jsonl") for name in ("free", "bound")}
    assert rows["bound"][0]["val_loss"] == pytest.approx(rows["free"][0]["val_loss"], abs=1e-5)  # losses leave it out


def test_a_penalty_does_not_depend_on_the_parts_of_a_batch(tiny: MakeSettings, tmp_path: Path) -> None:
    common = {"attn_type": "GK", "attn_path": "recompute", "range_penalty": 1.0, "range_limit": 0.1}
    for size in (1, 8):
        train(tiny(out_dir=str(tmp_path / str(size)), micro_batch_size=size, **common))
    one, other = (load_model(tmp_path / size).model.state_dict() for size in ("1", "8"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "is_weak"),
    [
        ({"attn_type": "GK", "n_head": 1, "n_embd": 512}, True),
        ({"attn_type": "GKpoly-8", "n_head": 1, "n_embd": 512}, True),
        ({"attn_type": "GKn", "n_head": 1, "n_embd": 512}, False),
        ({"attn_type": "SM", "n_head": 1, "n_embd": 512}, False),
        ({"attn_type": "GK", "n_head": 16, "n_embd": 512}, False),
    ],
)
def test_attention_that_is_off_at_the_start_is_said(
    changes: dict, is_weak: bool, tiny: MakeSettings, capsys: pytest.CaptureFixture
) -> None:
    set_up(tiny(attn_path="auto", **changes))
    said = " ".join(capsys.readouterr().err.split())
    assert ("attention is nearly off at the start" in said) == is_weak
    assert ("--attn_type=GKn, which divides by the sum of the weights, would mend it" in said) == is_weak
