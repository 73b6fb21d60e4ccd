"""A worker process: reads jobs from standard input, and writes their results to standard output.

`quillgpt.worker` runs this file, which ends with the process that started it.
"""

from __future__ import annotations

import os
import pickle
import sys
from importlib import import_module


def main() -> None:
    """Read which function does the work, and do jobs until there are no more."""
    jobs, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing that a library prints is taken for a result
    sys.path[:], module, maker, arguments = pickle.load(jobs)
    do = getattr(import_module(module), maker)(*arguments)

    from quillgpt.errors import UserError

    while True:
        try:
            job = pickle.load(jobs)
        except EOFError:
            return
        try:
            result = do(job)
        except UserError as error:
            result = error
        pickle.dump(result, results, pickle.HIGHEST_PROTOCOL)
        results.flush()


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the process that asked has ended
        os._exit(1)
