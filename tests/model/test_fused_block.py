"""A block that is computed in one step computes what the plain block does, and so do its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

import pytest
import torch
from torch import Tensor

from quillgpt.attention import KernelSpec, dropout, spread
from quillgpt.attention.dropout import LEVELS, dropped_levels, scramble
from quillgpt.config.schema import Arch, GeluName
from quillgpt.device import autocast
from quillgpt.model import GPT, GPTConfig, fused_block, gpt
from quillgpt.model.gpt import DROPOUT_SITES, Block, Rotation
from quillgpt.model.lora import add_adapters
from quillgpt.native import kernels, why_unavailable
from quillgpt.native.library import Argument, Kernels
from tolerances import BFLOAT16_FROBENIUS

pytestmark = pytest.mark.skipif(why_unavailable(torch.bfloat16) is not None, reason="there is no C++ compiler")

FLOAT32_FROBENIUS = 1e-5
CONFIG = GPTConfig(
    arch="qwen3", vocab_size=65, block_size=512, n_layer=2, n_head=2, n_kv_head=2, n_embd=48, head_dim=32, mlp_dim=72
)
CONFIGS = {
    "qwen3": CONFIG,
    "fewer key heads": replace(CONFIG, n_head=6, n_kv_head=2, head_dim=16),
    "gpt2": replace(CONFIG, arch="gpt2"),
    "gpt2 with biases": replace(CONFIG, arch="gpt2", bias=True, activation="gelu_new"),
    "gpt2, fewer key heads": replace(CONFIG, arch="gpt2", n_head=4, n_kv_head=1),
}


every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def model_of(config: GPTConfig, attn_path: str = "fused", probability: float = 0.0) -> GPT:
    """Return a model whose weights are large enough for every part of it to matter."""
    model = GPT(config, attn_path=attn_path, dropout=probability, seed=0).train()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15) if parameter.ndim > 1 else parameter.uniform_(0.5, 1.5)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return model


def rotation_of(model: GPT, length: int) -> Rotation | None:
    if model.config.arch == "gpt2":
        return None
    cosines, sines = model.rotations.first(length, torch.device("cpu"))
    return cosines[:length], sines[:length]


def outcome(model: GPT, length: int, dtype: torch.dtype, *, sequences: int = 3) -> dict[str, Tensor]:
    """Return the result of the first block and all gradients, for the same input and gradient."""
    block = model.blocks[0]
    generator = torch.Generator().manual_seed(2)
    x, gradient = (torch.randn(sequences, length, model.config.n_embd, generator=generator) for _ in range(2))
    x.requires_grad_()
    seeds = spread(torch.arange(sequences), len(DROPOUT_SITES)) if model.dropout else None
    with autocast(x.device, dtype):
        result = block(x, rotation_of(model, length), None, seeds)
    result.backward(gradient)
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
    return {"result": result.detach(), "x": x.grad, **gradients}


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    errors = {name: float((one[name] - other[name]).norm() / other[name].norm()) for name in one}
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize("length", [2, 31, 32, 33, 100, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_config
def test_it_computes_what_the_plain_block_does(config: GPTConfig, length: int, dtype: torch.dtype) -> None:
    tolerance = FLOAT32_FROBENIUS if dtype == torch.float32 else 3 * BFLOAT16_FROBENIUS
    plain, fused = model_of(config, "explicit"), model_of(config)
    assert_near(outcome(fused, length, dtype), outcome(plain, length, dtype), tolerance)


@pytest.mark.parametrize(
    ("heads", "head_dim", "width", "mlp_dim"), [(1, 48, 48, 130), (3, 10, 30, 33), (2, 64, 100, 8)]
)
@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_it_does_so_for_widths_that_fill_no_vector(
    arch: Arch, heads: int, head_dim: int, width: int, mlp_dim: int
) -> None:
    config = replace(
        CONFIG,
        arch=arch,
        n_head=heads,
        n_kv_head=heads,
        head_dim=head_dim,
        n_embd=width,
        mlp_dim=mlp_dim,
        bias=arch == "gpt2",
    )
    plain, fused = model_of(config, "explicit"), model_of(config)
    assert_near(outcome(fused, 70, torch.float32), outcome(plain, 70, torch.float32), FLOAT32_FROBENIUS)


@every_config
def test_it_is_at_least_as_near_to_float32_as_the_plain_block(config: GPTConfig) -> None:
    truth = outcome(model_of(config, "explicit"), 128, torch.float32)
    plain, fused = (outcome(model_of(config, path), 128, torch.bfloat16) for path in ("explicit", "fused"))
    ratios = {name: float((fused[name] - value).norm() / (plain[name] - value).norm()) for name, value in truth.items()}
    assert max(ratios.values()) < 2, ratios
    assert mean(ratios.values()) < 1.2


def factors_of(seeds: Tensor, shape: Sequence[int], probability: float) -> Tensor:
    """Return the factors of the kernels, written apart from them: of (B, T, C), or of weights (B, H, T, S)."""
    *_, rows, width = shape
    heads = shape[1] if len(shape) == 4 else 1
    row = (torch.arange(heads)[:, None] << 24 | torch.arange(rows)) << 16
    words = scramble(scramble(seeds).view(-1, 1, 1, 1) + row[..., None] + torch.arange(-(-width // 4)))
    levels = torch.stack([words << 48 - 16 * part >> 48 for part in range(4)], -1).flatten(-2)[..., :width]
    dropped = dropped_levels(probability)
    return ((levels >= dropped - LEVELS // 2) * (LEVELS / (LEVELS - dropped))).view(shape)


@pytest.mark.parametrize("length", [50, 128])
@every_config
def test_its_dropout_is_a_function_of_the_seeds(
    config: GPTConfig, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same(x: Tensor, probability: float, seeds: Tensor | None = None) -> Tensor:
        return x if seeds is None else x * factors_of(seeds, x.shape, probability).to(x.dtype)

    fused = outcome(model_of(config, probability=0.3), length, torch.float32)
    monkeypatch.setattr(gpt, "dropout", same)
    assert_near(fused, outcome(model_of(config, "explicit", 0.3), length, torch.float32), FLOAT32_FROBENIUS)


def test_it_drops_what_it_is_told_to() -> None:
    shape = (4, 2, 96, 96)
    for probability in (0.1, 0.5):
        factors = factors_of(torch.arange(4), shape, probability)
        assert float((factors == 0).float().mean()) == pytest.approx(probability, abs=0.01)
        assert float(factors.mean()) == pytest.approx(1, abs=0.01)


@every_config
def test_a_sequence_is_computed_the_same_whatever_is_beside_it(config: GPTConfig) -> None:
    model = model_of(config, probability=0.2)
    three, one = (outcome(model, 40, torch.float32, sequences=count)["result"] for count in (3, 1))
    assert not torch.equal(three[0], three[1])
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 40, CONFIG.n_embd, generator=generator)
    rotation = rotation_of(model, 40)
    seeds = spread(torch.arange(3), len(DROPOUT_SITES))
    alone = torch.cat([model.blocks[0](x[i : i + 1], rotation, None, seeds[:, i : i + 1]) for i in range(3)])
    torch.testing.assert_close(three, alone, rtol=1e-5, atol=1e-5)
    assert one.shape == (1, 40, CONFIG.n_embd)


@every_config
def test_threads_only_change_the_order_of_sums(config: GPTConfig) -> None:
    before = torch.get_num_threads()
    outcomes = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outcomes.append(outcome(model_of(config, probability=0.1), 64, torch.float32))
    finally:
        torch.set_num_threads(before)
    for other in outcomes[1:]:
        assert_near(other, outcomes[0], FLOAT32_FROBENIUS)


class Surrounded:
    """Kernels whose tensors lie between others' memory, which is NaN everywhere and must stay as it is."""

    MARGIN = 96  # numbers on either side

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: Argument) -> None:
            moved = [self._moved(argument) if isinstance(argument, Tensor) else argument for argument in arguments]
            getattr(self._kernels, name)(*moved)
            for before, after in zip(arguments, moved, strict=True):
                if isinstance(before, Tensor) and isinstance(after, Tensor) and after is not before:
                    ends = torch.tensor([], dtype=after.dtype).set_(after.untyped_storage())
                    assert ends[: self.MARGIN].isnan().all(), f"{name} wrote before a tensor"
                    assert ends[-self.MARGIN :].isnan().all(), f"{name} wrote behind a tensor"
                    if not torch.equal(before.view(torch.uint8), after.view(torch.uint8)):
                        before.copy_(after)

        return call

    def _moved(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        room = torch.full((tensor.numel() + 2 * self.MARGIN,), torch.nan, dtype=tensor.dtype)
        inner = room[self.MARGIN : -self.MARGIN].view(tensor.shape)
        inner.copy_(tensor)
        return inner


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [32, 45])
@pytest.mark.parametrize(("heads", "head_dim"), [(2, 16), (4, 8), (1, 32), (2, 32), (3, 10)])
@pytest.mark.parametrize(("arch", "bias"), [("gpt2", False), ("gpt2", True), ("qwen3", False)])
def test_it_reads_and_writes_nothing_beside_its_tensors(
    arch: Arch, bias: bool, heads: int, head_dim: int, length: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        CONFIG, arch=arch, bias=bias, n_head=heads, n_kv_head=heads, head_dim=head_dim, n_embd=30, mlp_dim=33
    )
    alone = outcome(model_of(config, probability=0.1), length, dtype)
    monkeypatch.setattr(fused_block, "kernels", lambda dtype: Surrounded(kernels(dtype)))
    for name, tensor in outcome(model_of(config, probability=0.1), length, dtype).items():
        assert torch.equal(tensor, alone[name]), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@every_config
