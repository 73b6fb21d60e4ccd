"""The commands together, and what becomes of an error: one line, and an exit status."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from quillgpt import __version__
from quillgpt.cli.bench import bench
from quillgpt.cli.configs import configs
from quillgpt.cli.eval import evaluate
from quillgpt.cli.export import export
from quillgpt.cli.flags import join_switches, switch, take_switches
from quillgpt.cli.info import info
from quillgpt.cli.lab import lab
from quillgpt.cli.messages import explain
from quillgpt.cli.plot import plot
from quillgpt.cli.prepare import prepare
from quillgpt.cli.prove import prove
from quillgpt.cli.sample import sample
from quillgpt.cli.train import train
from quillgpt.config.layers import PLACES, read_dotenv
from quillgpt.config.load import DOTENV
from quillgpt.console import outcome, quietly
from quillgpt.errors import ConfigError, UserError

DEBUG, QUIET = "--debug", "--quiet"
QUIET_SWITCH = switch(
    QUIET, "Only warnings, errors and results; also by QUILL_QUIET=1.", group="Every command", position=100
)
DEBUG_SWITCH = switch(DEBUG, "Show where an error came from.", group="Every command", position=100)
COMPLETE = "__complete"
"""The word with which a shell asks what Tab should offer."""

FAILED, MISUSED, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141


def make_app() -> App:
    """Return the command line with all its commands."""
    app = App(
        name="quill",
        help="Train, finetune, evaluate and sample small GPT language models on your own text.",
        help_epilogue="quill COMMAND --help explains a command. A switch is spelled --bias, --no-bias or --bias=False; "
        "of a flag that is given twice the last one counts.",
        version=f"quill {__version__}",
        version_flags="--version",
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.command(train)
    app.command(prepare)
    app.command(sample)
    app.command(evaluate, name="eval")
    app.command(info)
    app.command(export)
    app.command(plot)
    app.command(bench, name="bench")
    app.command(lab, name="lab")
    app.command(prove)
    app.command(configs, name="configs", alias="list-configs")
    app.register_install_completion_command(help="Let the Tab key complete commands, flags and names in your shell.")
    app.meta.default(_everywhere)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 well, 1 failed, 2 misused, 130, 138 or 143 interrupted.

    Args:
        arguments: The words after `quill`; None takes those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == [COMPLETE]:
        make_app()(words)
        return 0
    switches, tokens = take_switches(words, (DEBUG, QUIET))
    _write_any_character()
    try:
        with quietly(QUIET in switches):
            return _run(join_switches(tokens))
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (KeyboardInterrupt, Exception) as error:
        if DEBUG in switches:
            Console(stderr=True).print_exception()
        message, status = _explain(error, debugging=DEBUG in switches)
        outcome("quill: " + " ".join(message.split()), style="red")
        return status


def _run(tokens: list[str]) -> int:
    _adopt_places()
    make_app()(tokens, exit_on_error=False, print_error=False)
    sys.stdout.flush()
    return 0


def _explain(error: BaseException, *, debugging: bool) -> tuple[str, int]:
    """Return what to say of an error, and the exit status."""
    match error:
        case KeyboardInterrupt(args=(int(signal),)):  # a second one, after a run was asked to stop
            return "interrupted", 128 + signal
        case KeyboardInterrupt():
            return "interrupted", INTERRUPTED
        case CycloptsError():
            return explain(error), MISUSED
        case ConfigError():
            return str(error), MISUSED
        case UserError():
            return str(error), FAILED
        case OSError():
            return _describe(error), FAILED
    advice = "" if debugging else "; this is a fault of Quill's own, and --debug shows where it happened"
    return f"{type(error).__name__}: {error}{advice}", FAILED


def _everywhere(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    quiet: Annotated[bool, QUIET_SWITCH] = False,
    debug: Annotated[bool, DEBUG_SWITCH] = False,
) -> None:
    """Say in --help and to the Tab key what every command takes; `main` takes these switches out beforehand."""


def _write_any_character() -> None:
    """Let no character that a model may write end the program, in whatever encoding the terminal or the file is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            utf8 = "utf-8" if os.name == "nt" and not stream.isatty() else None
            stream.reconfigure(encoding=utf8, errors="replace")


def _adopt_places() -> None:
    """Let `.env` say where files are, like the environment; both are read far below the settings."""
    for name, text in read_dotenv(DOTENV).items():
        if name in PLACES and text:
            os.environ.setdefault(name, text)


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason
