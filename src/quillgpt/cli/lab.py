"""`quill lab`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Group, Parameter

from quillgpt.cli.completion import complete_preset
from quillgpt.cli.flags import MODEL, PATH, from_home, settings_flags
from quillgpt.config import resolve, resolve_flat
from quillgpt.config.schema import LabSettings, SwapSettings, TrainFields
from quillgpt.console import outcome, say, stdout
from quillgpt.errors import ConfigError, UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from quillgpt.lab.tables import ResultTable

DEFAULT_PRESET = "shakespeare_char_cpu"
PRESET = Parameter(
    name="PRESET",
    converter=from_home,
    help=f"A preset, a .toml file, or a .py file of nanoGPT. [default: {DEFAULT_PRESET}]",
    completer=complete_preset,
)
OUT = Parameter(
    name="--out",
    converter=from_home,
    help="Folder for tables and pictures. [default: lab/ and the model's name]",
    show_default=False,
)

lab = App(
    help="Attention research: compare kernels, look at what they compute, put one in place of another.",
    help_epilogue="Tables are printed, and written as CSV and Markdown; pictures (PNG and SVG) need the extra plots. "
    "docs/attention.md explains the kernels and shows what came of it.",
    help_format="plaintext",
    group_parameters=Group("The command", sort_key=-1),
)


@lab.command
@settings_flags(TrainFields)
def compare(
    preset: Annotated[str | None, PRESET] = None,
    /,
    *,
    attn: Annotated[
        str,
        Parameter(help="Kernels, separated by commas; GKpoly-1..10 names ten.", metavar="KERNELS"),
    ] = "SM,GK,GKn,GKpoly-8,PA_gelu,PA_relu",
    seeds: Annotated[
        int, Parameter(help="Runs of each kernel, with seeds that count up from --seed.", metavar="N")
    ] = 3,
    out: Annotated[
        Path,
        PATH,
        Parameter(help="Folder of the runs and of the results; runs that are finished there are not run again."),
    ] = Path("lab/compare"),
    named_preset: Annotated[
        str | None, Parameter(name="--preset", help="The same as PRESET.", metavar="NAME", completer=complete_preset)
    ] = None,
    **flags: str,
) -> None:
    """Train the same model with several kernels and seeds, and put what came of it side by side."""
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

    from quillgpt.lab.compare import Experiment, compare, finished_before, loss_curves
    from quillgpt.lab.figures import draw_comparison
    from quillgpt.lab.verdicts import run_table, verdict_table, verdicts

    shared = {name: value for name, value in flags.items() if name != "seed"}
    experiment = Experiment(preset, shared, results_folder(out, ["kernels", "runs"], ["kernels"]))
    outcomes = list(compare(experiment, names, range(first, first + seeds)))
    outcomes += [each for each in finished_before(experiment) if each not in outcomes]
    found = verdicts(outcomes)
    title = " ".join([experiment.preset, *(f"--{name}={value}" for name, value in shared.items())])
    publish(verdict_table(title, found), out, "kernels")
    run_table(title, outcomes).write(out, "runs")
    done = [each for each in found if each.outcomes]
    if done:
        picture(out, "kernels", lambda: draw_comparison(done, loss_curves(experiment, done)))
    if any(each.failures for each in found):
        raise UserError(f"some runs failed; what they said is in {out}/*.log, and the same command tries them again")


@lab.command
@settings_flags(LabSettings)
def ranges(
    model: Annotated[str, MODEL],
    /,
    *,
    out: Annotated[Path | None, OUT] = None,
    **flags: str,
) -> None:
    """Measure the arguments of each head over held-out text, and name the polynomial that it needs."""
    settings = resolve_flat(LabSettings, flags)
    folder = results_folder(out or default_folder(model), ["ranges", "histograms"], ["ranges"])

    from quillgpt.lab.figures import draw_kernel
    from quillgpt.lab.model_and_text import open_model_and_text
    from quillgpt.lab.ranges import histogram_table, measure_ranges, range_table, violations

    opened = open_model_and_text(model, settings)
    kernel = opened.gpt.config.kernel
    found = measure_ranges(opened.gpt, opened.inputs())
    title = f"arguments of {kernel} in {model}, {opened.dataset.name} {opened.split}, {len(opened.starts)} blocks"
    publish(range_table(title, found), folder, "ranges")
    histogram_table(title, found).write(folder, "histograms")
    if (shares := violations(found)) is not None:
        formal, dangerous = shares
        outcome(f"of all pairs {formal:.4%} lie where the polynomial turns back, {dangerous:.4%} where it grows again")
    picture(folder, "ranges", lambda: draw_kernel(kernel, found))


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
    from quillgpt.lab.swap import read_kernels, swap, swap_table

    names = read_kernels(to)
    opened = open_model_and_text(model, settings)
    found = []
    for each in swap(opened, names, settings.kernel_options):
        overflows = "" if math.isfinite(each.score.loss) else ": it overflows on arguments that lie outside its range"
        say(f"{each.kernel}: loss {each.score.loss:.4f}{overflows}")
        found.append(each)
    title = f"{model} with other kernels, {opened.dataset.name} {opened.split}, {found[0].score.tokens:,} tokens"
    publish(swap_table(title, found), folder, "swap")
    picture(folder, "swap", lambda: draw_swaps(found))


@lab.command
@settings_flags(TrainFields)
def convert(
    model: Annotated[str, MODEL],
    /,
    *,
    to: Annotated[str, Parameter(help="The kernel to convert to, such as GKpoly-8.", metavar="KERNEL")],
    calibrate: Annotated[bool, Parameter(help="Choose each head's gain and the width of its Gaussian first.")] = True,
    match_iters: Annotated[
        int,
        Parameter(
            name="--match_iters", help="Let each layer's attention learn to return what it did, so long.", metavar="N"
        ),
    ] = 0,
    blocks: Annotated[int, Parameter(help="Held-out blocks that each stage is measured on.", metavar="N")] = 64,
    out: Annotated[Path | None, OUT] = None,
    **flags: str,
) -> None:
    """Put another kernel in place of a trained model's: swap, calibrate, match its layers, finetune.

    Finetuning is the preset finetune with your settings; --max_iters=0 leaves it out.
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
    reading = {each: flags[each] for each in ("dataset", "data_dir", "device", "threads") if each in flags}
    settings = resolve_flat(LabSettings, reading | {"blocks": str(blocks)})

    from quillgpt.checkpoint.names import has_checkpoint
    from quillgpt.lab.convert import convert, stage_table, target_kernel
    from quillgpt.lab.model_and_text import open_model_and_text
    from quillgpt.training.model_config import asked_kernel

    opened = open_model_and_text(model, settings)
    run = folder / "finetuned"
    own = {"attn_type": name, "out_dir": str(run), "dataset": opened.dataset.name}
    finetuning = resolve("finetune", flags | own)
    if has_checkpoint(run) and not finetuning.overwrite:
        raise ConfigError(f"{run} holds a finetuned model; give another --out, or --overwrite to convert anew")
    kernel = target_kernel(asked_kernel(finetuning, opened.gpt.config.kernel))
    title = f"{model} to {kernel}, {opened.dataset.name} {opened.split}, {len(opened.starts)} blocks"
    stages = []
    for stage in convert(
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
    lengths = losses_by_length(gpt, opened.tokens, blocks=len(opened.starts))
    title = f"{model} in blocks of other lengths, {opened.dataset.name} {opened.split}"
    publish(length_table(title, lengths, gpt.config.block_size), folder, "lengths")
    position_table(title, lengths).write(folder, "positions")
    picture(folder, "lengths", lambda: draw_lengths(lengths, gpt.config.block_size))


def default_folder(model: str) -> Path:
    """Return where results about a model go unless somebody says otherwise."""
    return Path("lab") / (Path(model).name or "model")


def results_folder(folder: Path, tables: Sequence[str] = (), pictures: Sequence[str] = ()) -> Path:
    """Return a folder for results, if there is or can be one: before anything is computed.

    Args:
        folder: The folder.
        tables: Names of the tables that will be written there.
        pictures: Names of the pictures.

    Raises:
        ConfigError: A file is in its place, nothing may be written there, or it holds files of these names that are
            not Quill's.
    """
    from quillgpt.lab.tables import table_files
    from quillgpt.ownership import check_ours
    from quillgpt.plots.figure import check_pictures

    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "may not be written to" if there.is_dir() else "is a file"
        raise ConfigError(f"{there} {reason}, so results cannot go to {folder}; give another folder with --out")
    check_ours(folder, [file for name in tables for file in table_files(name)], remedy="give another --out")
    check_pictures([path for name in pictures for path in picture_files(folder, name)])
    return folder


def publish(table: ResultTable, folder: Path, name: str) -> None:
    """Print a table, and write it."""
    table.show()
    for path in table.write(folder, name):
        stdout.print(str(path), markup=False, emoji=False)


def picture(folder: Path, name: str, draw: Callable[[], Figure]) -> None:
    """Draw a picture as PNG and SVG; say what is missing where matplotlib is not installed."""
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
