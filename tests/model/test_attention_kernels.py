"""Models with other kernels than softmax: read at once and token by token, and the parameters that kernels bring."""

from dataclasses import replace

import pytest
import torch

from quillgpt.activations import ACTIVATIONS
from quillgpt.attention import KernelSpec
from quillgpt.errors import ConfigError
from quillgpt.model import GPT, KeyValueCache
from quillgpt.model.kernels import limit_range
from tiny import CONFIGS, random_ids, tiny_model
from tolerances import FLOAT32

KERNELS = [
    KernelSpec("GK", learn_tau=True, learn_gain=True),
    KernelSpec("GK", qk_norm=True),
    KernelSpec("GKn", learn_tau=True),
    *(KernelSpec(f"GKpoly-{n}") for n in (4, 8)),
    KernelSpec("GKpoly-6", poly_form="chebyshev", qk_norm=True),
    KernelSpec("GKpoly-4", row_norm=True),
    *(KernelSpec(f"PA_{name}") for name in ACTIVATIONS),
    KernelSpec("PA_gelu", len_scale="pos", learn_gain=True),
    KernelSpec("PA_sigmoid", len_scale="none", attn_bias=-2.0),
]


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_reading_with_a_cache_equals_reading_at_once(kernel, arch):
    model = tiny_model(CONFIGS[arch], kernel=kernel)
    ids = random_ids(model.config, 3, 16)
    cache = KeyValueCache(model.config, 3, device=ids.device, dtype=torch.float32)
    with torch.no_grad():
        pieces = [model.logits(model(part, cache)) for part in ids.split([5, 1, 1, 6, 3], dim=1)]
        rounding = 1e-5 * max(1, (kernel.degree or 1) / 16)
        torch.testing.assert_close(torch.cat(pieces, dim=1), model.logits(model(ids)), rtol=rounding, atol=rounding)


def test_the_length_at_hand_makes_a_cache_differ():
    model = tiny_model(CONFIGS["gpt2"], kernel=KernelSpec("PA_relu", len_scale="seq"))
    ids = random_ids(model.config, 1, 16)
    cache = KeyValueCache(model.config, 1, device=ids.device, dtype=torch.float32)
    with torch.no_grad():
        pieces = torch.cat([model(part, cache) for part in ids.split(8, dim=1)], dim=1)
        assert not torch.allclose(pieces[:, :8], model(ids)[:, :8], atol=1e-3)


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("kernel", [*KERNELS, KernelSpec("PA_relu", len_scale="seq")], ids=str)
def test_no_position_sees_the_future(kernel, arch):
    model = tiny_model(CONFIGS[arch], kernel=kernel)
    ids = random_ids(model.config, 1, 16)
    changed = ids.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 65
    with torch.no_grad():
        torch.testing.assert_close(model(changed)[:, :9], model(ids)[:, :9], **FLOAT32)


@pytest.mark.parametrize("arch", CONFIGS)
def test_what_kernels_learn_begins_as_nothing(arch):
    kernel = KernelSpec("GK", learn_tau=True, learn_gain=True)
    model, plain = GPT(CONFIGS[arch], seed=3).eval(), None
    learning = GPT(CONFIGS[arch].__class__(**{**vars(CONFIGS[arch]), "kernel": kernel}), seed=3).eval()
    plain = GPT(CONFIGS[arch].__class__(**{**vars(CONFIGS[arch]), "kernel": KernelSpec("GK")}), seed=3).eval()
    ids = random_ids(model.config, 1, 16)
    torch.testing.assert_close(learning(ids), plain(ids), **FLOAT32)
    learning.loss_sum(ids[:, :-1], ids[:, 1:]).backward()
    for block in learning.blocks:
        assert block.attention.log_tau.weight.shape == (model.config.n_kv_head,)
        assert block.attention.gain.weight.shape == (model.config.n_head,)
        assert block.attention.log_tau.weight.grad.abs().min() > 0
        assert block.attention.gain.weight.grad.abs().min() > 0


def test_tau_is_a_factor_of_the_squared_distance():
    config = CONFIGS["qwen3"]
    kernel = KernelSpec("GK", learn_tau=True)
    model = tiny_model(config, kernel=kernel)
    wide = tiny_model(config, kernel=kernel)
    with torch.no_grad():
        for block in wide.blocks:  # twice the square by sqrt(2) in queries and keys, or by tau
            block.attention.query_norm.weight.mul_(2**0.5)
            block.attention.key_norm.weight.mul_(2**0.5)
        for block in model.blocks:
            block.attention.log_tau.weight.add_(torch.tensor(2.0).log())
        ids = random_ids(config, 1, 16)
        torch.testing.assert_close(model(ids), wide(ids), **FLOAT32)


