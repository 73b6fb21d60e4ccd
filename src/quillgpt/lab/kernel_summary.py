"""The results of runs with several kernels, summarised for each kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from quillgpt.records import Record
from quillgpt.tables import ResultTable


class RunResult(Record):
    """The result of a run; the content of its outcome.json.

    Attributes:
        attn_type: The kernel.
        seed: The seed.
        kernel: The kernel with its options.
        val_loss: Loss of the best checkpoint on the whole validation split, nats per token; None if the run failed.
        tokens_per_second: The speed of training.
        wall_seconds: Time from start to end, with evaluations.
        peak_memory_bytes: The most memory that the process held at one time.
        data: Fingerprint of the data set.
        non_finite: Number of iterations that were left out because they were not finite.
        degree: Degree of the kernel's polynomial; None if it is not a polynomial.
        depth: Estimated multiplicative depth; None if it is not a polynomial.
        below: Share of pairs where GKpoly's power2 grows again; None for other kernels.
        dangerous: Share of pairs where it is no longer near 0; None for other kernels.
        failure: Why the run failed; None if it did not.
    """

    attn_type: str
    seed: int
    kernel: str
    val_loss: float | None = None
    tokens_per_second: float | None = None
    wall_seconds: float | None = None
    peak_memory_bytes: int | None = None
    data: str | None = None
    non_finite: int | None = None
    degree: int | None = None
    depth: int | None = None
    below: float | None = None
    dangerous: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class KernelSummary:
    """The results of all runs of a kernel.

    Attributes:
        kernel: The kernel with its options.
        results: The results of the runs that did not fail.
        failures: Number of runs that failed.
    """

    kernel: str
    results: list[RunResult]
    failures: int

    @property
    def loss(self) -> float | None:
        """The mean validation loss, nats per token; None without a result."""
        return self.mean("val_loss")

    @property
    def standard_error(self) -> float | None:
        """The standard error of that mean over the seeds; None with fewer than two results."""
        losses = self.values("val_loss")
        return stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else None

    def values(self, name: str) -> list[float]:
        """Return the values of an attribute, without runs that lack it."""
        return [value for result in self.results if (value := getattr(result, name)) is not None]

    def mean(self, name: str) -> float | None:
        """Return the mean of an attribute over the runs; None if no run has it."""
        values = self.values(name)
        return fmean(values) if values else None


def summarise_kernels(results: Sequence[RunResult]) -> list[KernelSummary]:
    """Group results by kernel, in the order of their first run."""
    by_kernel = []
    for name in dict.fromkeys(result.attn_type for result in results):
        runs = [result for result in results if result.attn_type == name]
        done = [result for result in runs if result.failure is None]
        by_kernel.append(KernelSummary((done or runs)[0].kernel, done, len(runs) - len(done)))
    return by_kernel


def kernel_table(title: str, summaries: Sequence[KernelSummary]) -> ResultTable:
    """Return a row for each kernel: means over seeds, the largest peak memory, the sum of non-finite iterations."""
    formats = {"kernel": "s", "seeds": "d", "failed": "d", "val loss": ".4f", "± SE": ".4f", "perplexity": ".6g"}
    formats |= {"tokens/s": ",.0f", "peak MB": ",.0f", "seconds": ",.0f", "non-finite": ".0f"}
    formats |= {"degree": ",d", "depth": "d", "x < -N": ".4%", "x < -2N+12": ".4%"}
    rows = []
    for summary in summaries:
        loss, peaks, left_out = summary.loss, summary.values("peak_memory_bytes"), summary.values("non_finite")
        first = summary.results[0] if summary.results else None
        rows.append(
            {
                "kernel": summary.kernel,
                "seeds": len(summary.results),
                "failed": summary.failures,
                "val loss": loss,
                "± SE": summary.standard_error,
                "perplexity": None if loss is None else math.exp(min(loss, 700)),
                "tokens/s": summary.mean("tokens_per_second"),
                "peak MB": max(peaks) / 1e6 if peaks else None,
                "seconds": summary.mean("wall_seconds"),
                "non-finite": sum(left_out) if left_out else None,
                "degree": first and first.degree,
                "depth": first and first.depth,
                "x < -N": summary.mean("below"),
                "x < -2N+12": summary.mean("dangerous"),
            }
        )
    return ResultTable(title, formats, rows)


def run_table(title: str, results: Sequence[RunResult]) -> ResultTable:
    """Return a row for each run with all its values."""
    formats = dict.fromkeys(RunResult.model_fields, "")
    return ResultTable(title, formats, [result.model_dump() for result in results])
