"""`quill lab`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Group, Parameter

from quillgpt.cli.completion import complete_preset
from quillgpt.cli.flags import MODEL, PATH, from_home, preset_argument, settings_flags
from quillgpt.config import resolve, resolve_flat
from quillgpt.config.schema import LabSettings, SwapSettings, TrainFields
from quillgpt.console import outcome, say, stdout
from quillgpt.errors import ConfigError, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from quillgpt.tables import ResultTable

DEFAULT_PRESET = "shakespeare_char_cpu"
OUT = Parameter(
    name="--out",
    converter=from_home,
    help="Folder for tables and pictures. [default: lab/ and the model's name]",
    show_default=False,
)

lab = App(
    help="Attention research: compare kernels, look at their weights, replace one kernel by another.",
    help_epilogue="Tables are printed, and written as CSV and Markdown; pictures (PNG and SVG) need the extra plots. "
    "docs/attention.md explains the kernels and shows results.",
    help_format="plaintext",
    group_parameters=Group("The command", sort_key=-1),
)


@lab.command
@settings_flags(TrainFields)
def compare(
    preset: Annotated[str | None, preset_argument(f"[default: {DEFAULT_PRESET}]")] = None,
    /,
    *,
    attn: Annotated[
        str,
        Parameter(help="Kernels, separated by commas; GKpoly-1..10 names ten.", metavar="KERNELS"),
    ] = "SM,GK,GKn,GKpoly-8,PA_gelu,PA_relu",
    seeds: Annotated[int, Parameter(help="Runs of each kernel, with seeds from --seed upwards.", metavar="N")] = 3,
    out: Annotated[
        Path,
        PATH,
        Parameter(help="Folder of the runs and the results; finished runs in it are not repeated."),
    ] = Path("lab/compare"),
    named_preset: Annotated[
        str | None, Parameter(name="--preset", help="The same as PRESET.", metavar="NAME", completer=complete_preset)
    ] = None,
    **flags: str,
) -> None:
    """Train the same model with several kernels and seeds, and compare the results."""
    from quillgpt.lab.swap import read_kernels

    names = read_kernels(attn)
    for flag, instead in {"attn_type": "--attn", "out_dir": "--out", "init_from": None}.items():
        if flags.get(flag, "scratch") in ("resume", "finetune") or (flag in flags and instead):
            raise ConfigError(
                f"--{flag}={flags[flag]} is not for a comparison" + (f"; give {instead}" if instead else "")
            )
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds}; expected a whole number above 0")
    preset = named_preset or preset or DEFAULT_PRESET
    first = resolve(preset, {name: value for name, value in flags.items() if name == "seed"}).seed

    from quillgpt.lab.compare import Experiment, curves_by_kernel, finished_before, run_comparison
    from quillgpt.lab.figures import draw_comparison
    from quillgpt.lab.kernel_summary import kernel_table, run_table, summarise_kernels

    shared = {name: value for name, value in flags.items() if name != "seed"}
    experiment = Experiment(preset, shared, results_folder(out, ["kernels", "runs"], ["kernels"]))
    results = list(run_comparison(experiment, names, range(first, first + seeds)))
    results += [result for result in finished_before(experiment) if result not in results]
    kernels = summarise_kernels(results)
    title = " ".join([experiment.preset, *(f"--{name}={value}" for name, value in shared.items())])
    publish(kernel_table(title, kernels), out, "kernels")
    run_table(title, results).write(out, "runs")
    done = [kernel for kernel in kernels if kernel.results]
    if done:
        picture(out, "kernels", lambda: draw_comparison(done, curves_by_kernel(experiment, done)))
    if any(kernel.failures for kernel in kernels):
        raise UserError(f"some runs failed; their output is in {out}/*.log, and the same command tries them again")


@lab.command
@settings_flags(LabSettings)
def ranges(
    model: Annotated[str, MODEL],
    /,
    *,
    out: Annotated[Path | None, OUT] = None,
    **flags: str,
) -> None:
    """Measure the range of each head's arguments over held-out text, and name the polynomial that it needs."""
    settings = resolve_flat(LabSettings, flags)
    folder = results_folder(out or default_folder(model), ["ranges", "histograms"], ["ranges"])

    from quillgpt.lab.figures import draw_kernel
    from quillgpt.lab.model_and_text import open_model_and_text
    from quillgpt.lab.ranges import histogram_table, measure_ranges, range_table, violations

    opened = open_model_and_text(model, settings)
    kernel = opened.gpt.config.kernel
    heads = measure_ranges(opened.gpt, opened.inputs())
    title = f"arguments of {kernel} in {model}, {opened.dataset.name} {opened.split}, {len(opened.offsets)} blocks"
    publish(range_table(title, heads), folder, "ranges")
    histogram_table(title, heads).write(folder, "histograms")
    if (shares := violations(heads)) is not None:
        below, dangerous = shares
        outcome(f"{below:.4%} of all pairs lie below -N, {dangerous:.4%} where the polynomial is no longer near 0")
    picture(folder, "ranges", lambda: draw_kernel(kernel, heads))


