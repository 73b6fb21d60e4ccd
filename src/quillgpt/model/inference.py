"""Models for inference: linear layers in the form that is fastest for few rows on a CPU.

Every token costs one pass over all weights, so their bytes and their layout decide the speed. Norms, attention and the
residual stream stay in float32, which is fastest for few rows on a CPU.

Shapes: R rows (all dimensions but the last), K inputs, N outputs.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quillgpt.config.schema import Quantize
from quillgpt.errors import DeviceError
from quillgpt.model.assembly import Form, part_names
from quillgpt.model.cache import INT8_LIMIT, SMALLEST_UNIT
from quillgpt.model.gpt import GPT

ZERO_POINT = 128
"""oneDNN takes unsigned activations: 128 stands for 0."""
ROWS_AT_ONCE = 1024
"""Rows of a weight that are rounded at once: rounding a large head as a whole would double its memory."""
FEW_ROWS = 16
"""Up to this many rows, PyTorch's product with int8 weights is faster than converting them to bfloat16. Without
instructions for bfloat16 it always is."""


def inference_form(dtype: torch.dtype, *, quantize: Quantize = "none", device: torch.device) -> Form | None:
    """Return the function that replaces the parts of a model for inference, or None if they stay as they are.

    Args:
        dtype: Number format of the products.
        quantize: `none`, or `int8` for weights of 8 bits.
        device: Device of the model.

    Raises:
        DeviceError: int8 was asked for on a device other than a CPU.
    """
    check_quantize(quantize, device)
    if quantize == "int8":
        return lambda part: Int8Linear(part) if isinstance(part, nn.Linear) else part
    if dtype == torch.float32:
        return None
    if device.type == "cpu" and packs_bfloat16():
        return lambda part: PackedLinear(part) if isinstance(part, nn.Linear) else part
    return lambda part: copy.deepcopy(part).to(device, dtype)


def for_inference(model: GPT, dtype: torch.dtype, *, quantize: Quantize = "none") -> GPT:
    """Return a model for computing without gradients; it shares the weights that keep their form with `model`.

    Args:
        model: In float32, in evaluation mode, on its device.
        dtype: Number format of the products.
        quantize: `none`, or `int8` for weights of 8 bits.

    Raises:
        DeviceError: int8 was asked for on a device other than a CPU.
    """
    form = inference_form(dtype, quantize=quantize, device=model.device)
    if form is None:
        return model
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for name in part_names(twin):
        twin.set_submodule(name, form(twin.get_submodule(name)))
    if isinstance(twin.head, nn.Linear):
        twin.tie()
    return twin


def check_quantize(quantize: Quantize, device: torch.device) -> None:
    """Check that the device can multiply with weights of 8 bits.

    Raises:
        DeviceError: It cannot: it is no CPU.
    """
    if quantize == "int8" and device.type != "cpu":
        raise DeviceError(f"quantize = int8 is for CPUs, and the device is {device}; add --device=cpu, or leave it out")


class PackedLinear(nn.Module):
    """A linear layer in bfloat16 with its weight in oneDNN's own layout; inputs and results are float32.

    The result is bit for bit that of `F.linear` in bfloat16, in a third of the time for one row. A row's result does
    not depend on other rows.
    """

    weight_dtype = torch.bfloat16

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        # The hint is one row; the layout works for other numbers of rows too.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().bfloat16(), 1)
        self._bias = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last dimension: (R, K) to (R, N)."""
        return self.product(x).float()

    def product(self, x: Tensor) -> Tensor:
        """Return the result in bfloat16, in which it is computed."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self._weight, self._bias, "none", [], "")
        return product


class Int8Linear(nn.Module):
    """A linear layer with weights of 8 bits, scaled row by row so that the largest weight of a row is 127.

    On CPUs with instructions for 8-bit products (VNNI), inputs are rounded to 8 bits too, with a scale for each row
    (LLM.int8's vector-wise scheme, arXiv 2208.07339, without its outliers). On others they are bfloat16. A row's result
    does not depend on other rows.
    """

    weight_dtype = torch.int8

    def __init__(self, linear: nn.Linear, *, vnni: bool | None = None) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.scales = torch.linalg.vector_norm(weight, math.inf, 1).div_(INT8_LIMIT).clamp_(min=SMALLEST_UNIT)  # (N,)
        self.weight = torch.empty(weight.shape, dtype=torch.int8)  # (N, K)
        for first in range(0, len(weight), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            self.weight[rows] = (weight[rows] / self.scales[rows, None]).round_()
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        self._vnni = has_vnni() if vnni is None else vnni
        self._ones = torch.ones(len(self.scales), dtype=torch.bfloat16)
        if self._vnni:
            self._zero_points = torch.zeros(len(self.scales), dtype=torch.int32)
            self.weight = torch.ops.onednn.qlinear_prepack(self.weight, None)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last dimension: (R, K) to (R, N)."""
        product = self._product_of_int8(x) if self._vnni else self._product_of_bfloat16(x)
        return product if self.bias is None else product.add_(self.bias)

    def _product_of_int8(self, x: Tensor) -> Tensor:
        unit = torch.linalg.vector_norm(x, math.inf, -1, keepdim=True).div_(INT8_LIMIT).clamp_(min=SMALLEST_UNIT)
        rounded = (x / unit).add_(ZERO_POINT + 0.5).to(torch.uint8)  # the conversion truncates
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(rounded, 1.0, ZERO_POINT, self.weight, self.scales, self._zero_points, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return product.mul_(unit)

    def _product_of_bfloat16(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2).bfloat16()
        if len(rows) <= FEW_ROWS or not packs_bfloat16():
            product = torch._weight_int8pack_mm(rows, self.weight, self._ones)
        else:
            product = F.linear(rows, self.weight.bfloat16())
        return product.float().mul_(self.scales).view(*x.shape[:-1], -1)


def packs_bfloat16() -> bool:
    """Whether PyTorch has oneDNN here, with bfloat16 products on this CPU."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_vnni() -> bool:
    """Whether this CPU adds up products of 8-bit numbers without overflow."""
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported())  # type: ignore[no-untyped-call]
