"""Numbers that must not depend on the way they are computed."""

from __future__ import annotations

import importlib
import importlib.util
import json
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from quillgpt.api import Model, load
from quillgpt.checkpoint.names import LAST, checkpoints_folder
from quillgpt.checkpoint.save import OPTIMIZER
from quillgpt.model import KeyValueCache
from quillgpt.proof.compare import (
    LARGEST_GRADIENT_ERROR,
    LARGEST_LOGIT_ERROR,
    LARGEST_LOSS_ERROR,
    record_of,
    relative_difference,
    require,
)
from quillgpt.proof.outcome import CannotRun
from quillgpt.proof.proved_model import TEXT, ProvedModel
from quillgpt.proof.sandbox import Sandbox

SPLITS = ((8, 1), (1, 8), (2, 4))
"""Ways to split a global batch of eight sequences: batch_size and gradient_accumulation_steps."""

SAMPLED_TOKENS = 48
WINDOWS = 4


def accumulation(sandbox: Sandbox) -> str:
    """Run one iteration on the same eight sequences at once, one by one, and two by two.

    After the first step, AdamW's exp_avg is (1 - beta1) times the gradient.
    """

    def measure(proved: ProvedModel) -> str:
        gradients: list[dict[str, Tensor]] = []
        losses: list[float] = []
        for size, steps in SPLITS:
            run = sandbox.folder / f"{proved.stem}-{size}x{steps}"
            plain = {"dtype": "float32", "optimizer": "adamw", "dropout": 0, "grad_clip": 0, "max_iters": 1}
            batch = {"batch_size": size, "gradient_accumulation_steps": steps, "micro_batch_size": size}
            sandbox.quill(*sandbox.train_arguments(proved, run.name, eval_iters=1, **plain, **batch))
            stored = load_file(checkpoints_folder(run) / LAST / OPTIMIZER)
            gradients.append({name: value for name, value in stored.items() if name.endswith("/exp_avg")})
            losses += [float(str(row[2])) for row in record_of(run) if row[:2] == ("train", 1)]
        worst = max(relative_difference(gradients[0], other) for other in gradients[1:])
        spread = max(losses) - min(losses)
        figure = f"gradients differ by {worst:.1e} of their norm, losses by {spread:.1e}"
        require(len(losses) == len(SPLITS), "an iteration was not recorded")
        require(worst <= LARGEST_GRADIENT_ERROR and spread <= LARGEST_LOSS_ERROR, figure)
        return figure

    return sandbox.for_each_model(measure)


def cached_decoding(sandbox: Sandbox) -> str:
    """Sample with the key-value cache, and recompute the logits of every token from the whole text before it."""

    def measure(proved: ProvedModel) -> str:
        settings, run = proved.settings, sandbox.reference_run(proved)
        start = (sandbox.folder / TEXT).read_text(encoding="utf-8")[:8]
        count = max(1, min(SAMPLED_TOKENS, settings.block_size - len(start)))
        machine = [f"--device={settings.device}", "--dtype=float32", f"--threads={settings.threads}"]
        chosen = [f"--start={start}", f"--max_new_tokens={count}", "--num_samples=1", "--temperature=0"]
        row = json.loads(sandbox.quill("sample", run.name, "--json", *chosen, *machine).out)
        model = load(run, device=settings.device, dtype="float32", threads=settings.threads)
        prompt = model.prompt(start)[1]
        likeliest, error = recomputed(model, prompt, row["ids"])
        different = sum(one != other for one, other in zip(row["ids"], likeliest, strict=True))
        figure = f"{different} of {len(likeliest)} tokens differ, logits by at most {error:.1e}"
        require(len(likeliest) == count and not different and error <= LARGEST_LOGIT_ERROR, figure)
        return figure

    return sandbox.for_each_model(measure)


@torch.no_grad()
def recomputed(model: Model, prompt: list[int], ids: list[int]) -> tuple[list[int], float]:
    """Recompute a sample without a cache: return the most likely tokens, and the error of the logits with a cache.

    Args:
        model: The model, in float32.
        prompt: Ids of the prompt.
        ids: Ids of the sample; with the prompt no longer than the context.

    Returns:
        The most likely id at each position of the sample, computed without a cache; the largest difference of logits.
    """
    gpt, tokens = model.gpt, torch.tensor([[*prompt, *ids]], device=model.device)
    cache = KeyValueCache(gpt.config, 1, device=model.device, dtype=torch.float32)
    likeliest, error = [], 0.0
    read = 0
    for end in range(len(prompt), tokens.shape[1]):
        full = gpt.logits(gpt(tokens[:, :end])[:, -1])
        cached = gpt.logits(gpt(tokens[:, read:end], cache)[:, -1])
        read = end
        likeliest.append(int(full[0, : model.tokenizer.vocab_size].argmax()))
        error = max(error, float((full - cached).abs().max()))
    return likeliest, error


def opens_in_transformers(sandbox: Sandbox) -> str:
    """Open a checkpoint in transformers, and compare the logits of the same text."""
    if importlib.util.find_spec("transformers") is None:
        raise CannotRun("the package transformers is not installed")

    def measure(proved: ProvedModel) -> str:
        folder = checkpoints_folder(sandbox.reference_run(proved)) / LAST
        model = load(folder, device="cpu", dtype="float32", threads=proved.settings.threads)
        text = (sandbox.folder / TEXT).read_text(encoding="utf-8")[: WINDOWS * proved.settings.block_size]
        theirs, their_ids = in_transformers(str(folder), text)
        ids = model.tokenizer.encode(text)
        require(list(map(int, ids)) == their_ids, "transformers encodes the text to other tokens")
        windows = torch.tensor(their_ids).view(-1, proved.settings.block_size)
        with torch.no_grad():
            ours, stock = model.gpt.logits(model.gpt(windows)), theirs(windows).logits
        error = float((ours - stock).abs().max())
        figure = f"{ours.numel():,} logits of {type(theirs).__name__} differ by at most {error:.1e}"
        require(error <= LARGEST_LOGIT_ERROR, figure)
        return figure

    return sandbox.for_each_model(measure, at_once=False)  # transformers imports models lazily, which threads break


def in_transformers(folder: str, text: str) -> tuple[Any, list[int]]:
    """Return the model of a folder as transformers opens it, and the ids of a text by its tokenizer."""
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    problems = {
        name: report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if report.get(name)
    }
    require(not problems, f"transformers reports {problems}")
    ids = transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    return model.float().eval(), list(ids)