@lab.command
@settings_flags(SwapSettings)
def swap(
    model: Annotated[str, MODEL],
    /,
    *,
    to: Annotated[str, Parameter(help="Kernels, separated by commas; GKpoly-1..10 names ten.", metavar="KERNELS")],
    out: Annotated[Path | None, OUT] = None,
    **flags: str,
) -> None:
    """Evaluate a model with other kernels than the one it was trained with."""
    settings = resolve_flat(SwapSettings, flags)
    folder = results_folder(out or default_folder(model), ["swap"], ["swap"])

    from quillgpt.lab.figures import draw_swaps
    from quillgpt.lab.model_and_text import open_model_and_text
    from quillgpt.lab.swap import read_kernels, score_kernels, swap_table

    names = read_kernels(to)
    opened = open_model_and_text(model, settings)
    results = []
    for result in score_kernels(opened, names, settings.kernel_options):
        overflow = "" if math.isfinite(result.score.loss) else ": it overflows on arguments outside its range"
        say(f"{result.kernel}: loss {result.score.loss:.4f}{overflow}")
        results.append(result)
    title = f"{model} with other kernels, {opened.dataset.name} {opened.split}, {results[0].score.tokens:,} tokens"
    publish(swap_table(title, results), folder, "swap")
    picture(folder, "swap", lambda: draw_swaps(results))


@lab.command
@settings_flags(TrainFields)
def convert(
    model: Annotated[str, MODEL],
    /,
    *,
    to: Annotated[str, Parameter(help="The kernel to convert to, such as GKpoly-8.", metavar="KERNEL")],
    calibrate: Annotated[bool, Parameter(help="First fit each head's gain and the width of its Gaussian.")] = True,
    match_iters: Annotated[
        int,
        Parameter(
            name="--match_iters",
            help="Iterations that train each layer's attention to return what it did before.",
            metavar="N",
        ),
    ] = 0,
    blocks: Annotated[int, Parameter(help="Held-out blocks to measure each stage on.", metavar="N")] = 64,
    out: Annotated[Path | None, OUT] = None,
    **flags: str,
) -> None:
    """Convert a trained model to another kernel: swap, calibrate, match its layers, finetune.

    Finetuning uses the preset finetune with your settings; --max_iters=0 leaves it out.
    """
    from quillgpt.lab.swap import read_kernels

    names = read_kernels(to)
    if len(names) > 1:
        raise ConfigError(f"--to={to} names {len(names)} kernels; a model is converted to one")
    if match_iters < 0:
        raise ConfigError(f"match_iters = {match_iters}; expected a whole number, 0 for none")
    [name] = names
    folder = results_folder(out or default_folder(model) / f"to-{name}", ["stages"])
    for flag, instead in {"attn_type": "--to", "out_dir": "--out", "init_from": "MODEL"}.items():
        if flag in flags:
            raise ConfigError(f"--{flag}={flags[flag]} is not for a conversion; give {instead}")
    lab_flags = {flag: flags[flag] for flag in ("dataset", "data_dir", "device", "threads") if flag in flags}
    settings = resolve_flat(LabSettings, lab_flags | {"blocks": str(blocks)})

    from quillgpt.checkpoint.names import has_checkpoint
    from quillgpt.lab.convert import conversion_stages, stage_table, target_kernel
    from quillgpt.lab.model_and_text import open_model_and_text
    from quillgpt.training.start.model_config import asked_kernel

    opened = open_model_and_text(model, settings)
    run = folder / "finetuned"
    own = {"attn_type": name, "out_dir": str(run), "dataset": opened.dataset.name}
    finetuning = resolve("finetune", flags | own)
    if has_checkpoint(run) and not finetuning.overwrite:
        raise ConfigError(f"{run} holds a finetuned model; give another --out, or --overwrite to convert anew")
    kernel = target_kernel(asked_kernel(finetuning, opened.gpt.config.kernel))
    title = f"{model} to {kernel}, {opened.dataset.name} {opened.split}, {len(opened.offsets)} blocks"
    stages = []
    for stage in conversion_stages(
        opened,
        kernel,
        folder,
        calibrated=calibrate,
        match_iters=match_iters,
        finetuning=finetuning if finetuning.max_iters else None,
    ):
        say(f"{stage.name}: loss {stage.loss:.4f}")
        stages.append(stage)
        stage_table(title, stages).write(folder, "stages")
    publish(stage_table(title, stages), folder, "stages")
    outcome(f"the model is {stages[-1].folder or folder / 'start'}")


