"""How ranks share the matrices that Muon orthogonalizes."""

from __future__ import annotations

import pytest
import torch

from quillgpt.distributed import World
from quillgpt.distributed.shards import rows_of
from quillgpt.optim.linear_maps import LinearMap, owners


@pytest.mark.parametrize(("rows", "size"), [(12, 4), (13, 4), (3, 4), (1, 1), (9, 4)])
def test_rows_are_divided_as_torch_divides_them(rows: int, size: int) -> None:
    chunks = [chunk.tolist() for chunk in torch.arange(rows).chunk(size)]
    held = [list(rows_of(rank, size, rows)) for rank in range(size)]
    assert held == [*chunks, *([[]] * (size - len(chunks)))]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 40])
def test_no_rank_has_much_more_to_do_than_another(size: int) -> None:
    flops = (7, 7, 7, 30, 30, 30, 12, 12, 12, 1)
    ranks = owners(flops, size)
    loads = [sum(cost for cost, owner in zip(flops, ranks, strict=True) if owner == rank) for rank in range(size)]
    assert sum(loads) == sum(flops)
    assert max(loads) <= max(max(flops), sum(flops) / size + max(flops))
    assert sum(load > 0 for load in loads) == min(size, len(flops))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16])
def test_the_rows_of_a_map_come_together_from_the_ranks(size: int) -> None:
    parameter = torch.arange(13.0 * 4).view(13, 4)
    for rows in (range(13), range(6), range(6, 9), range(9, 13)):
        own = LinearMap(0, rows, height=13, columns=4, sharded=True)
        parts = []
        for rank in range(size):
            held = rows_of(rank, size, 13)
            parts.append(own.own(parameter[held.start : held.stop], World(rank, size)))
            assert parts[-1].shape == own.shape_at(rank, World(0, size))
            assert torch.equal(parts[-1], own.part_of(parameter[rows.start : rows.stop], rank, World(0, size)))
        assert torch.equal(torch.cat(parts), parameter[rows.start : rows.stop])


def test_a_replica_holds_all_rows_of_a_map() -> None:
    parameter = torch.arange(12.0).view(6, 2)
    part = LinearMap(0, range(2, 5), height=6, columns=2, sharded=False)
    for rank in range(3):
        assert torch.equal(part.own(parameter, World(rank, 3)), parameter[2:5])
