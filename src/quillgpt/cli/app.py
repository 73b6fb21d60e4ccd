"""All commands together, and errors as one line and an exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from quillgpt import __version__, console, stopping
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
from quillgpt.cli.serve import serve
from quillgpt.cli.speak import speak
from quillgpt.cli.trace import trace
from quillgpt.cli.train import train
from quillgpt.cli.transcribe import transcribe
from quillgpt.config.layers import FOLDERS, read_dotenv
from quillgpt.config.resolution import DOTENV
from quillgpt.console import QUIET_VARIABLE, muted, outcome, quietly, warn
from quillgpt.errors import ConfigError, RankError, UserError, shorten
from quillgpt.process import is_first_of_several, is_one_of_several
from quillgpt.streams import STANDARD_OUTPUT, drop_results, write_any_character

COMMANDS: dict[str, App | Callable[..., None]] = {
    "train": train,
    "prepare": prepare,
    "sample": sample,
    "speak": speak,
    "serve": serve,
    "eval": evaluate,
    "trace": trace,
    "info": info,
    "export": export,
    "transcribe": transcribe,
    "plot": plot,
    "bench": bench,
    "lab": lab,
    "prove": prove,
    "configs": configs,
}
ALIASES = {"configs": "list-configs"}

DEBUG, QUIET = "--debug", "--quiet"
QUIET_SWITCH = switch(
    QUIET, "Print only warnings, errors and results; QUILL_QUIET=1 does the same.", group="Every command", position=100
)
DEBUG_SWITCH = switch(DEBUG, "Show where an error came from.", group="Every command", position=100)
COMPLETE = "__complete"
"""The command with which a shell asks for completions."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "unable to allocate")

FAILED, MISUSED, PIPE_CLOSED = 1, 2, 141


def make_app() -> App:
    """Return the command line with all its commands."""
    app = App(
        name="quill",
        help="Train, finetune, evaluate and sample small GPT language models on your own text.",
        help_epilogue="quill COMMAND --help explains a command. A switch is written --bias, --no-bias or --bias=False. "
        "If a flag is given twice, the last one counts.",
        version=f"quill {__version__}",
        version_flags="--version",
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        console=console.help_console(),
    )
    for name, command in COMMANDS.items():
        app.command(command, name=name, alias=ALIASES.get(name))
    app.register_install_completion_command(help="Let the Tab key complete commands, flags and names in your shell.")
    app.meta.default(_everywhere)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments after `quill` name, and return its exit status."""
    if list(arguments[:1]) == [COMPLETE]:
        make_app()(list(arguments))
        return 0
    switches, tokens = take_switches(list(arguments), (DEBUG, QUIET))
    write_any_character()
    try:
        with quietly(QUIET in switches), muted(not is_first_of_several()):
            return _call(join_switches(tokens))
    except BrokenPipeError:  # the reader, such as `head`, has stopped reading
        drop_results()
        return PIPE_CLOSED
    except (KeyboardInterrupt, Exception) as error:
        if DEBUG in switches:
            console.stderr.print_exception()
        message, status = _explain(error, debugging=DEBUG in switches)
        line: str | None = message
        if is_one_of_several():
            from quillgpt.distributed.reporting import line_of_all

            line = line_of_all(error, message, status)
        if line is not None:
            outcome("quill: " + " ".join(line.split()), style="red")
        if _is_of_results(error):
            drop_results()
        return status


def _call(tokens: list[str]) -> int:
    _adopt_places()
    try:
        make_app()(tokens, exit_on_error=False, print_error=False)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        status = end.code
    else:
        status = 0
    sys.stdout.flush()
    return status


def _explain(error: BaseException, *, debugging: bool) -> tuple[str, int]:
    """Return the message for an error, and the exit status."""
    number = stopping.raised()
    if number is not None and not isinstance(
        error, (KeyboardInterrupt, RankError)
    ):  # a library replaced the interruption by its own error
        error = KeyboardInterrupt(number)
    match error:
        case KeyboardInterrupt():
            return stopping.words_on(error), 128 + next(iter(error.args), signal.SIGINT)
        case CycloptsError():
            return explain(error), MISUSED
        case RankError():
            return str(error), error.status
        case ConfigError():
            return str(error), MISUSED
        case UserError():
            return str(error), FAILED
        case OSError():
            return _describe(error), FAILED
        case MemoryError() | RuntimeError() if (said := lack_of_memory(error)) is not None:
            return f"there is not enough memory; smaller sizes need less ({shorten(said)})", FAILED
    advice = "" if debugging else "; this is a fault of Quill's own, and --debug shows where it happened"
    return f"{type(error).__name__}: {error}{advice}", FAILED


def lack_of_memory(error: BaseException) -> str | None:
    """Return the line in which an error says that memory ran out; None if it does not say so."""
    lines = str(error).splitlines()
    message = next((line for line in lines if any(words in line.lower() for words in OUT_OF_MEMORY)), None)
    return message or (next(iter(lines), "nothing is left") if isinstance(error, MemoryError) else None)


def _everywhere(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    quiet: Annotated[bool, QUIET_SWITCH] = False,
    debug: Annotated[bool, DEBUG_SWITCH] = False,
) -> None:
    """Declare the switches of every command for --help and completion; `run` has removed them before."""


def _adopt_places() -> None:
    """Take QUILL_QUIET from `.env`, and warn of places for code and texts, which it may not set."""
    given = read_dotenv(DOTENV)
    if quiet := given.get(QUIET_VARIABLE):
        os.environ.setdefault(QUIET_VARIABLE, quiet)
    ignored = sorted(name for name in FOLDERS & given.keys() if os.environ.get(name, "") != given[name])
    if ignored:
        warn(
            f"passed over in {DOTENV}: {' and '.join(ignored)}; a file in the current folder must not say where code "
            f"and texts come from; set it in the environment: export {ignored[0]}=..."
        )


def _is_of_results(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.filename == STANDARD_OUTPUT


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason
