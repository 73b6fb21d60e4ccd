"""Kernels side by side: every kernel is trained with every seed, and runs of one seed differ in the kernel only.

They begin with the same weights, read the same windows of text in the same order, and are equally long.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.config import resolve
from quillgpt.config.schema import LabSettings, TrainSettings
from quillgpt.config.schema.attention import OPTIONS, RangePenaltyFields, parse_attn_type
from quillgpt.console import say, warn
from quillgpt.errors import ConfigError, UserError, shorten
from quillgpt.files import write_json
from quillgpt.lab.kernel_summary import KernelSummary, RunResult
from quillgpt.lab.model_and_text import open_model_and_text
from quillgpt.lab.ranges import measure_ranges, violations
from quillgpt.ownership import check_ours, claim
from quillgpt.plots.record import METRICS, Points, curve, read_metrics
from quillgpt.records import Record, read_record
from quillgpt.training.record.report import RunSummary

COMPARISON = "comparison.json"
OUTCOME = "outcome.json"

FAMILIES = OPTIONS | dict.fromkeys(RangePenaltyFields.model_fields, OPTIONS["learn_tau"])
"""The families of kernels that a setting applies to, for settings that not all kernels have."""

OWN_SETTINGS = frozenset({"attn_type", *FAMILIES, "seed", "out_dir"})
"""The settings in which runs of one comparison may differ."""

INTERRUPTED = (130, 138, 143)
"""The exit statuses of a run that was stopped by a signal."""


@dataclass(frozen=True)
class Experiment:
    """A comparison of kernels.

    Attributes:
        preset: A preset or a file of settings.
        flags: Further settings, as flags; an option of a kernel applies to the kernels that have it.
        folder: The folder of runs and results.
    """

    preset: str
    flags: Mapping[str, str]
    folder: Path

    def run_folder(self, attn_type: str, seed: int) -> Path:
        """Return the folder of a run."""
        return self.folder / f"{attn_type}-seed-{seed}"

    def flags_of(self, attn_type: str, seed: int) -> dict[str, str]:
        """Return the flags of a run.

        With `compile = auto` no run is compiled. Otherwise only the slower kernels would be, whose runs are longer.
        """
        family = parse_attn_type(attn_type).family
        flags = {name: value for name, value in self.flags.items() if family in FAMILIES.get(name, (family,))}
        flags |= {"attn_type": attn_type, "seed": str(seed), "out_dir": str(self.run_folder(attn_type, seed))}
        is_auto = resolve(self.preset, flags).compile == "auto"
        return flags | ({"compile": "False"} if is_auto else {})

    def settings_of(self, attn_type: str, seed: int) -> TrainSettings:
        """Return the settings of a run.

        Raises:
            ConfigError: A setting is not valid, or the length of the run is not fixed.
        """
        settings = resolve(self.preset, self.flags_of(attn_type, seed))
        if settings.defaults == "scaled" or settings.minutes is not None:
            raise ConfigError(
                f"{self.preset} fits the size or length of a run to the clock, so slow kernels would learn less "
                "from it; compare with a preset of fixed size, such as shakespeare_char_cpu, without --minutes"
            )
        return settings

    def arguments_of(self, attn_type: str, seed: int) -> list[str]:
        """Return the command line of a run, without `quill`."""
        flags = self.flags_of(attn_type, seed)
        return ["train", self.preset, *(f"--{name}={value}" for name, value in flags.items())]


def run_comparison(experiment: Experiment, names: Sequence[str], seeds: Sequence[int]) -> Iterator[RunResult]:
    """Train every kernel with every seed, one run after the other, and yield the results.

    Finished runs are not repeated; interrupted runs continue.

    Raises:
        ConfigError: The folder holds a comparison with other settings, or the settings cannot be compared.
        UserError: A run was interrupted.
    """
    for name in names:
        experiment.settings_of(name, seeds[0])
    _write_comparison(experiment, experiment.settings_of(names[0], seeds[0]))
    runs = [(name, seed) for seed in seeds for name in names]
    texts: set[str] = set()
    for number, (name, seed) in enumerate(runs, start=1):
        finished = experiment.run_folder(name, seed) / OUTCOME
        if finished.is_file():
            outcome = _read_outcome(finished)
            _check_text(outcome, texts, finished)
            yield outcome
            continue
        say(f"run {number} of {len(runs)}: quill {' '.join(experiment.arguments_of(name, seed))}")
        outcome = _run(experiment, name, seed)
        _check_text(outcome, texts, finished)
        if outcome.failure is None:
            write_json(finished, outcome.model_dump())
            say(f"{name}, seed {seed}: loss {outcome.val_loss:.4f}")
        else:
            warn(f"{name}, seed {seed} failed: {outcome.failure}")
        yield outcome


def finished_before(experiment: Experiment) -> list[RunResult]:
    """Return the results of all finished runs in the folder, also of kernels that are not named now."""
    paths = sorted(experiment.folder.glob(f"*/{OUTCOME}"))
    return [_read_outcome(path) for path in paths]


def _read_outcome(path: Path) -> RunResult:
    return read_record(path, RunResult, ConfigError, mend="remove it, and its run is trained again")


def _check_text(outcome: RunResult, texts: set[str], path: Path) -> None:
    if outcome.data is not None:
        texts.add(outcome.data)
    if len(texts) > 1:
        raise ConfigError(
            f"the data set of {path.parent} is not that of the earlier runs: it has been prepared again since; give "
            "another --out"
        )


def curves_by_kernel(experiment: Experiment, summaries: Sequence[KernelSummary]) -> dict[str, list[Points]]:
    """Return the validation loss over tokens of every run, by kernel."""
    return {
        summary.kernel: [
            curve(
                read_metrics(experiment.run_folder(run.attn_type, run.seed) / METRICS),
                "eval",
                "val_loss",
                axis="tokens",
            )
            for run in summary.results
        ]
        for summary in summaries
    }


class Comparison(Record):
    """The settings that all runs of a folder share; the content of comparison.json."""

    preset: str
    flags: dict[str, Any]
    settings: dict[str, Any]


def _write_comparison(experiment: Experiment, settings: TrainSettings) -> None:
    """Write comparison.json: the settings that all runs of a folder share.

    Raises:
        ConfigError: The folder holds a comparison with other settings.
    """
    path = experiment.folder / COMPARISON
    everything = settings.model_dump(mode="json")
    shared = {name: value for name, value in everything.items() if name not in OWN_SETTINGS}
    wanted = {"preset": experiment.preset, "flags": dict(experiment.flags), "settings": shared}
    begun = any(experiment.folder.glob(f"*/{OUTCOME}")) or any(experiment.folder.glob("*/checkpoints"))
    if path.is_file() and begun:
        earlier = read_record(path, Comparison, ConfigError, mend="give another --out")
        flags = " ".join(f"--{name}={value}" for name, value in earlier.flags.items())
        holds = f"{experiment.folder} holds a comparison of {earlier.preset} {flags}".rstrip()
        other = [f"{name} = {shorten(value)}" for name, value in earlier.settings.items() if shared.get(name) != value]
        if earlier.model_dump() != wanted:
            raise ConfigError(
                f"{holds}{' with ' if other else ''}{', '.join(other)}; compare with the same settings, or give "
                "another --out"
            )
    experiment.folder.mkdir(parents=True, exist_ok=True)
    check_ours(experiment.folder, [COMPARISON], remedy="give another --out")
    claim(experiment.folder, [COMPARISON])
    write_json(path, wanted)


def _run(experiment: Experiment, name: str, seed: int) -> RunResult:
    folder = experiment.run_folder(name, seed)
    settings = experiment.settings_of(name, seed)
    arguments = experiment.arguments_of(name, seed) + (["--init_from=resume"] if has_checkpoint(folder) else [])
    log = experiment.folder / f"{folder.name}.log"
    check_ours(log.parent, [log.name], remedy="give another --out")
    claim(log.parent, [log.name])
    before = log.stat().st_size if log.exists() else 0
    status = _train(arguments, log)
    if status in INTERRUPTED:
        raise UserError(f"{folder} was interrupted; the same command continues it")
    if status != 0:
        lines = log.read_bytes()[before:].decode("utf-8", "replace").strip().splitlines()
        errors = [line.removeprefix("quill: ") for line in lines if line.startswith("quill: ")]
        reason = [*lines, *errors][-1] if lines else "it printed nothing"
        if status < 0:
            reason = f"its process was killed by signal {-status} ({signal.strsignal(-status)})"
        return RunResult(attn_type=name, seed=seed, kernel=name, failure=reason)
    summary = read_record(folder / "summary.json", RunSummary, UserError, mend="remove the folder")
    lab_settings = LabSettings(data_dir=settings.data_dir, device=settings.device, threads=settings.threads)
    opened = open_model_and_text(str(folder), lab_settings)
    kernel = opened.gpt.config.kernel
    shares = violations(measure_ranges(opened.gpt, opened.inputs())) or (None, None)
    return RunResult(
        attn_type=name,
        seed=seed,
        kernel=str(kernel),
        val_loss=summary.val_loss,
        tokens_per_second=summary.tokens / summary.train_seconds,
        wall_seconds=summary.wall_seconds,
        peak_memory_bytes=summary.peak_memory_bytes,
        data=opened.dataset.fingerprint,
        non_finite=len(summary.left_out),
        degree=kernel.degree,
        depth=kernel.depth,
        below=shares[0],
        dangerous=shares[1],
    )


def _train(arguments: Sequence[str], log: Path) -> int:
    """Run a command line in a process of its own, write its output to a file, and return its exit status.

    A request to stop is passed on to the process, which then writes its checkpoint, and is raised here afterwards.
    """
    with log.open("ab") as file:
        command = [sys.executable, "-m", "quillgpt", *arguments]
        process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            return process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
