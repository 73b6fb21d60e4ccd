"""README.md of a model's folder: a card in the form of the Hugging Face hub, of what is known when it is written.

It has no times and no paths, so that equal runs write equal cards.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from quillgpt import __version__
from quillgpt.attention import SOFTMAX
from quillgpt.model import GPTConfig

LIBRARIES: Final = {"hf": "transformers", "gguf": "gguf", "onnx": "onnx", "onnx-with-past": "transformers.js"}
"""The hub's names of the programs that read an export."""

USES: Final = {
    "gguf": "llama.cpp, Ollama and other programs that read GGUF open the file in this folder.",
    "onnx": "onnxruntime opens the .onnx file in this folder; tokenizer.json goes with it.",
    "onnx-with-past": "transformers.js opens this folder, and onnxruntime the graph in onnx/.",
    "nanogpt": "nanoGPT opens ckpt.pt in this folder, with meta.pkl if the tokens are characters.",
    "script": "`python sample.py 'Once upon a time'` in this folder writes on. It needs Python and numpy.",
}
HUB_NAMES: Final = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}

SHOWN: Final = (
    *("optimizer", "learning_rate", "min_lr", "weight_decay", "dropout", "batch_size", "gradient_accumulation_steps"),
    *("block_size", "seed", "lora_rank", "replay"),
)
"""Settings of the training that a card names."""
MAY_BE_OFF: Final = {"lora_rank", "replay"}
"""Those of them that a card does not name where they are 0."""


def model_card(
    config: GPTConfig,
    *,
    about: Mapping[str, Any],
    parameters: int,
    settings: Mapping[str, Any],
    results: Mapping[str, int | float],
    target: str = "hf",
) -> str:
    """Return the card of a model, Markdown below a block of YAML.

    Args:
        config: The model's configuration.
        about: Quill's entry in its config.json.
        parameters: Values in it.
        settings: Settings of the run that made it, if they are known.
        results: What the run has reached, under the names of summary.json.
        target: What the folder is an export to.
    """
    data = str(about.get("dataset", ""))
    is_stock = config.kernel == SOFTMAX
    library = LIBRARIES.get(target) if is_stock else None
    metrics = _metrics(about, results)
    base = HUB_NAMES.get(str(about.get("init_from", "")))
    head: dict[str, Any] = {
        **({"library_name": library} if library else {}),
        "pipeline_tag": "text-generation",
        "tags": ["quill", config.arch],
        **({"base_model": base} if base else {}),
    }
    if data and metrics:
        task = {"type": "text-generation", "name": "Text generation"}
        text = {"name": data, "type": data}
        found = [{"type": "loss", "name": name, "value": value} for name, value in metrics.items()]
        head["model-index"] = [{"name": _title(about), "results": [{"task": task, "dataset": text, "metrics": found}]}]
    # JSON is YAML, and needs no rules of its own about what must be quoted.
    block = "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in head.items())
    sizes = {
        "architecture": config.arch,
        "parameters": f"{parameters:,}",
        "layers": config.n_layer,
        "heads": config.n_head,
        "width": config.n_embd,
        "context, tokens": f"{config.block_size:,}",
        "vocabulary": f"{config.vocab_size:,}",
        "tokenizer": about.get("tokenizer"),
        "attention": None if is_stock else str(config.kernel),
    }
    learned = {"data set": data or None, "SHA-256 of the tokens": about.get("data_fingerprint")}
    learned |= {"began from": _origin(about)}
    learned |= {name: settings.get(name) for name in SHOWN if settings.get(name) or name not in MAY_BE_OFF}
    parts = [
        f"---\n{block}---\n",
        f"# {_plain(_title(about))}\n",
        f"A small language model, trained with Quill {__version__}"
        + (f" on the data set {_plain(data)}.\n" if data else ".\n"),
        _table("What it is", sizes),
        _table("What it learned from", learned),
        _table("Results", {name.replace("_", " "): _number(value) for name, value in results.items()}),
        "Losses are in nats per token, of the validation split.\n" if any("loss" in name for name in results) else "",
        f"## Use\n\n{_use(target, is_stock=is_stock)}\n",
        "## Limits\n\nIt writes what looks like its text, and does not know whether that is true. It may repeat "
        "passages of its text word for word: `quill trace` finds them. The rights in its text "
        "hold for what it repeats.",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _metrics(about: Mapping[str, Any], results: Mapping[str, int | float]) -> dict[str, float]:
    """Return the losses of this very model: that of its evaluation only if it is the best of its run."""
    own = {"val_loss_full", "val_loss_part"} | ({"best_val_loss"} if _is_best(about, results) else set())
    return {name: value for name, value in results.items() if name in own and math.isfinite(value)}


def _is_best(about: Mapping[str, Any], results: Mapping[str, int | float]) -> bool:
    return "best_iter" in results and results["best_iter"] == about.get("iteration")


def _title(about: Mapping[str, Any]) -> str:
    iteration = about.get("iteration")
    return f"{about.get('dataset') or 'model'}" + (f", iteration {iteration}" if iteration is not None else "")


def _origin(about: Mapping[str, Any]) -> str | None:
    """Return what a model was made from; of a model on somebody's disk only that it was one."""
    start = about.get("init_from")
    if start in (None, "resume"):
        return None
    return "random weights" if start == "scratch" else HUB_NAMES.get(str(start), "another model")


def _use(target: str, *, is_stock: bool) -> str:
    ours = "```sh\nquill sample FOLDER --start='Once upon a time'\n```"
    if target in USES:
        return USES[target]
    if not is_stock:
        return f"Only Quill computes its attention:\n\n{ours}"
    theirs = (
        "```python\nfrom transformers import pipeline\n\n"
        "write = pipeline('text-generation', model='FOLDER')\n"
        "print(write('Once upon a time')[0]['generated_text'])\n```"
    )
    return f"{ours}\n\n{theirs}"


def _table(title: str, rows: Mapping[str, object]) -> str:
    known = {name: value for name, value in rows.items() if value is not None}
    if not known:
        return ""
    lines = "\n".join(f"| {name} | {_plain(str(value))} |" for name, value in known.items())
    return f"## {title}\n\n| | |\n|---|---|\n{lines}\n"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else repr(value)


def _plain(words: str) -> str:
    """Return words that mean nothing in Markdown and in HTML, on one line."""
    escaped = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|":
        escaped = escaped.replace(mark, f"\\{mark}")
    return " ".join(escaped.split())
