"""A small grid around what the rules have chosen: one thing is changed at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quillgpt.text.tokenizers.tokenizer import FEWEST_USUAL
from quillgpt.training.planning.scaling import REGULARIZATION, SIZES

LARGEST_ALPHABET = 256
"""Characters of a text up to which a tokenizer of characters is tried."""

LESS, MORE = 0.7, 1.4
"""Factors on the learning rates."""

HELD_FAST = (
    *("tokenizer", "n_layer", "n_embd", "n_head", "block_size", "batch_size", "gradient_accumulation_steps"),
    *("learning_rate", "muon_learning_rate", "dropout", "weight_decay"),
)
"""Settings that stay as the rules have chosen them while another is changed. The length follows from the minutes."""


def neighbours(chosen: Mapping[str, Any], alphabet: int, kinds: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the flags of each run of the grid, by what is changed.

    With another tokenizer the rules choose everything else again, because it means something else then.

    Args:
        chosen: The settings that the rules have chosen.
        alphabet: Different characters in the text.
        kinds: What is changed.
    """
    fixed = {name: chosen[name] for name in HELD_FAST}
    changes: dict[str, dict[str, Any]] = {}
    if "size" in kinds:
        for name, (layers, width) in _beside(SIZES, (chosen["n_layer"], chosen["n_embd"])).items():
            # Its heads follow from its width.
            changes[f"a {('smaller', 'larger')[name]} model"] = {"n_layer": layers, "n_embd": width, "n_head": None}
    if "regularization" in kinds:
        rows = [(dropout, decay) for _, dropout, decay in REGULARIZATION]
        for name, (dropout, decay) in _beside(rows, (chosen["dropout"], chosen["weight_decay"])).items():
            changes[f"{('less', 'more')[name]} regularization"] = {"dropout": dropout, "weight_decay": decay}
    if "batch" in kinds:
        size = chosen["batch_size"]
        changes |= {"half the batch": {"batch_size": size // 2}} if size > 1 else {}
        changes["twice the batch"] = {"batch_size": 2 * size}
    if "rates" in kinds:
        for factor in (LESS, MORE):
            rates = {name: chosen[name] * factor for name in ("learning_rate", "muon_learning_rate")}
            changes[f"rates x{factor:g}"] = rates
    flags = {
        name: {key: _spelled(value) for key, value in (fixed | change).items() if value is not None}
        for name, change in changes.items()
    }
    if "tokenizer" in kinds:
        tried = [*(["char"] if alphabet <= LARGEST_ALPHABET else []), *_tokenizers_beside(chosen["tokenizer"])]
        flags |= {name: {"tokenizer": name} for name in tried if name != chosen["tokenizer"]}
    return flags


def _tokenizers_beside(name: str) -> list[str]:
    """Return bytes, and byte-level BPE of half and twice as many tokens; of the fewest where it has no number."""
    kind, _, size = name.partition(":")
    sizes = [int(size) // 2, 2 * int(size)] if kind == "bpe" else [FEWEST_USUAL]
    return ["byte", *(f"bpe:{count}" for count in sizes if count >= FEWEST_USUAL)]


def _beside(rows: Sequence[tuple[float, float]], row: tuple[float, float]) -> dict[int, tuple[float, float]]:
    """Return the rows before and after one, under 0 and 1; between two rows, these two."""
    before = [other for other in rows if other < row]
    after = [other for other in rows if other > row]
    return ({0: before[-1]} if before else {}) | ({1: after[0]} if after else {})


def _spelled(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
