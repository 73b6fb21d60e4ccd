"""Commands of candidates: each is a process of its own, which ends with the benchmark."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from quillgpt.errors import UserError

LOG = "log.txt"


def run_to_the_end(
    command: Sequence[str], name: str, *, folder: Path, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command in a folder and return what it has printed on both streams.

    Args:
        command: Its words.
        name: Its name in messages.
        folder: Where it runs.
        environment: Its environment; None: that of this process.

    Raises:
        UserError: It failed; the message has its last line.
    """
    with (folder / LOG).open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            status = process.wait()
        except BaseException:  # its run is worth nothing now
            process.kill()
            process.wait()
            raise
        log.seek(0)
        printed = log.read()
    if status != 0:
        lines = printed.strip().splitlines() or ["it said nothing"]
        raise UserError(f"{name} failed with exit status {status}: {lines[-1]}")
    return printed
