"""The model, from top to bottom: its configuration, norms, positions, attention, MLP, block, GPT and initial weights.

Two architectures share this file: gpt2 (LayerNorm, learned positions, GELU) and qwen3 (RMSNorm, rotary positions,
SwiGLU, normalised queries and keys). Attention is softmax; model/kernels.py adds the other kernels. Dropout is
attention/dropout.py, because drawing PyTorch's own mask takes a third of a training step on a CPU.

Shapes:
    B  sequences of a micro-batch          H  query heads
    T  positions of this pass              G  key and value heads; H is a multiple of G
    S  positions of the keys: T, and       D  width of a head
       those in the cache before them      C  width of the model
    V  rows of the vocabulary              M  width of the MLP's hidden layer
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quillgpt.attention import SOFTMAX, Attend, KernelSpec, causal_mask, dropout, path_named, repeat_heads, spread
from quillgpt.config.schema import Arch, GeluName
from quillgpt.model.architecture import ARCHITECTURES, Architecture
from quillgpt.model.induction import begin_with_induction, can_begin_with_induction
from quillgpt.model.loss import is_in_parts, linear_cross_entropy_sum, product_dtype

if TYPE_CHECKING:
    from quillgpt.model.cache import KeyValueCache

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the positions of this pass, each (T, D)."""

STANDARD_DEVIATION = 0.02
"""Of the initial weights."""

QUERIES_AT_ONCE = 128
"""Queries in a piece of explicit softmax attention: on two CPU cores faster than 64 and 256."""

ATTENTION_WEIGHTS, ATTENTION_RESULT, MLP_RESULT, QKV_INPUT, OUTPUT_INPUT, UP_INPUT, DOWN_INPUT = DROPOUT_SITES = range(
    7
)
"""Where a block drops something: rows of its seeds, (sites, B). Inputs are dropped by adapters only."""


@dataclass(frozen=True)
class GPTConfig:
    """Everything that fixes the parameters of a model and the function that it computes.

    Attributes:
        arch: gpt2 or qwen3.
        vocab_size: Rows of the token embedding, V; may exceed the tokenizer's vocabulary.
        block_size: Longest context, in tokens.
        n_layer: Number of blocks.
        n_head: Query heads, H.
        n_kv_head: Key and value heads, G.
        n_embd: Width of the model, C.
        head_dim: Width of a head, D.
        mlp_dim: Width of the MLP's hidden layer, M.
        bias: Biases in linear layers and norms (gpt2).
        activation: `gelu` (erf) or `gelu_new` (tanh) (gpt2).
        norm_eps: Added to the variance in norms.
        rope_theta: Base of the wavelengths of rotary positions (qwen3).
        tied: The output head shares the token embedding.
        kernel: The attention kernel.
    """

    arch: Arch
    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    head_dim: int
    mlp_dim: int
    bias: bool = False
    activation: GeluName = "gelu"
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    tied: bool = True
    kernel: KernelSpec = SOFTMAX

    @property
    def architecture(self) -> Architecture:
        """The parts that the model consists of."""
        return ARCHITECTURES[self.arch]

    @property
    def fusible(self) -> bool:
        """Whether a block can be computed as one step: see model/fused_block.py."""
        return self.kernel == SOFTMAX

    @property
    def qkv_dim(self) -> int:
        """Width of queries, keys and values together: (H + 2 G) D."""
        return sum(self.fused_maps["attention.qkv.weight"])

    @property
    def fused_maps(self) -> dict[str, list[int]]:
        """The weights that hold several linear maps, by the end of their names, with the rows of each map."""
        queries, keys = self.n_head * self.head_dim, self.n_kv_head * self.head_dim
        return {"attention.qkv.weight": [queries, keys, keys], "mlp.gate_up.weight": [self.mlp_dim, self.mlp_dim]}


