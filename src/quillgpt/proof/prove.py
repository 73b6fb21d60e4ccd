"""All checks, one after the other, and their sheet."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path

from quillgpt import console
from quillgpt.errors import ConfigError, did_you_mean
from quillgpt.ownership import check_ours, claim_as_written, files_below, remove_listed, remove_own
from quillgpt.proof.damage import corrupt_checkpoint, full_disk
from quillgpt.proof.learning import end_of_text, poisoned_batch
from quillgpt.proof.numbers import accumulation, cached_decoding, opens_in_transformers
from quillgpt.proof.outcome import Check, Outcome, outcome_of
from quillgpt.proof.proved_model import ProvedModel
from quillgpt.proof.ranks import two_ranks
from quillgpt.proof.sandbox import Sandbox
from quillgpt.proof.sheet import SHEET, facts, print_outcome, write_sheet
from quillgpt.proof.stops import kill_at_work, kill_while_saving, second_writer, terminate
from quillgpt.stopping import answered_by, interrupt

CHECKS = {
    "kill -9 at work": Check(
        kill_at_work,
        "weights, optimizer state and metrics of a run that is killed twice at random iterations and resumed, with "
        "those of an undisturbed run, bit for bit",
    ),
    "kill -9 while saving": Check(
        kill_while_saving,
        "the same, each kill while a checkpoint is half written",
    ),
    "SIGTERM": Check(
        terminate,
        "the same for a run that is asked to end: exit status 143, a checkpoint of its last iteration, resumed to the "
        "same bits",
    ),
    "second writer refused": Check(
        second_writer,
        "every file of a run that is held still, before and after a second `quill train --overwrite` in its folder",
    ),
    "two ranks equal one": Check(
        two_ranks,
        "the float32 losses of a run in two processes, one of which is killed, resumed by the command that is printed "
        "then, with those of a run in one process",
    ),
    "corrupt checkpoint detected": Check(
        corrupt_checkpoint,
        "the output of `quill info` for a checkpoint in which a random bit of a file was flipped, or the file "
        "truncated; and a run that goes back to the checkpoint before it, with an undamaged run, bit for bit",
    ),
    "full disk survived": Check(
        full_disk,
        "a run whose disk has room for the first checkpoint only, resumed on another disk, with an undisturbed run, "
        "bit for bit",
    ),
    "accumulation invariance": Check(
        accumulation,
        "loss and gradient of one float32 iteration of 8 sequences computed as 8x1, 1x8 and 2x4; the gradients are "
        "read from AdamW's state in the checkpoints",
    ),
    "cached decoding": Check(
        cached_decoding,
        "tokens and logits of `quill sample --temperature=0` in float32 with those recomputed from the whole text "
        "before each token",
    ),
    "opens in transformers": Check(
        opens_in_transformers,
        "ids and float32 logits of the same text by transformers, from the checkpoint's folder, with Quill's",
    ),
    "end-of-text receives loss": Check(
        end_of_text,
        "loss on the ends of held-out documents before and after training; how many samples end by themselves",
    ),
    "poisoned batch caught": Check(
        poisoned_batch,
        "a run whose embeddings are NaN in one batch with the promise: the batch is named, the run goes back and "
        "leaves it out; with --on_nonfinite=stop, the run resumed without the fault, with an undisturbed one",
    ),
}
"""The checks by the name of the promise, in this order."""

LOGS = "logs"


def run_checks(
    models: Sequence[ProvedModel],
    *,
    out_dir: Path,
    command: str,
    keep: bool = False,
    checks: Collection[str] = tuple(CHECKS),
) -> list[Outcome]:
    """Run the checks, print the outcome of each, and write the sheet.

    Args:
        models: The models whose training is proved.
        out_dir: The folder for `proof.md`, `proof.json` and the logs of failed checks.
        command: The command line that the user typed.
        keep: Keep the runs in the folder too.
        checks: The names of the checks to run.

    Raises:
        ConfigError: `out_dir` cannot be written to, or a check is unknown.
    """
    for name in checks:
        if name not in CHECKS:
            raise ConfigError(f"{name} is not a check{did_you_mean(name, CHECKS)}")
    check_ours(out_dir, [*SHEET, *files_below(out_dir, LOGS)], remedy="choose another --out_dir")
    date, started = datetime.now().astimezone(), time.perf_counter()
    outcomes = []
    with working_folder(out_dir, keep=keep) as folder, answered_by(interrupt):
        sandbox = Sandbox(folder, folder / LOGS, models, random.Random())
        for name in checks:
            written = sandbox.log_into("-".join(name.split()))
            with console.stderr.status(name) if console.is_screen(console.stderr) else nullcontext():
                outcome = outcome_of(name, CHECKS[name], sandbox)
            print_outcome(outcome)
            if outcome.status != "fail" and written.exists():
                remove_own(written)
            outcomes.append(outcome)
        publish_logs(folder, out_dir)
    about = facts(models, command=command, date=date, seconds=time.perf_counter() - started)
    write_sheet(out_dir, outcomes, about)
    claim_as_written(out_dir, SHEET)
    return outcomes


def publish_logs(folder: Path, out_dir: Path) -> None:
    """Replace the logs of an earlier proof by those of the failed checks."""
    remove_listed(out_dir, files_below(out_dir, LOGS))
    if logs := files_below(folder, LOGS):
        (folder / LOGS).rename(out_dir / LOGS)
        claim_as_written(out_dir, logs)


@contextmanager
def working_folder(out_dir: Path, *, keep: bool) -> Iterator[Path]:
    """Make a folder for the runs inside `out_dir`; remove it after the block unless `keep` is set.

    Raises:
        ConfigError: `out_dir` cannot be created or written to.
    """
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="runs-", dir=out_dir)).resolve()
    except OSError as error:
        raise ConfigError(
            f"out_dir = {out_dir} cannot be written to ({error.strerror}); choose another --out_dir"
        ) from None
    try:
        yield folder
    finally:
        if keep:
            console.outcome(f"the runs are in {os.path.relpath(folder)}")
        else:
            with suppress(OSError):
                remove_own(folder)
