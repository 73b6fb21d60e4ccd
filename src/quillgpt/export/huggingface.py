"""A Hugging Face folder: a checkpoint without the files that only training needs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from quillgpt.checkpoint import LoadedModel, save_model
from quillgpt.export.probe import Runtime


def write(loaded: LoadedModel, folder: Path, _number_type: str) -> None:
    """Write config.json, model.safetensors and the tokenizer."""
    save_model(folder, loaded.model, loaded.tokenizer, about=loaded.about)


class Transformers(Runtime):
    """The folder in transformers."""

    def __init__(self, folder: Path) -> None:
        transformers = importlib.import_module("transformers")
        self.name = f"transformers {transformers.__version__}"
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.end_of_text = self._model.generation_config.eos_token_id

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, in which special tokens are ordinary text."""
        return list(self._tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids."""
        return str(self._tokenizer.decode(list(ids)))

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of every position, (T, V)."""
        logits: Tensor = self._model(torch.tensor([list(ids)])).logits[0]
        return logits

    @torch.no_grad()
    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return the greedy continuation, from transformers' own loop with its own stop."""
        prompt = torch.tensor([list(ids)])
        tokens: list[int] = self._model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False
        )[0, len(ids) :].tolist()
        return tokens[: tokens.index(self.end_of_text)] if self.end_of_text in tokens else tokens
