"""Make `written` and `record.json` with the Quill that is imported: python make.py NEW_FOLDER.

It stops runs in the middle from inside, by names of the commit that README.md names; it works with the code of that
commit, and is not meant to follow later ones.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import machine, rows, state_of, tensors_sha256

from quillgpt.cli import main
from quillgpt.config import resolve
from quillgpt.device import Peak
from quillgpt.proof.faulty import poison_batch
from quillgpt.training import trainer
from quillgpt.training.start import choices

HERE = Path(__file__).resolve().parent
WRITTEN = HERE / "written"

MACHINE = ["--threads=1", "--device=cpu", "--compile=False"]
FLOAT32 = [*MACHINE, "--dtype=float32"]
SOFTMAX = [*FLOAT32, "--attn_path=explicit"]
SMALL = ["--vocab_size=none", "--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=16", "--batch_size=4"]
SHORT = [
    "--max_iters=20", "--lr_decay_iters=20", "--warmup_iters=2", "--learning_rate=1e-2", "--min_lr=1e-3",
    "--eval_interval=4", "--eval_iters=4", "--log_interval=1", "--always_save_checkpoint=False",
]  # fmt: skip
TINY = [*SMALL, *SHORT, "--gradient_accumulation_steps=2"]

DATA = [
    ["verse.txt", "--tokenizer=char"],
    ["prose.txt", "--tokenizer=data/verse/tokenizer.json"],
    ["letters", "--tokenizer=bpe:280", "--deduplicate"],
    ["letters", "--tokenizer=byte", "--dataset=bytes", "--val=prose.txt"],
]  # fmt: skip

Stop = Callable[[], None]


def at(iteration: int, stop: Stop) -> None:
    """Let something happen in the middle of an iteration, counted from 1."""
    iterate = trainer.Trainer._iterate

    def iterate_and_stop(self: trainer.Trainer) -> None:
        if self._run.state.iteration == iteration - 1:
            stop()
        iterate(self)

    trainer.Trainer._iterate = iterate_and_stop  # type: ignore[method-assign]


def interrupted(iteration: int) -> Stop:
    return lambda: at(iteration, lambda: os.kill(os.getpid(), signal.SIGINT))


def killed(iteration: int) -> Stop:
    return lambda: at(iteration, lambda: os.kill(os.getpid(), signal.SIGKILL))


def poisoned_and_interrupted() -> None:
    poison_batch(6)
    interrupted(10)()


def in_float16() -> None:
    choices.choose_dtype = lambda name, device: torch.float16  # type: ignore[attr-defined]
    trainer.peak = lambda device, dtype: Peak(1e12, "assumed")  # type: ignore[attr-defined]


def in_float16_and_interrupted() -> None:
    in_float16()
    interrupted(10)()


RUNS: dict[str, tuple[Stop | None, list[str]]] = {
    "base": (None, ["--dataset=verse", *TINY, "--max_iters=8", *SOFTMAX]),
    "dropout": (interrupted(10), [
        "--dataset=verse", *TINY, *SOFTMAX, "--n_layer=2", "--bias=True", "--dropout=0.2", "--micro_batch_size=2",
        "--patience=6"]),
    "average": (interrupted(9), [
        "--arch=qwen3", "--optimizer=muon", "--dataset=letters", *TINY, *SOFTMAX, "--n_layer=2", "--n_head=4",
        "--n_kv_head=2", "--gradient_accumulation_steps=3", "--micro_batch_size=5", "--lr_schedule=wsd",
        "--decay_fraction=0.5", "--ema_decay=0.8"]),
    "adapters": (interrupted(10), [
        "--init_from=runs/base", "--dataset=prose", *SHORT, "--batch_size=4", "--gradient_accumulation_steps=2",
        *SOFTMAX, "--lora_rank=2", "--lora_dropout=0.1", "--replay=0.25", "--replay_dataset=verse"]),
    "finetuned": (interrupted(10), [
        "--init_from=runs/base", "--dataset=prose", *SHORT, "--batch_size=4", "--gradient_accumulation_steps=2",
        *SOFTMAX, "--replay=0.4", "--replay_dataset=verse", "--dropout=0.1"]),
    "polynomial": (killed(11), [
        "--dataset=verse", *TINY, *FLOAT32, "--attn_type=GKpoly-3", "--learn_tau", "--learn_gain", "--qk_norm",
        "--range_penalty=0.01", "--range_limit=2", "--checkpoint_interval=3"]),
    "gaussian": (interrupted(10), [
        "--arch=qwen3", "--dataset=bytes", *TINY, *FLOAT32, "--attn_type=GKn", "--attn_path=augmented", "--learn_tau",
        "--n_kv_head=1", "--optimizer=muon", "--cautious_weight_decay"]),
    "pointwise": (interrupted(10), [
        "--dataset=verse", *TINY, *MACHINE, "--dtype=bfloat16", "--attn_type=PA_softplus", "--len_scale=pos",
        "--attn_bias=0.1", "--row_norm", "--activation=gelu_new", "--gradient_checkpointing"]),
    "rolled_back": (poisoned_and_interrupted, ["--dataset=verse", *TINY, *SOFTMAX, "--dropout=0.1"]),
    "half": (in_float16_and_interrupted, ["--dataset=verse", *TINY, *MACHINE, "--attn_path=explicit"]),
    "minutes": (interrupted(6), [
        "--dataset=verse", *TINY, *SOFTMAX, "--minutes=1", "--decay_lr=False", "--eval_interval=100000"]),
    "from_nanogpt": (interrupted(5), ["--dataset=nanogpt", *TINY, *SOFTMAX, "--max_iters=8"]),
}  # fmt: skip

RESUME = {
    "base": ["--max_iters=14", "--lr_decay_iters=14"],  # the others go on as they were
}
WORDS = (
    "the river bends where old willows lean and every boat that passes leaves a song for those who wait at evening "
    "with a lamp in the window and bread upon the table"
)


def sentences(count: int, seed: int) -> Iterator[str]:
    for _ in range(count):
        words, known = [], WORDS.split()
        for _ in range(9):
            seed = (seed * 1103515245 + 12345) % 2**31
            words.append(known[(seed >> 8) % len(known)])
        yield " ".join(words) + "."


def write_texts() -> None:
    Path("verse.txt").write_text("\n".join(sentences(60, 1)) + "\n", encoding="utf-8")
    Path("prose.txt").write_text("\n".join(sentences(40, 2)) + "\n", encoding="utf-8")
    Path("letters").mkdir()
    for number in range(14):
        text = "\n".join(sentences(5, 3 + number % 13)) + "\nYours, Zoë\n"  # the last one is the first again
        Path(f"letters/{number:02d}.txt").write_text(text, encoding="utf-8")


def write_nanogpt_data(folder: Path) -> None:
    """Write a data set as nanoGPT's prepare.py for characters does."""
    text = "\n".join(sentences(50, 4)) + "\n"
    characters = sorted(set(text))
    numbers = {character: number for number, character in enumerate(characters)}
    ids = np.array([numbers[character] for character in text], dtype=np.uint16)
    folder.mkdir(parents=True)
    cut = len(ids) * 9 // 10
    ids[:cut].tofile(folder / "train.bin")
    ids[cut:].tofile(folder / "val.bin")
    meta = {"vocab_size": len(characters), "itos": dict(enumerate(characters)), "stoi": numbers}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def quill(*words: str, before: Stop | None = None) -> int:
    """Run a command in a process of its own, and return its status."""
    child = os.fork()
    if child == 0:
        if before:
            before()
        os._exit(main(list(words)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def results(*words: str) -> list[dict[str, Any]]:
    """Return what a command prints with --json."""
    machine = ("--threads=1", "--device=cpu", "--dtype=float32", "--json")
    with redirect_stdout(StringIO()) as printed:
        assert main([*words, *machine]) == 0
    return [json.loads(line) for line in printed.getvalue().splitlines()]


def measured(model: str) -> dict[str, Any]:
    """Return a model's losses, and what it finds likeliest."""
    dataset = ["--dataset=verse"] if model == "exported/nanogpt" else []
    losses = {found["split"]: found["loss"] for found in results("eval", model, *dataset)}
    sample = results("sample", model, "--temperature=0", "--num_samples=1", "--max_new_tokens=24")
    return {"losses": losses, "sample": sample[0]["text"]}


def make() -> None:
    """Write data sets, runs and exports into the current folder, and keep them."""
    write_texts()
    for words in DATA:
        assert quill("prepare", *words) == 0
    write_nanogpt_data(Path("data/nanogpt"))
    for name, (before, words) in RUNS.items():
        print(name, quill("train", *words, f"--out_dir=runs/{name}", before=before), flush=True)
    for target in ("hf", "nanogpt"):
        assert quill("export", "runs/dropout", f"exported/{target}", f"--to={target}") == 0
    shutil.rmtree(WRITTEN, ignore_errors=True)
    no_locks = shutil.ignore_patterns(".lock", ".running", ".*.lock")
    shutil.copytree(".", WRITTEN, symlinks=True, ignore=no_locks)


def go_on_for_seconds() -> None:
    """Go on with the run that has a minute, as if most of it had passed."""
    settings = resolve("runs/minutes/config.toml", {"init_from": "resume"}, environ={}, dotenv=None)
    trainer.train(settings, started=time.perf_counter() - 50)
    os._exit(0)


def record() -> dict[str, Any]:
    """Evaluate and resume what was kept, in the current folder, and return what came of it."""
    shutil.copytree(WRITTEN, ".", symlinks=True, dirs_exist_ok=True)
    models = [f"runs/{name}/checkpoints/{link}" for name in RUNS for link in ("best", "last")]
    models += ["exported/hf", "exported/nanogpt"]
    said: dict[str, Any] = {
        "machine": machine(),
        "data": DATA,
        "models": {model: measured(model) for model in models},
        "runs": {},
    }
    for name in RUNS:
        command = ["train", f"runs/{name}/config.toml", "--init_from=resume", *RESUME.get(name, [])]
        before = {"half": in_float16, "minutes": go_on_for_seconds}.get(name)
        assert quill(*command, before=before) == 0, name
        last = Path(f"runs/{name}/checkpoints/last")
        said["runs"][name] = {
            "command": command,
            "metrics": rows(Path(f"runs/{name}/metrics.jsonl"))[:80],
            "tensors": tensors_sha256(last),
            "state": state_of(last),
        }
    return said


if __name__ == "__main__":
    home = Path(sys.argv[1]).resolve() / "home"
    os.environ |= {"QUILL_QUIET": "1", "QUILL_HOME": str(home)}
    for step in (make, record):
        place = home.parent / step.__name__
        place.mkdir(parents=True)
        os.chdir(place)
        said = step()
    (HERE / "record.json").write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
