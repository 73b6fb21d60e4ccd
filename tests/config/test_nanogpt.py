"""nanoGPT's config files are read as data: what is read, what is refused, and that nothing runs."""

from pathlib import Path

import pytest

from quillgpt.config import TrainSettings, resolve
from quillgpt.config.nanogpt import read_nanogpt
from quillgpt.errors import ConfigError


def config(folder: Path, text: str) -> Path:
    path = folder / "config.py"
    path.write_text(text, encoding="utf-8")
    return path


def settings(path: Path) -> TrainSettings:
    return resolve(str(path), {}, environ={}, dotenv=None)


FINETUNE = '''"""Finetune."""
import time

out_dir = 'out-shakespeare'
wandb_log = False
wandb_project = 'shakespeare'
wandb_run_name = 'ft-' + str(time.time())
init_from = 'gpt2-xl' # this is the largest GPT-2 model
always_save_checkpoint = False
batch_size = 1
gradient_accumulation_steps = 4 * 8
learning_rate = 3e-5
decay_lr = False
dropout = 0
device = 'cpu'
compile = False
dtype = 'float32'
'''


def test_file_like_nanogpts_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = settings(config(tmp_path, FINETUNE))
    assert read.wandb_run_name.startswith("ft-")
    assert read == TrainSettings(
        wandb_project="shakespeare",
        wandb_run_name=read.wandb_run_name,
        out_dir="out-shakespeare",
        init_from="gpt2-xl",
        always_save_checkpoint=False,
        batch_size=1,
        gradient_accumulation_steps=32,
        learning_rate=3e-5,
        decay_lr=False,
        device="cpu",
        compile=False,
        dtype="float32",
    )
    assert capsys.readouterr().err == ""


NANOGPT = (
    "out_dir eval_interval log_interval eval_iters eval_only always_save_checkpoint init_from wandb_log "
    "wandb_project wandb_run_name dataset gradient_accumulation_steps batch_size block_size n_layer n_head n_embd "
    "dropout bias learning_rate max_iters weight_decay beta1 beta2 grad_clip decay_lr warmup_iters lr_decay_iters "
    "min_lr backend device dtype compile "
)
"""The names of the settings in nanoGPT's train.py."""


def test_every_setting_of_nanogpts_train_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = TrainSettings().model_dump()
    read = settings(config(tmp_path, "".join(f"{name} = {values[name]!r}\n" for name in NANOGPT.split())))
    assert read == TrainSettings()
    assert capsys.readouterr().err == ""
    assert (values["wandb_log"], values["wandb_project"], values["wandb_run_name"]) == (False, "owt", "gpt2")
    assert values["backend"] == "nccl"


def test_clock_is_read_as_text(tmp_path: Path) -> None:
    name = read_nanogpt(config(tmp_path, "name = 'ft-' + str(time.time())"))["name"]
    assert isinstance(name, str)
    assert float(name.removeprefix("ft-")) > 1e9


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("5 * 8", 40),
        ("2 + 3 * 4", 14),
        ("-(2 - 3)", 1),
        ("7 // 2", 3),
        ("7 / 2", 3.5),
        ("7 % 4", 3),
        ("2 ** 10", 1024),
        ("2 ** -1", 0.5),
        ("width * 2", 128),
        ("'a' + 'b'", "ab"),
        ("None", None),
        ("(0.9, 0.95)", [0.9, 0.95]),
        ("1_000", 1000),
    ],
)
def test_values(tmp_path: Path, expression: str, value: object) -> None:
    assert read_nanogpt(config(tmp_path, f"width = 64\nx = {expression}"))["x"] == value


def test_loose_numbers_as_in_nanogpt(tmp_path: Path) -> None:
    read = settings(config(tmp_path, "steps = 1e4\nmax_iters = steps / 2\nbias = 0\neval_iters = None\n_private = 3"))
    assert (read.max_iters, read.bias, read.eval_iters) == (5000, False, None)


def test_close_unknown_name_is_suggested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings(config(tmp_path, "learning_rat = 1\n_private = 3"))
    warning = capsys.readouterr().err
    assert "learning_rat (did you mean learning_rate?)" in warning
    assert "_private" not in warning


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import os", "an import other than"),
        ("import time as t", "an import other than"),
        ("import time, os", "an import other than"),
        ("from os import system", "an import"),
        ("x = open('f').read()", "a call"),
        ("x = str(3)", "a call"),
        ("x = time.time()", "a call"),
        ("open('touched', 'w')", "an expression"),
        ("x = ().__class__", "an attribute"),
        ("x = [1][0]", "a subscript"),
        ("x = f'{1}'", "a formatted string"),
        ("x = 1 if True else 2", "a conditional value"),
        ("x = lambda: 1", "a function"),
        ("x = (y := 3)", "namedexpr"),
        ("if True: x = 1", "an if statement"),
        ("for x in 'ab': pass", "a loop"),
        ("def f(): pass", "a function"),
        ("y += 1", "an assignment that changes a value"),
        ("y: int = 1", "an assignment with a type"),
        ("y, z = 1, 2", "an assignment to something other than a name"),
        ("y.z = 1", "an assignment to something other than a name"),
        ("x = unset", "the name unset"),
        ("x = 'a' * 10", "arithmetic on 'a' and 10"),
        ("x = -'a'", "'a', where a number is needed"),
        ("x = 9 ** 9 ** 9", "a power that is too large"),
        ("x = 1 / 0", "arithmetic that fails"),
        ("x = 9.0 ** 999", "arithmetic that fails"),
        ("x = (-1) ** 0.5", "no usable number"),
        ("x = 1j", "constant"),
        ("x = " + "-" * 500 + "1 ** 2 @ 3", "binop"),
    ],
)
def test_all_else_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = config(tmp_path, f"# a comment\ny = 1\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        read_nanogpt(path)
    assert str(caught.value).startswith(f"{path} line 3: found ")
    assert found in str(caught.value)
    assert not (tmp_path / "touched").exists()


def test_doubling_text_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 15: found a text that is too long"):
        read_nanogpt(config(tmp_path, "x = 'a'\n" + "x = x + x\n" * 40))


def test_squaring_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no usable number"):
        read_nanogpt(config(tmp_path, "x = 10\n" + "x = x * x\n" * 40))


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_nanogpt(config(tmp_path, "x = " + "-" * 100_000 + "1"))


def test_python_that_does_not_parse(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2: not valid Python"):
        read_nanogpt(config(tmp_path, "x = 1\ny = = 2\n"))


def test_value_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"n_layer = 'six' in .*config.py must be a whole number above 0"):
        settings(config(tmp_path, "n_layer = 'six'"))


def test_lists_of_lists_and_literals_are_bounded(tmp_path: Path) -> None:
    doubling = "x = [1]\n" + "x = [x, x, x, x, x, x, x, x, x, x]\n" * 40
    with pytest.raises(ConfigError, match="line 4: found a list that is too long"):
        read_nanogpt(config(tmp_path, doubling))
    with pytest.raises(ConfigError, match="line 1: found a number that is too large"):
        read_nanogpt(config(tmp_path, "x = 0x" + "f" * 5000))
