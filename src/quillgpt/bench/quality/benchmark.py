"""The benchmark: every candidate on every text within every number of minutes, and a record of it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from quillgpt.bench.quality.candidates import Budget, Run
from quillgpt.bench.quality.compressors import COMPRESSORS, Size, run_compressor
from quillgpt.bench.quality.grid import neighbours
from quillgpt.bench.quality.held_out import SplitText, split_text
from quillgpt.bench.quality.nanogpt_run import check_checkout, run_nanogpt
from quillgpt.bench.quality.quill_run import run_quill
from quillgpt.bench.quality.record import NANOGPT, PPMD, QUILL, Cell, Record, Result
from quillgpt.bench.quality.texts import TEXTS, text_file
from quillgpt.config import resolve
from quillgpt.config.paths import expand
from quillgpt.config.sources import OWN_TEXT
from quillgpt.console import say, warn
from quillgpt.device import device_description
from quillgpt.errors import ConfigError, DataError, UserError, did_you_mean

USES = ("tuning", "held")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        texts: Texts of the benchmark by their names, `tuning` or `held` for all of a kind, or files and folders; none
            stands for all of the benchmark.
        minutes: The minutes of the runs.
        rate: Operations in a second that stand for the clock; None: the clock counts.
        seeds: The seeds of the runs.
        grid: What is changed around the rules' choice.
        flags: What is set for every run of Quill.
        nanogpt: The folder of a nanoGPT checkout; None leaves it out.
        floor: Whether the texts are compressed, too.
    """

    texts: Sequence[str]
    minutes: Sequence[float]
    rate: float | None = None
    seeds: Sequence[int] = (1337,)
    grid: Sequence[str] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    nanogpt: Path | None = None
    floor: bool = True


def files_meant(words: Sequence[str]) -> dict[str, Path | None]:
    """Return the texts that words mean, by name; None in place of a file that is still to be made.

    Raises:
        ConfigError: Two texts have one name.
        DataError: A word means no text.
    """
    meant: dict[str, Path | None] = {}
    for word in words or TEXTS:
        path = expand(word)
        if word in USES:
            files: dict[str, Path | None] = {name: None for name, text in TEXTS.items() if text.use == word}
        elif word in TEXTS:
            files = {word: None}
        elif path.is_dir():
            files = {file.stem: file for file in sorted(path.iterdir()) if file.is_file() and file.name[0] != "."}
        elif path.is_file():
            files = {path.stem: path}
        else:
            known = (*TEXTS, *USES)
            raise DataError(
                f"{word} is neither a file, a folder, nor a text of the benchmark ({', '.join(known)})"
                f"{did_you_mean(word, known)}"
            )
        if twice := meant.keys() & files.keys():
            raise ConfigError(f"two texts have the name {min(twice)}; give one of them, or rename a file")
        meant |= files
    if not meant:
        raise DataError(f"{' '.join(words)} has no file; give text files")
    return meant


def bench_own_text(plan: Plan, record: Record) -> list[Result]:
    """Run what is not in the record yet, and return the results of the plan.

    A candidate that fails, and a text that cannot be made here, is named in a warning and left out.

    Raises:
        UserError: A text is given that cannot be used, or a folder that has no nanoGPT.
    """
    files = files_meant(plan.texts)
    if plan.nanogpt is not None:
        check_checkout(plan.nanogpt)
    results: list[Result] = []
    compressors = {}
    if plan.floor:
        compressors = {name: size for name, size in COMPRESSORS.items() if name != PPMD or find_spec("pyppmd")}
        if PPMD not in compressors:
            say("PPMd is left out: pip install 'quillgpt[bench]' brings it")
    done, rounds = 0, len(plan.minutes) * len(files)
    for minutes in plan.minutes:
        for name in list(files):
            done += 1
            try:
                split = split_text(files[name] or text_file(name), name)
            except DataError as error:
                if name not in TEXTS:
                    raise
                warn(f"{error}; the text {name} is left out")
                del files[name]
                rounds -= len(plan.minutes) - 1
                continue
            sizes = f"{split.train_bytes:,} bytes to learn from, {split.held_bytes:,} held out"
            say(f"{done} of {rounds}: {name}, {sizes}, {minutes:g} min")
            results += floors_of(split, compressors, record, known=results)
            for seed in plan.seeds:
                results += runs_of_quill(split, Budget(minutes, plan.rate), seed, plan, record)
            if plan.nanogpt is not None:
                results.append(run_of_nanogpt(split, Budget(minutes, plan.rate), plan.nanogpt, plan.flags, record))
    return results


