"""nanoGPT's config files are read as data: what is read, what is refused, and that nothing runs."""

from pathlib import Path

import pytest

from quillgpt.config import TrainSettings, resolve
from quillgpt.config.nanogpt_config import read_nanogpt
from quillgpt.errors import ConfigError

DEFAULTS = {name: field.default for name, field in TrainSettings.model_fields.items()}


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


def value_of(folder: Path, expression: str) -> object:
    """Return the value of an expression, for a setting that takes any text or number."""
    return read_nanogpt(config(folder, f"width = 64\nwandb_run_name = {expression}"), DEFAULTS).values["wandb_run_name"]


def refusal(folder: Path, text: str) -> str:
    path = config(folder, text)
    with pytest.raises(ConfigError) as caught:
        settings(path)
    return str(caught.value).removeprefix(f"{path} ")


@pytest.mark.parametrize(
    "expression",
    ["'ft-' + str(time.time())", "f'ft-{int(time.time())}'", "'ft-%d' % time.time()", "'ft-{}'.format(time.time())"],
)
def test_clock_is_read_as_text(tmp_path: Path, expression: str) -> None:
    name = value_of(tmp_path, expression)
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
        ("int(width * 0.05)", 3),
        ("round(2.567, 1)", 2.6),
        ("abs(min(3, -4)) + max([1, 2])", 6),
        ("float('1e-3')", 0.001),
        ("1 << 10", 1024),
        ("'run-' + str(width)", "run-64"),
        ("'ab' * 2 + '-'", "abab-"),
        ("'%s-%d' % ('a', width)", "a-64"),
        ("f'lr{1e-3:.0e}_{width!r:>4}'", "lr1e-03_  64"),
        ("f'{width:{4}}'", "  64"),
        ("'{}-{:.1f}'.format(width, 2)", "64-2.0"),
        ("width if width > 32 else 'small'", 64),
        ("16 < width <= 64 and not width == 8", True),
        ("None or width", 64),
        ("'a' in 'cat'", True),
        ("{'small': (6, 384)}['small'][1]", 384),
        ("[1, 2, 3][-1]", 3),
        ("math.ceil(7 / 2) * math.sqrt(4)", 8.0),
        ("os.path.join('runs', 'a')", "runs/a"),
        ("f'{dataset}-{block_size}'", "openwebtext-1024"),  # nanoGPT's files see the values that train.py has
    ],
)
def test_values(tmp_path: Path, expression: str, value: object) -> None:
    result = value_of(tmp_path, expression)
    assert result == value
    assert type(result) is type(value)


def test_loose_numbers_as_in_nanogpt(tmp_path: Path) -> None:
    read = settings(config(tmp_path, "steps = 1e4\nmax_iters = steps / 2\nbias = 0\neval_iters = None\n_private = 3"))
    assert (read.max_iters, read.bias, read.eval_iters) == (5000, False, None)


def test_close_unknown_name_is_suggested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings(config(tmp_path, "learning_rat = 1\n_private = 3"))
    warning = capsys.readouterr().err
    assert "learning_rat (did you mean learning_rate?)" in warning
    assert "_private" not in warning


FORK = '''"""A run of a fork."""
import os, sys
import torch.nn as nn
from datetime import datetime

size: str = "small"
layers, width = {"small": (2, 32), "large": (12, 768)}[size]
n_layer, (n_head, n_embd) = layers, (2, width)
max_iters = 200
max_iters += 100
warmup_iters = int(max_iters * 0.05)
lr_decay_iters = max_iters if max_iters < 1000 else 1000
wandb_run_name = f"{size}-{n_layer}x{n_embd}-" + datetime.now().strftime("%Y")
if size == "small":
    dropout = 0.0
else:
    dropout = open("secret").read()
if __name__ == "__main__":
    batch_size = 4

my_options = {"router": [1, 2], "path": os.environ.get("HOME")}
my_squares = [step ** 2 for step in range(10)]
os.environ["WANDB_SILENT"] = "true"
os.makedirs("touched", exist_ok=True)
print(f"training {size} for {max_iters}")
def helper(seed):
    seed = 5
    return seed
for seed_of_ours in range(3):
    helper(seed_of_ours)
config = {key: each for key, each in globals().items() if key[0] != "_"}
dtype = 'bfloat16' if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else 'float16'
device = 'cuda' if torch.cuda.is_available() else 'cpu'
if torch.cuda.is_available():
    compile = True
else:
    compile = False
'''