class LayerNorm(nn.Module):
    """LayerNorm with an optional bias."""

    def __init__(self, width: int, *, eps: float, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension to mean 0 and variance 1, then scale and shift it."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), bias, self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension to mean square 1, in float32, then scale it."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def make_norm(config: GPTConfig) -> LayerNorm | RMSNorm:
    """Return the architecture's norm over the width of the model."""
    if config.architecture.norm == "layer":
        return LayerNorm(config.n_embd, eps=config.norm_eps, bias=config.bias)
    return RMSNorm(config.n_embd, eps=config.norm_eps)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate queries or keys x (B, H, T, D) by their positions (Su et al. 2021, arXiv 2104.09864).

    As in GPT-NeoX and Qwen, each pair (x_i, x_{i+D/2}) turns by its position's angle; cosines and sines are (T, D).
    """
    first, second = x.chunk(2, dim=-1)  # (B, H, T, D/2) each
    turned = torch.cat((-second, first), dim=-1)  # (B, H, T, D)
    return x * cosines.to(x.dtype) + turned * sines.to(x.dtype)


def rotation_table(positions: int, head_dim: int, theta: float) -> Rotation:
    """Return cosines and sines of position * theta^(-2i/D), each (positions, D), float32.

    The D/2 angles stand twice, once for each half of the head.
    """
    cpu = torch.device("cpu")  # its cosines are the same on every machine that resumes a run
    return rotations_at(torch.arange(positions, device=cpu), head_dim, theta)


def rotations_at(positions: Tensor, head_dim: int, theta: float) -> Rotation:
    """Return what `rotation_table` has at some positions (...): cosines and sines, (..., D) each."""
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    frequencies = theta ** -(pairs / head_dim)  # (D/2,)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)  # (..., D)
    return angles.cos(), angles.sin()


class RotationTables:
    """The rotations of a context's first positions, computed when they are first needed.

    A context may be far longer than any text, and the tables of all its positions larger than the model.
    """

    def __init__(self, block_size: int, head_dim: int, theta: float) -> None:
        self._block_size, self._head_dim, self._theta = block_size, head_dim, theta
        self._tables: list[Rotation] = []  # older ones stay: a recorded CUDA graph goes on reading them

    def first(self, positions: int, device: torch.device) -> Rotation:
        """Return cosines and sines of at least the first `positions` positions."""
        for cosines, sines in reversed(self._tables):
            if len(cosines) >= positions and cosines.device == device:
                return cosines, sines
        before = max((len(cosines) for cosines, _ in self._tables), default=0)
        length = min(self._block_size, max(positions, 2 * before))
        with torch.inference_mode(False):  # an evaluation may come first, and training needs them too
            cosines, sines = rotation_table(length, self._head_dim, self._theta)
            self._tables.append((cosines.to(device), sines.to(device)))
        return self._tables[-1]


def softmax_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float,
    visible: Tensor | None = None,
    seeds: Tensor | None = None,
) -> Tensor:
    """Compute causal softmax attention with PyTorch's fused scaled_dot_product_attention.

    It draws its dropout from PyTorch's generator and cannot honour seeds. `softmax_explicit` does so in its place on a
    CPU; on a GPU they have no effect.

    Args:
        query: (B, H, T, D): the last T of the S positions.
        key: (B, G, S, D).
        value: (B, G, S, D).
        dropout_p: Probability of dropping an attention weight.
        visible: Bool, broadcast to (B, H, T, S): the keys that each query may see; None: itself and those before it.
        seeds: Int64 (B,): what the dropout of a sequence depends on; None: PyTorch's generator.

    Returns:
        (B, H, T, D).
    """
    if dropout_p and seeds is not None and query.device.type == "cpu":
        return softmax_explicit(query, key, value, dropout_p, visible, seeds)
    T, S = query.shape[-2], key.shape[-2]
    mask = causal_mask(T, S, query.device) if visible is None and 1 < T < S else visible
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout_p,
        is_causal=visible is None and bool(T == S and T > 1),  # a bool too where lengths are symbols, as in an export
        enable_gqa=query.shape[1] != key.shape[1],
    )


def softmax_explicit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float,
    visible: Tensor | None = None,
    seeds: Tensor | None = None,
) -> Tensor:
    """Compute causal softmax attention with two matrix products and a softmax between them.

    This is faster on CPUs at short lengths, where the backward pass of the fused kernel is slow. It takes the queries
    piece by piece and computes no attention score for a key after the piece's last query: in long blocks that saves
    nearly half of the work. Arguments and result are those of `softmax_sdpa`.
    """
    key, value = repeat_heads(query, key, value)  # (B, H, S, D) each
    T, S = query.shape[-2], key.shape[-2]
    query = query * (1 / math.sqrt(query.shape[-1]))
    pieces = []
    for first in range(0, T, QUERIES_AT_ONCE):
        piece = query[..., first : first + QUERIES_AT_ONCE, :]  # (B, H, t, D)
        seen = S - T + first + piece.shape[-2]  # keys that the piece's last query sees, s
        scores = piece @ key[..., :seen, :].mT  # (B, H, t, s)
        if visible is not None:
            hidden = ~visible[..., first : first + QUERIES_AT_ONCE, :seen]
            scores = scores.masked_fill(hidden, float("-inf"))
        elif T > 1:
            # In a compiled model, adding -inf costs much less than masked_fill.
            future = ~causal_mask(piece.shape[-2], seen, scores.device)
            scores = scores + scores.new_zeros(piece.shape[-2], seen).masked_fill(future, float("-inf"))
        own = None if seeds is None else seeds + first  # each piece drops other weights
        pieces.append(dropout(scores.softmax(-1), dropout_p, own) @ value[..., :seen, :])  # (B, H, t, D)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-2)


SOFTMAX_PATHS = {"sdpa": softmax_sdpa, "explicit": softmax_explicit}
"""The implementations of softmax attention, by the names that `attn_path` gives them."""

FUSED = "fused"
"""The `attn_path` that computes a whole block in one step in training, and is `explicit` otherwise."""


class Linear(nn.Linear):
    """A linear layer of a block."""

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Multiply the last dimension; `seeds` (B,) are for an adapter in the place of this layer."""
        return F.linear(x, self.weight, self.bias)


def multiply(layer: nn.Module, x: Tensor, seeds: Tensor | None, site: int) -> Tensor:
    """Return the result of a block's linear layer, which may be an adapter or in a form for inference."""
    return layer(x) if seeds is None else layer(x, seeds[site])  # type: ignore[no-any-return]


def seeds_at(seeds: Tensor | None, site: int) -> Tensor | None:
    """Return the seeds (B,) of one of the places where a block drops something."""
    return None if seeds is None else seeds[site]


class CausalSelfAttention(nn.Module):
    """Multi-head softmax attention of each position to itself and the positions before it."""

    def __init__(self, config: GPTConfig, layer: int, *, dropout: float, attn_path: str = "auto") -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.qkv_widths = config.fused_maps["attention.qkv.weight"]  # H D, G D, G D
        self.dropout = dropout
        self.path: Attend = path_named(attn_path, SOFTMAX_PATHS, kernel="SM with dropout" if dropout else "SM")
        self.qkv = Linear(config.n_embd, config.qkv_dim, bias=config.bias)
        self.output = Linear(config.n_head * config.head_dim, config.n_embd, bias=config.bias)
        normed = config.architecture.qk_norm
        self.query_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if normed else None
        self.key_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if normed else None

    def forward(
        self, x: Tensor, rotation: Rotation | None, cache: KeyValueCache | None, seeds: Tensor | None = None
    ) -> Tensor:
        """Mix information between positions: (B, T, C) to (B, T, C); `seeds` are those of the block."""
        B, T, _ = x.shape
        query, key, value = torch.split(  # (B, T, H D) and twice (B, T, G D)
            multiply(self.qkv, x, seeds, QKV_INPUT), self.qkv_widths, dim=-1
        )
        query = query.view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H, T, D)
        key = key.view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, G, T, D)
        value = value.view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, G, T, D)
        query, key = self.qk_norm(query, key)
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)  # (B, G, S, D)
            mixed = self.attend(query.to(key.dtype), key, value, 0.0, cache.visible).to(query.dtype)  # (B, H, T, D)
        else:
            dropout_p = self.dropout if self.training else 0.0
            mixed = self.attend(query, key, value, dropout_p, None, seeds_at(seeds, ATTENTION_WEIGHTS))
        return multiply(self.output, mixed.transpose(1, 2).flatten(2), seeds, OUTPUT_INPUT)

    def qk_norm(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise queries and keys head by head, if the architecture does."""
        if self.query_norm is None or self.key_norm is None:
            return query, key
        return self.query_norm(query), self.key_norm(key)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_p: float,
        visible: Tensor | None = None,
        seeds: Tensor | None = None,
        /,
    ) -> Tensor:
        """Return the values weighted by attention; arguments and result are those of `softmax_sdpa`."""
        return self.path(query, key, value, dropout_p, visible, seeds)


def make_attention(config: GPTConfig, layer: int, *, dropout: float, attn_path: str) -> CausalSelfAttention:
    """Return the attention of one block: softmax, unless `config.kernel` names another kernel."""
    if config.kernel == SOFTMAX:
        return CausalSelfAttention(config, layer, dropout=dropout, attn_path=attn_path)
    from quillgpt.model.kernels import KernelAttention  # which extends the class above

    return KernelAttention(config, layer, dropout=dropout, attn_path=attn_path)


class MLP(nn.Module):
    """GPT-2's MLP: widen, GELU, narrow."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = Linear(config.n_embd, config.mlp_dim, bias=config.bias)
        self.down = Linear(config.mlp_dim, config.n_embd, bias=config.bias)
        self.approximate = "tanh" if config.activation == "gelu_new" else "none"

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Transform each position on its own: (B, T, C) to (B, T, C); `seeds` are those of the block."""
        hidden = F.gelu(multiply(self.up, x, seeds, UP_INPUT), approximate=self.approximate)  # (B, T, M)
        return multiply(self.down, hidden, seeds, DOWN_INPUT)


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020, arXiv 2002.05202): one half of the hidden layer gates the other."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.n_embd, 2 * config.mlp_dim, bias=False)
        self.down = Linear(config.mlp_dim, config.n_embd, bias=False)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Transform each position on its own: (B, T, C) to (B, T, C); `seeds` are those of the block."""
        gate, up = multiply(self.gate_up, x, seeds, UP_INPUT).chunk(2, dim=-1)  # (B, T, M) each
        return multiply(self.down, F.silu(gate) * up, seeds, DOWN_INPUT)


class Block(nn.Module):
    """Attention, then an MLP, each on a normalised copy of the residual stream and added to it.

    Attributes:
        fused: Whether training on a CPU computes all of it in one step.
    """

    def __init__(self, config: GPTConfig, layer: int, *, dropout: float, attn_path: str) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        path = "explicit" if attn_path == FUSED else attn_path
        self.attention = make_attention(config, layer, dropout=dropout, attn_path=path)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config) if config.architecture.mlp == "gelu" else SwiGLU(config)
        self.dropout = dropout
        self.fused = attn_path == FUSED and config.fusible

    def forward(
        self, x: Tensor, rotation: Rotation | None, cache: KeyValueCache | None, seeds: Tensor | None = None
    ) -> Tensor:
        """Update the residual stream: (B, T, C) to (B, T, C); `seeds` (sites, B) say what is dropped."""
        dropout_p = self.dropout if self.training else 0.0
        if self.fused and self.training and x.device.type == "cpu" and (seeds is not None or not dropout_p):
            from quillgpt.model.fused_block import fused_block  # the same in fewer passes over memory

            return fused_block(self, x, rotation, seeds)
        mixed = self.attention(self.attention_norm(x), rotation, cache, seeds)
        x = x + dropout(mixed, dropout_p, seeds_at(seeds, ATTENTION_RESULT))
        return x + dropout(self.mlp(self.mlp_norm(x), seeds), dropout_p, seeds_at(seeds, MLP_RESULT))


