"""The data sets that a run learns from: mostly one, or several that are mixed by weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quillgpt.config.dataset_names import spell_mixture
from quillgpt.data.dataset import Dataset
from quillgpt.errors import ConfigError, TokenizerError
from quillgpt.text.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Mixture:
    """The data sets that a run learns from.

    Attributes:
        name: Their names and weights, as in `--dataset a=0.7,b=0.3`.
        datasets: At least one; all have the same tokenizer.
        shares: The share of each in the sequences of a batch, and in the loss; they sum to 1.
    """

    name: str
    datasets: tuple[Dataset, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, datasets: Sequence[Dataset], weights: Sequence[float | None]) -> Mixture:
        """Mix data sets by weights; where there are none, by the tokens of their training splits.

        Raises:
            ConfigError: A data set is named twice.
            TokenizerError: They were prepared with different tokenizers.
        """
        _check_distinct(datasets)
        _check_tokenizers(datasets)
        weights = [None] if len(datasets) == 1 else weights
        sizes = [weight or len(dataset.train) for dataset, weight in zip(datasets, weights, strict=True)]
        name = spell_mixture({dataset.name: weight for dataset, weight in zip(datasets, weights, strict=True)})
        return cls(name, tuple(datasets), tuple(size / math.fsum(sizes) for size in sizes))

    @property
    def is_single(self) -> bool:
        """Whether nothing is mixed."""
        return len(self.datasets) == 1

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all tokens."""
        return self.datasets[0].tokenizer

    @property
    def ends_documents(self) -> bool:
        """Whether documents end with the tokenizer's end of text, in any of the data sets."""
        return any(dataset.ends_documents for dataset in self.datasets)

    @property
    def fingerprint(self) -> str:
        """Identity of the data: the fingerprints of the data sets, separated by commas."""
        return ",".join(dataset.fingerprint for dataset in self.datasets)

    @property
    def train_tokens(self) -> int:
        """Length of a single text that would be passed over as often; see `equivalent_tokens`."""
        return equivalent_tokens([len(dataset.train) for dataset in self.datasets], self.shares)

    def mean(self, values: Sequence[float]) -> float:
        """Return the mean of a number of each data set, weighted by their shares."""
        return sum(share * value for share, value in zip(self.shares, values, strict=True))


def equivalent_tokens(lengths: Sequence[int], shares: Sequence[float]) -> int:
    """Return the length of a single text whose sequences would be read as often, on average, as those of a mixture.

    It is the whole length where the shares are those of the lengths, and less otherwise: a small text with a large
    share is soon read again.

    Args:
        lengths: Tokens of each text.
        shares: The share of each in what is read; they sum to 1.
    """
    if len(lengths) == 1:
        return lengths[0]
    return round(1 / sum(share**2 / length for length, share in zip(lengths, shares, strict=True)))


def _check_distinct(datasets: Sequence[Dataset]) -> None:
    folders = [dataset.folder.resolve() for dataset in datasets]
    twice = next((dataset for place, dataset in enumerate(datasets) if folders[place] in folders[:place]), None)
    if twice is not None:
        raise ConfigError(f"--dataset names {twice.folder} twice; name it once, with the sum of both weights")


def _check_tokenizers(datasets: Sequence[Dataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        if other.tokenizer.fingerprint != first.tokenizer.fingerprint:
            raise TokenizerError(
                f"{other.folder} was prepared with the tokenizer {other.tokenizer.name}, {first.folder} with another, "
                f"{first.tokenizer.name}, so they cannot be mixed; prepare the text of one for the other: "
                f"quill prepare PATH --dataset {other.name}_2 --tokenizer {first.folder}"
            )
