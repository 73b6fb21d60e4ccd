"""Record the loss against the time of nanoGPT and Quill on tiny Shakespeare, as docs/results.md describes it.

    python docs/figures/minutes/record.py PATH_OF_NANOGPT [--threads=2] [--runs=FOLDER]

The programs run one after the other. Each evaluation is stamped with the seconds since its command was started, so
the time includes imports, compilation and evaluations. The rows go to NAME/metrics.jsonl beside this file, and
`quill plot` draws them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NANOGPT_SETTINGS = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 "
    "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
NANOGPT_EVALUATION = re.compile(r"step (\d+): train loss [\d.]+, val loss ([\d.]+)")
QUILL_RUNS = {"quill-same-settings": "shakespeare_char_cpu", "quill-fast": "shakespeare_char_fast --eval_interval=115"}
POLL_SECONDS = 0.05


def nanogpt_rows(checkout: Path, environment: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Train nanoGPT by its recipe for a CPU, and yield its evaluations as it prints them."""
    command = [sys.executable, "-u", "train.py", "config/train_shakespeare_char.py", *NANOGPT_SETTINGS.split()]
    start = time.monotonic()
    with subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if match := NANOGPT_EVALUATION.match(line):
                yield row(int(match[1]), time.monotonic() - start, float(match[2]))
    assert process.returncode == 0, f"nanoGPT ended with status {process.returncode}"


def quill_rows(settings: str, folder: Path, environment: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Train Quill, and yield its evaluations as they appear in metrics.jsonl."""
    metrics = folder / "out" / "metrics.jsonl"
    command = [sys.executable, "-m", "quillgpt", "train", *settings.split(), "--out_dir=out"]
    seen = 0
    start = time.monotonic()
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        running = True
        while running:
            running = process.poll() is None
            lines = metrics.read_text(encoding="utf-8").split("\n")[:-1] if metrics.exists() else []
            for line in lines[seen:]:
                numbers = json.loads(line)
                if numbers["kind"] == "eval":
                    yield row(numbers["iter"], time.monotonic() - start, numbers["val_loss"])
            seen = len(lines)
            time.sleep(POLL_SECONDS)
    assert process.returncode == 0, f"quill train ended with status {process.returncode}"


def row(iteration: int, seconds: float, val_loss: float) -> dict[str, Any]:
    """Return an evaluation as metrics.jsonl has it."""
    return {"kind": "eval", "iter": iteration, "seconds": round(seconds, 1), "val_loss": round(val_loss, 4)}


def write(name: str, rows: Iterator[dict[str, Any]]) -> None:
    """Write the record of a run, once it has ended."""
    lines = [json.dumps(numbers) + "\n" for numbers in rows]
    path = HERE / name / "metrics.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Record all runs, each of Quill's with a cache folder of its own that holds nothing but the prepared text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nanogpt", type=Path, help="a checkout of nanoGPT with data/shakespeare_char prepared")
    parser.add_argument("--threads", default="2", help="threads of each program")
    parser.add_argument("--runs", type=Path, help="a new folder that keeps Quill's runs; they are deleted without it")
    given = parser.parse_args()
    write("nanogpt", nanogpt_rows(given.nanogpt, os.environ | {"OMP_NUM_THREADS": given.threads}))
    with tempfile.TemporaryDirectory() as temporary:
        for name, settings in QUILL_RUNS.items():
            folder = (given.runs or Path(temporary)).resolve() / name
            folder.mkdir(parents=True)
            environment = os.environ | {"QUILL_HOME": str(folder / "home")}
            prepare = [sys.executable, "-m", "quillgpt", "prepare", "shakespeare_char"]
            subprocess.run(prepare, cwd=folder, env=environment, check=True)
            write(name, quill_rows(f"{settings} --threads={given.threads}", folder, environment))


if __name__ == "__main__":
    main()
