"""Writing a model for another program, and the proof that it behaves there as it does here."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from quillgpt import __version__
from quillgpt.checkpoint import LoadedModel
from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.export import huggingface, nanogpt
from quillgpt.export.certificate import CERTIFICATE, Certificate, Check
from quillgpt.export.probe import Runtime, compare, make_probe
from quillgpt.files import write_json

FLOAT32_TOLERANCE = 1e-4
"""Largest difference of scores, as a share of their standard deviation, that float32 in another order of sums makes."""


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        write: Writes a model into a folder.
        open: Opens the written files in the program that they are for.
        tolerance: Largest difference of scores that passes, as a share of their standard deviation.
        needs: The package of that program, where it is none of ours.
        check: Raises where a model cannot be represented; None: every model can.
    """

    write: Callable[[LoadedModel, Path], None]
    open: Callable[[Path], Runtime]
    tolerance: float
    needs: str | None = None
    check: Callable[[LoadedModel], None] | None = None


TARGETS = {
    "hf": Target(huggingface.write, huggingface.Transformers, FLOAT32_TOLERANCE, needs="transformers"),
    "nanogpt": Target(nanogpt.write, nanogpt.Reader, FLOAT32_TOLERANCE, check=nanogpt.check_representable),
}


def export(loaded: LoadedModel, target: str, folder: Path, *, overwrite: bool = False) -> Certificate:
    """Write a model for another program, run it there, and compare.

    The folder appears only when no check has failed; what was checked is in its certificate.json.

    Args:
        loaded: The model.
        target: A key of TARGETS.
        folder: Where to.
        overwrite: Replace what is in the folder.

    Raises:
        ConfigError: The folder is not empty.
        CheckpointError: The target cannot represent the model, or the exported model behaves differently.
    """
    chosen = TARGETS[target]
    if folder.exists() and not overwrite and (folder.is_file() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already; choose another folder, or add --overwrite")
    if chosen.check is not None:
        chosen.check(loaded)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        chosen.write(loaded, fresh)
        certificate = certify(loaded, target, fresh)
        if certificate.failed:
            said = "; ".join(f"{check.name}: {check.detail}" + _measured(check) for check in certificate.failed)
            raise CheckpointError(
                f"the exported model does not behave as {loaded.folder} does in {certificate.runtime} ({said}); "
                "nothing is kept of it"
            )
        write_json(fresh / CERTIFICATE, asdict(certificate))
        fresh.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return certificate


def certify(loaded: LoadedModel, target: str, folder: Path) -> Certificate:
    """Run exported files in the program that they are for, and return what was found."""
    chosen, probe = TARGETS[target], make_probe(loaded)
    name = chosen.needs
    try:
        runtime = chosen.open(folder)
        name = runtime.name
        checks = compare(probe, runtime, block_size=loaded.shape.block_size, tolerance=chosen.tolerance)
    except Exception as error:  # another program may fail in any way, and then the export has
        if isinstance(error, ModuleNotFoundError) and error.name == chosen.needs:
            name, checks = None, [Check("all", "not run", f"the package {error.name} is not installed")]
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
            checks = [Check("opening and running it", "failed", reason[:200])]
    return Certificate(str(loaded.folder), target, name, __version__, time.strftime("%Y-%m-%d"), checks)


def _measured(check: Check) -> str:
    if check.largest_difference is None:
        return ""
    return f", largest difference {check.largest_difference:.2g}, at most {check.tolerance:.2g} is allowed"
