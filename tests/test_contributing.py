"""Follows every recipe of CONTRIBUTING.md on a copy of the package, and uses what they add there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers

import warm

ROOT = Path(__file__).resolve().parents[1]
RECIPES = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Adding ...")[2]
BLOCK = re.compile(r"^```(\w+)\n# (src/quillgpt/[\w/]+\.\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = "".join(f"the {number} of the {animal} is {number % 7}\n" for number in range(60) for animal in ("cat", "dog"))
SMALL = ("--block_size=8", "--batch_size=2", "--eval_interval=3", "--eval_iters=1", "--threads=1", "--compile=False")

Quill = Callable[..., str]


def follow(recipes: str, root: Path) -> None:
    """Do what the blocks of a text say: a diff changes the one place that it shows, any other block is a new file."""
    for language, name, content in BLOCK.findall(recipes):
        path = root / name
        if language == "diff":
            lines = content.splitlines(keepends=True)
            before, after = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
            source = path.read_text(encoding="utf-8")
            assert source.count(before) == 1, f"{name} has this {source.count(before)} times:\n{before}"
            path.write_text(source.replace(before, after), encoding="utf-8")
        else:
            assert not path.exists(), name
            path.write_text(content, encoding="utf-8")


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the PYTHONPATH of a copy of the package that has what the recipes add."""
    root = tmp_path_factory.mktemp("contributed")
    source = root / "src" / "quillgpt"
    shutil.copytree(ROOT / "src" / "quillgpt", source, ignore=shutil.ignore_patterns("__pycache__"))
    follow(RECIPES, root)
    return os.pathsep.join(filter(None, [str(source.parent), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a text, in which all commands run."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def quill(modules: str, folder: Path) -> Quill:
    """Return a function that runs a command of the copy and returns what it prints."""
    environment = os.environ | {"PYTHONPATH": modules, "COLUMNS": "300"}

    def run(*words: str, **variables: str) -> str:
        command = [str(warm.commands(modules) / "quill"), *words]
        ended = subprocess.run(command, cwd=folder, env=environment | variables, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return run


@pytest.fixture(scope="module")
def trained(quill: Quill, folder: Path) -> Path:
    """Return a folder of runs with the preset, the optimizer and the tokenizer of the recipes.

    `whole` has six iterations without a break, `resumed` three and three.
    """
    common = ("--optimizer=sgd", "--learning_rate=0.1", "--warmup_iters=0", *SMALL)
    start = ("train", "tiny", "--data=text.txt", "--tokenizer=ascii", *common)
    quill(*start, "--out_dir=whole", "--max_iters=6")
    quill(*start, "--out_dir=resumed", "--max_iters=3")
    quill("train", "--init_from=resume", "--out_dir=resumed", "--max_iters=6")
    return folder


def test_every_block_names_its_file() -> None:
    assert len(BLOCK.findall(RECIPES)) == RECIPES.count("\n```") / 2
    assert len(BLOCK.findall(RECIPES)) > 12


def test_the_tests_of_optimizers_and_kernels_hold_for_what_is_added(modules: str) -> None:
    names = ("optim/test_optimizers", "optim/test_load_state", "attention/test_kernels", "attention/test_pointwise")
    chosen = [f"tests/{name}.py" for name in (*names, "model/test_cost")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *chosen, "-k", "sgd or PA_abs"]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": modules}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.partition("[100%]")[0].count(".") > 40


def test_a_preset_is_listed_and_shown(quill: Quill) -> None:
    (line,) = [line for line in quill("configs").splitlines() if line.startswith("tiny ")]
    assert line.split(maxsplit=1)[1] == "Tiny Shakespeare by characters, with a model that trains in seconds."
    assert "n_embd = 32" in quill("configs", "show", "tiny")


def test_an_optimizer_resumes_to_the_bit(trained: Path) -> None:
    for name in ("model.safetensors", "training/optimizer.safetensors"):
        whole, resumed = ((trained / run / "checkpoints" / "last" / name).read_bytes() for run in ("whole", "resumed"))
        assert whole == resumed
    lines = (trained / "whole" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [record["val_loss"] for record in map(json.loads, lines) if record["kind"] == "eval"]
    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)


def test_a_dry_run_plans_with_the_optimizer(quill: Quill) -> None:
    plan = {
        optimizer: re.search(
            r"gradients ([\d.]+ \w+), optimizer ([\d.]+ \w+)",
            quill("train", "tiny", "--dry_run", "--data=text.txt", f"--optimizer={optimizer}", *SMALL),
        )
        for optimizer in ("sgd", "adamw")
    }
    gradients, optimizer = plan["sgd"].groups()
    assert optimizer == gradients  # one value for each parameter
    assert plan["adamw"][2] != gradients


def test_an_activation_is_trained_with_and_sampled_from(quill: Quill, folder: Path) -> None:
    words = (
        "--data=text.txt",
        "--tokenizer=byte",
        "--dataset=bytes",
        "--attn_type=PA_abs",
        "--out_dir=abs",
        "--max_iters=2",
    )
    quill("train", "tiny", *words, *SMALL)
    assert 'attn_type = "PA_abs"' in (folder / "abs" / "config.toml").read_text(encoding="utf-8")
    assert quill("sample", "abs", "--num_samples=1", "--max_new_tokens=4")
    assert "(abs, gelu" in quill("train", "--help")


def test_a_tokenizer_is_what_the_run_and_other_programs_have(quill: Quill, trained: Path) -> None:
    theirs = tokenizers.Tokenizer.from_file(str(trained / "whole" / "checkpoints" / "last" / "tokenizer.json"))
    ids = theirs.encode(TEXT).ids
    assert theirs.decode(ids) == TEXT
    manifest = json.loads((trained / "data" / "text" / "dataset.json").read_text(encoding="utf-8"))
    assert manifest["tokenizer"]["name"] == "ascii"
    stored = b"".join((trained / "data" / "text" / name).read_bytes() for name in ("train.bin", "val.bin"))
    assert stored == b"".join(id.to_bytes(2, "little") for id in ids)
    assert quill("sample", "whole", "--start=the cat", "--num_samples=1").startswith("the cat")
    assert "'\u00e9' is not ASCII" in refusal(quill, "sample", "whole", "--start=caf\u00e9")


def refusal(quill: Quill, *words: str) -> str:
    """Return the line with which a command is refused."""
    with pytest.raises(AssertionError, match="quill: ") as caught:
        quill(*words)
    return str(caught.value)


def test_a_command_has_its_help_its_settings_and_their_documentation(quill: Quill, modules: str) -> None:
    assert "Count the tokens of a text." in quill("--help")
    assert "--show_ids" in quill("count", "--help")
    assert quill("count", "text.txt") == f"{len(TEXT):,} tokens\n"
    assert (
        quill("count", "text.txt", "--count_with", "char", "--show_ids").split()[:3]
        == quill("count", "text.txt", QUILL_COUNT_WITH="char", QUILL_SHOW_IDS="true").split()[:3]
    )
    page = subprocess.run(
        [sys.executable, "-m", "quillgpt.config.documentation"],
        env=os.environ | {"PYTHONPATH": modules},
        capture_output=True,
        text=True,
    ).stdout
    assert "## quill count" in page
    assert "| `show_ids` |" in page
    assert "sgd" in page


@pytest.mark.parametrize(("target", "runtime"), [("arrays", "NumPy arrays, read by Quill"), ("hf", "transformers")])
def test_an_export_is_opened_and_certified(quill: Quill, trained: Path, target: str, runtime: str) -> None:
    """The target is what a recipe adds, and the tokenizer of another recipe is the same in transformers."""
    quill("export", "whole", target, f"--to={target}")
    certificate = json.loads((trained / target / "certificate.json").read_text(encoding="utf-8"))
    assert certificate["runtime"].startswith(runtime)
    assert {check["result"] for check in certificate["checks"]} == {"passed"}
    assert "tokenizer.json" in certificate["files"]
