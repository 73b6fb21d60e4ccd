"""The benchmark of the interconnect, between two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quillgpt.cli.run import run
from ranks import Ranks


def test_two_processes_measure_their_connection(tmp_path: Path) -> None:
    results = tmp_path / "results"
    script = tmp_path / "measure.py"
    script.write_text(
        "import os, sys\n"
        f"sys.stdout = open({str(results)!r} + os.environ['RANK'], 'w', buffering=1)\n"
        "sys.argv = ['quill', 'bench', 'allreduce', '--megabytes=0.004,1', '--rounds=2', '--device=cpu', '--json']\n"
        "from quillgpt.cli import main\n"
        "sys.exit(main())\n",
        encoding="utf-8",
    )
    ranks = Ranks(2, str(script))
    assert ranks.wait() == [0, 0], ranks.said()
    first, second = (Path(f"{results}{rank}").read_text(encoding="utf-8") for rank in (0, 1))
    assert second == ""
    rows = [json.loads(line) for line in first.splitlines()]
    assert [row["bytes"] for row in rows] == [4000, 1_000_000]
    for row in rows:
        assert (row["what"], row["ranks"], row["device"]) == ("allreduce", 2, "cpu")
        seconds = row["microseconds"] / 1e6
        assert row["algorithm_gigabytes_per_second"] == pytest.approx(row["bytes"] / seconds / 1e9)
        assert row["bus_gigabytes_per_second"] == pytest.approx(row["bytes"] / seconds / 1e9)  # 2 (N - 1) / N is 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "torchrun --standalone --nproc_per_node=2 -m quillgpt bench allreduce"),
        (["--megabytes=0"], "expected numbers above 0"),
        (["--megabytes=1e9"], "expected at most 10,000 MB"),
        (["--rounds=0"], "expected a whole number above 0"),
    ],
)
def test_what_cannot_be_measured_gets_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "allreduce", *flags]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
