"""All commands together."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

from cyclopts import App, Parameter

from quillgpt.cli.bench import bench
from quillgpt.cli.compare import compare
from quillgpt.cli.configs import configs
from quillgpt.cli.eval import evaluate
from quillgpt.cli.export import export
from quillgpt.cli.flags import join_switches, switch
from quillgpt.cli.info import info
from quillgpt.cli.lab import lab
from quillgpt.cli.plot import plot
from quillgpt.cli.prepare import prepare
from quillgpt.cli.prove import prove
from quillgpt.cli.report import report
from quillgpt.cli.run import DEBUG, QUIET, bare_app
from quillgpt.cli.runs import runs
from quillgpt.cli.sample import sample
from quillgpt.cli.serve import serve
from quillgpt.cli.speak import speak
from quillgpt.cli.trace import trace
from quillgpt.cli.train import train
from quillgpt.cli.transcribe import transcribe
from quillgpt.cli.watch import watch
from quillgpt.config.layers import FOLDERS, read_dotenv
from quillgpt.config.resolution import DOTENV
from quillgpt.console import QUIET_VARIABLE, warn

COMMANDS: dict[str, App | Callable[..., None]] = {
    "train": train,
    "watch": watch,
    "runs": runs,
    "compare": compare,
    "report": report,
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

QUIET_SWITCH = switch(
    QUIET, "Print only warnings, errors and results; QUILL_QUIET=1 does the same.", group="Every command", position=100
)
DEBUG_SWITCH = switch(DEBUG, "Show where an error came from.", group="Every command", position=100)


def make_app() -> App:
    """Return the command line with all its commands."""
    app = bare_app()
    for name, command in COMMANDS.items():
        app.command(command, name=name, alias=ALIASES.get(name))
    app.register_install_completion_command(help="Let the Tab key complete commands, flags and names in your shell.")
    app.meta.default(_everywhere)
    return app


def run_command(tokens: list[str]) -> None:
    """Run the command that words name, whatever it is."""
    _adopt_places()
    make_app()(join_switches(tokens), exit_on_error=False, print_error=False)


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
