"""`quill bench`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Group, Parameter

from quillgpt.bench.peers import NANOGPT, TRANSFORMERS, read_peers
from quillgpt.cli.completion import complete_path, complete_preset
from quillgpt.cli.flags import JSON_FLAG, PATH, model_argument, preset_argument, settings_flags, switch
from quillgpt.config import ServeSettings, resolve, resolve_flat
from quillgpt.config.paths import expand
from quillgpt.config.schema import Quantize, TrainFields
from quillgpt.config.schema.attention import PolyForm, parse_attn_type
from quillgpt.config.sources import OWN_TEXT
from quillgpt.console import stdout, table
from quillgpt.errors import ConfigError, did_you_mean, shorten

DEFAULT_PRESET = "shakespeare_char"
LARGEST_COUNT = 10**7
LARGEST_SUM_BYTES = 10**10
MOST_GIGABYTES = 10**5

PEER_HELP = (
    "A program that runs in turn with Quill: nanogpt=PATH (the folder of a checkout) or transformers (the installed "
    "package). Can be given twice, once for each."
)
PROFILE_HELP = (
    "Profile a short run of Quill after the measurement, print the ten costliest operations, and write a trace that "
    "https://ui.perfetto.dev opens. [without FILE: {}]"
)

TEXT_HELP = (
    "A text file, a folder of such files, or a text of the benchmark: its name, or tuning or held for all of a kind. "
    "[default: all texts of the benchmark, which are made from Debian packages and the library of Python]"
)
NANOGPT_HELP = (
    "The folder of a nanoGPT checkout, whose recipe for a CPU gets the same minutes and is scored in the same way."
)
GRID_HELP = (
    "Also run a small grid around what the rules have chosen: all, or some of size, tokenizer, regularization, batch, "
    "rates, separated by commas."
)
RATE_HELP = (
    "Let every run have as many operations as a machine of X TFLOP/s has in the minutes, instead of minutes by the "
    "clock; results then do not depend on this machine."
)
RECORD_HELP = (
    "File to which each result is appended at once, as a line of JSON. What it has already is not run again, so an "
    "interrupted benchmark goes on."
)
GRID_KINDS = ("size", "tokenizer", "regularization", "batch", "rates")
OF_THE_BENCHMARK = (
    *("minutes", "seed", "data", "val", "dataset", "data_dir", "out_dir", "init_from", "max_iters", "defaults"),
    *("overwrite", "eval_only"),
)
"""Settings that the benchmark itself sets."""


bench = App(
    help="Measure speed and memory on this machine, side by side with a peer.",
    help_epilogue="Candidates run in turn. The first round of each is a warm-up and does not count; medians are "
    "reported. Peak memory is measured in one more run of each, in a process of its own. The keys of --json have "
    "their units in their names; docs/results.md explains them.",
    help_format="plaintext",
    group_parameters=Group("The command", sort_key=-1),
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BenchFlags:
    """The flags of all measurements."""

    peer: Annotated[
        list[str] | None, Parameter(name="--peer", help=PEER_HELP, metavar="PEER", negative=(), show_default=False)
    ] = None
    rounds: Annotated[int, Parameter(name="--rounds", help="Counted rounds of each candidate.", metavar="N")] = 3
    as_json: Annotated[bool, JSON_FLAG] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelBenchFlags(BenchFlags):
    """The flags of the measurements of a model."""

    preset: Annotated[
        str | None, PATH, Parameter(name="--preset", help="The preset.", metavar="NAME", completer=complete_preset)
    ] = None
    vocabulary: Annotated[
        int | None,
        Parameter(
            name="--vocabulary",
            help="Vocabulary size. [default: the preset's, or the usual one of its tokenizer]",
            metavar="N",
        ),
    ] = None
    profile: Annotated[
        bool | Path | None,
        Parameter(
            name="--profile",
            help=PROFILE_HELP.format("trace-train.json or trace-sample.json"),
            metavar="[FILE]",
            negative=(),
        ),
    ] = None

    def chosen_preset(self, word: str | None) -> str:
        """Return the preset that was given, as PRESET or as --preset.

        Raises:
            ConfigError: Two different presets were given.
        """
        if word and self.preset and word != self.preset:
            raise ConfigError(f"{word} and --preset {self.preset} name two presets; give one of them")
        return word or self.preset or DEFAULT_PRESET

    def trace(self, command: str) -> Path | None:
        """Return the file for the profile's trace; None without a profile.

        Raises:
            ConfigError: The file does not have the ending of a trace; most likely a preset was meant.
        """
        if not self.profile:
            return None
        path = Path(f"trace-{command}.json") if self.profile is True else expand(str(self.profile))
        if not path.name.endswith((".json", ".json.gz")):
            raise ConfigError(f"--profile {path}: expected a file that ends in .json or .json.gz; a preset comes first")
        return path


Preset = Annotated[str | None, preset_argument(f"--preset NAME says the same. [default: {DEFAULT_PRESET}]")]


@bench.command
@settings_flags(TrainFields)
def train(
    preset: Preset = None,
    /,
    *,
    iterations: Annotated[int, Parameter(help="Training iterations in a round.", metavar="N")] = 3,
    compile_peer: Annotated[bool, switch("--compile_peer", "Compile the peers' models.")] = False,
    common: ModelBenchFlags | None = None,
    **flags: str,
) -> None:
    """Measure training: tokens per second, milliseconds per iteration, MFU, peak memory."""
    common = common or ModelBenchFlags()
    check_counts(rounds=common.rounds, iterations=iterations, vocabulary=common.vocabulary)
    preset = common.chosen_preset(preset)
    settings, trace = resolve(preset, flags), common.trace("train")
    peers = read_peers(common.peer or [])

    from quillgpt.bench.results import print_results
    from quillgpt.bench.train import bench_training

    about, results, profile = bench_training(
        settings,
        vocabulary=common.vocabulary,
        iterations=iterations,
        rounds=common.rounds,
        peers=peers,
        compile_peers=compile_peer,
        trace=trace,
    )
    print_results("train", {"preset": preset} | about, results, profile, as_json=common.as_json)


@bench.command
@settings_flags(TrainFields)
def sample(
    preset: Preset = None,
    /,
    *,
    max_new_tokens: Annotated[
        int, Parameter(name="--max_new_tokens", help="New tokens of each sample.", metavar="N")
    ] = 500,
    num_samples: Annotated[int, Parameter(name="--num_samples", help="Samples drawn side by side.", metavar="N")] = 1,
    quantize: Annotated[
        Quantize, Parameter(help="Quantization of the weights of Quill's model: none or int8, as in quill sample.")
    ] = "none",
    common: ModelBenchFlags | None = None,
    **flags: str,
) -> None:
    """Measure sampling: new tokens per second, milliseconds per token, peak memory."""
    common = common or ModelBenchFlags()
    check_counts(
        rounds=common.rounds,
        max_new_tokens=max_new_tokens,
        num_samples=num_samples,
        vocabulary=common.vocabulary,
    )
    preset = common.chosen_preset(preset)
    settings, trace = resolve(preset, flags), common.trace("sample")
    peers = read_peers(common.peer or [])

    from quillgpt.bench.results import print_results
    from quillgpt.bench.sample import bench_sampling

    about, results, profile = bench_sampling(
        settings,
        vocabulary=common.vocabulary,
        tokens=max_new_tokens,
        samples=num_samples,
        quantize=quantize,
        rounds=common.rounds,
        peers=peers,
        trace=trace,
    )
    print_results("sample", {"preset": preset} | about, results, profile, as_json=common.as_json)


@bench.command
@settings_flags(ServeSettings, leave_out=("host", "port", "api_key", "data_dir"))
def serve(
    model: Annotated[str, model_argument("[default: out]")] = "out",
    /,
    *,
    prompt_tokens: Annotated[
        int, Parameter(name="--prompt_tokens", help="Tokens of each prompt; they are random.", metavar="N")
    ] = 50,
    max_new_tokens: Annotated[
        int, Parameter(name="--max_new_tokens", help="New tokens of each stream.", metavar="N")
    ] = 200,
    first_tokens: Annotated[
        int, Parameter(name="--first_tokens", help="Requests whose first token is timed.", metavar="N")
    ] = 20,
    rounds: Annotated[int, Parameter(help="Counted rounds of server and quill sample.", metavar="N")] = 3,
    as_json: Annotated[bool, JSON_FLAG] = False,
    **flags: str,
) -> None:
    """Measure a server: milliseconds to the first token, and a stream's speed in turn with quill sample."""
    check_counts(prompt_tokens=prompt_tokens, max_new_tokens=max_new_tokens, first_tokens=first_tokens, rounds=rounds)
    settings = resolve_flat(ServeSettings, flags)

    from quillgpt.bench.results import spelled
    from quillgpt.bench.serve import bench_serving

    about, result = bench_serving(
        model,
        settings,
        prompt_tokens=prompt_tokens,
        tokens=max_new_tokens,
        first_tokens=first_tokens,
        rounds=rounds,
    )
    if as_json:
        print(json.dumps({"what": "serve", **about, **asdict(result)}))
        return
    table(f"bench serve {model}", {name: spelled(value) for name, value in about.items()}, console=stdout)
    table("\nserver", result.rows(), console=stdout)


