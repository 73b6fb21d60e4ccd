"""The command line: one thin module per command, which parses, calls and prints."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from quillgpt.process import is_first_of_several, is_one_of_several, wait_politely
from quillgpt.stopping import end_with, heed_signals, leave, leave_words_to_others, unwinding
from quillgpt.streams import settle_standard_streams

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, which docs/reliability.md lists.

    Args:
        arguments: The arguments after `quill`; None takes those of the process. Then standard streams and signals are
            set up too, before any slow import.
    """
    if arguments is not None:
        from quillgpt.cli.run import run

        return run(arguments)
    settle_standard_streams()
    heed_signals()
    wait_politely()
    if is_one_of_several():
        take_part()
    try:
        from quillgpt.cli.run import run

        with unwinding():
            return end_with(run(sys.argv[1:]))
    except KeyboardInterrupt as error:  # while another error was reported
        leave(next(iter(error.args), signal.SIGINT))


def take_part() -> None:
    """Prepare this process for being one rank of several."""
    if not is_first_of_several():
        leave_words_to_others()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # else each failure has pages of addresses, from every rank
