"""What runs of several kernels came to, taken together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quillgpt.lab.tables import ResultTable
from quillgpt.records import Record


class RunResult(Record):
    """What a run came to; the content of its outcome.json.

    Attributes:
        attn_type: Its kernel.
        seed: Its seed.
        kernel: Its kernel with its options.
        val_loss: Loss of its best checkpoint on the whole validation split, nats per token; None: it failed.
        tokens_per_second: While it trained.
        wall_seconds: From start to end, evaluations included.
        peak_memory_bytes: Most memory that the process held at one time.
        data: Fingerprint of the data set that it read.
        non_finite: Iterations that were left out because they were not finite.
        degree: Degree of the weights as a polynomial; None: they are none.
        depth: Estimated multiplicative depth; None likewise.
        below: Share of pairs where GKpoly's power2 turns back; None for other kernels.
        dangerous: Share of pairs where it is no longer near 0; None likewise.
        failure: Why it has no result.
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
class Verdict:
    """What all runs of a kernel came to.

    Attributes:
        kernel: The kernel with its options.
        outcomes: Its runs that have a result.
        failures: How many have none.
    """

    kernel: str
    outcomes: list[RunResult]
    failures: int

    @property
    def loss(self) -> float | None:
        """Mean validation loss, nats per token; None without a result."""
        return self.mean("val_loss")

    @property
    def standard_error(self) -> float | None:
        """Standard error of that mean, from the spread of the seeds; None with fewer than two."""
        losses, mean = self.values("val_loss"), self.loss
        if mean is None or len(losses) < 2:
            return None
        variance = sum((each - mean) ** 2 for each in losses) / (len(losses) - 1)
        return math.sqrt(variance / len(losses))

    def values(self, name: str) -> list[float]:
        """Return a number of each run that has it."""
        return [value for each in self.outcomes if (value := getattr(each, name)) is not None]

    def mean(self, name: str) -> float | None:
        """Return the mean of a number of the runs; None where no run has it."""
        values = self.values(name)
        return sum(values) / len(values) if values else None


def verdicts(outcomes: Sequence[RunResult]) -> list[Verdict]:
    """Put the runs of each kernel together, in the order in which kernels first come."""
    found = []
    for name in dict.fromkeys(each.attn_type for each in outcomes):
        own = [each for each in outcomes if each.attn_type == name]
        done = [each for each in own if each.failure is None]
        found.append(Verdict((done or own)[0].kernel, done, len(own) - len(done)))
    return found


def verdict_table(title: str, found: Sequence[Verdict]) -> ResultTable:
    """Return a row for each kernel: means over its seeds, the largest peak memory, all non-finite iterations."""
    formats = {"kernel": "s", "seeds": "d", "failed": "d", "val loss": ".4f", "± SE": ".4f", "perplexity": ".6g"}
    formats |= {"tokens/s": ",.0f", "peak MB": ",.0f", "seconds": ",.0f", "non-finite": ".0f"}
    formats |= {"degree": ",d", "depth": "d", "x < -N": ".4%", "x < -2N+12": ".4%"}
    rows = []
    for each in found:
        loss, peaks, left_out = each.loss, each.values("peak_memory_bytes"), each.values("non_finite")
        first = each.outcomes[0] if each.outcomes else None
        rows.append(
            {
                "kernel": each.kernel,
                "seeds": len(each.outcomes),
                "failed": each.failures,
                "val loss": loss,
                "± SE": each.standard_error,
                "perplexity": None if loss is None else math.exp(min(loss, 700)),
                "tokens/s": each.mean("tokens_per_second"),
                "peak MB": max(peaks) / 1e6 if peaks else None,
                "seconds": each.mean("wall_seconds"),
                "non-finite": sum(left_out) if left_out else None,
                "degree": first and first.degree,
                "depth": first and first.depth,
                "x < -N": each.mean("below"),
                "x < -2N+12": each.mean("dangerous"),
            }
        )
    return ResultTable(title, formats, rows)


def run_table(title: str, outcomes: Sequence[RunResult]) -> ResultTable:
    """Return a row for each run, with all that is known of it."""
    formats = dict.fromkeys(RunResult.model_fields, "")
    return ResultTable(title, formats, [each.model_dump() for each in outcomes])
