"""The whole way as a person types it, each command a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import warm

PYTHON = [sys.executable, "-m", "quillgpt"]

SMALL = [
    "--n_layer=2",
    "--n_head=2",
    "--n_embd=32",
    "--block_size=32",
    "--batch_size=8",
    "--learning_rate=1e-2",
    "--warmup_iters=5",
    "--eval_interval=20",
    "--eval_iters=2",
    "--log_interval=5",
    "--device=cpu",
    "--dtype=float32",
    "--threads=1",
    "--compile=False",
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    lines = [
        f"The {colour} cat sat on the {place} for {day} days, and nobody minded.\n"
        for day in range(60)
        for colour in ["red", "blue", "green"]
        for place in ["mat", "sofa", "wall", "bed"]
    ]
    (tmp_path / "book.txt").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("QUILL_") or name in ("QUILL_HOME", "QUILL_MIRROR")
    }


def quill(home: Path, *words: str, program: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*(program or [warm.quill()]), *words],
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_from_a_text_to_a_model_that_speaks(home: Path) -> None:
    words = ["train", "--data", "book.txt", "--max_iters=60", "--lr_decay_iters=60", *SMALL]
    trained = quill(home, *words, program=PYTHON)
    assert "quill sample out-book" in trained.stderr
    summary = json.loads((home / "out-book" / "summary.json").read_text())
    assert summary["val_loss_full"] < 1.5

    words = ["sample", "out-book", "--num_samples=2", "--max_new_tokens=40", "--start=The "]
    sampled = quill(home, *words, program=[PYTHON[0], "-X", "importtime", *PYTHON[1:]])
    assert "torch.nn" in sampled.stderr
    assert "torch._dynamo" not in sampled.stderr  # the compiler, which takes longer to import than all else takes
    first, second, rest = sampled.stdout.split("\n---------------\n")
    assert first.startswith("The ")
    assert len(first) == 44
    assert second.startswith("The ")
    assert second != first
    assert rest == ""
    assert "out-book/checkpoints/iter-" in sampled.stderr

    rows = quill(
        home, "sample", "--out_dir=out-book", "--json", "--num_samples=2", "--max_new_tokens=40", "--start=The "
    )
    samples = [json.loads(line) for line in rows.stdout.splitlines()]
    assert [sample["prompt"] + sample["text"] for sample in samples] == [first, second]
    assert {sample["finish_reason"] for sample in samples} == {"length"}

    evaluated = json.loads(
        quill(home, "eval", "out-book", "--dataset=book", "--split=val", "--dtype=float32", "--json").stdout
    )
    assert evaluated["loss"] == pytest.approx(summary["val_loss_full"], abs=1e-5)
    assert "book" in quill(home, "info", "out-book").stdout


def test_the_checkpoint_gives_the_same_loss_through_transformers(home: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quill(home, "train", "--data", "book.txt", "--max_iters=40", "--lr_decay_iters=40", *SMALL)
    folder = home / "out-book" / "checkpoints" / "best"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = (home / "book.txt").read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text[int(len(text) * 0.9) :])["input_ids"])
    blocks = (len(ids) - 1) // 32
    inputs, targets = ids[: blocks * 32].view(-1, 32), ids[1 : blocks * 32 + 1].view(-1, 32)
    with torch.no_grad():
        logits = model(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    summary = json.loads((home / "out-book" / "summary.json").read_text())
    assert float(loss) == pytest.approx(summary["val_loss_full"], abs=1e-5)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for another process")
@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)])
def test_a_signal_saves_and_says_how_to_go_on(home: Path, number: str, status: int) -> None:
    words = ["train", "--data", "book.txt", "--max_iters=100000", *SMALL]
    process = subprocess.Popen([warm.quill(), *words], cwd=home, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("iter 30"):
            process.send_signal(signal.Signals[number])
            break
    rest = process.stderr.read()
    assert process.wait(timeout=60) == status
    assert "quill train out-book/config.toml --init_from=resume" in rest
    state = json.loads((home / "out-book/checkpoints/last/training/state.json").read_text())
    stopped = state["iteration"]
    assert stopped >= 30

    resumed = quill(home, "train", "out-book/config.toml", "--init_from=resume", f"--max_iters={stopped + 10}")
    assert f"iteration {stopped} of {stopped + 10}" in resumed.stderr
    iterations = [json.loads(line)["iter"] for line in (home / "out-book/metrics.jsonl").read_text().splitlines()]
    assert iterations == sorted(iterations)


def test_a_dry_run_says_what_a_quiet_run_then_does(home: Path) -> None:
    words = ["train", "--data", "book.txt", "--max_iters=20", *SMALL]
    before = sorted(home.rglob("*"))
    planned = quill(home, *words, "--dry_run", "--quiet")
    assert sorted(home.rglob("*")) == before
    assert planned.stderr == ""
    trained = quill(home, *words, "--quiet")
    assert [line.split(" in ")[0] for line in trained.stderr.splitlines()] == ["done"]
    assert (trained.stdout, (home / "out-book" / "summary.json").is_file()) == ("", True)
    parameters = json.loads((home / "out-book" / "summary.json").read_text())["parameters"]
    assert f"{parameters:,}" in planned.stdout
    evaluated = quill(home, "train", "out-book/config.toml", "--resume", "--eval_only", "--quiet")
    assert evaluated.stderr.startswith("evaluation at iter 20")


ERRORS = [
    (["train", "shakespear"], 2, "shakespear"),
    (["train", "--data", "missing.txt"], 1, "missing.txt"),
    (["train", "--data", "binary.txt"], 1, "binary.txt"),
    (["train", "--data", "empty.txt"], 1, "empty.txt"),
    (["train", "--data", "book.txt", "--n_embd=100", "--n_head=3"], 2, "n_embd = 100 is not divisible by n_head = 3"),
    (["train", "--data", "book.txt", "--device=gpu"], 1, "device = gpu"),
    (["train", "--dataset=nowhere", "shakespeare_char_cpu"], 1, "nowhere"),
    (["train", "--data", "book.txt", "--init_from=resume"], 1, "no checkpoint to resume"),
    (["sample"], 1, "out does not exist"),
    (["sample", "book.txt"], 1, "book.txt"),
    (["eval", "nowhere", "--dataset=book"], 1, "nowhere"),
    (["info", "."], 1, "holds no model"),
    (["prepare", "shakespear_char"], 1, "did you mean shakespeare_char?"),
    (["prepare", "book.txt", "--tokenizer=bpee"], 1, "bpee"),
]


@pytest.mark.parametrize(
    ("words", "status", "named"), ERRORS, ids=lambda each: " ".join(each) if isinstance(each, list) else ""
)
def test_a_mistake_is_one_line_that_names_it(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    named: str,
) -> None:
    from quillgpt.cli import main

    (home / "binary.txt").write_bytes(bytes(range(256)) * 20)
    (home / "empty.txt").write_bytes(b"")
    monkeypatch.chdir(home)
    assert main(words) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("quill: ")]
    assert len(lines) == 1
    assert named in lines[0]
    assert not list(home.glob("out*"))


def test_help_answers_at_once_and_without_torch() -> None:
    code = "import sys; from quillgpt.cli import main; main(['--help']); print('torch' in sys.modules, file=sys.stderr)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 10
    assert done.stderr.strip() == "False"
