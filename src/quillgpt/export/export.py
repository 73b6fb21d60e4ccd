"""Writing a model for another program, and the proof that it behaves there as it does here."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from quillgpt import __version__
from quillgpt.attention import SOFTMAX
from quillgpt.checkpoint import LoadedModel
from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.export import gguf, huggingface, nanogpt, onnx
from quillgpt.export.certificate import CERTIFICATE, Certificate, Check
from quillgpt.export.probe import Runtime, compare, make_probe
from quillgpt.files import write_json

SAME_ARITHMETIC = {"f32": 1e-4}
"""What float32 in another order of sums makes."""

LLAMA_CPP = {"f16": 2e-2, "f32": 1e-2, "q8_0": 2e-1}
"""Whatever the weights are in, llama.cpp keeps keys and values in 16 bits and looks GELU up in a table of 16 bits; with
q8_0 it also computes products in 8 bits."""


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        write: Writes a model into a folder, in a type of number.
        open: Opens the written files in the program that they are for.
        tolerances: The types of numbers that there are, the usual one first, and for each the largest difference of
            scores that passes, as a share of their standard deviation.
        needs: The package of that program, where it is none of ours.
        check: Raises where a model cannot be represented; None: every model can.
    """

    write: Callable[[LoadedModel, Path, str], None]
    open: Callable[[Path], Runtime]
    tolerances: Mapping[str, float]
    needs: str | None = None
    check: Callable[[LoadedModel], None] | None = None


TARGETS = {
    "hf": Target(huggingface.write, huggingface.Transformers, SAME_ARITHMETIC, needs="transformers"),
    "gguf": Target(gguf.write, gguf.LlamaCpp, LLAMA_CPP, needs="llama_cpp", check=gguf.check_representable),
    "onnx": Target(onnx.write, onnx.OnnxRuntime, SAME_ARITHMETIC, needs="onnxruntime"),
    "nanogpt": Target(nanogpt.write, nanogpt.Reader, SAME_ARITHMETIC, check=nanogpt.check_representable),
}


def export(
    loaded: LoadedModel, target: str, folder: Path, *, number_type: str | None = None, overwrite: bool = False
) -> Certificate:
    """Write a model for another program, run it there, and compare.

    The folder appears only when no check has failed; what was checked is in its certificate.json.

    Args:
        loaded: The model.
        target: A key of TARGETS.
        folder: Where to.
        number_type: What matrices are written in, one of the target's types; None: its usual one.
        overwrite: Replace an earlier export.

    Raises:
        ConfigError: The folder holds something, and be it something else than an export, or the target has no such
            type.
        CheckpointError: The target cannot represent the model, or the exported model behaves differently.
    """
    chosen = TARGETS[target]
    number_type = number_type or next(iter(chosen.tolerances))
    if number_type not in chosen.tolerances:
        raise ConfigError(f"--to {target} writes {' or '.join(chosen.tolerances)} only; --type is {number_type}")
    _check_free(folder, overwrite=overwrite)
    if loaded.shape.kernel != SOFTMAX:
        raise CheckpointError(
            f"{loaded.folder} computes attention by {loaded.shape.kernel}, and what --to {target} writes knows "
            "softmax (SM) only; use the model with Quill"
        )
    if chosen.check is not None:
        chosen.check(loaded)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        chosen.write(loaded, fresh, number_type)
        certificate = certify(loaded, target, fresh, number_type)
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


def _check_free(folder: Path, *, overwrite: bool) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(
            f"{folder} is a {'link' if folder.is_symlink() else 'file'}; give a folder that is not there yet"
        )
    if folder.resolve() == Path.cwd():
        raise ConfigError(f"{folder} is the folder that you are in; give one of its own")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"{folder} is there already; choose another folder, or add --overwrite")
    if not (folder / CERTIFICATE).is_file():
        raise ConfigError(
            f"{folder} holds other things than an export, which are not overwritten; choose another folder"
        )


def certify(loaded: LoadedModel, target: str, folder: Path, number_type: str) -> Certificate:
    """Run exported files in the program that they are for, and return what was found."""
    chosen, probe = TARGETS[target], make_probe(loaded)
    name = chosen.needs
    try:
        runtime = chosen.open(folder)
        name = runtime.name
        checks = compare(probe, runtime, tolerance=chosen.tolerances[number_type])
    except Exception as error:  # another program may fail in any way, and then the export has
        if isinstance(error, ModuleNotFoundError) and error.name == chosen.needs:
            name, checks = None, [Check("all", "not run", f"the package {error.name} is not installed")]
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
            checks = [Check("opening and running it", "failed", reason[:200])]
    return Certificate(str(loaded.folder), target, number_type, name, __version__, time.strftime("%Y-%m-%d"), checks)


def _measured(check: Check) -> str:
    if check.largest_difference is None:
        return ""
    return f", largest difference {check.largest_difference:.2g}, at most {check.tolerance:.2g} is allowed"
