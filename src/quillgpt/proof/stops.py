"""Runs that are killed or stopped, and a second run in the same folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from quillgpt.checkpoint.manifest import MANIFEST
from quillgpt.files import sha256_of
from quillgpt.proof.compare import require, require_equal_runs
from quillgpt.proof.outcome import CannotRun
from quillgpt.proof.proved_model import ITERATIONS, ProvedModel
from quillgpt.proof.sandbox import Sandbox, hold_while_saving, last_state, unfinished, wait_for_iteration

KILLS = 2
LONG = 100_000
"""Iterations of a run that is still running when it is disturbed."""


def kill_at_work(sandbox: Sandbox) -> str:
    """Kill runs with kill -9 at random iterations, and resume them."""
    require_signals()

    def measure(proved: ProvedModel) -> str:
        reference, run = sandbox.reference_run(proved), sandbox.folder / f"{proved.stem}-killed"
        killed_at = []
        for _ in range(KILLS):
            done = last_state(run).get("iteration", 0)
            with sandbox.running([*sandbox.train_arguments(proved, run.name), *resuming(run)]) as process:
                chosen = done + sandbox.draw.randint(1, max(2, (ITERATIONS - done) * 3 // 4))
                if wait_for_iteration(process, run, chosen):
                    process.kill()
                    process.wait()
                    killed_at += [chosen] * (process.returncode == -signal.SIGKILL)
        if len(killed_at) < KILLS:
            raise CannotRun(f"a run was over before it could be killed after iter {chosen}")
        sandbox.quill(*sandbox.train_arguments(proved, run.name), *resuming(run))
        return f"killed after iter {' and '.join(map(str, killed_at))}, {require_equal_runs(reference, run)}"

    return sandbox.for_each_model(measure)


def kill_while_saving(sandbox: Sandbox) -> str:
    """Kill runs with kill -9 while a checkpoint is half written, and resume them."""
    require_signals()

    def measure(proved: ProvedModel) -> str:
        reference, run = sandbox.reference_run(proved), sandbox.folder / f"{proved.stem}-killed-saving"
        kills = 0
        for _ in range(KILLS):
            with sandbox.running([*sandbox.train_arguments(proved, run.name), *resuming(run)]) as process:
                if hold_while_saving(process, run, sandbox.draw.choice([0, 0.001, 0.002, 0.004])):
                    process.kill()
                    process.wait()
                    kills += bool(unfinished(run))
        if not kills:
            raise CannotRun("saving is too fast here to be interrupted")
        sandbox.quill(*sandbox.train_arguments(proved, run.name), *resuming(run))
        return f"{kills} checkpoints left half written, {require_equal_runs(reference, run)}"

    return sandbox.for_each_model(measure)


def terminate(sandbox: Sandbox) -> str:
    """Send SIGTERM to runs, as a cluster or a shutdown does, and resume them."""
    require_signals()

    def measure(proved: ProvedModel) -> str:
        reference, run = sandbox.reference_run(proved), sandbox.folder / f"{proved.stem}-terminated"
        chosen = sandbox.draw.randint(1, ITERATIONS * 3 // 4)
        with sandbox.running(sandbox.train_arguments(proved, run.name)) as process:
            if not wait_for_iteration(process, run, chosen):
                raise CannotRun(f"the run was over before it could be asked to end after iter {chosen}")
            process.send_signal(signal.SIGTERM)
            process.wait()
        status, saved = sandbox.finished(process).status, last_state(run).get("iteration", 0)
        require(status == 128 + signal.SIGTERM, f"exit status {status} instead of {128 + signal.SIGTERM}")
        require(saved >= chosen, f"stopped after iter {chosen}, but the last checkpoint is of iter {saved}")
        sandbox.quill(*sandbox.train_arguments(proved, run.name, init_from="resume"))
        return f"status {status}, saved at iter {saved}, {require_equal_runs(reference, run)}"

    return sandbox.for_each_model(measure)


def second_writer(sandbox: Sandbox) -> str:
    """Start a second run in the folder of a run that is suspended."""
    require_signals()
    proved, run = sandbox.models[0], sandbox.folder / "occupied"
    with sandbox.running(sandbox.train_arguments(proved, run.name, max_iters=LONG, lr_decay_iters=LONG)) as first:
        require(wait_for_iteration(first, run, ITERATIONS // 4), "the first run ended early")
        first.send_signal(signal.SIGSTOP)
        os.waitpid(first.pid, os.WUNTRACED)  # until it is really suspended
        before = fingerprints(run)
        refused = sandbox.quill(*sandbox.train_arguments(proved, run.name, overwrite=True), status=1)
        after = fingerprints(run)
    require(str(first.pid) in refused.err, f"process {first.pid} is not named")
    touched = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    require(not touched, f"{len(touched)} of {len(before)} files touched, among them {min(touched, default='')}")
    return f"status 1, process {first.pid} named, 0 of {len(before)} files touched"


def resuming(run: Path) -> list[str]:
    """Return the flag that resumes a run, if it has a checkpoint."""
    return ["--resume"] if list((run / "checkpoints").glob(f"iter-*/{MANIFEST}")) else []


def fingerprints(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the hash and the modification time of every file in a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (sha256_of(path), path.stat().st_mtime_ns) for path in files}


def require_signals() -> None:
    """Check that processes can be killed and suspended here.

    Raises:
        CannotRun: They cannot.
    """
    if os.name == "nt":
        raise CannotRun("Windows has no signals for another process")
