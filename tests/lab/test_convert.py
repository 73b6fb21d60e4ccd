"""Converting a model from softmax to another kernel."""

import copy
from dataclasses import replace

import pytest
import torch

from quillgpt.attention import KernelSpec
from quillgpt.checkpoint import load_model
from quillgpt.cli import main
from quillgpt.config import TrainSettings
from quillgpt.errors import UserError
from quillgpt.lab import convert as converting
from quillgpt.lab.calibrate import calibrate
from quillgpt.lab.convert import conversion_stages, target_kernel
from quillgpt.lab.matching import match_layers, mismatch
from quillgpt.lab.observe import attentions
from quillgpt.lab.variants import with_kernel
from tiny import GPT2, QWEN3, random_ids, tiny_model
from tolerances import FLOAT32


def student_of(teacher, name):
    return copy.deepcopy(with_kernel(teacher, target_kernel(teacher.config.kernel.swapped(name))))


@pytest.mark.parametrize("name", ["GKn", "GK", "GKpoly-10"])
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_calibration_finds_the_gain_and_tau_that_were_hidden(name, config):
    """From a teacher whose heads have gains and taus, a student that has forgotten them finds them again."""
    config = replace(config, n_head=4, n_kv_head=2 if config is QWEN3 else config.n_kv_head)
    teacher = tiny_model(config, kernel=KernelSpec(name, learn_tau=True, learn_gain=True))
    gains, taus = torch.tensor([0.5, 1.5, -2.0, 3.0]), torch.tensor([0.0, 1.0, -1.0, 2.0])[: config.n_kv_head]
    with torch.no_grad():
        for attention in attentions(teacher):
            attention.gain.weight.copy_(gains)
            attention.log_tau.weight.copy_(taus)
        student = copy.deepcopy(teacher)
        for attention in attentions(student):
            attention.gain.weight.fill_(1.0)
            attention.log_tau.weight.fill_(9.0)
    calibrate(student, teacher, [random_ids(config, 2, 16)])
    for attention in attentions(student):
        torch.testing.assert_close(attention.gain.weight, gains, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(attention.log_tau.weight, taus, **FLOAT32)


@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_calibration_finds_other_widths_for_other_keys(config):
    """A teacher whose queries and keys are longer than its student's, key head by key head, is found exactly."""
    teacher = tiny_model(config, kernel=KernelSpec("GK", learn_tau=True, learn_gain=True))
    student = student_of(tiny_model(config), "GK")
    factors = torch.tensor([2.0, 0.5, 1.0, 4.0])[: config.n_kv_head].log()
    state = teacher.state_dict()
    with torch.no_grad():
        student.load_state_dict({key: tensor.clone() for key, tensor in state.items()})
        for attention in attentions(teacher):
            own = attention.path
            root = torch.exp(0.5 * factors)[:, None, None]
            grown = root.repeat_interleave(config.n_head // config.n_kv_head, 0)
            attention.path = lambda q, k, v, d, *rest, own=own, root=root, grown=grown: own(
                q * grown, k * root, v, d, *rest
            )
        before = [attention.log_tau.weight.clone() for attention in attentions(teacher)]
        calibrate(student, teacher, [random_ids(config, 2, 16)])
    for attention, start in zip(attentions(student), before, strict=True):
        torch.testing.assert_close(attention.log_tau.weight, start + factors, **FLOAT32)


@pytest.mark.parametrize("name", ["SM", "PA_exp"])
def test_calibration_of_a_kernel_without_tau_sees_keys_as_it_will_have_them(name):
    kernel = KernelSpec("GK", learn_tau=True)
    teacher = tiny_model(GPT2, kernel=kernel, n_head=1, n_kv_head=1, head_dim=GPT2.n_embd)
    with torch.no_grad():
        for attention in attentions(teacher):
            attention.log_tau.weight.fill_(-3.0)
            attention.output.weight.copy_(torch.eye(GPT2.n_embd))
            attention.output.bias.zero_()
    student, ids = student_of(teacher, name), random_ids(GPT2, 2, 16)
    calibrate(student, teacher, [ids])
    best = float(mismatch(student, teacher, ids).detach())
    for change in (0.9, 1.1):  # no other gain comes nearer
        other = copy.deepcopy(student)
        with torch.no_grad():
            for attention in attentions(other):
                attention.gain.weight.mul_(change)
        assert float(mismatch(other, teacher, ids).detach()) > best


def test_calibration_passes_over_widths_at_which_a_polynomial_overflows():
    teacher, ids = tiny_model(GPT2), random_ids(GPT2, 4, 16)
    with torch.no_grad():
        for attention in attentions(teacher):
            attention.qkv.weight.mul_(30)  # arguments in the thousands
    student = student_of(teacher, "GKpoly-8")
    calibrate(student, teacher, [ids])
    error = float(mismatch(student, teacher, ids).detach())
    assert error <= 1.0 + 1e-5  # no further than nothing at all


@pytest.mark.parametrize("name", ["PA_relu", "GKpoly-6"])
def test_calibration_comes_nearer_to_the_teacher(name):
    teacher, ids = tiny_model(GPT2), random_ids(GPT2, 4, 16)
    student = student_of(teacher, name)
    before = float(mismatch(student, teacher, ids).detach())
    weights = {
        key: tensor.clone()
        for key, tensor in student.state_dict().items()
        if not key.endswith(("tau.weight", "gain.weight"))
    }
    calibrate(student, teacher, [ids])
    assert float(mismatch(student, teacher, ids).detach()) < 0.9 * before
    assert all(torch.equal(student.state_dict()[key], tensor) for key, tensor in weights.items())


def test_matching_changes_attention_alone_and_comes_nearer():
    teacher = tiny_model(GPT2)
    student = student_of(teacher, "GKpoly-6")
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    kept = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    losses = match_layers(
        student, teacher, lambda i: random_ids(GPT2, 8, 16, seed=i), iterations=60, learning_rate=5e-3
    )
    assert len(losses) == 60
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    changed = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(".attention." in name for name in changed)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in teacher.state_dict().items())


def test_a_conversion_by_the_command_line(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["lab", "convert", "SM", "--to=GKpoly-8", f"--out={tmp_path / 'to'}", "--threads=1", "--dtype=float32"]
    words += ["--blocks=8", "--match_iters=20", "--max_iters=20", "--lr_decay_iters=20", "--learning_rate=1e-3"]
    assert main([*words, "--eval_interval=10", "--range_penalty=0.1"]) == 0, capsys.readouterr().err
    rows = (tmp_path / "to" / "stages.csv").read_text().splitlines()[1:]
    names = [row.split(",")[0].strip('"') for row in rows]
    assert names[:3] == [["SM", " as it was trained"][0], "swapped for GKpoly-8", "gains and taus calibrated"]
    losses = [float(row.rsplit(",", 3)[1]) for row in rows]
    trained, swapped, calibrated, matched, tuned = losses
    assert trained < matched < calibrated < swapped
    assert trained < tuned < matched + 0.005
    kernel = load_model(tmp_path / "to" / "finetuned").config.kernel
    assert str(kernel) == "GKpoly-8, learn_tau = True, learn_gain = True"
    start = load_model(tmp_path / "to" / "start")
    assert start.config.kernel == kernel
    assert start.about["dataset"] == "small"


def test_a_conversion_with_adapters_keeps_the_other_weights(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["lab", "convert", "SM", "--to=PA_relu", f"--out={tmp_path / 'to'}", "--threads=1", "--dtype=float32"]
    words += ["--blocks=4", "--max_iters=4", "--lr_decay_iters=4", "--eval_interval=2", "--lora_rank=2"]
    assert main([*words, "--lora_targets=attention"]) == 0, capsys.readouterr().err
    start, tuned = (load_model(tmp_path / "to" / name).model.state_dict() for name in ("start", "finetuned"))
    changed = {name for name in start if not torch.equal(start[name], tuned[name])}
    assert changed == {f"blocks.{i}.attention.{part}.weight" for i in range(2) for part in ("qkv", "output")}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--to=GK,SM"], "--to=GK,SM names 2 kernels; a model is converted to one"),
        (["--to=GK", "--match_iters=-1"], "match_iters = -1; expected a whole number, 0 for none"),
        (["--to=GG"], "GG is no attention kernel"),
        (["--to=GK", "--attn_type=GK"], "--attn_type=GK is not for a conversion; give --to"),
        (
            ["--to=PA_relu", "--range_penalty=1"],
            "range_penalty = 1 is for GK, GKn and GKpoly, and attn_type is PA_relu",
        ),
        (["--to=GK", "--range_penalty=1"], "range_penalty needs --range_limit"),
    ],
)
def test_conversions_that_are_refused(words, complaint, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["lab", "convert", "SM", f"--out={tmp_path / 'to'}", "--threads=1", "--blocks=2", *words]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_a_conversion_is_not_overwritten(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["lab", "convert", "SM", "--to=GK", f"--out={tmp_path}", "--threads=1", "--dtype=float32", "--blocks=2"]
    words += ["--max_iters=2", "--eval_interval=2"]
    assert main(words) == 0, capsys.readouterr().err
    stages = (tmp_path / "stages.csv").read_text()
    assert "layers matched" not in stages
    assert "finetuned" in stages
    before = (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns
    assert main(words) == 2
    assert f"{tmp_path}/finetuned holds a finetuned model; give another --out" in " ".join(
        capsys.readouterr().err.split()
    )
    assert (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns == before
    assert main([*words, "--overwrite"]) == 0, capsys.readouterr().err


def test_a_conversion_that_is_interrupted_says_so(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "train", lambda settings: None)
    kernel = target_kernel(KernelSpec("GK"))
    finetuning = TrainSettings(out_dir=str(tmp_path / "finetuned"))
    stages = conversion_stages(opened, kernel, tmp_path, calibrated=False, match_iters=0, finetuning=finetuning)
    assert [next(stages).name, next(stages).name] == ["SM, as it was trained", "swapped for GK"]
    with pytest.raises(UserError, match="finetuning was interrupted"):
        next(stages)


def test_matching_does_not_learn_from_what_overflows():
    teacher = tiny_model(GPT2)
    with torch.no_grad():
        for attention in attentions(teacher):
            attention.qkv.weight.mul_(100)
    student = student_of(teacher, "GKpoly-6")
    before = [parameter.clone() for parameter in student.parameters()]
    with pytest.raises(UserError, match="not finite in iteration 1 of matching layers"):
        match_layers(student, teacher, lambda i: random_ids(GPT2, 2, 16, seed=i), iterations=3, learning_rate=1e-3)
    assert all(torch.equal(one, other) for one, other in zip(student.parameters(), before, strict=True))
