"""ONNX: the model as a graph of operators, for onnxruntime and other programs."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from quillgpt.checkpoint import LoadedModel
from quillgpt.console import say
from quillgpt.export.probe import Runtime
from quillgpt.extras import import_extra
from quillgpt.files import write_json
from quillgpt.model import GPT
from quillgpt.model.cost import FLOAT32_BYTES
from quillgpt.text.tokenizers.tokenizer_files import TOKENIZER_FILE

MODEL_FILE = "model.onnx"
GENERATION = "generation_config.json"

LARGEST_FILE = 1 << 30
"""A file holds at most 2 GiB; weights of more bytes than this go to model.onnx.data."""


class LogitsOfTokens(nn.Module):
    """From ids (B, T) to the logits of the next token (B, T, V), without rows of the vocabulary that have no token."""

    def __init__(self, model: GPT, tokens: int) -> None:
        super().__init__()
        self.model, self._tokens = model, tokens

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits."""
        return self.model.logits(self.model(input_ids))[..., : self._tokens]


def write(loaded: LoadedModel, folder: Path, _number_type: str) -> None:
    """Write model.onnx, from `input_ids` (batch, length) to `logits` (batch, length, tokens), and the tokenizer.

    Batch and length are free, up to the model's context. There is no key-value cache: every token computes the whole
    context again.
    """
    config, tokenizer = loaded.config, loaded.tokenizer
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if config.block_size > 1:
        sizes[1] = torch.export.Dim("length", max=config.block_size)
    write_graph(
        LogitsOfTokens(loaded.model, min(tokenizer.vocab_size, config.vocab_size)),
        {"input_ids": torch.zeros(2, min(2, config.block_size), dtype=torch.int64)},
        folder / MODEL_FILE,
        dynamic_shapes={"input_ids": sizes},
        output_names=["logits"],
        data_file=f"{MODEL_FILE}.data" if is_large(loaded) else None,
    )
    tokenizer.save(folder)
    write_json(folder / GENERATION, {"eos_token_id": tokenizer.end_of_text, "max_length": config.block_size})


def is_large(loaded: LoadedModel) -> bool:
    """Whether the weights stand beside the graph, in a file of their own."""
    return FLOAT32_BYTES * loaded.model.parameter_count() > LARGEST_FILE


def write_graph(
    module: nn.Module,
    inputs: dict[str, Tensor | list[Tensor]],
    path: Path,
    *,
    dynamic_shapes: dict[str, Any],
    output_names: list[str],
    input_names: list[str] | None = None,
    data_file: str | None = None,
) -> None:
    """Write what a module computes as a graph.

    Args:
        module: The module.
        inputs: Examples of what its `forward` takes.
        path: The file to write.
        dynamic_shapes: The dimensions that are free: a name, or `torch.export.Dim`, for each argument.
        output_names: The names of the results.
        input_names: The names of the inputs; None: those of the arguments.
        data_file: The file beside it for the weights; None: they are in the graph's file.
    """
    for package in ("onnx", "onnxscript"):
        import_extra(package, extra="export", purpose="Writing ONNX")
    onnx_ir = importlib.import_module("onnx_ir")  # which onnxscript needs
    say("the model is translated into a graph, which takes some seconds for each layer")
    path.parent.mkdir(parents=True, exist_ok=True)
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it warns of missing packages that are not needed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                input_names=input_names or list(inputs),
                output_names=output_names,
                dynamic_shapes=dynamic_shapes,
                dynamo=True,
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
    assert program is not None
    onnx_ir.save(program.model, path, external_data=data_file)


class OnnxRuntime(Runtime):
    """The files in onnxruntime; the tokenizer in Hugging Face's tokenizers."""

    model_file: ClassVar = MODEL_FILE

    def __init__(self, folder: Path) -> None:
        onnxruntime = importlib.import_module("onnxruntime")
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._session = onnxruntime.InferenceSession(folder / self.model_file, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.encode_special_tokens = True
        self.end_of_text = json.loads((folder / GENERATION).read_text(encoding="utf-8"))["eos_token_id"]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, in which special tokens are ordinary text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of every position, (T, V), from the second of two equal rows."""
        (logits,) = self._session.run(["logits"], {"input_ids": np.array([ids, ids], dtype=np.int64)})
        return torch.from_numpy(logits[1])

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return the greedy continuation."""
        tokens: list[int] = []
        while len(tokens) < count:
            chosen = int(self.logits([*ids, *tokens])[-1].argmax())
            if chosen == self.end_of_text:
                break
            tokens.append(chosen)
        return tokens