def floors_of(
    split: SplitText, compressors: Mapping[str, Size], record: Record, known: Sequence[Result]
) -> Iterator[Result]:
    """Yield the results of compressors on a text, unless they are known."""
    for name, size in compressors.items():
        cell = Cell(split.name, split.sha256, name)
        if all(result.cell != cell for result in known):
            yield result_of(cell, split, record, lambda _, size=size: run_compressor(split, size))  # type: ignore[misc]


def runs_of_quill(split: SplitText, budget: Budget, seed: int, plan: Plan, record: Record) -> Iterator[Result]:
    """Yield the results of Quill on one text: what the rules choose, and the grid around it."""

    def cell(candidate: str) -> Cell:
        return Cell(split.name, split.sha256, candidate, budget.minutes, budget.rate, seed, dict(plan.flags))

    def quill(change: Mapping[str, str]) -> Callable[[Path], Run]:
        return lambda folder: run_quill(split, budget, {**plan.flags, "seed": str(seed), **change}, folder)

    ours = result_of(cell(QUILL), split, record, quill({}))
    yield ours
    if plan.grid and ours.error is None:
        changes = neighbours(ours.chosen, len(set(split.train)), plan.grid)
        for name, flags in changes.items():
            yield result_of(cell(f"{QUILL}: {name}"), split, record, quill(flags))


def run_of_nanogpt(
    split: SplitText, budget: Budget, checkout: Path, flags: Mapping[str, str], record: Record
) -> Result:
    """Return the result of nanoGPT on one text; its seed is always the same, and of the flags only `threads` counts."""
    threads = resolve(OWN_TEXT, flags).threads
    of_cell = {} if threads is None else {"threads": str(threads)}
    cell = Cell(split.name, split.sha256, NANOGPT, budget.minutes, budget.rate, None, of_cell)
    return result_of(cell, split, record, lambda folder: run_nanogpt(split, budget, checkout, folder, threads))


def result_of(cell: Cell, split: SplitText, record: Record, run: Callable[[Path], Run]) -> Result:
    """Return the result of a cell from the record, or run it in a folder of its own and record it."""
    if (known := record.result_of(cell)) is not None:
        return known
    budget = "" if cell.minutes is None else f", {cell.minutes:g} min"
    numbers: dict[str, Any] = {}
    try:
        with TemporaryDirectory(prefix="quill-bench-", ignore_cleanup_errors=True) as folder:
            done = run(Path(folder))
        numbers = {
            "bits_per_byte": done.price.bits / split.held_bytes,
            "unknown_characters": done.price.unknown_characters,
            "seconds": done.seconds,
            "chosen": done.chosen,
        }
        say(f"  {cell.candidate}: {numbers['bits_per_byte']:.4f} bits per byte, {done.seconds:.0f} s")
    except UserError as error:
        numbers["error"] = str(error)
        warn(f"{cell.text}{budget}, {cell.candidate}: {error}")
    result = Result(
        **asdict(cell),
        **numbers,
        train_bytes=split.train_bytes,
        held_bytes=split.held_bytes,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(),
    )
    record.add(result)
    return result


def machine() -> str:
    """Return the machine in words, with its load where the system knows it."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores of {device_description(torch.device('cpu'))}{load}"
