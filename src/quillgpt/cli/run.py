"""Runs one command; errors become one line and an exit status.

Nothing slow is imported at the top, since one command is there at once; see `AT_ONCE`.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Sequence

from cyclopts import App, CycloptsError

from quillgpt import __version__, console, stopping
from quillgpt.console import muted, outcome, quietly
from quillgpt.errors import ConfigError, RankError, UserError, shorten
from quillgpt.process import is_first_of_several, is_one_of_several
from quillgpt.streams import STANDARD_OUTPUT, drop_results, write_any_character

DEBUG, QUIET = "--debug", "--quiet"
COMPLETE = "__complete"
"""The command with which a shell asks for completions."""

AT_ONCE = "watch"
"""The command that is started without importing the others, and without the schema of settings; it has none."""

HELP = {"--help", "-h"}

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "unable to allocate")

FAILED, MISUSED, PIPE_CLOSED = 1, 2, 141


def bare_app() -> App:
    """Return the command line without its commands."""
    return App(
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


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments after `quill` name, and return its exit status."""
    if list(arguments[:1]) == [COMPLETE]:
        from quillgpt.cli.app import make_app

        make_app()(list(arguments))
        return 0
    switches, tokens = take_switches(list(arguments), (DEBUG, QUIET))
    write_any_character()
    try:
        with quietly(QUIET in switches), muted(not is_first_of_several()):
            return _call(tokens)
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
    try:
        if tokens[:1] == [AT_ONCE] and not HELP & {*tokens}:
            app = bare_app()
            app.command("quillgpt.cli.watch:watch", name=AT_ONCE)
            app(tokens, exit_on_error=False, print_error=False)
        else:
            from quillgpt.cli.app import run_command

            run_command(tokens)
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
            from quillgpt.cli.messages import explain

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


def take_switches(tokens: Iterable[str], names: Iterable[str]) -> tuple[set[str], list[str]]:
    """Split tokens into the switches of `names` and the rest; tokens after `--` are not switches."""
    waiting = list(tokens)
    end = waiting.index("--") if "--" in waiting else len(waiting)
    taken = set(waiting[:end]) & set(names)
    return taken, [token for token in waiting[:end] if token not in taken] + waiting[end:]


def _is_of_results(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.filename == STANDARD_OUTPUT


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason
