"""What a run learns: the end of a text, but nothing from a poisoned batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from quillgpt.api import Model, load
from quillgpt.checkpoint.names import LAST, checkpoints_folder
from quillgpt.data.batches import all_offsets, gather
from quillgpt.data.dataset import open_dataset
from quillgpt.model import GPT
from quillgpt.proof.compare import require, require_equal_runs
from quillgpt.proof.proved_model import DOCUMENTS, ITERATIONS, SAVED_EVERY, ProvedModel
from quillgpt.proof.sandbox import FAULTY, Sandbox, last_state

LONGEST_BLOCK = 128
"""The longest context for learning the documents, each of which is a small part of it."""

LOWEST_LEARNING_RATE = 1e-3
"""With the learning rate of a finetuning preset, so short a run would learn nothing."""

TRAINED_SHARE = 0.5
"""Loss on end-of-text after training, at most, as a share of the loss before."""

SAMPLES, SAMPLED_TOKENS = 8, 300

ENDED_SHARE = 0.5
"""The share of samples that must end by themselves. After so short a run some samples do not end, but a model that has
not learned the end of a text never ends."""

POISONED = ITERATIONS // 2 + SAVED_EVERY // 2
"""The iteration, counted from 0, whose batch is poisoned: between two checkpoints."""


def end_of_text(sandbox: Sandbox) -> str:
    """Train on short documents; the model must learn where they end, and most samples must end by themselves."""

    def measure(proved: ProvedModel) -> str:
        settings, run = proved.settings, sandbox.folder / f"{proved.stem}-documents"
        changes: dict[str, object] = {"data": DOCUMENTS, "dataset": DOCUMENTS, "tokenizer": "bpe:300", "dropout": 0}
        changes |= {"batch_size": 4, "gradient_accumulation_steps": 1, "micro_batch_size": 4}
        changes |= {"block_size": min(LONGEST_BLOCK, settings.block_size)}
        changes |= {"learning_rate": max(LOWEST_LEARNING_RATE, settings.learning_rate)}
        sandbox.quill(*sandbox.train_arguments(proved, run.name, **changes))
        machine = [f"--device={settings.device}", f"--dtype={settings.dtype}", f"--threads={settings.threads}"]
        drawn = [f"--num_samples={SAMPLES}", f"--max_new_tokens={SAMPLED_TOKENS}"]
        rows = sandbox.quill("sample", run.name, "--json", *drawn, *machine).out.splitlines()
        ended = sum(json.loads(row)["finish_reason"] == "end_of_text" for row in rows)
        model = load(run, device=settings.device, dtype="float32", threads=settings.threads)
        untrained = GPT(model.config, seed=settings.seed).to(model.device).eval()
        before, after = (loss_on_ends(sandbox, model, gpt) for gpt in (untrained, model.gpt))
        figure = f"loss {before:.2f} before training, {after:.2f} after, {ended} of {len(rows)} samples ended"
        require(len(rows) == SAMPLES and after <= TRAINED_SHARE * before and ended >= ENDED_SHARE * SAMPLES, figure)
        return figure

    return sandbox.for_each_model(measure)


@torch.no_grad()
def loss_on_ends(sandbox: Sandbox, model: Model, gpt: GPT) -> float:
    """Return a model's mean loss on the end-of-text targets of the validation documents, nats per token."""
    tokens = open_dataset(DOCUMENTS, sandbox.folder / "data").val
    block_size = model.config.block_size
    inputs, targets = gather(np.asarray(tokens), all_offsets(len(tokens), block_size), block_size)
    losses = F.cross_entropy(
        gpt.logits(gpt(inputs.to(model.device))).flatten(0, 1), targets.flatten().to(model.device), reduction="none"
    )
    return float(losses[targets.flatten().to(model.device) == model.tokenizer.end_of_text].mean())


def poisoned_batch(sandbox: Sandbox) -> str:
    """Give runs a batch that computes NaN: one must skip it, the other must stop before it and be resumable."""

    def measure(proved: ProvedModel) -> str:
        fault, number = f"poisoned_batch:{POISONED}", POISONED + 1
        run = sandbox.folder / f"{proved.stem}-poisoned"
        done = sandbox.quill(fault, *sandbox.train_arguments(proved, run.name, on_nonfinite="rollback"), entry=FAULTY)
        state, back_to = last_state(run), POISONED // SAVED_EVERY * SAVED_EVERY
        kept = [(rollback["iteration"], rollback["back_to"]) for rollback in state["rollbacks"]]
        require(f"iter {number}:" in done.err, f"iter {number} is not named")
        require("token_embedding" in done.err, "the module in which NaN began is not named")
        require("windows at token" in done.err, "the batch is not named")
        require(kept == [(POISONED, back_to)], f"rollbacks are {kept}, expected ({POISONED}, {back_to})")
        require(state["iteration"] == ITERATIONS, f"the run ended at iter {state['iteration']}")
        non_finite = values_not_finite(run)

        stopped = sandbox.folder / f"{proved.stem}-stopped"
        sandbox.quill(
            fault, *sandbox.train_arguments(proved, stopped.name, on_nonfinite="stop"), entry=FAULTY, status=1
        )
        saved = last_state(stopped)["iteration"]
        require(saved == back_to, f"the last checkpoint of the run that stopped is of iter {saved}, not {back_to}")
        non_finite += values_not_finite(stopped)
        require(not non_finite, f"{non_finite:,} values that are not finite were saved")
        sandbox.quill(*sandbox.train_arguments(proved, stopped.name, init_from="resume"))
        equal = require_equal_runs(sandbox.reference_run(proved), stopped)
        return f"back from iter {number} to {back_to} and past it; stopped at {saved} and resumed, {equal}"

    return sandbox.for_each_model(measure)


def values_not_finite(run: Path) -> int:
    """Count the values of a run's last checkpoint that are NaN or infinite."""
    files = (checkpoints_folder(run) / LAST).rglob("*.safetensors")
    return sum(int((~tensor.isfinite()).sum()) for file in files for tensor in load_file(file).values())