@lab.command
@settings_flags(LabSettings)
def look(
    model: Annotated[str, MODEL],
    /,
    *,
    start: Annotated[
        str | None,
        Parameter(help="The text whose attention maps are drawn. Unset: the first 32 tokens of the blocks."),
    ] = None,
    out: Annotated[Path | None, OUT] = None,
    **flags: str,
) -> None:
    """Draw a model's attention: maps of a text, entropy and row sums, loss by position and in longer texts."""
    settings = resolve_flat(LabSettings, flags)
    tables = ["rows", "lengths", "positions"]
    folder = results_folder(out or default_folder(model), tables, ["maps", "rows", "lengths"])

    from quillgpt.generation import read_start
    from quillgpt.lab.figures import draw_lengths, draw_maps, draw_rows
    from quillgpt.lab.lengths import length_table, losses_by_length, position_table
    from quillgpt.lab.model_and_text import open_model_and_text, text_tokens
    from quillgpt.lab.weights import attention_weights, row_statistics, row_table

    opened = open_model_and_text(model, settings)
    gpt = opened.gpt
    tokens, words = text_tokens(opened, start and read_start(start))
    kernel = str(gpt.config.kernel)
    picture(folder, "maps", lambda: draw_maps(attention_weights(gpt, tokens), words, title=f"{model}, {kernel}"))
    rows = row_statistics(gpt, opened.inputs())
    row_table(f"weights of {model} by the position of the query", rows).write(folder, "rows")
    picture(folder, "rows", lambda: draw_rows(rows))
    lengths = losses_by_length(gpt, opened.tokens, blocks=len(opened.offsets))
    title = f"{model} in blocks of other lengths, {opened.dataset.name} {opened.split}"
    publish(length_table(title, lengths, gpt.config.block_size), folder, "lengths")
    position_table(title, lengths).write(folder, "positions")
    picture(folder, "lengths", lambda: draw_lengths(lengths, gpt.config.block_size))


def default_folder(model: str) -> Path:
    """Return the default folder for results about a model."""
    return Path("lab") / (Path(model).name or "model")


def results_folder(folder: Path, tables: Sequence[str] = (), pictures: Sequence[str] = ()) -> Path:
    """Check that results can be written to a folder, before anything is computed, and return it.

    Args:
        folder: The folder.
        tables: Names of the tables that will be written.
        pictures: Names of the pictures that will be written.

    Raises:
        ConfigError: It is a file, cannot be written to, or holds files of these names that Quill did not write.
    """
    from quillgpt.files import nearest_existing
    from quillgpt.ownership import check_ours
    from quillgpt.plots.figure import check_pictures
    from quillgpt.tables import table_files

    existing = nearest_existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        reason = "may not be written to" if existing.is_dir() else "is a file"
        raise ConfigError(f"{existing} {reason}, so results cannot go to {folder}; give another folder with --out")
    check_ours(folder, [file for name in tables for file in table_files(name)], remedy="give another --out")
    check_pictures([path for name in pictures for path in picture_files(folder, name)])
    return folder


def publish(table: ResultTable, folder: Path, name: str) -> None:
    """Print a table, write its files, and print their paths."""
    table.show()
    for path in table.write(folder, name):
        stdout.print(str(path), markup=False, emoji=False)


def picture(folder: Path, name: str, draw: Callable[[], Figure]) -> None:
    """Draw a picture as PNG and SVG; without matplotlib, say that it is missing."""
    from quillgpt.plots.figure import write_figure

    paths = picture_files(folder, name)
    try:
        write_figure(draw, paths, purpose="a picture")
    except UserError as error:
        outcome(f"no {name}.png: {error}")
        return
    for path in paths:
        stdout.print(str(path), markup=False, emoji=False)


def picture_files(folder: Path, name: str) -> list[Path]:
    """Return the files of a picture."""
    return [folder / f"{name}.png", folder / f"{name}.svg"]
