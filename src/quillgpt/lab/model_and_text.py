"""A model, and the text that it reads in an experiment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quillgpt.api import Model, load
from quillgpt.config.schema import LabSettings
from quillgpt.data.batches import Offsets, Tokens, gather, spread_offsets
from quillgpt.data.dataset import Dataset
from quillgpt.device import to_device
from quillgpt.errors import ConfigError, DataError, join_names
from quillgpt.evaluation import Score, score_blocks
from quillgpt.evaluation.loss import SPREAD_SEED
from quillgpt.model import GPT

TOKENS_AT_ONCE = 4096
SHOWN_TOKENS = 32
"""Length of the text for attention maps if none is given."""


@dataclass(frozen=True)
class ModelAndText:
    """A model in float32, and blocks of a text.

    Attributes:
        model: The model with its tokenizer.
        dataset: The data set.
        split: The split to read, `train` or `val`.
        offsets: Where the blocks begin in the split.
    """

    model: Model
    dataset: Dataset
    split: str
    offsets: Offsets

    @property
    def gpt(self) -> GPT:
        """The torch module."""
        return self.model.gpt

    @property
    def tokens(self) -> Tokens:
        """The tokens of the split."""
        return self.dataset.train if self.split == "train" else self.dataset.val

    def inputs(self) -> Iterator[Tensor]:
        """Yield the blocks one by one, (1, block_size), on the model's device."""
        for start in self.offsets:
            yield to_device(gather(self.tokens, start[None], self.gpt.config.block_size)[0], self.model.device)

    def score(self, gpt: GPT) -> Score:
        """Evaluate a model with the same tokenizer on the blocks."""
        return score_blocks(gpt, self.model.tokenizer, self.tokens, self.offsets, batch_size=self.batch_size)

    @property
    def batch_size(self) -> int:
        """The number of blocks to compute at once."""
        return max(1, TOKENS_AT_ONCE // self.gpt.config.block_size)


def open_model_and_text(path: str, settings: LabSettings) -> ModelAndText:
    """Load a model, open the text and choose its blocks.

    Raises:
        UserError: The model or the data set is missing, they do not belong together, or the split is too short.
    """
    model = load(path, device=settings.device, dtype="float32", threads=settings.threads, data_dir=settings.data_dir)
    name, recorded = settings.dataset, [] if settings.dataset else list(model.recorded_datasets)
    if len(recorded) > 1:
        raise ConfigError(f"{path} was trained on {join_names(recorded)}; name one of them: --dataset NAME")
    name = name or next(iter(recorded), None)
    if not name:
        raise ConfigError(f"{path} does not say what it was trained on; name a prepared text with --dataset NAME")
    dataset = model.open_dataset(name, data_dir=settings.data_dir)
    tokens = dataset.train if settings.split == "train" else dataset.val
    offsets = spread_offsets(len(tokens), model.config.block_size, settings.blocks, SPREAD_SEED)
    if len(offsets) == 0:
        raise DataError(
            f"{dataset.folder}, {settings.split}: {len(tokens):,} tokens are fewer than the model's "
            f"block of {model.config.block_size:,}; name another --dataset or --split"
        )
    return ModelAndText(model, dataset, settings.split, offsets)


def text_tokens(opened: ModelAndText, text: str | None) -> tuple[Tensor, list[str]]:
    """Return the tokens (1, T) of a text and their spellings; without a text, those at the start of the first block.

    Raises:
        TokenizerError: The tokenizer lacks a character of the text.
    """
    tokenizer, longest = opened.model.tokenizer, min(SHOWN_TOKENS, opened.gpt.config.block_size)
    ids = next(opened.inputs())[0, :longest].tolist() if text is None else tokenizer.encode(text)
    ids = [int(token) for token in ids][: opened.gpt.config.block_size]
    if not ids:
        raise ConfigError("the text to look at is empty; give some with --start TEXT")
    words = [tokenizer.decode([token]).replace("\n", "\\n").replace(" ", "␣") for token in ids]
    return torch.tensor([ids], device=opened.model.device), words
