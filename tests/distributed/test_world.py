"""Tests of the world of ranks."""

from __future__ import annotations

import pytest

from quillgpt.distributed import ALONE, World
from quillgpt.errors import ConfigError, UserError


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert World.from_environment() == ALONE
    assert ALONE.is_main
    assert (ALONE.broadcast("a"), ALONE.gather("a"), ALONE.slice_of(5)) == ("a", ["a"], slice(0, 5))


def test_torchruns_variables_describe_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert World.from_environment() == World(5, 8, 1, 4)
    assert not World.from_environment().is_main


@pytest.mark.parametrize("variables", [{"RANK": "x"}, {"RANK": "8"}, {"WORLD_SIZE": "0"}, {"LOCAL_RANK": "-1"}])
def test_variables_that_describe_no_world_are_named(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ({"RANK": "1", "WORLD_SIZE": "8"} | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"{next(iter(variables))} = .*torchrun"):
        World.from_environment()


def test_ranks_share_a_batch_without_gap_or_overlap() -> None:
    for size in (1, 2, 3, 4, 6, 12):
        rows = [row for rank in range(size) for row in range(12)[World(rank, size).slice_of(12)]]
        assert rows == list(range(12))


def test_a_batch_that_ranks_cannot_share_evenly_is_refused_with_numbers_that_would_do() -> None:
    with pytest.raises(ConfigError, match=r"12 sequences .* 5 processes .* start 1, 2, 3, 4, 6 or 12 .* 10 or 15"):
        World(0, 5).slice_of(12)
    with pytest.raises(ConfigError, match=r"make it 200$"):
        World(0, 200).slice_of(12)


def test_in_one_process_an_error_is_its_own() -> None:
    with pytest.raises(UserError, match="gone"), ALONE.agreement():
        raise UserError("gone")
