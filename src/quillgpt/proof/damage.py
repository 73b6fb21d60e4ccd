"""Damaged checkpoints and full disks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from rich.filesize import decimal

from quillgpt.checkpoint.manifest import CARD, MANIFEST
from quillgpt.checkpoint.names import LAST, checkpoints_folder
from quillgpt.checkpoint.save import OPTIMIZER, SMALL_FILES_BYTES
from quillgpt.checkpoint.weights import WEIGHTS
from quillgpt.ownership import remove_own
from quillgpt.proof.compare import require, require_equal_runs
from quillgpt.proof.proved_model import SAVED_EVERY
from quillgpt.proof.sandbox import FAULTY, Sandbox, last_state

UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")
"""Runs a command with its own mounts, without being root."""

LARGEST_MOUNT_BYTES = 1 << 28
"""The largest file system in memory that is made."""

FILL = """
mount -t tmpfs -o size={bytes} tmpfs small || exit 99
"$@"
status=$?
cp -R small/. {rescued}
exit $status
"""
"""Trains on a file system that vanishes with its last process, and copies out what the run left there."""


def corrupt_checkpoint(sandbox: Sandbox) -> str:
    """Flip a bit in each file of a checkpoint, truncate files, and resume the run from an earlier checkpoint."""
    proved = sandbox.models[0]
    reference = sandbox.reference_run(proved)
    checkpoint = (checkpoints_folder(reference) / LAST).resolve()
    files = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    files.remove(Path(CARD))  # which people may edit
    for file in files:
        require_named(sandbox, checkpoint, file, flip_bit(sandbox, (checkpoint / file).read_bytes()))
    for truncated in (Path(WEIGHTS), Path(OPTIMIZER)):
        content = (checkpoint / truncated).read_bytes()
        require_named(sandbox, checkpoint, truncated, content[: sandbox.draw.randrange(len(content))])

    run = sandbox.folder / "damaged"
    shutil.copytree(reference, run, symlinks=True)
    damaged = checkpoints_folder(run) / checkpoint.name / WEIGHTS
    damaged.write_bytes(flip_bit(sandbox, damaged.read_bytes()))
    done = sandbox.quill(*sandbox.train_arguments(proved, run.name, init_from="resume"))
    require(damaged.name in done.err and "going back to" in done.err, "the run did not say which file is damaged")
    return f"{len(files)} of {len(files)} flipped bits and 2 of 2 cuts named; {require_equal_runs(reference, run)}"


def require_named(sandbox: Sandbox, checkpoint: Path, file: Path, content: bytes) -> None:
    """Check that `quill info` refuses a copy of a checkpoint in which a file has this content, and names the file.

    If the file is the manifest, any file may seem damaged; then the copy must be named.
    """
    copy = sandbox.folder / "damaged-checkpoint"
    shutil.copytree(checkpoint, copy, copy_function=os.link)
    remove_own(copy / file)
    (copy / file).write_bytes(content)
    error = sandbox.quill("info", copy.name, status=1).err
    named = copy.name if file.name == MANIFEST else file.as_posix()
    require(named in error.replace("\\", "/"), f"damage of {file.as_posix()} is not named")
    remove_own(copy)


def flip_bit(sandbox: Sandbox, content: bytes) -> bytes:
    """Return the content with one random bit flipped; for a manifest, in its list of files."""
    first = max(0, content.find(b'"files"')) if content.startswith(b"{") else 0
    place, bit = sandbox.draw.randrange(first, len(content)), sandbox.draw.randrange(8)
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


def full_disk(sandbox: Sandbox) -> str:
    """Train on a disk with room for one checkpoint only, and resume on another."""
    proved = sandbox.models[0]
    reference, run = sandbox.reference_run(proved), sandbox.folder / "rescued"
    last = (checkpoints_folder(reference) / LAST).resolve()
    checkpoint_bytes = sum(path.stat().st_size for path in last.rglob("*") if path.is_file())
    small = sandbox.folder / "small"
    small.mkdir()
    size = SMALL_FILES_BYTES + checkpoint_bytes * 3 // 2
    if checkpoint_bytes <= LARGEST_MOUNT_BYTES and can_mount(small):
        how = f"a file system of {decimal(size)}"
        script = FILL.format(bytes=size, rescued=run.name)
        before = (*UNSHARE, "sh", "-c", script, "sh")
        run.mkdir()
        done = sandbox.quill(*sandbox.train_arguments(proved, "small/run"), status=1, before=before)
        run = run / "run"
    else:
        how = "an injected ENOSPC, because no file system can be mounted here"
        done = sandbox.quill("full_disk:1", *sandbox.train_arguments(proved, run.name), status=1, entry=FAULTY)
    saved = last_state(run).get("iteration", 0)
    require(saved == SAVED_EVERY, f"{how}: the last checkpoint is of iter {saved} instead of {SAVED_EVERY}")
    require(f"iter-{saved:06d} is kept" in done.err, f"{how}: the run did not say what was kept")
    sandbox.quill(*sandbox.train_arguments(proved, str(run.relative_to(sandbox.folder)), init_from="resume"))
    return f"{how}: iter {saved} kept, {require_equal_runs(reference, run)}"


def can_mount(folder: Path) -> bool:
    """Whether a file system can be mounted, which needs Linux and user namespaces."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    return (
        sys.platform == "linux"
        and all(shutil.which(word) for word in (UNSHARE[0], mount[0]))
        and subprocess.run([*UNSHARE, *mount], capture_output=True).returncode == 0
    )