class GPT(nn.Module):
    """A causal transformer: token embedding, blocks, and a head that predicts the next token.

    Args:
        config: Its configuration.
        dropout: Probability of dropping an activation in training.
        attn_path: Which implementation of the attention kernel to use; `auto` is the kernel's first.
        seed: Seed of the initial weights; None leaves them undefined, for a model that is about to be loaded.
        zero_projections: Start the projections back into the residual stream, and a head of its own, at zero.
        induction: Start with an induction head, if the model can (model/induction.py).

    Attributes:
        gradient_checkpointing: In training, keep only the input of each block for the backward pass, and compute the
            rest again there (Chen et al. 2016, arXiv 1604.06174).
        loss_in_parts: Compute the loss in parts where there are many logits.
        fused_rest: Where blocks are fused, let kernels compute the embedding, the loss and Muon's updates, too.
    """

    def __init__(
        self,
        config: GPTConfig,
        *,
        dropout: float = 0.0,
        attn_path: str = "auto",
        seed: int | None = 0,
        zero_projections: bool = False,
        induction: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.gradient_checkpointing = False
        self.loss_in_parts = True
        self.fused_rest = True
        self.token_embedding = embedding(config.vocab_size, config.n_embd)
        learned = config.architecture.positions == "learned"
        self.position_embedding = embedding(config.block_size, config.n_embd) if learned else None
        self.blocks = nn.ModuleList(
            Block(config, layer, dropout=dropout, attn_path=attn_path) for layer in range(config.n_layer)
        )
        self.final_norm = make_norm(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()
        self.rotations = RotationTables(config.block_size, config.head_dim, config.rope_theta)
        if seed is not None:
            initialize(self, config.n_layer, seed, zero_projections=zero_projections)
            if induction and can_begin_with_induction(config):
                begin_with_induction(self, STANDARD_DEVIATION)

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None, seeds: Tensor | None = None) -> Tensor:
        """Compute the final hidden states, which `logits` turns into predictions.

        Args:
            tokens: Ids (B, T). With a cache they continue the positions that it holds.
            cache: Keys and values of earlier positions; extended by T positions.
            seeds: Int64 (B,): what is dropped of a sequence in training depends on its seed, not on the sequences
                beside it. On a GPU the fused attention paths draw from PyTorch's generator nevertheless. None: it
                draws everything.

        Returns:
            (B, T, C), normalised.
        """
        return self.final_norm(self.residual(tokens, cache, seeds))  # type: ignore[no-any-return]

    def residual(self, tokens: Tensor, cache: KeyValueCache | None = None, seeds: Tensor | None = None) -> Tensor:
        """Return the residual stream after the last block, (B, T, C); arguments are those of `forward`."""
        T = tokens.shape[1]
        positions = slice(0, T) if cache is None else cache.begin(T)
        x = self.embed(tokens)  # (B, T, C)
        rotation: Rotation | None = None
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[positions]  # + (T, C)
        else:
            cosines, sines = self.rotations.first(T if cache is None else cache.capacity, x.device)
            rotation = (cosines[positions], sines[positions])  # (T, D) each
        own, blocks_seeds = self.seeds_of_parts(seeds)
        x = dropout(x, self.dropout if self.training else 0.0, own)
        for block, block_seeds in zip(self.blocks, blocks_seeds, strict=True):
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, rotation, cache, block_seeds, use_reentrant=False)
            else:
                x = block(x, rotation, cache, block_seeds)  # (B, T, C)
        if cache is not None:
            cache.advance(T)
        return x

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the rows of the token embedding: (B, T) to (B, T, C)."""
        if self.fuses_rest(tokens):
            from quillgpt.model.fused_rest import read_rows

            return read_rows(self.token_embedding.weight, tokens)
        return self.token_embedding(tokens).to(self.dtype)  # type: ignore[no-any-return] # may have fewer bits

    def fuses_rest(self, tokens: Tensor) -> bool:
        """Whether embedding and loss of these ids are computed by kernels of their own."""
        return self.is_fused and tokens.device.type == "cpu" and self.training and torch.is_grad_enabled()

    @property
    def is_fused(self) -> bool:
        """Whether kernels of its own compute all that training does, and not only the blocks."""
        return self.fused_rest and all(block.fused for block in self.blocks)

    def seeds_of_parts(self, seeds: Tensor | None) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Return the seeds of the embeddings' dropout, (B,), and those of each block, (sites, B)."""
        if seeds is None:
            return None, [None] * len(self.blocks)
        parts = spread(seeds, 1 + len(self.blocks) * len(DROPOUT_SITES))
        return parts[0], parts[1:].view(len(self.blocks), len(DROPOUT_SITES), -1).unbind()

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of the next token: hidden (..., C) to (..., V)."""
        return self.head(hidden)  # type: ignore[no-any-return]

    def loss_sum(self, tokens: Tensor, targets: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Return the sum of the targets' negative log-likelihoods, in nats.

        The sum, not the mean: the losses of micro-batches add up to that of the batch whatever their sizes.

        Args:
            tokens: Ids (B, T).
            targets: Ids (B, T): the token after each of `tokens`.
            seeds: Int64 (B,): those of `forward`.

        Returns:
            Scalar, float32.
        """
        if not self.fuses_rest(tokens):
            return self.loss_from_hidden(self(tokens, seeds=seeds), targets)
        x = self.residual(tokens, seeds=seeds)
        if self.divides_loss(x):
            return self.loss_from_hidden(self.final_norm(x), targets)
        from quillgpt.model.fused_rest import fused_loss

        return fused_loss(self, x, targets)

    def loss_from_hidden(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of `loss_sum`, given the final hidden states (B, T, C)."""
        if self.divides_loss(hidden):
            return linear_cross_entropy_sum(hidden, self.head.weight, targets)
        logits = self.logits(hidden).float()  # (B, T, V)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1), reduction="sum")

    def divides_loss(self, hidden: Tensor) -> bool:
        """Whether the loss of these hidden states (B, T, C) is computed in parts."""
        return self.loss_in_parts and is_in_parts(
            hidden.shape[:-1].numel(),
            self.config.vocab_size,
            device_type=hidden.device.type,
            dtype=product_dtype(hidden),
        )

    def tie(self) -> None:
        """Make the head share the token embedding, if the configuration says so; loading weights undoes it."""
        if self.config.tied:
            self.head.weight = self.token_embedding.weight

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.final_norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the residual stream and of attention."""
        return self.final_norm.weight.dtype

    @property
    def cache_dtype(self) -> torch.dtype:
        """Number format in which keys and values are cached: that of the weights, if it has fewer bits."""
        cached: torch.dtype = getattr(self.head, "weight_dtype", self.dtype)
        return cached

    @torch.no_grad()
    def parameter_count(self, *, positions: bool = True) -> int:
        """Count the parameters, tied ones once; without position embeddings if `positions` is False."""
        total = sum(parameter.numel() for parameter in self.parameters())
        if not positions and self.position_embedding is not None:
            total -= self.position_embedding.weight.numel()
        return total


def embedding(rows: int, width: int) -> nn.Embedding:
    """Return an embedding whose values are still undefined.

    nn.Embedding itself would draw them first, for nothing, and on the device `meta` load half of PyTorch to do so.
    """
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


@torch.no_grad()
def initialize(model: nn.Module, n_layer: int, seed: int, *, zero_projections: bool = False) -> None:
    """Draw all weights from N(0, 0.02) and zero all biases; norms keep their ones.

    Residual projections (`output` of attention, `down` of the MLP) are scaled by 1/sqrt(2 n_layer): the residual
    stream adds up 2 n_layer of them, and its variance stays near that of the embedding (Radford et al. 2019,
    section 2.3). The same seed gives the same weights on every device, because they are drawn on the CPU.

    Args:
        model: The model.
        n_layer: Number of blocks.
        seed: Seed of the draw.
        zero_projections: Start the residual projections at 0 instead, so that each block begins as the identity, and
            a head that shares no embedding as well, so that all tokens are equally likely at first.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            residual = name.endswith((".output.weight", ".down.weight"))
            std = STANDARD_DEVIATION / math.sqrt(2 * n_layer) if residual else STANDARD_DEVIATION
            std = 0.0 if zero_projections and (residual or name == "head.weight") else std
            parameter.normal_(std=std, generator=generator)
        elif name.endswith(".bias"):
            parameter.zero_()