@bench.command
def page(
    file: Annotated[
        Path,
        PATH,
        Parameter(name="PAGE", help="A page that quill export --to=html wrote.", completer=complete_path),
    ],
    /,
    *,
    max_new_tokens: Annotated[
        int, Parameter(name="--max_new_tokens", help="Tokens of the texts whose speed is measured.", metavar="N")
    ] = 200,
    rounds: Annotated[int, Parameter(help="Counted rounds, each in a new browser.", metavar="N")] = 3,
    as_json: Annotated[bool, JSON_FLAG] = False,
) -> None:
    """Measure a page with a model in headless Chromium: seconds to its first character, tokens per second."""
    check_counts(max_new_tokens=max_new_tokens, rounds=rounds)

    from quillgpt.bench.page import bench_page
    from quillgpt.bench.results import spelled

    about, result = bench_page(file, tokens=max_new_tokens, rounds=rounds)
    if as_json:
        print(json.dumps({"what": "page", **about, **asdict(result)}))
        return
    table(f"bench page {file}", {name: spelled(value) for name, value in about.items()}, console=stdout)
    table("\npage", result.rows(), console=stdout)


@bench.command
def prepare(
    source: Annotated[
        str | None,
        Parameter(
            name="SOURCE", help="A text file. [default: the documentation of this Python]", completer=complete_path
        ),
    ] = None,
    /,
    *,
    tokenizer: Annotated[str, Parameter(help="char, byte, gpt2, bpe:N, or a tokenizer.json.", metavar="NAME")] = "gpt2",
    megabytes: Annotated[
        int | None,
        Parameter(
            help="Repeat the whole text until it has N megabytes or more. [default: 20; a SOURCE is taken as it is]",
            metavar="N",
        ),
    ] = None,
    profile: Annotated[bool, switch("--profile", "Print Quill's ten costliest functions; no trace.")] = False,
    common: BenchFlags | None = None,
) -> None:
    """Measure preparing: megabytes of text and tokens per second, peak memory."""
    common = common or BenchFlags()
    check_counts(rounds=common.rounds, megabytes=megabytes)

    peers = read_peers(common.peer or [])

    from quillgpt.bench.prepare import bench_preparing
    from quillgpt.bench.results import print_results

    measurement = bench_preparing(
        source,
        tokenizer=tokenizer,
        megabytes=megabytes,
        rounds=common.rounds,
        peers=peers,
        profiled=profile,
    )
    print_results("prepare", *measurement, as_json=common.as_json)


