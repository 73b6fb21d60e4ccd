"""The model: token embedding, blocks, and a head that predicts the next token.

Shapes: B batch, T position, C model width, V rows of the vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from quillgpt.attention import dropout
from quillgpt.model.block import Block, Rotation, make_norm
from quillgpt.model.cache import KeyValueCache
from quillgpt.model.initialization import initialize
from quillgpt.model.rope import Rotations
from quillgpt.model.shape import GPTConfig


class GPT(nn.Module):
    """A causal transformer in one of two architectures.

    Args:
        config: What fixes the parameters and the function.
        dropout: Probability of dropping an activation in training.
        attn_path: Which implementation of the attention kernel to use; `auto` is the kernel's first.
        seed: Seed of the initial weights; None leaves them undefined, for a model that is about to be loaded.
        zero_projections: Start the projections back into the residual stream at zero.

    Attributes:
        gradient_checkpointing: Whether, in training, only the input of each block is kept for the backward pass, and
            the rest computed again there (Chen et al. 2016, arXiv 1604.06174).
    """

    def __init__(
        self,
        config: GPTConfig,
        *,
        dropout: float = 0.0,
        attn_path: str = "auto",
        seed: int | None = 0,
        zero_projections: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.gradient_checkpointing = False
        self.token_embedding = embedding(config.vocab_size, config.n_embd)
        self.position_embedding = embedding(config.block_size, config.n_embd) if config.arch == "gpt2" else None
        self.blocks = nn.ModuleList(
            Block(config, layer, dropout=dropout, attn_path=attn_path) for layer in range(config.n_layer)
        )
        self.final_norm = make_norm(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()
        self.rotations = Rotations(config.block_size, config.head_dim, config.rope_theta)
        if seed is not None:
            initialize(self, config.n_layer, seed, zero_projections=zero_projections)

    def tie(self) -> None:
        """Make the head share the token embedding, if the shape says so; loading weights undoes it."""
        if self.config.tied:
            self.head.weight = self.token_embedding.weight

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.final_norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the residual stream and of attention."""
        return self.final_norm.weight.dtype

    @property
    def cache_dtype(self) -> torch.dtype:
        """Number format in which keys and values are kept: that of the weights, where it has fewer bits."""
        kept: torch.dtype = getattr(self.head, "weight_dtype", self.dtype)
        return kept

    def limit_range(self, limit: float) -> None:
        """Notice, in training, how far arguments of a Gaussian kernel lie below -limit."""
        for block in self.blocks:
            block.attention.range_limit = limit  # type: ignore[union-attr]

    def range_excess(self) -> Tensor:
        """Return what was noticed in the last pass, a scalar: the mean over layers, added up over texts."""
        return torch.stack([block.attention.excess for block in self.blocks]).mean()  # type: ignore[misc, union-attr]

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Compute the final hidden states.

        Args:
            tokens: Ids (B, T). With a cache they continue the positions that it holds.
            cache: Keys and values of earlier positions; extended by T positions.

        Returns:
            (B, T, C), normalised; `logits` turns them into scores of next tokens.
        """
        T = tokens.shape[1]
        positions = slice(0, T) if cache is None else cache.begin(T)
        x = self.token_embedding(tokens).to(self.dtype)  # a table that is only read may be in fewer bits
        rotation: Rotation | None = None
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[positions]
        else:
            cosines, sines = self.rotations.first(T if cache is None else cache.capacity, x.device)
            rotation = (cosines[positions], sines[positions])
        x = dropout(x, self.dropout if self.training else 0.0)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, rotation, cache, use_reentrant=False)
            else:
                x = block(x, rotation, cache)
        if cache is not None:
            cache.advance(T)
        return self.final_norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """Score every next token: hidden (..., C) to (..., V), in the computation's type."""
        return self.head(hidden)  # type: ignore[no-any-return]

    def loss_sum(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Add up the negative log-likelihood of the targets, in nats.

        The sum, not the mean, so that parts of a batch add up to the batch whatever their sizes.

        Args:
            tokens: Ids (B, T).
            targets: Ids (B, T): the token after each of `tokens`.

        Returns:
            Scalar, float32.
        """
        return self.loss_of(self(tokens), targets)

    def loss_of(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return what `loss_sum` does, from final hidden states (B, T, C)."""
        scores = self.logits(hidden).float()
        return F.cross_entropy(scores.view(-1, scores.shape[-1]), targets.reshape(-1), reduction="sum")

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
