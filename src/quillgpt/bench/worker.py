"""A candidate in a process of its own, as its users run it.

Candidates in one process would affect each other: by freed memory that is kept, compiled code, and threads.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from quillgpt.bench.peers import Candidate
from quillgpt.errors import UserError

PATIENCE_SECONDS = 10

P = ParamSpec("P")
Answer = TypeVar("Answer")
Work = TypeVar("Work")


class Worker:
    """A new process that makes an object, keeps it, and calls functions on it.

    What it prints on standard output is dropped.

    Args:
        make: Makes the object; a function at the top level of a module, which the process imports.
        arguments: The arguments of `make`, which are pickled.

    Raises:
        UserError: The process ended, most likely for lack of memory.
        Exception: `make` raised it.
    """

    def __init__(self, make: Callable[..., object], *arguments: object) -> None:
        spawn = get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close(at_once=True)
            raise

    def ask(self, question: Callable[Concatenate[Any, P], Answer], *arguments: P.args, **named: P.kwargs) -> Answer:
        """Call a function or a method with the object and these arguments, and return its result.

        Args:
            question: The function, at the top level of a module, or the method.
            *arguments: Its arguments after the object.
            **named: Its named arguments.

        Raises:
            UserError: The process ended.
            Exception: The function raised it.
        """
        try:
            self._connection.send((question, arguments, named))
        except BrokenPipeError:
            raise UserError(self._end()) from None
        return self._answer()  # type: ignore[no-any-return]

    def close(self, *, at_once: bool = False) -> None:
        """Let the process end by itself; kill it if it takes too long, or right now with `at_once`."""
        self._connection.close()
        self._process.join(timeout=0 if at_once else PATIENCE_SECONDS)
        self._process.terminate()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(at_once=error is not None)

    def _answer(self) -> Any:
        try:
            succeeded, answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise UserError(self._end()) from None
        if not succeeded:
            raise answer
        return answer

    def _end(self) -> str:
        self._process.join()
        return f"a process that was measured has ended with status {self._process.exitcode}, perhaps for lack of memory"


@contextmanager
def workers(
    make: Callable[[Work, Candidate], object], work: Work, candidates: Sequence[Candidate]
) -> Iterator[dict[str, Worker]]:
    """Start a process for each candidate, in which `make` prepares it for the work; yield the workers by name."""
    with ExitStack() as stack:
        yield {candidate.name: stack.enter_context(Worker(make, work, candidate)) for candidate in candidates}


def _serve(connection: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends this process
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        try:
            held, answer = make(*arguments), None
            while True:
                connection.send((True, answer))
                try:
                    question, given, named = connection.recv()
                except EOFError:  # the parent has closed the connection
                    return
                answer = question(held, *given, **named)
        except Exception as error:
            expected = isinstance(error, UserError | OSError)
            connection.send((False, error if expected else RuntimeError("".join(format_exception(error)))))
