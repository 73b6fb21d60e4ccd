"""The matrices that Muon orthogonalizes, and how several processes share them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

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

    @property
    def mean_square(self) -> float:
        """The mean square of the values of an orthogonal matrix of its shape."""
        return 1 / max(len(self.rows), self.columns)

    def place_in(self, matrix: Tensor) -> int:
        """Return the address of the map's first value in a whole matrix, or a column beside it."""
        return matrix.data_ptr() + self.rows.start * matrix.shape[1] * matrix.element_size()

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


def maps_of(parameter: int, shape: Sequence[int], fused: Sequence[int] | None, *, sharded: bool) -> Iterator[LinearMap]:
    """Return the linear maps of a matrix.

    Args:
        parameter: Its number.
        shape: Its rows and columns.
        fused: The rows of each map, where it holds several.
        sharded: Each rank holds some of its rows.
    """
    height, columns = shape
    ends = list(accumulate(fused or [height]))
    for first, end in zip([0, *ends], ends, strict=False):
        yield LinearMap(parameter, range(first, end), height, columns, sharded)


def maps_by_owner(maps: Sequence[LinearMap], size: int) -> list[list[int]]:
    """Return the numbers of the maps that each of `size` ranks orthogonalizes."""
    by_rank: list[list[int]] = [[] for _ in range(size)]
    for number, rank in enumerate(owners(tuple(linear_map.flops for linear_map in maps), size)):
        by_rank[rank].append(number)
    return by_rank


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
