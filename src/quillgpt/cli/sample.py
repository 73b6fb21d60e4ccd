"""`quill sample`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from quillgpt.cli.flags import JSON_FLAG, MODEL, from_home, settings_flags, switch
from quillgpt.config import SampleSettings, SpeakSettings, resolve_flat
from quillgpt.config.schema import SPECIAL_ORIGINS, VoiceFields
from quillgpt.console import table, warn
from quillgpt.errors import ConfigError
from quillgpt.streams import visible

if TYPE_CHECKING:
    from quillgpt.api import Model
    from quillgpt.speech.synthesis.speak import Speaker

DASHES = "-" * 15


SPEAK = switch("--speak", "Speak the samples too, sentence by sentence while they are drawn.")
OUT = Parameter(
    "--out",
    converter=from_home,
    allow_leading_hyphen=True,  # of `-` itself
    help="Write the speech to this .wav; - is standard output. Unset: play it, or, without a sound device, write "
    "speech.wav.",
)
TRACE = switch("--trace", "Say after each sample what it copies from the training text (quill trace).")
OVERWRITE = switch("--overwrite", "Replace the file of --out.")


@settings_flags(SampleSettings)
def sample(
    model: Annotated[str | None, MODEL] = None,
    /,
    *,
    speak: Annotated[bool, SPEAK] = False,
    out: Annotated[str | None, OUT] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    trace: Annotated[bool, TRACE] = False,
    as_json: Annotated[bool, JSON_FLAG] = False,
    **flags: str,
) -> None:
    """Generate text with a model, on standard output; with --speak also as speech."""
    settings = resolve_flat(SampleSettings, flags)
    chosen = model_to_sample(model, flags, settings)
    if not speak:
        if out is not None:
            raise ConfigError(f"--out={out} is the file of --speak; the folder of a run is MODEL or --out_dir")
        if unused := sorted(VoiceFields.model_fields.keys() & flags.keys()):
            raise ConfigError(f"--{unused[0]} is for --speak; give that too")
        print_samples(chosen, settings, as_json=as_json, is_traced=trace)
        return
    if out == "-":
        raise ConfigError("standard output has the text of the samples; give --out FILE.wav, or use quill speak")

    check_voice(flags)

    from quillgpt.speech.synthesis.speak import NothingToSayError, speaking

    try:
        with speaking(settings, out, overwrite=overwrite) as speaker:
            print_samples(chosen, settings, as_json=as_json, is_traced=trace, speaker=speaker)
    except NothingToSayError as error:
        warn(str(error))


def check_voice(flags: Mapping[str, str]) -> None:
    """Check that the flags of the voice do not contradict each other.

    Raises:
        ConfigError: They name a voice, which has its own language, and a language.
    """
    voice, language = flags.get("voice", "+"), flags.get("language")
    if language is not None and not voice.startswith("+"):
        raise ConfigError(f"--voice={voice} has its own language; leave out --language={language}, or --voice")


def print_samples(
    chosen: str,
    settings: SampleSettings | SpeakSettings,
    *,
    as_json: bool = False,
    is_silent: bool = False,
    is_traced: bool = False,
    speaker: Speaker | None = None,
) -> None:
    """Draw samples of a model, print them and speak them.

    Args:
        chosen: The model.
        settings: How samples are drawn.
        as_json: Print one JSON object for each sample.
        is_silent: Print no sample.
        is_traced: Say of each sample what it copies from the training text.
        speaker: Speaks the text, if given.
    """
    from quillgpt.api import load
    from quillgpt.generation import read_start

    loaded = load(
        chosen,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        data_dir=settings.data_dir,
        quantize=settings.quantize,
    )
    start = None if settings.start is None else read_start(settings.start)
    prompt = loaded.prompt(start)
    plain = not (as_json or is_silent)
    tracer = loaded.tracer(data_dir=settings.data_dir) if is_traced else None

    def show(text: str) -> None:
        if plain:
            write(text)
        if speaker is not None:
            speaker.push(text)

    if not as_json:
        print_setup(loaded, settings, prompt[1])
    show(prompt[0])
    for number, drawn in enumerate(loaded.draw(prompt, settings, on_text=show)):
        traced = None if tracer is None else tracer.trace(drawn.text)
        if as_json:
            found = {} if traced is None else {"trace": [span.row() for span in traced.spans]}
            print(json.dumps(asdict(drawn) | found, ensure_ascii=False), flush=True)
        if number:
            show(drawn.prompt + drawn.text)
        if plain and traced is not None:
            from quillgpt.trace.report import show_spans

            write("\n\n")
            show_spans(traced)
            write(f"{DASHES}\n")
        elif plain:
            write(f"\n{DASHES}\n")
        if speaker is not None:
            speaker.end_text()


def write(text: str) -> None:
    """Write text to standard output at once; on a terminal, without control characters."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def print_setup(model: Model, settings: SampleSettings | SpeakSettings, prompt: list[int]) -> None:
    """Print model and settings on standard error."""
    number_format = str(model.dtype).removeprefix("torch.") if model.quantize == "none" else model.quantize
    rows = {
        "model": model.folder,
        "parameters": f"{model.parameters:,}",
        "tokenizer": model.tokenizer.name,
        "device": f"{model.device}, {number_format}",
        "prompt": "end-of-text" if prompt == [model.tokenizer.end_of_text] else f"tokens: {len(prompt)}",
        "samples": f"{settings.num_samples} of at most {settings.max_new_tokens} tokens, seed {settings.seed}",
    }
    table("set-up", rows)
    from quillgpt.text.tokenizers.ids import IdTokenizer

    if isinstance(model.tokenizer, IdTokenizer):
        warn("ids are printed, because the text of the model's tokens is not known (meta.pkl had only vocab_size)")


def model_to_sample(model: str | None, flags: Mapping[str, object], settings: SampleSettings | SpeakSettings) -> str:
    """Return the model that MODEL, --init_from or --out_dir names.

    Raises:
        ConfigError: They name different models.
    """
    origin = None if settings.init_from in SPECIAL_ORIGINS else settings.init_from
    named = {
        "MODEL": model,
        "--init_from": origin if "init_from" in flags else None,
        "--out_dir": settings.out_dir if "out_dir" in flags else None,
    }
    given = {name: str(value) for name, value in named.items() if value is not None}
    if len(set(given.values())) > 1:
        raise ConfigError(
            f"{' and '.join(f'{name} = {value}' for name, value in given.items())} are different models; name one"
        )
    return next(iter(given.values()), origin or settings.out_dir)
