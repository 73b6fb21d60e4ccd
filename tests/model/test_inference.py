import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quillgpt.errors import DeviceError
from quillgpt.model import check_quantize, for_inference
from quillgpt.model.inference import (
    FEW_ROWS,
    Int8Linear,
    PackedLinear,
    has_vnni,
    packs_bfloat16,
)
from tiny import CONFIGS, GPT2, random_ids, tiny_model
from tolerances import BFLOAT16_FROBENIUS

WAYS = [False, True] if has_vnni() else [False]
needs_onednn = pytest.mark.skipif(not packs_bfloat16(), reason="oneDNN has no bfloat16 on this CPU")


def linear(inputs=96, outputs=64, *, bias=True):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    layer.weight.mul_(torch.rand(outputs, 1) * 3)  # rows of different scale
    return layer


def error(actual, expected):
    return float((actual - expected).norm() / expected.norm())


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (3, 1), (2, 40)])
def test_a_packed_layer_gives_the_bits_of_the_plain_one(rows, bias):
    layer, x = linear(bias=bias), torch.randn(*rows, 96)
    plain = F.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16() if bias else None)
    assert torch.equal(PackedLinear(layer)(x), plain.float())


@pytest.mark.parametrize("vnni", WAYS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (3, 1), (FEW_ROWS + 1,), (2, 40)])
def test_an_int8_layer_is_the_float_layer_of_its_rounded_weights(rows, bias, vnni):
    layer, x = linear(bias=bias), torch.randn(*rows, 96)
    scales = layer.weight.abs().amax(1, keepdim=True) / 127
    rounded = (layer.weight / scales).round()
    assert rounded.abs().amax(1).eq(127).all()
    actual = Int8Linear(layer, vnni=vnni)(x)
    assert actual.shape == (*rows, 64)
    assert actual.dtype == torch.float32
    if vnni:  # the inputs are rounded too, each row by its own largest
        units = x.abs().amax(-1, keepdim=True) / 127
        x = (x / units).round() * units
    assert error(actual, F.linear(x, rounded * scales, layer.bias)) < (1e-3 if vnni else BFLOAT16_FROBENIUS)


@pytest.mark.parametrize("vnni", WAYS)
def test_rounding_to_8_bits_costs_about_a_hundredth(vnni):
    layer, x = linear(), torch.randn(50, 96)
    assert 1e-3 < error(Int8Linear(layer, vnni=vnni)(x), layer(x)) < 2e-2


@pytest.mark.parametrize("vnni", WAYS)
def test_rows_of_zeros_and_of_huge_numbers_have_a_result(vnni):
    layer = linear(bias=False)
    layer.weight[3] = 0
    x = torch.randn(4, 96)
    x[0], x[1], x[2] = 0, x[1] * 1e-20, x[2] * 1e20
    actual = Int8Linear(layer, vnni=vnni)(x)
    assert actual.isfinite().all()
    assert actual[0].eq(0).all()
    assert actual[:, 3].eq(0).all()
    for row in (1, 2, 3):
        assert error(actual[row], layer(x[row])) < 3e-2


@pytest.mark.parametrize("make", [pytest.param(PackedLinear, marks=needs_onednn), Int8Linear])
def test_a_row_does_not_depend_on_the_others(make):
    layer, x = make(linear(384, 256)), torch.randn(10, 384) * torch.logspace(-2, 2, 10)[:, None]
    together = layer(x)
    for row in range(10):
        assert torch.equal(layer(x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("arch", CONFIGS)
def test_a_model_for_inference_gives_nearly_the_same_logits(arch, quantize):
    model = tiny_model(CONFIGS[arch])
    ids = random_ids(model.config, 2, 16)
    with torch.no_grad():
        before = model.logits(model(ids))
        writer = for_inference(model, torch.bfloat16, quantize=quantize)
        actual = writer.logits(writer(ids)).float()
        assert torch.equal(model.logits(model(ids)), before)
    assert not torch.equal(actual, before)
    assert error(actual, before) < (0.05 if quantize == "int8" else 0.03)


@needs_onednn
def test_keys_and_values_are_kept_in_the_bits_of_the_weights():
    model = tiny_model(GPT2)
    assert model.cache_dtype == torch.float32
    assert for_inference(model, torch.bfloat16).cache_dtype == torch.bfloat16
    assert for_inference(model, torch.float32, quantize="int8").cache_dtype == torch.int8


def test_what_is_no_product_is_shared_with_the_model():
    model = tiny_model(GPT2)
    assert for_inference(model, torch.float32) is model
    writer = for_inference(model, torch.float32, quantize="int8")
    assert writer.token_embedding.weight is model.token_embedding.weight
    assert writer.blocks[1].mlp_norm.weight is model.blocks[1].mlp_norm.weight
    assert not any(isinstance(module, nn.Linear) for module in writer.modules())
    assert isinstance(model.head, nn.Linear)


def test_without_onednn_the_whole_model_is_in_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.delattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", raising=False)
    model = for_inference(tiny_model(GPT2), torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert isinstance(model.head, nn.Linear)


def test_int8_is_for_cpus():
    with pytest.raises(DeviceError, match="quantize = int8 is for CPUs, and the device is mps; add --device=cpu"):
        check_quantize("int8", torch.device("mps"))
    check_quantize("none", torch.device("mps"))
