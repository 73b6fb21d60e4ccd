"""A decode step as one call of a kernel in C++ (native/decoding.cpp), with weights in float32 or of 8 bits on a CPU.

Its results differ from those of model/gpt.py by rounding. They are the same for any number of threads, and whatever
sequences are beside: each sum is the work of one thread, in an order that depends on its length alone.

Shapes: B sequences, V vocabulary; the others are those of the C++ file.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor, nn

from quillgpt.attention import SOFTMAX
from quillgpt.model.cache import KeyValueCache
from quillgpt.model.gpt import GPT, MLP, Block, LayerNorm, Linear, RMSNorm
from quillgpt.model.inference import Int8Linear
from quillgpt.native import decoding_kernels


class _Norm(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("weight", "bias"))


class _Linear(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in ("weight", "scales", "bias"))


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("attention_norm", "mlp_norm")),
        *((name, _Linear) for name in ("qkv", "output", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm", "keys", "values", "key_units", "value_units")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("blocks", "H", "G", "D", "C", "M", "V", "capacity")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("rms", "tanh")),
        *((name, ctypes.c_void_p) for name in ("cosines", "sines")),
        *(("norm", _Norm), ("head", _Linear)),
    )


class NativeStep:
    """The decode steps of a model as one call each; the structures above are those of native/decoding.cpp.

    Args:
        model: The model.
        cache: Its keys and values.
        kernel: What `kernel_of` has returned for them.
    """

    def __init__(self, model: GPT, cache: KeyValueCache, kernel: Callable[..., None]) -> None:
        self._gpt, self._cache, self._kernel = model, cache, kernel
        config = model.config
        rotary = config.architecture.positions == "rotary"
        self._rotation = model.rotations.first(cache.capacity, model.device) if rotary else None
        self._blocks = (_Block * config.n_layer)(*(_block(block, cache) for block in model.blocks))
        sizes = (config.n_head, config.n_kv_head, config.head_dim, config.n_embd, config.mlp_dim, config.vocab_size)
        self._model = _Model(
            *(config.n_layer, *sizes, cache.capacity, config.norm_eps),
            *(config.architecture.norm == "rms", config.activation == "gelu_new"),
            *_places(*(self._rotation or (None, None))),
            *(_norm(model.final_norm), _linear(model.head)),
        )

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, V) after tokens (B, 1)."""
        model, at = self._gpt, self._cache.length
        assert at < self._cache.capacity  # the kernel would write behind it
        x = model.embed(tokens).squeeze(1)  # (B, C)
        x = x.contiguous() if model.position_embedding is None else x + model.position_embedding.weight[at]
        logits = torch.empty(len(x), model.config.vocab_size)
        self._kernel(ctypes.byref(self._model), self._blocks, len(x), at, x, logits)
        self._cache.advance(1)
        return logits


def kernel_of(model: GPT, cache: KeyValueCache) -> Callable[..., None] | None:
    """Return the kernel of a decode step that reads a model and its cache as they are, if there is one."""
    dtype = _number_format(model, cache)
    if dtype is None or (kernels := decoding_kernels()) is None:
        return None
    return kernels.decode_int8 if dtype == torch.int8 else kernels.decode_float32


def _number_format(model: GPT, cache: KeyValueCache) -> torch.dtype | None:
    """Return the number format of a model's weights and its cache, or None if the kernel would misread them."""
    if type(cache) is not KeyValueCache or model.config.kernel != SOFTMAX:
        return None
    layers = [model.head, *(layer for block in model.blocks for layer in _layers(block))]
    if any(type(layer) not in (Linear, nn.Linear, Int8Linear) for layer in layers):  # as an adapter
        return None
    tensors = [*model.parameters(), *(tensor for layer in layers for tensor in (layer.weight, layer.bias))]
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in (Tensor, nn.Parameter)  # as the shard of a process
            or tensor.device.type != "cpu"
            or tensor.is_mkldnn  # in a layout of oneDNN
            or not tensor.is_contiguous()
        ):
            return None
    floats = {parameter.dtype for parameter in model.parameters()}
    formats = {tensor.dtype for tensor in (*(layer.weight for layer in layers), *cache.keys)}
    if floats != {torch.float32} or formats not in ({torch.float32}, {torch.int8}):
        return None
    return formats.pop()


def _layers(block: nn.Module) -> list[nn.Linear | Int8Linear]:
    """Return the linear layers of a block."""
    assert isinstance(block, Block)
    up = block.mlp.up if isinstance(block.mlp, MLP) else block.mlp.gate_up
    return [block.attention.qkv, block.attention.output, up, block.mlp.down]


def _block(block: nn.Module, cache: KeyValueCache) -> _Block:
    """Return where the parts of a block are in memory, and what the cache keeps of its layer."""
    assert isinstance(block, Block)
    attention, mlp, layer = block.attention, block.mlp, block.attention.layer
    norms = (None if norm is None else norm.weight for norm in (attention.query_norm, attention.key_norm))
    units = (None, None) if cache.units is None else cache.units[:, layer]
    gate, up = (_Linear(), _linear(mlp.up)) if isinstance(mlp, MLP) else _halves(mlp.gate_up)
    return _Block(
        *(_norm(block.attention_norm), _norm(block.mlp_norm)),
        *(_linear(attention.qkv), _linear(attention.output), gate, up, _linear(mlp.down)),
        *_places(*norms, cache.keys[layer], cache.values[layer], *units),
    )


def _places(*tensors: Tensor | None) -> list[int | None]:
    """Return where tensors are in memory."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _norm(layer: LayerNorm | RMSNorm) -> _Norm:
    return _Norm(*_places(layer.weight, layer.bias if isinstance(layer, LayerNorm) else None))


def _linear(layer: nn.Linear | Int8Linear) -> _Linear:
    return _Linear(*_places(layer.weight, layer.scales if isinstance(layer, Int8Linear) else None, layer.bias))


def _halves(layer: nn.Linear | Int8Linear) -> tuple[_Linear, _Linear]:
    """Return the two layers that a layer without bias consists of."""
    scales = layer.scales.chunk(2) if isinstance(layer, Int8Linear) else (None, None)
    first, second = (_Linear(*_places(*both)) for both in zip(layer.weight.chunk(2), scales, strict=True))
    return first, second
