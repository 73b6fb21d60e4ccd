"""Ranges, weights and losses by length of a trained model, compared with direct computations."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from quillgpt.activations import ACTIVATIONS
from quillgpt.attention import KernelSpec
from quillgpt.attention.reference import reference_attention
from quillgpt.data.batches import spread_offsets
from quillgpt.evaluation import mean_loss
from quillgpt.evaluation.loss import SPREAD_SEED
from quillgpt.lab.lengths import losses_by_length
from quillgpt.lab.observe import observed
from quillgpt.lab.ranges import histogram_table, measure_ranges, range_table, violations
from quillgpt.lab.variants import stretched, with_block_size, with_kernel
from quillgpt.lab.weights import attention_weights, row_statistics
from quillgpt.model import GPT, attention_paths
from quillgpt.model.kernels import mean_distance_argument
from tiny import GPT2, QWEN3, random_ids, tiny_model
from tolerances import BFLOAT16_FROBENIUS, EXACT, FLOAT32


def all_arguments(model, blocks):
    """Return x of every head, (layers, H, pairs), from differences of queries and keys, in float64."""
    layers = [[] for _ in model.blocks]

    def watch(layer, query, key, *_):
        distance = (query[0, :, :, None].double() - key[0, :, None].double()).square().sum(-1)
        visible = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
        layers[layer].append((-distance / (2 * math.sqrt(query.shape[-1])))[:, visible])

    with torch.no_grad(), observed(model, watch):
        for block in blocks:
            model(block)
    return torch.stack([torch.cat(blocks_of_layer, 1) for blocks_of_layer in layers])


def test_ranges_are_those_of_all_pairs(opened):
    model = with_kernel(opened.gpt, KernelSpec("GKpoly-2"))
    blocks = list(opened.inputs())
    truth = all_arguments(model, blocks)
    ranges = measure_ranges(model, blocks)
    assert [(head.layer, head.head) for head in ranges] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for head, own in zip(ranges, truth.flatten(0, 1), strict=True):
        assert head.pairs == len(own) == 12 * 32 * 33 // 2
        assert head.minimum == pytest.approx(float(own.min()), rel=1e-5)
        assert head.maximum == pytest.approx(float(own.max()), abs=1e-4)
        for quantile, share in zip(head.quantiles, (0.001, 0.01, 0.5), strict=True):
            assert quantile == pytest.approx(float(np.quantile(own.cpu().numpy(), share)), abs=1e-4)
        assert head.below == int((own < -4).sum())
        assert head.dangerous == head.below  # -2N + 12 is above -N
    formal, dangerous = violations(ranges)
    assert formal == pytest.approx(float((truth < -4).double().mean()))
    assert 0 < formal == dangerous


def test_tables_of_ranges_name_a_polynomial_for_each_head(opened):
    ranges = measure_ranges(opened.gpt, opened.inputs())
    assert violations(ranges) is None
    table = range_table("ranges", ranges)
    assert list(table.formats)[:3] == ["layer", "head", "min"]
    assert "x < -N" not in table.formats
    assert all(row["error"] <= 1e-2 for row in table.rows)
    bins = histogram_table("bins", ranges).rows
    assert sum(row["share"] for row in bins) == pytest.approx(4.0)


def test_the_ranges_of_products_know_no_polynomial(opened):
    ranges = measure_ranges(with_kernel(opened.gpt, KernelSpec("PA_gelu")), opened.inputs())
    assert {(head.smallest_n, head.polynomial, head.below) for head in ranges} == {(None, None, None)}
    assert min(head.minimum for head in ranges) < 0 < max(head.maximum for head in ranges)


@pytest.mark.parametrize("name", ["SM", "GK", "GKn", "GKpoly-6", "PA_tanh"])
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_weights_times_values_are_what_attention_returns(name, config):
    model = tiny_model(config, kernel=KernelSpec(name))
    ids = random_ids(model.config, 1, 16)
    values, results = [], []

    def watch(_, query, key, value, mixed):
        values.append(value[0])
        results.append(mixed[0])

    with torch.inference_mode(), observed(model, watch):
        model(ids)
    weights = attention_weights(model, ids)
    assert weights.shape == (3, 4, 16, 16)
    torch.testing.assert_close(weights @ torch.stack(values), torch.stack(results), rtol=1e-4, atol=1e-5)
    statistics = row_statistics(model, [ids])
    torch.testing.assert_close(statistics.sums, weights.sum(-1), **FLOAT32)
    torch.testing.assert_close(statistics.norms, torch.stack(results).norm(dim=-1), rtol=1e-4, atol=1e-5)
    shares = weights.abs() / weights.abs().sum(-1, keepdim=True)
    expected = torch.distributions.Categorical(probs=shares.clamp(min=1e-38)).entropy()
    torch.testing.assert_close(statistics.entropy, expected, rtol=1e-3, atol=1e-4)
    other = random_ids(model.config, 1, 16, seed=1)
    both, alone = row_statistics(model, [ids, other]), row_statistics(model, [other])
    torch.testing.assert_close(both.sums, (statistics.sums + alone.sums) / 2, rtol=1e-4, atol=1e-5)


def test_positions_and_lengths_add_up_to_the_usual_loss(opened):
    results = losses_by_length(opened.gpt, opened.tokens, blocks=4)
    assert [result.length for result in results] == [16, 32, 64, 128]
    usual = results[1]
    longest = spread_offsets(len(opened.tokens), 128, 4, SPREAD_SEED)
    assert longest.max() > len(opened.tokens) / 2  # from all over the split
    starts = np.concatenate([longest + 32 * part for part in range(4)])
    loss = mean_loss(opened.gpt, opened.tokens, starts, batch_size=4)
    assert usual.loss == pytest.approx(loss, abs=1e-6)
    assert usual.loss == pytest.approx(float(usual.by_position.mean()))
    assert float(usual.by_position[0]) > float(usual.by_position[8:].mean())  # the first has no context


def test_longer_blocks_begin_as_usual_ones_do():
    model = tiny_model(QWEN3, kernel=KernelSpec("PA_relu"))
    longer = with_block_size(model, 64)
    ids = random_ids(model.config, 2, 64)
    with torch.no_grad():
        torch.testing.assert_close(longer(ids)[:, :16], model(ids[:, :16]), **FLOAT32)
    assert longer.config.block_size == 64


def test_learned_positions_are_stretched():
    model = tiny_model(GPT2)
    table = model.position_embedding.weight.detach()
    longer = with_block_size(model, 31).position_embedding.weight
    torch.testing.assert_close(longer[::2], table, **FLOAT32)
    torch.testing.assert_close(longer[1], (table[0] + table[1]) / 2, **FLOAT32)
    torch.testing.assert_close(stretched(table, 16), table, **FLOAT32)


def test_a_model_with_another_kernel_shares_its_weights():
    model = tiny_model(GPT2, kernel=KernelSpec("GK", learn_tau=True))
    other = with_kernel(model, KernelSpec("GKn", learn_tau=True, learn_gain=True))
    assert other.blocks[0].attention.qkv.weight.data_ptr() == model.blocks[0].attention.qkv.weight.data_ptr()
    assert other.head.weight is other.token_embedding.weight
    torch.testing.assert_close(
        other.blocks[1].attention.log_tau.weight, model.blocks[1].attention.log_tau.weight, **EXACT
    )
    assert bool((other.blocks[0].attention.gain.weight == 1).all())
    truth = GPT(replace(model.config, kernel=KernelSpec("GKn", learn_tau=True))).eval()
    truth.load_state_dict(model.state_dict())
    ids = random_ids(model.config, 1, 16)
    with torch.no_grad():
        torch.testing.assert_close(other(ids), truth(ids), **FLOAT32)
        assert not torch.allclose(other(ids), model(ids), atol=1e-3)
    assert F.softmax(model.logits(model(ids)), -1).isfinite().all()


@pytest.mark.parametrize(
    ("arch", "heads", "width", "qk_norm"),
    [("gpt2", 1, 256, False), ("gpt2", 8, 256, False), ("gpt2", 4, 256, True), ("qwen3", 4, 128, False)],
)
def test_the_mean_argument_at_the_start_is_predicted(arch, heads, width, qk_norm):
    sizes = {"n_layer": 1, "n_head": heads, "n_kv_head": heads, "n_embd": width, "head_dim": width // heads}
    config = replace(
        GPT2 if arch == "gpt2" else QWEN3, **sizes, block_size=64, kernel=KernelSpec("GK", qk_norm=qk_norm)
    )
    arguments = all_arguments(GPT(config, seed=0).eval(), [random_ids(config, 1, 64, seed=seed) for seed in range(8)])
    # Pairs of one token twice, such as a query and its own key, are no nearer: queries and keys are different maps.
    assert float(arguments.mean()) == pytest.approx(mean_distance_argument(config), rel=0.05)


@pytest.mark.parametrize(
    "name",
    ["SM", "GK", "GKn", "GKpoly-4", "GKpoly-8", "GKpoly-14", *(f"PA_{name}" for name in ACTIVATIONS)],
)
def test_bfloat16_is_near_on_a_trained_models_activations(name, opened):
    """Results and gradients, against the formula in float64 on the same numbers."""
    given = []
    with torch.no_grad(), observed(opened.gpt, lambda _, *tensors: given.append(tensors[:3])):
        opened.gpt(next(opened.inputs()))
    kernel = KernelSpec(name)
    for path in attention_paths(kernel, block_size=32).values():
        for tensors in given:
            rounded = [tensor.clone().bfloat16().requires_grad_() for tensor in tensors]
            exact = [tensor.detach().double().requires_grad_() for tensor in rounded]
            truth = reference_attention(*exact, kernel, block_size=32)
            output = path(*rounded, 0.0)
            upstream = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)).bfloat16().to(output.device)
            pairs = [
                (output, truth),
                *zip(
                    torch.autograd.grad(output, rounded, upstream),
                    torch.autograd.grad(truth, exact, upstream.double()),
                    strict=True,
                ),
            ]
            for own, expected in pairs:
                own, expected = own.detach().double(), expected.detach()
                assert float((own - expected).norm() / expected.norm()) <= BFLOAT16_FROBENIUS
