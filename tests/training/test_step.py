"""One iteration: the same gradient however it is cut, and a fallback where compiling fails."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quillgpt.distributed import World
from quillgpt.errors import DeviceError
from quillgpt.training import compilation
from quillgpt.training.cuda_graph import make_step
from quillgpt.training.start.setup import set_up

from .conftest import MakeSettings, Steps

SAME_GRADIENT = 1e-6


def first_gradient(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> tuple[float, list[Tensor]]:
    run = set_up(tiny(grad_clip=0.0, **changes))
    gradients: list[Tensor] = []
    for optimizer in run.optimizers.optimizers:
        monkeypatch.setattr(
            optimizer,
            "step",
            lambda: gradients.extend(p.grad.clone() for p in run.model.parameters() if p.grad is not None),
        )
    return Steps(run)(0), gradients


@pytest.mark.parametrize("cut", [(8, 1, 8), (1, 8, 1), (4, 2, 2), (2, 4, 8)])
def test_the_loss_is_the_mean_over_the_global_batch(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, cut: tuple[int, int, int]
) -> None:
    batch_size, accumulation, micro = cut
    whole_loss, whole = first_gradient(
        tiny, monkeypatch, batch_size=8, gradient_accumulation_steps=1, micro_batch_size=8
    )
    loss, gradients = first_gradient(
        tiny,
        monkeypatch,
        batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        micro_batch_size=micro,
    )
    assert loss == pytest.approx(whole_loss, abs=SAME_GRADIENT)
    assert len(gradients) == len(whole) > 0
    for one, other in zip(gradients, whole, strict=True):
        torch.testing.assert_close(one, other, atol=SAME_GRADIENT, rtol=0)


def test_clipping_bounds_the_gradient_and_returns_the_norm_that_it_had(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = set_up(tiny(grad_clip=0.01))
    norms: list[float] = []
    optimizer = run.optimizers.optimizers[0]

    def note() -> None:
        norms.append(
            float(torch.nn.utils.get_total_norm([p.grad for p in run.model.parameters() if p.grad is not None]))
        )

    monkeypatch.setattr(optimizer, "step", note)
    result = make_step(run)(0, 1e-3)
    assert norms[0] == pytest.approx(0.01, rel=1e-3)
    _, gradients = first_gradient(tiny, monkeypatch)
    assert float(result.grad_norm) == pytest.approx(float(torch.nn.utils.get_total_norm(gradients)), rel=1e-5)
    assert result.grad_norm > 0.01


def test_dropout_is_a_function_of_seed_and_iteration(tiny: MakeSettings) -> None:
    def draw(seed: int, iteration: int) -> Tensor:
        make_step(set_up(tiny(seed=seed))).seed(iteration)
        return torch.rand(8)

    assert torch.equal(draw(1, 5), draw(1, 5))
    assert not torch.equal(draw(1, 5), draw(1, 6))
    assert not torch.equal(draw(1, 5), draw(2, 5))


def test_a_failing_compiler_is_one_line_and_the_run_goes_on(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def fail(*arguments: object) -> Tensor:
        raise BackendCompilerFailed(lambda: None, RuntimeError("no compiler"), None)

    steps = Steps(set_up(tiny()))
    expected = steps(0)
    monkeypatch.setattr(compilation.torch, "compile", lambda function: fail)
    again = Steps(set_up(tiny(compile=True)))
    assert again(0) == expected
    assert not again.step.compiled
    assert again(1) == steps(1)
    said = capsys.readouterr().err
    assert said.count("torch.compile failed") == 1
    assert "no compiler" in said


def test_a_compiler_that_fails_on_one_of_several_ranks_ends_them(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reason, kind, said in (
        ("no compiler", DeviceError, r"torch\.compile failed on rank 1 \(no compiler\); --compile=False goes without"),
        ("Connection closed by peer", RuntimeError, "^Connection closed"),  # since another rank has failed
    ):

        def fail(*arguments: object, reason: str = reason) -> Tensor:
            raise RuntimeError(reason)

        monkeypatch.setattr(compilation.torch, "compile", lambda function, fail=fail: fail)
        step = make_step(set_up(tiny(compile=True)))
        step.world = World(rank=1, size=2)
        with pytest.raises(kind, match=said):
            step(0, 1e-3)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_and_eager_agree(tiny: MakeSettings) -> None:
    eager, compiled = Steps(set_up(tiny())), Steps(set_up(tiny(compile=True)))
    for iteration in range(3):
        assert compiled(iteration) == pytest.approx(eager(iteration), abs=1e-5)
