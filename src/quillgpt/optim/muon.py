"""Muon: momentum whose update of each matrix is replaced by the nearest orthogonal matrix.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".

`torch.optim.Muon` is not used. It orthogonalizes the joint matrix of queries, keys and values as one map, computes one
matrix at a time, and has no cautious decay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from quillgpt.distributed import ALONE, World
from quillgpt.distributed.shards import exchange, is_sharded, own_rows
from quillgpt.native import Kernels, kernels
from quillgpt.optim.linear_maps import LinearMap, maps_by_owner, maps_of

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that brings singular values near 1, chosen by its authors for speed: they end between 0.7 and 1.2."""

SMALLEST_NORM = 1e-7
SMALLEST_SQUARE = 1e-12
MEAN_SQUARES = "row_mean_squares"
"""The name of those of an update's rows in the optimizer's state."""


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Bring all singular values of matrices near 1 by a Newton-Schulz iteration.

    Args:
        matrices: (N, rows, columns).
        dtype: Number format of the iteration. bfloat16 is precise enough, and a processor without it needs thirty times
            as long for it as for float32.

    Returns:
        (N, rows, columns), in that format.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.to(dtype)
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def orthogonalize_each(matrices: Sequence[Tensor], dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Return the results of `orthogonalize`; matrices of one shape are computed in one batch."""
    by_shape: dict[torch.Size, list[int]] = {}
    for number, matrix in enumerate(matrices):
        by_shape.setdefault(matrix.shape, []).append(number)
    directions: dict[int, Tensor] = {}
    for numbers in by_shape.values():
        batch = orthogonalize(torch.stack([matrices[number] for number in numbers]), dtype)
        directions |= zip(numbers, batch.unbind(), strict=True)
    return [directions[number] for number in range(len(matrices))]


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    A matrix that holds several linear maps, such as those of queries, keys and values, is orthogonalized map by map.
    All maps of one shape are computed in one batch. In several processes, each orthogonalizes its share of the maps.

    Args:
        parameters: Matrices.
        lr: Learning rate, a number or a tensor. A matrix of r rows and c columns has sqrt(max(1, r / c)) times it.
        weight_decay: Decoupled weight decay.
        momentum: Share of the momentum that a step keeps.
        fused_maps: The rows of the linear maps in every parameter that holds several.
        beta2: Share of the mean square of each row of the update that a step keeps. Every row is divided by the root of
            its own, so that no neuron moves much more than others (NorMuon, Li et al. 2025, arXiv 2510.05491). 0: rows
            stay as they are.
        cautious: Decay only those weights that the update also moves toward zero, so that decay never works against the
            update (Chen et al. 2025, arXiv 2510.12402).
        dtype: Number format in which matrices are orthogonalized.
        world: The processes that share the work; all have the same gradients, or their rows of them.
        native: Let one kernel do the whole update of a matrix, in one process on a CPU: the same but for rounding.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float | Tensor,
        weight_decay: float,
        momentum: float = 0.95,
        beta2: float = 0.0,
        fused_maps: dict[Tensor, list[int]] | None = None,
        cautious: bool = False,
        dtype: torch.dtype = torch.bfloat16,
        world: World = ALONE,
        native: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._fused_maps = fused_maps or {}
        self._beta2 = beta2
        self._cautious = cautious
        self._dtype = dtype
        self._world = world
        self._kernels = kernels(dtype) if native else None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                    if self._beta2:
                        self.state[parameter][MEAN_SQUARES] = torch.ones_like(parameter[:, :1])
            if self._kernels is not None:
                self._update(self._kernels, group, parameters)
                continue
            momenta = [own_rows(self.state[parameter]["momentum_buffer"]) for parameter in parameters]
            gradients = [own_rows(parameter.grad) for parameter in parameters if parameter.grad is not None]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's look ahead
            self._apply(group, parameters, updates)

    def _maps(self, parameters: list[Tensor]) -> list[LinearMap]:
        return [
            linear_map
            for number, parameter in enumerate(parameters)
            for linear_map in maps_of(
                number, parameter.shape, self._fused_maps.get(parameter), sharded=is_sharded(parameter)
            )
        ]

    def _update(self, kernels: Kernels, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Do the work of a step by one call, which takes the places of the maps' first values."""
        maps, lr = self._maps(parameters), float(group["lr"])
        gradients = [parameter.grad.contiguous() for parameter in parameters if parameter.grad is not None]
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        tensors = [parameters, gradients, momenta]
        if self._beta2:
            tensors.append([self.state[parameter][MEAN_SQUARES] for parameter in parameters])
        places = [[of_map.place_in(values[of_map.parameter]) for values in tensors] for of_map in maps]
        kernels.muon(
            len(maps),
            len(tensors),
            torch.tensor(places),
            torch.tensor([(len(of_map.rows), of_map.columns) for of_map in maps]),
            torch.tensor([lr * of_map.stretch for of_map in maps], dtype=torch.float32),
            lr * group["weight_decay"],
            group["momentum"],
            self._beta2,
            SMALLEST_SQUARE,
            int(self._cautious),
            ITERATIONS,
            torch.tensor(COEFFICIENTS, dtype=torch.float32),
            SMALLEST_NORM,
        )

    def _apply(self, group: dict[str, Any], parameters: list[Tensor], updates: Sequence[Tensor]) -> None:
        maps = self._maps(parameters)
        weights = [own_rows(parameter) for parameter in parameters]
        by_shape: dict[tuple[torch.Size, int], list[tuple[LinearMap, Tensor]]] = {}
        for linear_map, direction in zip(maps, self._directions(maps, updates), strict=True):
            by_shape.setdefault((direction.shape, len(linear_map.rows)), []).append((linear_map, direction))
        for pairs in by_shape.values():
            of_shape = [linear_map.own(weights[linear_map.parameter], self._world) for linear_map, _ in pairs]
            directions, together = torch.stack([direction for _, direction in pairs]), torch.stack(of_shape)
            if self._beta2:
                squares = [own_rows(self.state[parameter][MEAN_SQUARES]) for parameter in parameters]
                of_rows = [linear_map.own(squares[linear_map.parameter], self._world) for linear_map, _ in pairs]
                directions = self._with_even_rows(directions, of_rows, pairs[0][0].mean_square)
            shrunk = together * (group["lr"] * group["weight_decay"])
            if self._cautious:
                shrunk *= directions * together > 0
            step_size = group["lr"] * pairs[0][0].stretch
            torch._foreach_sub_(of_shape, list((directions * step_size + shrunk).unbind()))

    def _with_even_rows(self, directions: Tensor, mean_squares: list[Tensor], usual: float) -> Tensor:
        """Divide each row by the root of its mean square so far.

        Args:
            directions: Orthogonalized maps of one shape, or this rank's rows of them, (N, rows, columns).
            mean_squares: Those of their rows so far, N of (rows, 1), in units of `usual`; this step's are added.
            usual: The mean square of an orthogonal matrix of their shape; the result has about the same.
        """
        squares = directions.float().square().mean(2, keepdim=True) / usual
        torch._foreach_lerp_(mean_squares, list(squares.unbind()), 1 - self._beta2)
        return directions / torch.stack(mean_squares).clamp(min=SMALLEST_SQUARE).sqrt()

    def _directions(self, maps: list[LinearMap], updates: Sequence[Tensor]) -> list[Tensor]:
        """Return the orthogonalized maps, or the rows of them that this rank holds."""
        own = [linear_map.own(updates[linear_map.parameter], self._world) for linear_map in maps]
        return orthogonalize_each(own, self._dtype) if self._world.size == 1 else self._shared(maps, own)

    def _shared(self, maps: list[LinearMap], own: list[Tensor]) -> list[Tensor]:
        """Do the work of `_directions` in several processes, each of which orthogonalizes some of the maps."""
        world, ranks = self._world, range(self._world.size)
        by_rank = maps_by_owner(maps, world.size)
        mine = [maps[number] for number in by_rank[world.rank]]
        matrices = [own[number].to(self._dtype) for number in by_rank[world.rank]]
        like = own[0].new_empty(0, dtype=self._dtype)
        if any(linear_map.sharded for linear_map in maps):
            given = [[own[number].to(self._dtype) for number in numbers] for numbers in by_rank]
            rows = exchange(given, [[linear_map.shape_at(rank, world) for linear_map in mine] for rank in ranks], like)
            matrices = [torch.cat(parts) for parts in zip(*rows, strict=True)]
        done = list(zip(mine, orthogonalize_each(matrices, self._dtype), strict=True))
        answers = [[linear_map.part_of(matrix, rank, world) for linear_map, matrix in done] for rank in ranks]
        shapes = [[maps[number].shape_at(world.rank, world) for number in numbers] for numbers in by_rank]
        directions = {
            number: direction
            for numbers, received in zip(by_rank, exchange(answers, shapes, like), strict=True)
            for number, direction in zip(numbers, received, strict=True)
        }
        return [directions[number] for number in range(len(maps))]
