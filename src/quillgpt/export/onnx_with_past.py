"""ONNX with keys and values: a graph that takes those of earlier positions, so that a new token costs one position.

Names and files are those of optimum's task `text-generation-with-past`, which transformers.js reads too. The graph is
one: with no earlier positions it computes a whole prompt, and then token after token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quillgpt.checkpoint import LoadedModel
from quillgpt.checkpoint.config_json import to_config_json
from quillgpt.checkpoint.stock_classes import QUILL_KEY
from quillgpt.export.onnx import GENERATION, MODEL_FILE, OnnxRuntime, is_large, write_graph
from quillgpt.files import write_json
from quillgpt.model import GPT, KeyValueCache
from quillgpt.model.gpt import Rotation, rotations_at

GRAPH = f"onnx/{MODEL_FILE}"
WEIGHTS_FILE = f"{MODEL_FILE}_data"
"""What transformers.js looks for if the weights stand beside the graph."""

BATCH, NEW, PAST, ALL = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"
"""The names of the free dimensions; transformers.js makes the first, empty keys and values by them."""


class GivenPast(KeyValueCache):
    """Keys and values that are given, instead of kept, and returned with the new ones.

    Args:
        past: For each layer its keys and its values, (B, G, P, D) each.
        visible: Bool (B, 1, T, P + T): the keys that each new position may see.
    """

    def __init__(self, past: Sequence[Tensor], visible: Tensor) -> None:
        self.present: list[Tensor] = []
        self.visible = visible
        self._past = past

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append a layer's new keys and values (B, G, T, D) to the given ones, and return both, (B, G, P + T, D)."""
        both = (
            torch.cat((self._past[2 * layer], keys), dim=2),
            torch.cat((self._past[2 * layer + 1], values), dim=2),
        )
        self.present += both
        return both


class LogitsAfterPast(nn.Module):
    """From new ids, and keys and values of what came before, to the logits of the next tokens and all keys and values.

    Args:
        model: The model.
        tokens: The ids that the tokenizer has; further rows of the vocabulary are left out.
    """

    def __init__(self, model: GPT, tokens: int) -> None:
        super().__init__()
        self.model, self._tokens = model, tokens

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the logits (B, T, tokens), and for each layer its keys and values, (B, G, P + T, D) each.

        Args:
            input_ids: The new ids (B, T).
            attention_mask: Int64 (B, P + T), 0 for what is padding, in the past or among the new ids.
            position_ids: The positions of the new ids in their sequences, (B, T).
            past: For each layer its keys and its values, (B, G, P, D) each.
        """
        model, config = self.model, self.model.config
        cache = GivenPast(past, visible_keys(attention_mask, input_ids.shape[1]))
        x = model.embed(input_ids)  # (B, T, C)
        rotation: Rotation | None = None
        if model.position_embedding is not None:
            x = x + model.position_embedding(position_ids)
        else:
            rotation = rotations_at(position_ids[:, None], config.head_dim, config.rope_theta)  # (B, 1, T, D) each
        for block in model.blocks:
            x = block(x, rotation, cache)
        logits = model.logits(model.final_norm(x))[..., : self._tokens]
        return logits, *cache.present


def visible_keys(attention_mask: Tensor, length: int) -> Tensor:
    """Return the keys that the last `length` positions may see, bool (B, 1, length, S), of a mask (B, S).

    A position sees itself even if it is padding: a softmax over nothing would be NaN, and spoil what follows.
    """
    key = torch.arange(attention_mask.shape[1])  # (S,)
    query = torch.arange(length)[:, None] + attention_mask.shape[1] - length  # (length, 1)
    return (key == query) | ((key < query) & attention_mask.bool()[:, None, None, :])


def write(loaded: LoadedModel, folder: Path, _number_type: str) -> None:
    """Write onnx/model.onnx, config.json, generation_config.json and the tokenizer."""
    config, tokenizer = loaded.config, loaded.tokenizer
    tokens, end_of_text = min(tokenizer.vocab_size, config.vocab_size), tokenizer.end_of_text
    layers = [f"{layer}.{what}" for layer in range(config.n_layer) for what in ("key", "value")]
    past = [torch.zeros(2, config.n_kv_head, 3, config.head_dim) for _ in layers]
    inputs = {
        "input_ids": torch.zeros(2, 2, dtype=torch.int64),
        "attention_mask": torch.ones(2, 5, dtype=torch.int64),
        "position_ids": torch.zeros(2, 2, dtype=torch.int64),
    }
    large = is_large(loaded)
    write_graph(
        LogitsAfterPast(loaded.model, tokens),
        {**inputs, "past": past},
        folder / GRAPH,
        dynamic_shapes={
            "input_ids": {0: BATCH, 1: NEW},
            "attention_mask": {0: BATCH, 1: ALL},
            "position_ids": {0: BATCH, 1: NEW},
            "past": [{0: BATCH, 2: PAST}] * len(past),
        },
        input_names=[*inputs, *(f"past_key_values.{name}" for name in layers)],
        output_names=["logits", *(f"present.{name}" for name in layers)],
        data_file=WEIGHTS_FILE if large else None,
    )
    config_json = to_config_json(replace(config, vocab_size=tokens), dropout=loaded.dropout, end_of_text=end_of_text)
    config_json[QUILL_KEY] |= loaded.about
    # Browsers would look for a file in 8 bits.
    config_json["transformers.js_config"] = {"dtype": "fp32", "use_external_data_format": large}
    write_json(folder / "config.json", config_json)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text)
    write_json(folder / GENERATION, ends | {"max_length": config.block_size})
    tokenizer.save(folder)


class OnnxWithPast(OnnxRuntime):
    """The files in onnxruntime, which is given the new tokens only, beside their past."""

    model_file: ClassVar = GRAPH

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of every position, (T, V): the first half of the ids at once, the others one by one."""
        self._forget()
        half = max(1, len(ids) // 2)
        return torch.from_numpy(np.concatenate([self._feed(ids[:half]), *(self._feed([id]) for id in ids[half:])]))

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return the greedy continuation."""
        self._forget()
        tokens: list[int] = []
        new = list(ids)
        while len(tokens) < count:
            chosen = int(self._feed(new)[-1].argmax())
            if chosen == self.end_of_text:
                break
            tokens.append(chosen)
            new = [chosen]
        return tokens

    def _forget(self) -> None:
        """Begin a text: with keys and values of no position."""
        self._known = 0
        self._past: dict[str, NDArray[np.float32]] = {
            given.name: np.zeros((2, given.shape[1], 0, given.shape[3]), np.float32)
            for given in self._session.get_inputs()
            if given.name.startswith("past_key_values.")
        }

    def _feed(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Compute the next ids, and return their logits (T, V), from the second of two equal rows."""
        first, self._known = self._known, self._known + len(ids)
        inputs = {
            "input_ids": np.array([ids, ids], np.int64),
            "attention_mask": np.ones((2, self._known), np.int64),
            "position_ids": np.tile(np.arange(first, self._known), (2, 1)),
        }
        logits, *present = self._session.run(None, inputs | self._past)
        self._past = dict(zip(self._past, present, strict=True))
        rows: NDArray[np.float32] = logits[1]
        return rows