@bench.command
@settings_flags(TrainFields)
def corpus(
    preset: Preset = None,
    /,
    *,
    gigabytes: Annotated[float, Parameter(help="Size of the large file, in 10^9 bytes.", metavar="N")] = 10.0,
    folder: Annotated[
        Path, PATH, Parameter(help="Where the files are made, on the disk that is measured.", metavar="FOLDER")
    ] = Path(),
    iterations: Annotated[int, Parameter(help="Training iterations in a round.", metavar="N")] = 10,
    rounds: Annotated[int, Parameter(help="Counted rounds of each file.", metavar="N")] = 3,
    vocabulary: Annotated[
        int | None, Parameter(help="Vocabulary size. [default: the preset's, or that of its tokenizer]", metavar="N")
    ] = None,
    as_json: Annotated[bool, JSON_FLAG] = False,
    **flags: str,
) -> None:
    """Measure training on a token file of which nothing is in memory, in turn with a small one."""
    check_counts(rounds=rounds, iterations=iterations, vocabulary=vocabulary)
    if not 0.001 <= gigabytes <= MOST_GIGABYTES:
        raise ConfigError(f"gigabytes = {gigabytes:g}; expected a number from 0.001 to {MOST_GIGABYTES:,}")
    settings = resolve(preset or DEFAULT_PRESET, flags)

    from quillgpt.bench.corpus import bench_corpus

    about, results = bench_corpus(
        settings, vocabulary=vocabulary, gigabytes=gigabytes, folder=folder, iterations=iterations, rounds=rounds
    )
    if as_json:
        for result in results:
            print(json.dumps({"what": "corpus", **about, **asdict(result)}))
        return
    table("bench corpus", {name: str(value) for name, value in about.items()}, console=stdout)
    for result in results:
        table(f"\n{result.candidate}", result.rows(), console=stdout)


