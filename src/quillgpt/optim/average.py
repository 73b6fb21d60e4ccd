"""The running average of the weights, which often predicts better than the weights themselves."""

from __future__ import annotations

import copy

import torch

from quillgpt.model import GPT


class WeightAverage:
    """An exponential moving average of a model's weights.

    The average begins short, so that the first weights do not weigh on it for long: iteration i counts with
    1 - min(decay, (1 + i) / (10 + i)).

    Args:
        model: The model to follow; the average begins with its weights.
        decay: Share of the average that an iteration leaves as it is.

    Attributes:
        model: A model with the averaged weights.
    """

    def __init__(self, model: GPT, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: GPT, iteration: int) -> None:
        """Take in the weights that iteration `iteration`, counted from 0, has made."""
        decay = min(self._decay, (1 + iteration) / (10 + iteration))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
