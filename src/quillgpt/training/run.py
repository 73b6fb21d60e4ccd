"""A run: what it trains, on which text, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import ResolvedSettings, TrainSettings
from quillgpt.data.batches import Tokens, TrainingBatches
from quillgpt.data.dataset import Dataset
from quillgpt.model import GPT
from quillgpt.optim.average import WeightAverage
from quillgpt.optim.optimizers import OptimizerSet
from quillgpt.training.start.choices import Machine


@dataclass
class Run:
    """A run that is ready to train.

    Attributes:
        settings: Its settings, with a value in place of every `auto`. Only `change_length` changes them.
        machine: Device and number format.
        dataset: The data set that it learns from.
        replayed: The data set that it should not forget and learns from too, if any.
        model: The model that is trained, on its device.
        average: The average of its weights, where one is kept.
        optimizers: The optimizers of its parameters.
        state: Where the run stands; always the same object, which iterations and rollbacks change.
        parent: The folder of the weights that it started from, or of its own last checkpoint, if any.
        resumed: Whether it goes on from a checkpoint of its own.
        starting_weights: Returns the weights with which a run begins that is not resumed, by name.
    """

    settings: ResolvedSettings
    machine: Machine
    dataset: Dataset
    replayed: Dataset | None
    model: GPT
    average: WeightAverage | None
    optimizers: OptimizerSet
    state: TrainingState
    parent: Path | None
    resumed: bool
    starting_weights: Callable[[], Mapping[str, Tensor]]

    @property
    def out_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.settings.out_dir)

    @property
    def evaluated_model(self) -> GPT:
        """The model that is evaluated, saved and sampled from: the average of the weights, where one is kept."""
        return self.average.model if self.average else self.model

    @property
    def batches(self) -> TrainingBatches:
        """The batch of each iteration."""
        replayed = None if self.replayed is None else self.replayed.train
        return training_batches(self.settings, self.dataset.train, replayed)

    def change_length(self, iterations: int) -> None:
        """Let the run, and the fall of its learning rate, end at another iteration."""
        self.settings = self.settings.model_copy(update={"max_iters": iterations, "lr_decay_iters": max(1, iterations)})

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says of its origin."""
        return {
            "dataset": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "tokenizer": self.dataset.tokenizer.name,
            "tokenizer_fingerprint": self.dataset.tokenizer.fingerprint,
            "ends_documents": self.dataset.ends_documents,
            "iteration": self.state.iteration,
            "init_from": self.settings.init_from,
        }


def training_batches(settings: TrainSettings, tokens: Tokens, replayed: Tokens | None = None) -> TrainingBatches:
    """Return the batches that the settings describe.

    Args:
        settings: The settings of the context, the batch, the seed and the replay.
        tokens: The training split.
        replayed: The training split of the data set that is replayed; None: nothing is.
    """
    return TrainingBatches(
        tokens,
        block_size=settings.block_size,
        batch_size=settings.sequences_per_iteration,
        seed=settings.seed,
        replayed=replayed,
        replay=settings.replay,
    )
