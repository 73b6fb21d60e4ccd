"""Training on a token file that is not in memory, in turn with training on a small one."""

from __future__ import annotations

import mmap
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.filesize import decimal

from quillgpt.bench.measured_model import measured_config, reported_sizes
from quillgpt.bench.memory import peak_so_far
from quillgpt.bench.results import number, rates
from quillgpt.bench.rounds import Throughput, run_rounds
from quillgpt.bench.worker import Worker
from quillgpt.config.schema import ChosenSettings, ResolvedSettings, TrainSettings
from quillgpt.console import progress
from quillgpt.data.batches import Source
from quillgpt.errors import DataError
from quillgpt.model import GPT, GPTConfig
from quillgpt.optim.optimizers import make_optimizers
from quillgpt.optim.schedule import learning_rate
from quillgpt.training.planning.scaling import with_usual_size
from quillgpt.training.run import training_batches
from quillgpt.training.start.choices import choose_machine, choose_paths
from quillgpt.training.start.memory import check_memory
from quillgpt.training.step import TrainStep

SMALL_BYTES = 2_000_000
"""Size of the small file: about that of tiny Shakespeare in 16-bit ids."""

WRITTEN_AT_ONCE = 1 << 24
SPARE_BYTES = 1_000_000_000
"""Room on the disk that is left free."""


@dataclass(frozen=True)
class CorpusWork:
    """The work of both candidates.

    Attributes:
        settings: The settings of the batch, the optimizer and the machine.
        config: The model's configuration.
    """

    settings: ChosenSettings
    config: GPTConfig


@dataclass(frozen=True)
class CorpusResult:
    """The numbers of training on one file.

    Attributes:
        candidate: `small` or `large`.
        file_bytes: Size of the file.
        tokens_per_second: The median over the rounds.
        tokens_per_second_rounds: The rate of each round.
        ms_per_iteration: Milliseconds of one iteration at the median speed.
        ms_reading: Of these, milliseconds in which a batch is read; the median over all iterations.
        speed_of_small: The rate divided by that of the small file, the median over the rounds.
        peak_memory_bytes: The most memory that the process held at one time, mapped parts of the file included.
    """

    candidate: str
    file_bytes: int
    tokens_per_second: float
    tokens_per_second_rounds: list[float]
    ms_per_iteration: float
    ms_reading: float
    speed_of_small: float
    peak_memory_bytes: int | None

    def rows(self) -> dict[str, str]:
        """Return the numbers in words, by their labels."""
        memory = "not measured" if self.peak_memory_bytes is None else decimal(self.peak_memory_bytes)
        return {
            "file": decimal(self.file_bytes),
            "speed": rates(self.tokens_per_second, self.tokens_per_second_rounds, "tokens/s"),
            "iteration": f"{number(self.ms_per_iteration)} ms, of which {number(self.ms_reading)} ms read the batch",
            "compared": f"{self.speed_of_small:.3f} of the speed on the small file",
            "peak memory": f"{memory}, the whole process with the parts of the file that it has mapped",
        }