@bench.command(name="own_text")
@settings_flags(TrainFields, leave_out=OF_THE_BENCHMARK)
def own_text(
    *texts: Annotated[str, PATH, Parameter(name="TEXT", help=TEXT_HELP, completer=complete_path)],
    minutes: Annotated[str, Parameter(help="Minutes of the runs, separated by commas.", metavar="LIST")] = "1,3,10,30",
    peer: Annotated[
        list[str] | None, Parameter(help=NANOGPT_HELP, metavar="nanogpt=PATH", negative=(), show_default=False)
    ] = None,
    floor: Annotated[
        bool, Parameter(help="Also compress each text, by xz -9e and by PPMd if pyppmd is installed.")
    ] = True,
    grid: Annotated[str | None, Parameter(help=GRID_HELP, metavar="LIST", show_default=False)] = None,
    rate: Annotated[float | None, Parameter(help=RATE_HELP, metavar="X", show_default=False)] = None,
    seed: Annotated[str, Parameter(help="Seeds, separated by commas.", metavar="LIST")] = "1337",
    record: Annotated[Path | None, PATH, Parameter(help=RECORD_HELP, metavar="FILE", show_default=False)] = None,
    markdown: Annotated[bool, switch("--markdown", "Run nothing, and print the record as a Markdown table.")] = False,
    as_json: Annotated[bool, JSON_FLAG] = False,
    **flags: str,
) -> None:
    """Measure what own_text learns in minutes: bits per byte on a held-out part of many texts."""
    kinds = grid_kinds(grid)
    if rate is not None:
        check_above_zero(rate=rate)
    peers = {candidate.name: candidate.checkout for candidate in read_peers(peer or [])}
    if TRANSFORMERS in peers:
        raise ConfigError("--peer transformers is unknown here; expected nanogpt=PATH")
    if markdown and record is None:
        raise ConfigError("--markdown prints a record; name it with --record=FILE")

    from quillgpt.bench.quality.benchmark import Plan, bench_own_text
    from quillgpt.bench.quality.record import Record, read_results
    from quillgpt.bench.quality.report import compare, conclusions, results_table

    if markdown and record is not None:
        results = read_results(record)
    else:
        plan = Plan(
            texts=texts,
            minutes=read_numbers("minutes", minutes),
            rate=None if rate is None else rate * 1e12,
            seeds=[resolve(OWN_TEXT, flags | {"seed": word}).seed for word in seed.split(",")],
            grid=kinds,
            flags=flags,
            nanogpt=peers.get(NANOGPT),
            floor=floor,
        )
        results = bench_own_text(plan, Record(record))
    comparisons = compare(results)
    results_in_table = results_table(comparisons)
    if as_json:
        for result in results:
            print(json.dumps({"what": "own_text"} | asdict(result)))
    elif markdown:
        print("\n".join([results_in_table.markdown(), *(f"- {line}" for line in conclusions(comparisons))]))
    else:
        results_in_table.show()
        for line in conclusions(comparisons):
            stdout.print(line, markup=False, emoji=False)


