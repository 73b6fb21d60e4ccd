"""Training in two processes, one of which is killed."""

from __future__ import annotations

import os
import re
import shlex
import signal
from pathlib import Path

import torch

from quillgpt.plots.record import METRICS, curve, read_metrics
from quillgpt.proof.compare import require
from quillgpt.proof.outcome import CannotRun
from quillgpt.proof.proved_model import ITERATIONS
from quillgpt.proof.sandbox import Sandbox, wait_for_iteration
from quillgpt.run_files import HOLDER

RANKS = 2
LARGEST_DIFFERENCE = 1e-3
"""Of two losses, nats per token: ranks sum the gradient in another order, and 48 iterations build on that."""

GO_ON = re.compile(r"go on with: quill (.+)")


def two_ranks(sandbox: Sandbox) -> str:
    """Train in one process, and in two of which one is killed; go on by the command that is printed then."""
    proved = sandbox.models[0]
    if os.name == "nt":
        raise CannotRun("Windows has no signals for another process")
    if proved.settings.device != "cpu" and torch.cuda.device_count() < RANKS:
        raise CannotRun(f"{RANKS} processes need {RANKS} GPUs here")
    in_float32 = {"dtype": "float32", "device": proved.settings.device.partition(":")[0]}
    sandbox.quill(*sandbox.train_arguments(proved, "one-process", **in_float32))
    command = sandbox.train_arguments(proved, "two-processes", devices=RANKS, **in_float32)
    run, chosen = sandbox.folder / "two-processes", sandbox.draw.randint(ITERATIONS // 4, ITERATIONS // 2)
    with sandbox.running(command) as process:
        if not wait_for_iteration(process, run, chosen):
            raise CannotRun(f"the run was over before a rank could be killed after iter {chosen}")
        first = int((run / HOLDER).read_text(encoding="utf-8").split()[0])
        os.kill(first, signal.SIGKILL)
        process.wait()
    done = sandbox.finished(process)
    said = GO_ON.search(done.err)
    require(done.status == 1 and "was killed" in done.err, f"the killed rank is not named; status {done.status}")
    require(said is not None, "no command to go on with was printed")
    assert said is not None
    sandbox.quill(*shlex.split(said[1]))
    largest = largest_difference(sandbox.folder / "one-process", run)
    require(largest <= LARGEST_DIFFERENCE, f"losses differ by up to {largest:.1g}")
    return f"a rank killed after iter {chosen} was named; losses differ by at most {largest:.1g} nats per token"


def largest_difference(one: Path, other: Path) -> float:
    """Return the largest difference of the recorded losses of two runs.

    Raises:
        Refuted: They have recorded different iterations.
    """
    ours, theirs = (dict(curve(read_metrics(run / METRICS), "train", "loss")) for run in (one, other))
    require(bool(ours) and ours.keys() == theirs.keys(), "the runs have recorded different iterations")
    return max(abs(ours[iteration] - theirs[iteration]) for iteration in ours)
