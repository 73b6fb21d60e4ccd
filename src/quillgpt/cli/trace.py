"""`quill trace`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.flags import JSON_FLAG, MODEL, from_home
from quillgpt.config import EvalSettings, resolve_flat
from quillgpt.config.paths import exists, expand, is_standard_input
from quillgpt.console import say
from quillgpt.errors import ConfigError, DataError

TEXT = Parameter(
    "--text",
    converter=from_home,
    allow_leading_hyphen=True,  # of `-` itself
    help="The text to trace: a file, or - for standard input.",
)
DATASET = Parameter(
    "--dataset",
    help="A prepared data set to trace to, or several separated by commas. Unset: the one on which the model was "
    "trained.",
)
DATA_DIR = Parameter("--data_dir", converter=from_home, help=EvalSettings.model_fields["data_dir"].description)


def trace(
    model: Annotated[str, MODEL],
    /,
    *,
    text: Annotated[str | None, TEXT] = None,
    dataset: Annotated[str | None, DATASET] = None,
    data_dir: Annotated[str | None, DATA_DIR] = None,
    as_json: Annotated[bool, JSON_FLAG] = False,
) -> None:
    """Say which spans of a text are copied from a model's training text, close to it, or new (extra trace)."""
    given = {"dataset": dataset, "data_dir": data_dir}
    settings = resolve_flat(EvalSettings, {name: value for name, value in given.items() if value is not None})
    if text is None:
        raise ConfigError("trace needs a text: --text FILE, or --text - for standard input")
    content = read_text(text)

    from quillgpt.api import load
    from quillgpt.trace.report import show_spans, show_text

    loaded = load(model, device="cpu", dtype="float32", data_dir=settings.data_dir)  # its weights are not read
    named = None if settings.dataset is None else [part.strip() for part in settings.dataset.split(",")]
    traced = loaded.tracer(named, data_dir=settings.data_dir).trace(content)
    if as_json:
        for span in traced.spans:
            print(json.dumps(span.row(), ensure_ascii=False))
        say(traced.sentence)
        return
    show_text(traced)
    show_spans(traced)


def read_text(given: str) -> str:
    """Return the text of a file or of standard input (`-`).

    Raises:
        UserError: It is missing, or is no text.
    """
    from quillgpt.text.sources.corpora import texts_of

    if not is_standard_input(given) and not exists(expand(given)):
        raise DataError(f"--text={given} is not there; give a file, or - for standard input")
    with tempfile.TemporaryDirectory(prefix="quill-") as spool:
        sources = texts_of([given], spool=Path(spool)).train
        if len(sources) != 1:
            raise ConfigError(f"--text={given} has {len(sources):,} files; trace takes one at a time")
        reading = sources[0].look_at()
        pieces = sources[0].pieces(reading.encoding, 1 << 20)
        return "".join(piece for piece in pieces if isinstance(piece, str))
