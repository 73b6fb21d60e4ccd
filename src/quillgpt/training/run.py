"""A run: what it trains, on which text, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import ResolvedSettings, TrainSettings
from quillgpt.data.batches import Source, TrainingBatches
from quillgpt.data.dataset import Dataset
from quillgpt.data.mixture import Mixture
from quillgpt.distributed import World
from quillgpt.model import GPT
from quillgpt.model.distillation import Teachers
from quillgpt.optim.average import WeightAverage
from quillgpt.optim.optimizers import OptimizerSet
from quillgpt.training.start.choices import Machine

LONGEST_WARMUP_SHARE = 0.2
"""Share of a run that follows the clock after which its learning rate falls at the latest."""

Prompt = tuple[str, list[int]]
"""Text and ids of a prompt."""


@dataclass
class Run:
    """A run that is ready to train.

    Attributes:
        settings: Its settings, with a value in place of every `auto`. Only `change_length` changes them.
        machine: Device, number format and processes.
        mixture: The data sets that it learns from; mostly one.
        replayed: The data set that it should not forget and learns from too, if any.
        model: The model that is trained, on its device.
        average: The average of its weights, where one is kept.
        optimizers: The optimizers of its parameters.
        state: Where the run stands; always the same object, which iterations and rollbacks change.
        parent: The folder of the weights that it started from, or of its own last checkpoint, if any.
        resumed: Whether it goes on from a checkpoint of its own.
        starting_weights: Returns the weights with which a model of the run begins, by name; the first one is number 0.
        is_of_wrong_size: Whether the rules would choose a model of another size for so many operations; None where it
            is not to be chosen again.
        prompt: The prompt of its samples; None where it writes none.
        given_teachers: The models that the settings name to teach it.
        own_teachers: Those that it has trained itself; they teach where the state says so.
    """

    settings: ResolvedSettings
    machine: Machine
    mixture: Mixture
    replayed: Dataset | None
    model: GPT
    average: WeightAverage | None
    optimizers: OptimizerSet
    state: TrainingState
    parent: Path | None
    resumed: bool
    starting_weights: Callable[[int], Mapping[str, Tensor]]
    is_of_wrong_size: Callable[[float], bool] | None = None
    prompt: Prompt | None = None
    given_teachers: tuple[GPT, ...] = ()
    own_teachers: list[GPT] = field(default_factory=list)

    @property
    def world(self) -> World:
        """The processes that train it."""
        return self.machine.world

    @property
    def out_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.settings.out_dir)

    @property
    def evaluated_model(self) -> GPT:
        """The model that is evaluated, saved and sampled from: the average of the weights, where one is kept."""
        return self.average.model if self.average else self.model

    @property
    def teachers(self) -> Teachers | None:
        """The models that teach it now, if any."""
        own = self.own_teachers if self.state.taught else []
        return Teachers.of([*self.given_teachers, *own], self.settings.teacher_share)

    @property
    def texts(self) -> list[Dataset]:
        """All data sets that it reads, in the order of the sources of its batches."""
        return [*self.mixture.datasets, *([] if self.replayed is None else [self.replayed])]

    @property
    def batches(self) -> TrainingBatches:
        """The batch of each iteration."""
        shares = [share * (1 - self.settings.replay) for share in self.mixture.shares]
        if self.replayed is not None:
            shares.append(self.settings.replay)
        sources = [Source(text.train, share) for text, share in zip(self.texts, shares, strict=True)]
        return training_batches(self.settings, sources)

    def change_length(self, iterations: int, eval_interval: int | None = None) -> None:
        """Let the run, and the fall of its learning rate, end at another iteration; the rise takes a part at most.

        Where it trains teachers, that is so for each of its models, and only the last one may be cut short.

        Args:
            iterations: Its new length.
            eval_interval: Iterations between evaluations from now on; None: as many as before.
        """
        of_a_model = min(iterations, self.settings.teacher_iters or iterations)
        changed = {
            "max_iters": iterations,
            "lr_decay_iters": max(1, self.settings.teacher_iters or iterations),
            "warmup_iters": min(self.settings.warmup_iters, int(LONGEST_WARMUP_SHARE * of_a_model)),
            "eval_interval": eval_interval or self.settings.eval_interval,
        }
        self.settings = self.settings.model_copy(update=changed)

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says of its origin."""
        return {
            "dataset": self.mixture.name,
            "data_fingerprint": self.mixture.fingerprint,
            "tokenizer": self.mixture.tokenizer.name,
            "tokenizer_fingerprint": self.mixture.tokenizer.fingerprint,
            "ends_documents": self.mixture.ends_documents,
            "iteration": self.state.iteration,
            "init_from": self.settings.init_from,
        }


def training_batches(settings: TrainSettings, sources: Sequence[Source]) -> TrainingBatches:
    """Return the batches of some sources, with the context, the batch and the seed of the settings."""
    return TrainingBatches(
        sources, block_size=settings.block_size, batch_size=settings.sequences_per_iteration, seed=settings.seed
    )