def test_a_value_that_is_not_finite_stays_so(config: GPTConfig, value: float) -> None:
    model = model_of(config)
    mlp = model.blocks[0].mlp
    with torch.no_grad():
        (mlp.up if config.arch == "gpt2" else mlp.gate_up).weight[0, 0] = value
    tensors = outcome(model, 40, torch.bfloat16)
    tensors.pop("mlp.down.bias", None)  # whose gradient depends on the given one alone
    assert not any(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_gelu_is_that_of_the_plain_block_near_and_far_from_0(activation: GeluName) -> None:
    x = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([0.0, -0.0, 1e-30, 1e30, -1e4])])
    x.requires_grad_()
    truth = torch.nn.functional.gelu(x.double(), approximate="tanh" if activation == "gelu_new" else "none")
    (derivative,) = torch.autograd.grad(truth.sum(), x)
    own, result = x.detach().clone(), torch.empty(len(x))
    kernels(torch.float32).gelu(1, len(x), activation == "gelu_new", own, result)
    torch.testing.assert_close(result, truth.detach().float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own, derivative, rtol=1e-6, atol=1e-6)


def test_blocks_of_other_kernels_are_not_fused() -> None:
    config = replace(CONFIG, kernel=KernelSpec("GK"))
    assert not any(block.fused for block in GPT(config, attn_path="auto").blocks)
    assert not config.fusible


def test_a_block_with_adapters_uses_them() -> None:
    model = model_of(CONFIG)
    add_adapters(model, rank=2, alpha=2.0, dropout=0.0, seed=0)
    assert not any(block.fused for block in model.blocks)


@every_config
def test_without_gradients_nothing_changes(config: GPTConfig) -> None:
    tokens = torch.arange(40)[None]
    plain, fused = (model_of(config, path).eval() for path in ("explicit", "fused"))
    assert torch.equal(plain(tokens), fused(tokens))


@every_config
def test_it_can_be_computed_again_for_its_backward_pass(config: GPTConfig) -> None:
    gradients = []
    for again in (False, True):
        model = model_of(config, probability=0.2)
        model.gradient_checkpointing = again
        tokens = torch.arange(60).view(2, 30)
        model.loss_sum(tokens, tokens, torch.arange(2)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_dropout_without_seeds_is_left_to_the_plain_block(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(gpt, "dropout", lambda x, *rest: drawn.append(rest) or dropout(x, *rest))
    block: Block = model_of(CONFIG, probability=0.2).blocks[0]
    x = torch.randn(1, 8, CONFIG.n_embd)
    block(x, (torch.ones(8, 32), torch.zeros(8, 32)), None, None)
    assert drawn