@bench.command
def attention(
    attn_type: Annotated[str, Parameter(name="ATTN_TYPE", help="The kernel, such as GK or GKpoly-8.")] = "GK",
    /,
    *,
    poly_form: Annotated[PolyForm, Parameter(help="The polynomial of GKpoly, as in quill train.")] = "power2",
    tokens: Annotated[int, Parameter(help="Tokens in a sequence.", metavar="N")] = 2048,
    heads: Annotated[int, Parameter(help="Heads.", metavar="N")] = 4,
    width: Annotated[int, Parameter(help="Width of a head.", metavar="N")] = 64,
    batch_size: Annotated[int, Parameter(name="--batch_size", help="Sequences in a batch.", metavar="N")] = 1,
    dtype: Annotated[
        Literal["float32", "bfloat16"], Parameter(help="Number format of queries, keys and values.")
    ] = "float32",
    threads: Annotated[int | None, Parameter(help="CPU threads.", metavar="N")] = None,
    spread: Annotated[float, Parameter(help="Standard deviation of queries, keys and values.", metavar="X")] = 0.554,
    rounds: Annotated[int, Parameter(help="Counted rounds of each path.", metavar="N")] = 3,
    as_json: Annotated[bool, JSON_FLAG] = False,
) -> None:
    """Measure attention alone on the CPU: every path of a kernel and its naive form, forward and backward."""
    check_counts(rounds=rounds, tokens=tokens, heads=heads, width=width, batch_size=batch_size, threads=threads)
    try:
        parse_attn_type(attn_type)
    except ValueError as error:
        raise ConfigError(f"ATTN_TYPE: {error}") from None

    from quillgpt.attention import KernelSpec
    from quillgpt.bench.attention import AttentionWork, bench_attention, result_line
    from quillgpt.device import choose_threads

    spec = KernelSpec(attn_type, poly_form=poly_form)
    work = AttentionWork(spec, (batch_size, heads, tokens, width), dtype, choose_threads(threads), spread)
    results = bench_attention(work, rounds)
    if as_json:
        for result in results:
            print(json.dumps({"what": "attention", "tokens": tokens, "dtype": dtype} | asdict(result)))
    else:
        sizes = f"B {batch_size}, H {heads}, T {tokens}, D {width}, {dtype}, {work.threads} threads"
        rows = {result.path: result_line(result) for result in results}
        table(f"bench attention {spec}: {sizes}", rows, console=stdout)


@bench.command
def scale(
    *,
    models: Annotated[str, Parameter(help="Sizes of GPT-2, separated by commas.", metavar="NAMES")] = (
        "124M,350M,774M,1.5B"
    ),
    gpus: Annotated[str, Parameter(help="Numbers of GPUs, separated by commas.", metavar="COUNTS")] = "1,8,64,1024",
    optimizer: Annotated[Literal["adamw", "muon"], Parameter(help="The optimizer.")] = "adamw",
    batch: Annotated[
        int, Parameter(help="Sequences of the global batch; at least one for each GPU.", metavar="N")
    ] = 512,
    peak: Annotated[float, Parameter(help="Peak rate of a GPU in TFLOP/s.", metavar="X")] = 312.0,
    mfu: Annotated[float, Parameter(help="Share of it that one GPU alone reaches.", metavar="X")] = 0.4,
    memory: Annotated[float, Parameter(help="Memory of a GPU in GB.", metavar="X")] = 80.0,
    devices_per_node: Annotated[int, Parameter(name="--devices_per_node", help="GPUs of a machine.", metavar="N")] = 8,
    intra_bandwidth: Annotated[
        float,
        Parameter(name="--intra_bandwidth", help="What a GPU sends to others of its machine, in GB/s.", metavar="X"),
    ] = 200.0,
    inter_bandwidth: Annotated[
        float, Parameter(name="--inter_bandwidth", help="What a machine sends to others, in GB/s.", metavar="X")
    ] = 25.0,
    latency: Annotated[
        float, Parameter(help="What each doubling of the GPUs adds to a message, in microseconds.", metavar="X")
    ] = 10.0,
    as_json: Annotated[bool, JSON_FLAG] = False,
) -> None:
    """Project training GPT-2 on many GPUs from counted memory and messages, with speeds that are assumed."""
    counts = read_counts("gpus", gpus)
    check_counts(batch=batch, devices_per_node=devices_per_node)
    check_above_zero(
        peak=peak,
        mfu=mfu,
        memory=memory,
        intra_bandwidth=intra_bandwidth,
        inter_bandwidth=inter_bandwidth,
        latency=latency,
    )
    if mfu > 1:
        raise ConfigError(f"mfu = {mfu:g}; expected a share of the peak rate, at most 1")

    from quillgpt.bench.scale import Assumptions, markdown, project
    from quillgpt.training.planning.communication import Interconnect

    assumed = Assumptions(
        peak=peak * 1e12,
        mfu=mfu,
        memory=memory * 1e9,
        within=Interconnect(intra_bandwidth * 1e9, latency * 1e-6),
        between=Interconnect(inter_bandwidth * 1e9, latency * 1e-6),
        devices_per_node=devices_per_node,
        batch=batch,
    )
    rows = list(project([name.strip() for name in models.split(",")], counts, assumed, optimizer))
    if as_json:
        for row in rows:
            print(json.dumps({"what": "scale"} | asdict(row)))
    else:
        print(markdown(rows))


