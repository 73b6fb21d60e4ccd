"""What an optimizer is given from a checkpoint fits its parameters: its kernels do not look."""

import pytest
import torch

from quillgpt.config.schema import TrainSettings
from quillgpt.errors import CheckpointError
from quillgpt.optim.optimizers import OPTIMIZERS, make_optimizers
from tiny import GPT2, tiny_model


@pytest.fixture(params=OPTIMIZERS)
def trained(request):
    """Return optimizers after a step, and what they remember."""
    model = tiny_model(GPT2)
    optimizers = make_optimizers(model, TrainSettings(optimizer=request.param))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(torch.amp.GradScaler("cpu", enabled=False))
    return optimizers, {name: value.clone() for name, value in optimizers.state().items()}


def test_its_own_state_comes_back(trained):
    optimizers, state = trained
    optimizers.load_state(state)
    assert all(torch.equal(value, state[name]) for name, value in optimizers.state().items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.flatten()[:1], "expected"),
        (lambda value: value[..., None], "expected"),
        (lambda value: value.double(), "in float64, expected"),
        (lambda value: value.bfloat16(), "in bfloat16, expected"),
        (lambda value: value.to(torch.int32), "in int32, expected"),
        (lambda value: value + float("nan"), "is not finite"),
        (lambda value: value + float("inf"), "is not finite"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, said, trained):
    optimizers, state = trained
    for name in {key.rpartition("/")[2]: key for key in state}.values():  # one of each kind
        changed = change(state[name])
        if changed.shape == state[name].shape and changed.dtype == state[name].dtype and changed.isfinite().all():
            continue  # the only element of a vector
        with pytest.raises(CheckpointError, match=said) as caught:
            optimizers.load_state(state | {name: changed})
        assert name in str(caught.value)
    optimizers.load_state(state)
