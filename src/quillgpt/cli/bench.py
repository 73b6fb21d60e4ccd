"""`quill bench`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from quillgpt.cli.flags import settings_flags
from quillgpt.config import resolve
from quillgpt.config.schema import TrainFields
from quillgpt.console import stdout, table
from quillgpt.errors import ConfigError

if TYPE_CHECKING:
    from quillgpt.bench.rounds import Result

bench = App(help="Measure speed on this machine, side by side with a peer.", help_format="plaintext")

Preset = Annotated[str, Parameter(name="PRESET", help="A preset, a .toml file, or a .py file of nanoGPT.")]
Peer = Annotated[
    str | None, Parameter(name="--peer", help="A peer to run in turn: nanogpt=PATH, the folder of a checkout.")
]
Rounds = Annotated[int, Parameter(name="--rounds", help="Counted rounds of each candidate; the median is reported.")]
VocabularySize = Annotated[
    int, Parameter(name="--vocabulary", help="Tokens of the vocabulary, where the preset leaves it to its tokenizer.")
]
Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False, help="Print one JSON object a line.")]


@bench.command
@settings_flags(TrainFields)
def train(
    preset: Preset = "shakespeare_char",
    /,
    *,
    peer: Peer = None,
    rounds: Rounds = 3,
    iterations: Annotated[int, Parameter(name="--iterations", help="Training iterations in a round.")] = 3,
    compile_peer: Annotated[bool, Parameter(negative=(), help="Compile the peer's model too.")] = False,
    vocabulary: VocabularySize = 65,
    as_json: Json = False,
    **flags: str,
) -> None:
    """Measure training: tokens per second, milliseconds per iteration, MFU."""
    settings = resolve(preset, flags)
    nanogpt = peer_path(peer)

    from quillgpt.bench.train import bench_training

    settings, results = bench_training(
        settings,
        vocab_size=vocabulary,
        iterations=iterations,
        rounds=rounds,
        nanogpt=nanogpt,
        compile_peer=compile_peer,
    )
    choices = {name: getattr(settings, name) for name in ("device", "dtype", "compile", "attn_path", "threads")}
    show(f"training {preset}", choices | {"micro_batch_size": settings.micro_batch_size}, results, as_json=as_json)


@bench.command
@settings_flags(TrainFields)
def sample(
    preset: Preset = "shakespeare_char",
    /,
    *,
    peer: Peer = None,
    rounds: Rounds = 3,
    max_new_tokens: Annotated[int, Parameter(name="--max_new_tokens", help="New tokens of each sample.")] = 500,
    num_samples: Annotated[int, Parameter(name="--num_samples", help="Samples drawn side by side.")] = 1,
    vocabulary: VocabularySize = 65,
    as_json: Json = False,
    **flags: str,
) -> None:
    """Measure sampling: new tokens per second."""
    settings = resolve(preset, flags)
    nanogpt = peer_path(peer)

    from quillgpt.bench.sample import bench_sampling

    results = bench_sampling(
        settings,
        vocab_size=vocabulary,
        tokens=max_new_tokens,
        samples=num_samples,
        rounds=rounds,
        nanogpt=nanogpt,
    )
    work = {"samples": num_samples, "new tokens of each": max_new_tokens, "dtype": settings.dtype}
    show(f"sampling from {preset}", work, results, as_json=as_json)


def peer_path(peer: str | None) -> Path | None:
    """Return the checkout that `--peer nanogpt=PATH` names.

    Raises:
        ConfigError: The peer is unknown.
    """
    if peer is None:
        return None
    name, _, path = peer.partition("=")
    if name != "nanogpt" or not path:
        raise ConfigError(f"--peer {peer} is unknown; expected nanogpt=PATH, the folder of a nanoGPT checkout")
    return Path(path)


def show(title: str, about: Mapping[str, object], results: list[Result], *, as_json: bool) -> None:
    """Print the results on standard output."""
    if as_json:
        for result in results:
            print(json.dumps({"what": title, **about, **asdict(result)}))
        return
    rows = {name: str(value) for name, value in about.items()}
    for result in results:
        rates = ", ".join(f"{rate:,.0f}" for rate in result.rates)
        ratio = "" if result is results[0] else f"; {results[0].name} is {result.ratio:.2f} times as fast"
        rows[result.name] = f"{result.median:,.0f} tokens/s (rounds: {rates}){ratio}"
    table(title, rows, console=stdout)