@bench.command
def allreduce(
    *,
    megabytes: Annotated[
        str, Parameter(help="Sizes of the tensors in MB, separated by commas.", metavar="SIZES")
    ] = "0.001,0.1,1,25,100",
    rounds: Annotated[int, Parameter(help="Counted rounds of each size.", metavar="N")] = 3,
    device: Annotated[str, Parameter(help="auto, cpu or cuda.", metavar="NAME")] = "auto",
    backend: Annotated[Literal["auto", "nccl", "gloo"], Parameter(help="Library that carries the messages.")] = "auto",
    as_json: Annotated[bool, JSON_FLAG] = False,
) -> None:
    """Measure the interconnect: all-reduces between the processes that torchrun has started."""
    check_counts(rounds=rounds)
    sizes = [round(1e6 * size) for size in read_numbers("megabytes", megabytes)]
    if max(sizes) > LARGEST_SUM_BYTES:
        raise ConfigError(f"megabytes = {megabytes}; expected at most {LARGEST_SUM_BYTES / 1e6:,.0f} MB")

    from rich.filesize import decimal

    from quillgpt.bench.allreduce import bench_allreduce, describe

    world, place, results = bench_allreduce(sizes, rounds, device=device, backend=backend)
    if not world.is_main:
        return
    if as_json:
        for result in results:
            print(json.dumps({"what": "allreduce", "ranks": world.size, "device": place} | asdict(result)))
    else:
        rows = {decimal(result.bytes): describe(result) for result in results}
        table(f"bench allreduce: {world.size} ranks, {world.local_size} on this machine, {place}", rows, console=stdout)


def grid_kinds(text: str | None) -> tuple[str, ...]:
    """Return what `--grid` names.

    Raises:
        ConfigError: Something is unknown.
    """
    if text is None or text == "all":
        return () if text is None else GRID_KINDS
    kinds = tuple(word.strip() for word in text.split(","))
    for kind in kinds:
        if kind not in GRID_KINDS:
            raise ConfigError(
                f"--grid {kind} is unknown; expected all or {', '.join(GRID_KINDS)}{did_you_mean(kind, GRID_KINDS)}"
            )
    return kinds


def read_numbers(name: str, text: str) -> list[float]:
    """Return the numbers above 0 of a list that is separated by commas.

    Raises:
        ConfigError: Something is no such number.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise ConfigError(f"{name} = {shorten(text)}; expected numbers above 0, separated by commas")
    return numbers


def read_counts(name: str, text: str) -> list[int]:
    """Return the whole numbers of a list that is separated by commas.

    Raises:
        ConfigError: Something is no such number, or absurdly large.
    """
    numbers = read_numbers(name, text)
    if not all(number == int(number) and number <= LARGEST_COUNT for number in numbers):
        raise ConfigError(
            f"{name} = {shorten(text)}; expected whole numbers up to {LARGEST_COUNT:,}, separated by commas"
        )
    return [int(number) for number in numbers]


def check_above_zero(**values: float) -> None:
    """Check that numbers are above 0 and finite.

    Raises:
        ConfigError: One of them is not.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} = {value:g}; expected a number above 0")


def check_counts(**counts: int | None) -> None:
    """Check that counts are above 0 and not absurdly large.

    Raises:
        ConfigError: One of them is not.
    """
    for name, count in counts.items():
        if count is not None and not 1 <= count <= LARGEST_COUNT:
            limit = f", at most {LARGEST_COUNT:,}" if count > LARGEST_COUNT else ""
            raise ConfigError(f"{name} = {shorten(count)}; expected a whole number above 0{limit}")
