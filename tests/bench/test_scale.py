"""The projection to many GPUs: its table is the one in the document, and follows from what is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from quillgpt.bench.scale import Assumptions, Projection, markdown, project
from quillgpt.cli.run import run
from quillgpt.training.planning.communication import Interconnect

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "scale.md"

ASSUMED = Assumptions(
    peak=312e12,
    mfu=0.4,
    memory=80e9,
    within=Interconnect(200e9, 1e-5),
    between=Interconnect(25e9, 1e-5),
    devices_per_node=8,
    batch=512,
)


def rows_of(assumed: Assumptions, gpus: list[int], models: tuple[str, ...] = ("124M",)) -> list[Projection]:
    return list(project(models, gpus, assumed))


def test_the_table_of_the_document_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "scale"]) == 0
    assert capsys.readouterr().out in DOCUMENT.read_text(encoding="utf-8")


def test_ddp_sends_the_gradients_of_all_weights_in_a_ring() -> None:
    (row, _) = rows_of(ASSUMED, [8])
    assert row.strategy == "ddp"
    parameters = 124_373_760  # without biases, and with rows for 50,304 tokens
    assert row.sent == pytest.approx(4 * parameters * 2 * 7 / 8, rel=1e-6)
    assert row.computing == pytest.approx(row.tokens / 8 * 6 * 1.25e8 / (312e12 * 0.4), rel=0.2)


def test_a_slower_network_between_machines_matters_between_machines_only() -> None:
    slower = replace(ASSUMED, between=Interconnect(1e9, 1e-5))
    fast, slow = rows_of(ASSUMED, [8, 16]), rows_of(slower, [8, 16])
    assert [row.messages for row in fast[:2]] == [row.messages for row in slow[:2]]
    for one, other in zip(fast[2:], slow[2:], strict=True):
        assert other.messages > 10 * one.messages
        assert other.longest == other.computing + other.messages
        assert other.shortest == max(other.computing, other.messages)


def test_fsdp_takes_less_memory_the_more_gpus_there_are() -> None:
    rows = [row for row in rows_of(replace(ASSUMED, batch=64), [8, 64], ("1.5B",)) if row.strategy == "fsdp"]
    assert rows[1].memory < rows[0].memory


def test_a_model_that_does_not_fit_is_said_to_need_too_much() -> None:
    ddp, fsdp = rows_of(replace(ASSUMED, memory=24e9), [64], ("1.5B",))
    assert (ddp.micro_batch, fsdp.micro_batch > 0) == (0, True)
    assert "too much" in markdown([ddp])
    assert "too much" not in markdown([fsdp])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--models", "2B"], "expected some of 124M, 350M, 774M, 1.5B"),
        (["--gpus", "3"], "3 GPUs cannot share --batch 512 sequences evenly"),
        (["--gpus", "0"], "expected numbers above 0"),
        (["--gpus", "2.5"], "expected whole numbers"),
        (["--gpus", "eight"], "expected numbers above 0"),
        (["--mfu", "40"], "at most 1"),
        (["--peak", "-1"], "expected a number above 0"),
        (["--latency", "nan"], "expected a number above 0"),
        (["--batch", "0"], "expected a whole number above 0"),
    ],
)
def test_bad_numbers_get_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "scale", *flags]) == 2
    words = capsys.readouterr()
    assert said in " ".join(words.err.split())
    assert words.out == ""
