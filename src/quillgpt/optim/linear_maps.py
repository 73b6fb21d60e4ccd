"""The matrices that Muon orthogonalizes, and how several processes share them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from torch import Tensor

from quillgpt.distributed import World
from quillgpt.distributed.shards import rows_of


@dataclass(frozen=True)
class LinearMap:
    """A matrix that is orthogonalized: a parameter, or some of its rows.

    Attributes:
        parameter: The number of the parameter.
        rows: Its rows.
        height: Rows of the parameter.
        columns: Its columns.
        sharded: Each rank holds some rows of the parameter.
    """

    parameter: int
    rows: range
    height: int
    columns: int
    sharded: bool

    @property
    def flops(self) -> int:
        """Floating-point operations of an iteration of `orthogonalize`."""
        short, long = sorted((len(self.rows), self.columns))
        return 4 * short * short * long + 2 * short**3

    @property
    def stretch(self) -> float:
        """The factor of the learning rate."""
        ratio: float = len(self.rows) / self.columns
        return float(max(1.0, ratio) ** 0.5)

    def held_by(self, rank: int, world: World) -> range:
        """Return the rows of the map that a rank holds."""
        if not self.sharded:
            return range(len(self.rows))
        held = rows_of(rank, world.size, self.height)
        first, last = max(held.start, self.rows.start), min(held.stop, self.rows.stop)
        return range(first - self.rows.start, max(first, last) - self.rows.start)

    def shape_at(self, rank: int, world: World) -> tuple[int, int]:
        """Return how many rows of the map a rank holds, and the columns."""
        return len(self.held_by(rank, world)), self.columns

    def part_of(self, matrix: Tensor, rank: int, world: World) -> Tensor:
        """Return the rows that a rank holds of a matrix that has all rows of the map."""
        held = self.held_by(rank, world)
        return matrix[held.start : held.stop]

    def own(self, rows: Tensor, world: World) -> Tensor:
        """Return the rows of the map in those of the parameter that this rank holds."""
        first = rows_of(world.rank, world.size, self.height).start if self.sharded else 0
        held = self.held_by(world.rank, world)
        before = self.rows.start + held.start - first if held else 0
        return rows[before : before + len(held)]


@cache
def owners(flops: tuple[int, ...], size: int) -> list[int]:
    """Return the rank that computes each of some matrices, so that all ranks have about as much to do.

    The largest matrix comes first, and goes to the rank that has the least to do so far.
    """
    loads, ranks = [0] * size, [0] * len(flops)
    for number in sorted(range(len(flops)), key=lambda number: -flops[number]):
        ranks[number] = loads.index(min(loads))
        loads[ranks[number]] += flops[number]
    return ranks
