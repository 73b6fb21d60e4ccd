"""The commands together, and what becomes of an error: one line, and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console

from quillgpt import __version__
from quillgpt.cli.bench import bench
from quillgpt.cli.configs import configs
from quillgpt.cli.eval import evaluate
from quillgpt.cli.flags import join_switches
from quillgpt.cli.info import info
from quillgpt.cli.messages import explain
from quillgpt.cli.plot import plot
from quillgpt.cli.prepare import prepare
from quillgpt.cli.sample import sample
from quillgpt.cli.train import train
from quillgpt.config.layers import PLACES, read_dotenv
from quillgpt.config.load import DOTENV
from quillgpt.console import say
from quillgpt.errors import ConfigError, UserError

DEBUG = "--debug"
FAILED, MISUSED, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141


def make_app() -> App:
    """Return the command line with all its commands."""
    app = App(
        name="quill",
        help="Train, finetune, evaluate and sample small GPT language models on your own text.",
        help_epilogue="quill COMMAND --help explains a command. A switch is spelled --bias, --no-bias or --bias=False. "
        "--debug shows where an error came from.",
        version=f"quill {__version__}",
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    app.command(train)
    app.command(prepare)
    app.command(sample)
    app.command(evaluate, name="eval")
    app.command(info)
    app.command(plot)
    app.command(bench, name="bench")
    app.command(configs, name="configs", alias="list-configs")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 well, 1 failed, 2 misused, 130 interrupted.

    Args:
        arguments: The words after `quill`; None takes those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words
    tokens = join_switches(word for word in words if word != DEBUG)
    try:
        _adopt_places()
        app = make_app()
        app(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except CycloptsError as error:
        return _fail(explain(error), MISUSED)
    except ConfigError as error:
        return _fail(str(error), MISUSED, debug)
    except UserError as error:
        return _fail(str(error), FAILED, debug)
    except OSError as error:
        return _fail(_describe(error), FAILED, debug)
    except Exception as error:
        advice = "" if debug else "; this is a fault of Quill's own, and --debug shows where it happened"
        return _fail(f"{type(error).__name__}: {error}{advice}", FAILED, debug)
    return 0


def _adopt_places() -> None:
    """Let `.env` say where files are, like the environment; both are read far below the settings."""
    for name, text in read_dotenv(DOTENV).items():
        if name in PLACES and text:
            os.environ.setdefault(name, text)


def _fail(message: str, status: int, debug: bool = False) -> int:
    if debug:
        Console(stderr=True).print_exception()
    say("quill: " + " ".join(message.split()), style="red")
    return status


def _describe(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason
