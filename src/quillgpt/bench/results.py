"""The results of a measurement: as numbers for `--json`, and in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from quillgpt.bench.memory import PeakMemory
from quillgpt.bench.profiling import Operation
from quillgpt.bench.rounds import Throughput
from quillgpt.console import outcome, stderr, stdout, table

LONGEST_NAME = 44


@dataclass(frozen=True)
class Result:
    """The numbers of one candidate; `--json` prints them under these names.

    Attributes:
        candidate: quill, or the name of a peer.
        how: How it was run, in words.
        tokens_per_second: The median over the rounds.
        tokens_per_second_rounds: The rate of each round.
        quill_times_as_fast: Quill's rate divided by this one's, the median over the rounds; 1 for Quill itself.
        peak_memory_bytes: The most memory held at one time, in a run of its own; None if it was not measured.
        peak_memory_of: What is counted as memory, in words.
    """

    candidate: str
    how: str
    tokens_per_second: float
    tokens_per_second_rounds: list[float]
    quill_times_as_fast: float
    peak_memory_bytes: int | None
    peak_memory_of: str

    def rows(self) -> dict[str, str]:
        """Return the numbers in words, by their labels."""
        memory = "" if self.peak_memory_bytes is None else f"{decimal(self.peak_memory_bytes)}, "
        speed = rates(self.tokens_per_second, self.tokens_per_second_rounds, "tokens/s")
        rows = {"run": self.how, "speed": speed} | self.own_rows()
        rows["peak memory"] = memory + self.peak_memory_of
        if self.candidate != "quill":
            rows["compared"] = f"quill is {self.quill_times_as_fast:,.2f} times as fast"
        return rows

    def own_rows(self) -> dict[str, str]:
        """Return the rows that only this kind of measurement has."""
        return {}


@dataclass(frozen=True)
class TrainResult(Result):
    """The numbers of training.

    Attributes:
        dtype: The number format of the matrix products.
        parameters: The number of parameters of the model.
        ms_per_iteration: Milliseconds of one iteration, a global batch, at the median speed.
        mfu: Model FLOPs utilization: the share of the peak that the model's FLOPs reach, 0 to 1.
        peak_flops_per_second: The peak.
        peak_flops_source: Where the peak comes from.
    """

    dtype: str
    parameters: int
    ms_per_iteration: float
    mfu: float
    peak_flops_per_second: float
    peak_flops_source: str

    def own_rows(self) -> dict[str, str]:
        """Return the rows that only training has."""
        return {
            "model": f"{self.parameters:,} parameters, computed in {self.dtype}",
            "iteration": f"{number(self.ms_per_iteration)} ms",
            "mfu": f"{self.mfu:.1%} of {number(self.peak_flops_per_second / 1e12)} TFLOP/s ({self.peak_flops_source})",
        }


@dataclass(frozen=True)
class SampleResult(Result):
    """The numbers of sampling; tokens per second are those of all samples together.

    Attributes:
        dtype: The number format of the matrix products.
        parameters: The number of parameters of the model.
        ms_per_token: Milliseconds per new token, over all samples together.
    """

    dtype: str
    parameters: int
    ms_per_token: float

    def own_rows(self) -> dict[str, str]:
        """Return the rows that only sampling has."""
        return {
            "model": f"{self.parameters:,} parameters, computed in {self.dtype}",
            "new token": f"{number(self.ms_per_token)} ms",
        }


@dataclass(frozen=True)
class PrepareResult(Result):
    """The numbers of preparing.

    Attributes:
        megabytes_per_second: Text read, in 10^6 bytes of UTF-8; the median over the rounds.
        megabytes_per_second_rounds: The rate of each round.
        seconds: The time of the whole process at the median speed.
        tokens: The tokens of both splits.
        same_tokens_as_quill: Whether train.bin and val.bin are the same, byte for byte.
    """

    megabytes_per_second: float
    megabytes_per_second_rounds: list[float]
    seconds: float
    tokens: int
    same_tokens_as_quill: bool

    def own_rows(self) -> dict[str, str]:
        """Return the rows that only preparing has."""
        rows = {
            "text": rates(self.megabytes_per_second, self.megabytes_per_second_rounds, "MB/s"),
            "whole process": f"{number(self.seconds)} s",
            "tokens": f"{self.tokens:,}",
        }
        if self.candidate != "quill":
            same = "the same as Quill's, bit for bit" if self.same_tokens_as_quill else "not the same as Quill's"
            rows["token files"] = same
        return rows


@dataclass(frozen=True)
class Profile:
    """A profile of Quill's own work.

    Attributes:
        title: What was profiled.
        operations: The costliest operations, costliest first.
        trace: The file that Perfetto opens; None if there is none.
    """

    title: str
    operations: list[Operation]
    trace: Path | None


def print_results(
    what: str, about: Mapping[str, object], results: Sequence[Result], profile: Profile | None, *, as_json: bool
) -> None:
    """Print the results on standard output: a table for each candidate, or a JSON object on a line for each.

    Args:
        what: What was measured.
        about: The conditions of the measurement; part of each JSON object.
        results: The results, Quill's first.
        profile: The profile; with `as_json` it is printed on standard error.
        as_json: Print JSON.
    """
    if as_json:
        for result in results:
            print(json.dumps({"what": what, **about, **asdict(result)}))
    else:
        rows = {name: spelled(value) for name, value in about.items() if value is not None}
        table(f"bench {what}", rows, console=stdout)
        for result in results:
            table(f"\n{result.candidate}", result.rows(), console=stdout)
    if profile is not None:
        table(f"\n{profile.title}", operation_rows(profile.operations), console=stderr if as_json else stdout)
        if profile.trace is not None:
            outcome(f"trace: {profile.trace}; open it at https://ui.perfetto.dev")


def operation_rows(operations: Sequence[Operation]) -> dict[str, str]:
    """Return the cost of operations in aligned columns, by rank and name; long names are cut."""
    cells = [
        (f"{operation.milliseconds:,.1f} ms", f"{operation.share:.1%}", f"{operation.calls:,} calls")
        for operation in operations
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = {}
    for rank, (operation, row) in enumerate(zip(operations, cells, strict=True), start=1):
        name = operation.name if len(operation.name) <= LONGEST_NAME else operation.name[: LONGEST_NAME - 3] + "..."
        rows[f"{rank:2} {name}"] = "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return rows


def rates(median: float, rounds: Sequence[float], unit: str) -> str:
    """Write a median, followed by the rate of each round."""
    return f"{number(median)} {unit} (rounds: {' / '.join(map(number, rounds))})"


def number(value: float) -> str:
    """Write a number with three significant digits, or a larger one as a whole number in groups of three digits."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def spelled(value: object) -> str:
    """Write the value of a setting; numbers in groups of three digits."""
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def common_numbers(name: str, how: str, throughput: Throughput, tokens: float, memory: PeakMemory) -> dict[str, Any]:
    """Return the fields that every kind of result has.

    Args:
        name: The candidate.
        how: How it was run, in words.
        throughput: Its speed.
        tokens: Tokens in the unit that the rates count.
        memory: Its peak memory.
    """
    return {
        "candidate": name,
        "how": how,
        "tokens_per_second": throughput.median * tokens,
        "tokens_per_second_rounds": [rate * tokens for rate in throughput.rates],
        "quill_times_as_fast": throughput.ratio,
        "peak_memory_bytes": memory.bytes,
        "peak_memory_of": memory.of,
    }