class CorpusTrainee:
    """Trains a model on one token file, in a process of its own."""

    def __init__(self, work: CorpusWork, path: Path) -> None:
        settings, machine = choose_machine(work.settings)  # which also tells PyTorch of the threads
        self._settings = ResolvedSettings.of(settings.model_copy(update={"compile": False, "patience": 0}))
        self._tokens = np.memmap(path, dtype=id_type(work.config.vocab_size), mode="r")
        self._path = path
        model = GPT(work.config, dropout=settings.dropout, attn_path=settings.attn_path, seed=settings.seed)
        model.to(machine.device)
        batches = training_batches(settings, [Source(self._tokens)])
        self._step = TrainStep(model, make_optimizers(model, settings), batches, self._settings, machine)
        self._iteration = 0
        self.reading_seconds: list[float] = []

    def rate(self, iterations: int) -> float:
        """Do the next iterations, from an empty cache, and return how many are done in a second."""
        empty_cache(self._path, self._tokens)
        read_batch = self._step.batches.batch

        def timed(iteration: int, rows: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
            before = time.perf_counter()
            batch = read_batch(iteration, rows)
            self.reading_seconds.append(time.perf_counter() - before)
            return batch

        self._step.batches.batch = timed  # type: ignore[method-assign]
        before = time.perf_counter()
        for _ in range(iterations):
            float(self._step(self._iteration, learning_rate(self._iteration, self._settings)).loss)
            self._iteration += 1
        seconds = time.perf_counter() - before
        self._step.batches.batch = read_batch  # type: ignore[method-assign]
        return iterations / seconds


def bench_corpus(
    settings: TrainSettings, *, vocabulary: int | None, gigabytes: float, folder: Path, iterations: int, rounds: int
) -> tuple[dict[str, object], list[CorpusResult]]:
    """Measure training on a large token file, of which nothing is in memory, in turn with a small one.

    The files have random ids and are removed at the end.

    Args:
        settings: The preset to time.
        vocabulary: Vocabulary size; None takes that of the preset, or the usual one of its tokenizer.
        gigabytes: Size of the large file, in 10^9 bytes.
        folder: Where the files are made.
        iterations: Iterations in a round.
        rounds: Counted rounds.

    Returns:
        The conditions of the measurement, and the results, those of the small file first.

    Raises:
        DataError: The files cannot be made.
    """
    settings, machine = choose_machine(with_usual_size(settings))
    config = measured_config(settings, vocabulary)
    check_memory(settings, config, machine.device)
    sizes = {"small": SMALL_BYTES, "large": int(gigabytes * 1e9)}
    with token_files(folder, sizes, config.vocab_size) as paths:
        work = CorpusWork(choose_paths(settings, config, machine), config)
        with Worker(CorpusTrainee, work, paths["small"]) as small, Worker(CorpusTrainee, work, paths["large"]) as large:
            asked = {"small": small, "large": large}
            throughputs = run_rounds(
                {name: partial(worker.ask, CorpusTrainee.rate, iterations) for name, worker in asked.items()}, rounds
            )
            reading = {name: float(np.median(worker.ask(reading_seconds))) for name, worker in asked.items()}
            memories = {name: worker.ask(peak_so_far, "cpu").bytes for name, worker in asked.items()}
        actual = {name: path.stat().st_size for name, path in paths.items()}
    results = [
        _result(name, throughputs[name], settings.tokens_per_iteration, actual[name], reading[name], memories[name])
        for name in sizes
    ]
    about: dict[str, object] = {
        "machine": machine.description,
        "threads": settings.threads,
        **reported_sizes(config),
        "batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "iterations_per_round": iterations,
        "cache": "emptied of both files before each round" if can_empty_cache() else "not emptied: the system cannot",
    }
    return about, results


def reading_seconds(trainee: CorpusTrainee) -> list[float]:
    """Return how long each batch took to read."""
    return trainee.reading_seconds


@contextmanager
def token_files(folder: Path, sizes: dict[str, int], vocabulary: int) -> Iterator[dict[str, Path]]:
    """Make files of random ids, of about these sizes, by name; they are removed at the end.

    Raises:
        DataError: The folder cannot be written, or has no room.
    """
    try:
        free = shutil.disk_usage(folder).free
        if sum(sizes.values()) + SPARE_BYTES > free:
            raise DataError(
                f"{folder} has {decimal(free)} free, and {decimal(sum(sizes.values()))} of tokens would leave less "
                f"than {decimal(SPARE_BYTES)}; give fewer --gigabytes, or another --folder"
            )
        with TemporaryDirectory(prefix="quill-bench-", dir=folder) as place:
            paths = {name: Path(place) / f"{name}.bin" for name in sizes}
            for name, path in paths.items():
                write_random_tokens(path, sizes[name], vocabulary)
            yield paths
    except OSError as error:
        raise DataError(
            f"{folder}: token files cannot be made there ({error.strerror or error}); give another --folder"
        ) from error


def write_random_tokens(path: Path, size: int, vocabulary: int) -> None:
    """Write a file of random ids, of about a size in bytes, all the way to the disk."""
    draw, dtype = np.random.default_rng(0), id_type(vocabulary)
    with path.open("wb") as file, progress(f"Writing {path.name}", size, as_bytes=True) as advance:
        left = size
        while left > 0:
            count = min(left, WRITTEN_AT_ONCE) // dtype.itemsize
            file.write(draw.integers(vocabulary, size=count, dtype=np.uint32).astype(dtype).tobytes())
            advance(count * dtype.itemsize)
            left -= WRITTEN_AT_ONCE
        file.flush()
        os.fsync(file.fileno())


def id_type(vocabulary: int) -> np.dtype[np.unsignedinteger]:
    """Return the type of an id in the files."""
    return np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")


def can_empty_cache() -> bool:
    """Whether the system can be asked to drop a file from its cache."""
    return hasattr(os, "posix_fadvise") and hasattr(mmap, "MADV_DONTNEED")


def empty_cache(path: Path, tokens: np.memmap) -> None:
    """Drop a mapped file from memory, so that it is read from the disk again."""
    if not can_empty_cache():
        return
    assert isinstance(tokens.base, mmap.mmap)
    tokens.base.madvise(mmap.MADV_DONTNEED)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _result(
    name: str, throughput: Throughput, tokens: int, size: int, reading: float, memory: int | None
) -> CorpusResult:
    return CorpusResult(
        candidate=name,
        file_bytes=size,
        tokens_per_second=throughput.median * tokens,
        tokens_per_second_rounds=[rate * tokens for rate in throughput.rates],
        ms_per_iteration=1e3 / throughput.median,
        ms_reading=1e3 * reading,
        speed_of_small=1 / throughput.ratio,
        peak_memory_bytes=memory,
    )