def test_a_forks_file_is_read_as_far_as_settings_need_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read = settings(config(tmp_path, FORK))
    assert (read.n_layer, read.n_head, read.n_embd, read.batch_size) == (2, 2, 32, 4)
    assert (read.max_iters, read.warmup_iters, read.lr_decay_iters, read.dropout) == (300, 15, 300, 0.0)
    assert read.wandb_run_name.startswith("small-2x32-20")
    assert (read.device, read.dtype, read.compile, read.seed) == ("auto", "auto", "auto", 1337)
    said = capsys.readouterr().err
    assert "asks the machine for dtype, device, compile; Quill chooses it (auto)" in said
    for what in ("print() (line 25)", "os.makedirs() (line 24)", "a function (line 26)", "a loop (line 29)"):
        assert what in said
    ignored = said.partition("ignored: ")[2].splitlines()[0].split(", ")
    assert {"size", "my_options", "my_squares", "config"} == set(ignored) - {"layers", "width"}
    assert "os" not in ignored
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("seed = open('f').read()", "a call of open"),
        ("seed = int(os.environ.get('SEED', 1))", "a call of os.environ.get"),
        ("batch_size = 64 if torch.cuda.is_available() else 12", "torch.cuda.is_available()"),
        ("device = 'cuda' if torch.cuda.is_available() else open('f').read()", "a call of open"),
        ("device = 'cuda' if torch.cuda.is_available() and os.getenv('X') else 'cpu'", "a call of os.getenv"),
        ("device = f'cuda:{rank}'", "the name rank"),
        ("dtype = torch.float16", "the attribute torch.float16"),
        ("seed = ().__class__", "an attribute"),
        ("seed = lambda: 1", "a function"),
        ("y = (seed := 3)", "an assignment within an expression"),
        ("if open('f'): seed = 1", "an if statement that depends on a call of open"),
        ("for seed in 'ab': pass", "a loop"),
        ("while y: seed = 1", "a loop"),
        ("with y as seed: pass", "a with statement"),
        ("def seed(): pass", "a function"),
        ("import seed", "an import of seed"),
        ("from base import n_layer", "an import of base.n_layer"),
        ("from base import *", "from base import *"),
        ("exec(open('base.py').read())", "exec()"),
        ("globals()['seed'] = 3", "globals()"),
        ("globals().update(seed=3)", "globals()"),
        ("z = locals()", "locals()"),
        ("seed, z = y", "an unpacking"),
        ("seed, *z = [1, 2]", "an unpacking"),
        ("seed = unset", "the name unset"),
        ("del max_iters", "a deletion"),
        ("seed = -'a'", "which has no value"),
        ("seed = 1 / 0", "which has no value"),
        ("seed = 9.0 ** 999", "which has no value"),
        ("seed = (-1) ** 0.5", "no usable number"),
        ("seed = 1j", "a constant"),
        ("seed = sum(y for y in [1])", "a comprehension"),
        ("seed = max([1], key=len)", "a call"),
        ("seed = " + "-" * 500 + "1 ** 2 @ 3", "a binop"),
        ("int = 3; seed = int(4)", "a call"),
        ("def f():\n  global seed\n  seed = 3\nf()\nseed = 4", "f, which is not run and would set it"),
        ("z = [1]; z.append(2); seed = len(z)", "z.append()"),
        ("z = [1]; w = z; w.append(2); seed = z[-1]", "w.append()"),
    ],
)
def test_what_decides_a_setting_and_is_not_understood_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refusal(tmp_path, f"# a comment\ny = 1\n{line}\n")
    assert message.startswith("line 3: found ")
    assert what in message


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("9 ** 9 ** 9", "a power that is too large"),
        ("1 << 10 ** 9", "a number that is too large"),
        ("0x" + "f" * 5000, "no usable number"),
        ("'a' * 10 ** 9", "too long"),
        ("10 ** 9 * [1]", "too long"),
        ("f'{1:1000000000}'", "too long"),
        ("f'{1:0000000010000000000}'", "too long"),
        ("'%1000000000d' % 1", "too long"),
        ("'%*d' % (10 ** 9, 1)", "too long"),
        ("'{:{}}'.format(1, 10 ** 9)", "too long"),
        ("'{0.__class__}'.format(1)", "fields that are not plain"),
        ("time.strftime('%1000000000Y')", "too long"),
        ("round(5, -10 ** 9)", "rounding"),
        ("-" * 100_000 + "1", ""),
        ("[" * 100_000, ""),
        ("(" * 90 + "1" + ",)" * 90 + "[0]" * 90, ""),
    ],
)
def test_what_would_be_large_is_refused_before_it_is_computed(tmp_path: Path, expression: str, what: str) -> None:
    assert what in refusal(tmp_path, f"wandb_run_name = {expression}")
    try:  # and a name of the file's own harms nobody, where the file can be read at all
        assert settings(config(tmp_path, f"mine = {expression}\nseed = 3")).seed == 3
    except ConfigError:
        assert not what


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("x = 'a'\n" + "x = x + x\n" * 40, "line 15: found a text that is too long"),
        ("x = 10\n" + "x = x * x\n" * 40, "no usable number"),
        ("x = [1]\n" + "x = [x, x, x, x, x, x, x, x, x, x]\n" * 40, "line 4: found a list that is too long"),
        ("x = {0: 1}\n" + "x = {0: x, 1: x, 2: x, 3: x}\n" * 40, "a list that is too long"),
    ],
)
def test_what_grows_from_line_to_line_is_bounded(tmp_path: Path, lines: str, what: str) -> None:
    assert what in refusal(tmp_path, lines + "wandb_run_name = f'{x}'")


def test_the_head_of_nanogpts_train_is_a_config_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
import torch
max_iters = 7
dtype = 'bfloat16' if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else 'float16'
config_keys = [k for k, v in globals().items() if not k.startswith('_') and isinstance(v, (int, float, bool, str))]
exec(open('configurator.py').read()) # overrides from command line or config file
config = {k: globals()[k] for k in config_keys}
"""
    read = settings(config(tmp_path, text))
    assert (read.max_iters, read.dtype) == (7, "auto")
    assert "skipped, since no setting depends on it: exec() (line 6)" in capsys.readouterr().err
    assert "exec()" in refusal(tmp_path, text.replace("configurator.py", "other.py"))


def test_python_that_does_not_parse(tmp_path: Path) -> None:
    assert refusal(tmp_path, "x = 1\ny = = 2\n").startswith("line 2: not valid Python")


def test_value_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"n_layer = 'six' in .*config.py must be a whole number above 0"):
        settings(config(tmp_path, "n_layer = 'six'"))
    with pytest.raises(ConfigError, match=r"seed = \{'a': 1\} in .*config.py must be a whole number"):
        settings(config(tmp_path, "seed = {'a': 1}"))
