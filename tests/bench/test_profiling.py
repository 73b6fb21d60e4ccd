"""A profile lists the costliest operations, and Perfetto can read its trace."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
import torch

from quillgpt.bench.profiling import profile_functions, profile_operations
from quillgpt.bench.results import operation_rows


@pytest.mark.parametrize("name", ["trace.json", "folder/trace.json.gz"])
def test_the_costliest_operation_is_first_and_in_the_trace(tmp_path: Path, name: str) -> None:
    matrix = torch.randn(800, 800)

    def work() -> None:
        for _ in range(3):
            (matrix @ matrix).relu()

    work()  # what is done for the first time takes longer
    operations = profile_operations(work, torch.device("cpu"), tmp_path / name)
    assert (operations[0].name, operations[0].calls) == ("aten::mm", 3)
    assert [operation.milliseconds for operation in operations] == sorted(
        (o.milliseconds for o in operations), reverse=True
    )
    assert 0.3 < sum(operation.share for operation in operations) <= 1.0001
    data = (tmp_path / name).read_bytes()
    trace = json.loads(gzip.decompress(data) if name.endswith(".gz") else data)
    assert {"aten::mm", "aten::relu"} <= {event.get("name") for event in trace["traceEvents"]}


def test_a_trace_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for trace in (tmp_path / "file" / "trace.json", tmp_path):
        with pytest.raises(OSError, match=str(tmp_path.name)):
            profile_operations(lambda: None, torch.device("cpu"), trace)


def test_the_costliest_function_is_first() -> None:
    operations = profile_functions(lambda: [time.sleep(0.02) for _ in range(3)])
    assert "sleep" in operations[0].name
    assert operations[0].calls == 3
    assert operations[0].milliseconds >= 60
    assert operations[0].share > 0.9
    assert len(operations) <= 10


def test_two_long_names_that_begin_alike_keep_a_row_each() -> None:
    operations = profile_functions(lambda: None)[:1] * 2
    long = [type(operation)("kernel" * 20, 1234.5, 0.5, 1_000_000) for operation in operations]
    rows = operation_rows(long)
    assert len(rows) == 2
    assert max(map(len, rows)) <= 50
    assert set(rows.values()) == {"1,234.5 ms  50.0%  1,000,000 calls"}