@pytest.mark.parametrize("arch", CONFIGS)
def test_normalised_queries_and_keys_keep_the_argument_in_its_range(arch):
    model = tiny_model(CONFIGS[arch], kernel=KernelSpec("GK", qk_norm=True))
    arguments = []
    for block in model.blocks:
        if arch == "qwen3":  # whose norms have weights of their own
            torch.nn.init.ones_(block.attention.query_norm.weight)
            torch.nn.init.ones_(block.attention.key_norm.weight)
        inner = block.attention.path

        def attend(query, key, *rest, inner=inner):
            grouped = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
            arguments.append(torch.cdist(query, grouped).square() / (2 * query.shape[-1] ** 0.5))
            return inner(query, key, *rest)

        block.attention.path = attend
    with torch.no_grad():
        model(random_ids(model.config, 2, 16))
    assert len(arguments) == 3
    assert max(x.max().item() for x in arguments) <= 2 * model.config.head_dim**0.5 + 1e-4


@pytest.mark.parametrize("kernel", [KernelSpec("GK", learn_tau=True), KernelSpec("GKpoly-6", learn_tau=True)], ids=str)
def test_the_gradient_of_tau_is_that_of_finite_differences(kernel):
    config = replace(CONFIGS["qwen3"], kernel=kernel)
    model = tiny_model(config).double()
    ids = random_ids(config, 1, 16)
    taus = [torch.linspace(-1, 1, config.n_kv_head).double().requires_grad_() for _ in range(config.n_layer)]
    names = [f"blocks.{layer}.attention.log_tau.weight" for layer in range(config.n_layer)]

    def loss(*taus):
        hidden = torch.func.functional_call(model, dict(zip(names, taus, strict=True)), (ids,))
        return hidden.pow(4).sum()

    assert torch.autograd.gradcheck(loss, taus, rtol=1e-5, atol=1e-7)


def test_each_key_head_has_a_tau_of_its_own():
    config = replace(CONFIGS["qwen3"], kernel=KernelSpec("GK", learn_tau=True))
    model, ids, seen = tiny_model(config), random_ids(CONFIGS["qwen3"], 1, 16), []
    attention = model.blocks[0].attention
    inner = attention.path
    attention.path = lambda query, key, *rest: (seen.append((query, key)), inner(query, key, *rest))[1]
    with torch.no_grad():
        attention.log_tau.weight.zero_()
        model(ids)
        taus = torch.linspace(1, 2, config.n_kv_head)
        attention.log_tau.weight.copy_(taus)
        model(ids)
    [(query, key), (wider, further)] = seen
    groups = config.n_head // config.n_kv_head
    assert groups > 1
    for head in range(config.n_head):  # query heads of a group come one after the other
        root = torch.exp(taus[head // groups] / 2)
        torch.testing.assert_close(wider[:, head], query[:, head] * root, **FLOAT32)
        torch.testing.assert_close(further[:, head // groups], key[:, head // groups] * root, **FLOAT32)


def test_a_swapped_kernel_keeps_what_both_have():
    own = KernelSpec("PA_relu", len_scale="pos", row_norm=True, learn_gain=True, qk_norm=True)
    assert own.swapped("PA_square", len_alpha=0.5) == replace(own, attn_type="PA_square", len_alpha=0.5)
    assert own.swapped("GKpoly-4") == KernelSpec("GKpoly-4", row_norm=True, learn_gain=True, qk_norm=True)
    assert not own.swapped("PA_gelu").row_norm  # whose weights have signs
    gaussian = KernelSpec("GKpoly-8", poly_form="chebyshev", poly_range=64.0, learn_tau=True)
    assert gaussian.swapped("GKpoly-4") == replace(gaussian, attn_type="GKpoly-4")
    assert gaussian.swapped("SM") == KernelSpec("SM")
    with pytest.raises(ConfigError, match="len_scale = pos is for PA, and attn_type is GK; leave it out"):
        own.swapped("GK", len_scale="pos")
    with pytest.raises(ConfigError, match="those of PA_gelu can be negative"):
        own.swapped("PA_gelu", row_norm=True)


@pytest.mark.parametrize(
    "kernel",
    [KernelSpec(), KernelSpec("GK", learn_tau=True, learn_gain=True), KernelSpec("PA_gelu", qk_norm=True)],
    ids=str,
)
def test_all_blocks_compile_to_one_graph_whatever_the_kernel(kernel):
    torch.compiler.reset()
    model = GPT(replace(CONFIGS["gpt2"], kernel=kernel), dropout=0.1)
    if kernel.of_distance:
        limit_range(model, 0.5)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    for block in model.blocks:
        block.forward = torch.compile(block.forward, backend=backend)
    ids = random_ids(model.config, 2, 17)
    model.loss_sum(ids[:, :-1], ids[:, 1:]).backward()
    torch.compiler.reset()
    assert len(graphs) == 1
