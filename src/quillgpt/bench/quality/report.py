"""The tables of the benchmark: a row for each text and number of minutes, and what follows from them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quillgpt.bench.quality.record import NANOGPT, PPMD, QUILL, XZ, Result
from quillgpt.bench.quality.texts import TEXTS
from quillgpt.tables import ResultTable

TITLE = "Bits per byte on the held-out part; less is better"


@dataclass(frozen=True)
class Comparison:
    """The candidates on one text within some minutes; means over the seeds.

    Attributes:
        text: The name of the text.
        train_bytes: Bytes that they have seen.
        minutes: The minutes.
        rate: Operations in a second that stood for the clock; None: the clock counted.
        flags: What was set for every run of Quill.
        tokenizer: What the rules have chosen.
        parameters: The same.
        quill: The bits per byte of the rules' choice; None where it failed.
        seeds: Seeds of it.
        best: The best change of the grid, and its bits per byte; None without a grid.
        nanogpt: nanoGPT's recipe.
        xz: The floor.
        ppmd: The same.
    """

    text: str
    train_bytes: int
    minutes: float
    rate: float | None
    flags: tuple[tuple[str, str], ...]
    tokenizer: str
    parameters: int | None
    quill: float | None
    seeds: int
    best: tuple[str, float] | None
    nanogpt: float | None
    xz: float | None
    ppmd: float | None

    @property
    def use(self) -> str:
        """What the text is for: tuning or held; `other` for a text of the user's."""
        return TEXTS[self.text].use if self.text in TEXTS else "other"

    @property
    def regret(self) -> float | None:
        """By how much the rules' choice is worse than the best of the grid, as a share; 0 where it is the best."""
        if self.quill is None or self.best is None:
            return None
        return self.quill / min(self.quill, self.best[1]) - 1

    @property
    def behind(self) -> list[str]:
        """The candidates that are ahead of the rules' choice."""
        others = {NANOGPT: self.nanogpt, XZ: self.xz, PPMD: self.ppmd}
        return [
            name for name, bits in others.items() if bits is not None and self.quill is not None and bits < self.quill
        ]


def compare(results: Iterable[Result]) -> list[Comparison]:
    """Return a comparison for each text, minutes, rate and set of flags, in the order of the results."""
    groups: dict[tuple[object, ...], list[Result]] = {}
    others: dict[tuple[object, ...], float] = {}
    for result in results:
        if result.bits_per_byte is None:
            continue
        if not result.candidate.startswith(QUILL):
            others[result.sha256, result.candidate, result.minutes, result.rate] = result.bits_per_byte
        else:
            key = (result.text, result.sha256, result.minutes, result.rate, tuple(sorted(result.flags.items())))
            groups.setdefault(key, []).append(result)
    return [_comparison(group, others) for group in groups.values()]


def _comparison(group: Sequence[Result], others: Mapping[tuple[object, ...], float]) -> Comparison:
    by_candidate: dict[str, dict[int | None, Result]] = {}
    for result in group:  # of several results of one seed the last one counts
        by_candidate.setdefault(result.candidate, {})[result.seed] = result
    means = {
        name: statistics.fmean(result.bits_per_byte or 0.0 for result in seeds.values())
        for name, seeds in by_candidate.items()
    }
    first = group[0]
    ours = next(iter(by_candidate.get(QUILL, {}).values()), None)
    changes = {name.removeprefix(f"{QUILL}: "): bits for name, bits in means.items() if name.startswith(f"{QUILL}: ")}
    return Comparison(
        text=first.text,
        train_bytes=first.train_bytes,
        minutes=first.minutes or 0.0,
        rate=first.rate,
        flags=tuple(sorted(first.flags.items())),
        tokenizer=str(ours.chosen.get("tokenizer", "-")) if ours else "-",
        parameters=ours.chosen.get("parameters") if ours else None,
        quill=means.get(QUILL),
        seeds=len(by_candidate.get(QUILL, {})),
        best=min(changes.items(), key=lambda change: change[1]) if changes else None,
        nanogpt=others.get((first.sha256, NANOGPT, first.minutes, first.rate)),
        xz=others.get((first.sha256, XZ, None, None)),
        ppmd=others.get((first.sha256, PPMD, None, None)),
    )


def results_table(comparisons: Sequence[Comparison]) -> ResultTable:
    """Return a row for each text and number of minutes; columns that tell nothing are left out."""
    flags_differ = len({comparison.flags for comparison in comparisons}) > 1
    rows = [
        {
            "text": comparison.text,
            "for": comparison.use,
            "MB": comparison.train_bytes / 1e6,
            "minutes": comparison.minutes,
            "TFLOP/s": comparison.rate and comparison.rate / 1e12,
            "with": " ".join(f"--{name}={value}" for name, value in comparison.flags) if flags_differ else None,
            "tokenizer": comparison.tokenizer,
            "parameters": comparison.parameters,
            QUILL: comparison.quill,
            "seeds": comparison.seeds,
            "best of the grid": comparison.best and comparison.best[1],
            "by": comparison.best and comparison.best[0],
            "regret": comparison.regret,
            NANOGPT: comparison.nanogpt,
            XZ: comparison.xz,
            PPMD: comparison.ppmd,
        }
        for comparison in comparisons
    ]
    formats = {
        "text": "s",
        "for": "s",
        "MB": ".2f",
        "minutes": "g",
        "TFLOP/s": "g",
        "with": "s",
        "tokenizer": "s",
        "parameters": ",",
        QUILL: ".4f",
    }
    formats |= {
        "seeds": "d",
        "best of the grid": ".4f",
        "by": "s",
        "regret": ".1%",
        NANOGPT: ".4f",
        XZ: ".4f",
        PPMD: ".4f",
    }
    kept = {name: spec for name, spec in formats.items() if any(row[name] is not None for row in rows)}
    return ResultTable(TITLE, kept, rows)


def conclusions(comparisons: Sequence[Comparison]) -> list[str]:
    """Return what follows from the table, in sentences: regrets, and who is ahead where."""
    lines = []
    for use in dict.fromkeys(comparison.use for comparison in comparisons):
        regrets = {each: each.regret for each in comparisons if each.use == use and each.regret is not None}
        if regrets:
            worst = max(regrets, key=lambda comparison: regrets[comparison])
            lines.append(
                f"Regret against the grid on {use} texts: {statistics.fmean(regrets.values()):.1%} in the mean of "
                f"{len(regrets)}, {regrets[worst]:.1%} at worst ({worst.text}, {worst.minutes:g} min)."
            )
    for name, of in ((NANOGPT, "nanogpt"), (XZ, "xz"), (PPMD, "ppmd")):
        measured = [comparison for comparison in comparisons if getattr(comparison, of) and comparison.quill]
        ahead = [f"{each.text} ({each.minutes:g} min)" for each in measured if name in each.behind]
        if measured:
            lines.append(
                f"{name} is ahead on {len(ahead)} of {len(measured)}" + (f": {', '.join(ahead)}." if ahead else ".")
            )
    return lines
