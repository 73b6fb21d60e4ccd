"""The folder of compiled code, which belongs to this user alone."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path

from quillgpt.console import warn
from quillgpt.files import quill_home

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def compiled_folder(*, compiling: bool = True) -> Path:
    """Return the folder in which compiled code is kept for the next run, and name it to PyTorch as well.

    PyTorch would use a temporary folder instead, and chooses it when the first optimizer is made. It runs the code that
    it finds there, so the folder must belong to this user alone; if it does not, it is a temporary one here, too.

    Args:
        compiling: Whether to warn if it is temporary.
    """
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE])
    folder = quill_home() / "compiled"
    if not os.path.lexists(folder):
        folder.mkdir(mode=0o700, exist_ok=True)  # another run may have made it now
    if reason := why_not_private(folder):
        if compiling:
            warn(
                f"{folder} {reason}, and what is in it would be run: it is left alone, and code is compiled anew; "
                "remove it, or set QUILL_HOME to a folder of your own"
            )
        folder = Path(tempfile.mkdtemp(prefix="quill-compiled-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    else:
        folder.chmod(0o700)
    os.environ[CACHE_VARIABLE] = str(folder)
    return folder


def why_not_private(folder: Path) -> str | None:
    """Return why somebody else may have written into a folder; None if only its user may."""
    if os.name == "nt":  # whose folders have no such modes
        return None
    own, above = folder.lstat(), folder.parent.stat()
    if not stat.S_ISDIR(own.st_mode):
        return "is no folder, or a link"
    if own.st_uid != os.geteuid():
        return "belongs to somebody else"
    if own.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "may be written by others"
    if above.st_uid not in (os.geteuid(), 0) or (above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX):
        return "lies in a folder in which others may replace it"
    return None
