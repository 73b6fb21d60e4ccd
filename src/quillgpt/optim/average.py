"""The moving average of the weights, which often predicts better than the weights themselves."""

from __future__ import annotations

import copy

from torch.optim.swa_utils import get_ema_multi_avg_fn

from quillgpt.distributed.shards import own_rows
from quillgpt.model import GPT


class WeightAverage:
    """An exponential moving average of a model's weights.

    The average begins short, so that the first weights soon count for little: iteration i has the weight
    1 - min(decay, (1 + i) / (10 + i)).

    `torch.optim.swa_utils` does the averaging. Its `AveragedModel` is not used: it copies the weights at the first
    update, and counts updates instead of iterations, of which a rollback leaves some out.

    Args:
        model: The model; the average begins with its weights.
        decay: The share of the average that an iteration keeps.

    Attributes:
        model: A model with the averaged weights.
    """

    def __init__(self, model: GPT, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay

    def update(self, model: GPT, iteration: int) -> None:
        """Average in the weights after an iteration; iterations count from 0."""
        decay = min(self._decay, (1 + iteration) / (10 + iteration))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        own, new = ([own_rows(parameter) for parameter in one.parameters()] for one in (self.model, model))
        average(own, new, iteration)
