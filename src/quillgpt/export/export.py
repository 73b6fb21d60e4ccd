"""Writing a model for another program, and checking that it computes the same there."""

from __future__ import annotations

import glob
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from quillgpt import __version__
from quillgpt.attention import SOFTMAX
from quillgpt.checkpoint import LoadedModel
from quillgpt.checkpoint.manifest import CARD
from quillgpt.console import warn
from quillgpt.errors import CheckpointError, ConfigError, join_names
from quillgpt.export import gguf, huggingface, nanogpt, onnx, onnx_with_past, script
from quillgpt.export.card import card_of_export
from quillgpt.export.certificate import (
    CERTIFICATE,
    Certificate,
    CheckResult,
    files_of,
    hashes,
    not_of_export,
    write_certificate,
)
from quillgpt.export.html import page_file
from quillgpt.export.html import runtime as page_runtime
from quillgpt.export.html import target as page
from quillgpt.export.probe import Probe, ProgramMissingError, Runtime, compare_answers, make_probe
from quillgpt.files import STALE_SECONDS, flush_to_disk, let_others_read, write_text
from quillgpt.ownership import remove_listed, remove_own

UNFINISHED = ".exporting-"
"""Part of the name of an export that is being written, after the folder's own name."""

SAME_ARITHMETIC = {"f32": 1e-4}
"""The tolerance of float32 with sums in another order."""

LLAMA_CPP = {"f16": 2e-2, "f32": 1e-2, "q8_0": 2e-1}
"""For all types of weights, llama.cpp keeps keys and values in 16 bits and has a 16-bit table for GELU; with q8_0 it
computes products in 8 bits."""


@dataclass(frozen=True)
class Target:
    """An export format.

    Attributes:
        write: Writes a model to a folder, with a number type.
        open: Opens the written files in the program that they are for.
        tolerances: The number types, the default first, each with the largest difference of logits that passes, as a
            share of their standard deviation.
        needs: The package of that program; None if Quill itself reads the files.
        check: Raises an error if a model cannot be represented; None if every model can.
        probe: Makes the questions and our answers, with a number type.
        is_one_file: The export is one file with its certificate in it, not a folder.
    """

    write: Callable[[LoadedModel, Path, str], None]
    open: Callable[[Path], Runtime]
    tolerances: Mapping[str, float]
    needs: str | None = None
    check: Callable[[LoadedModel], None] | None = None
    probe: Callable[[LoadedModel, str], Probe] = lambda loaded, _: make_probe(loaded)
    is_one_file: bool = False


TARGETS = {
    "hf": Target(huggingface.write, huggingface.Transformers, SAME_ARITHMETIC, needs="transformers"),
    "gguf": Target(gguf.write, gguf.LlamaCpp, LLAMA_CPP, needs="llama_cpp", check=gguf.check_representable),
    "onnx": Target(onnx.write, onnx.OnnxRuntime, SAME_ARITHMETIC, needs="onnxruntime"),
    "onnx-with-past": Target(onnx_with_past.write, onnx_with_past.OnnxWithPast, SAME_ARITHMETIC, needs="onnxruntime"),
    "nanogpt": Target(nanogpt.write, nanogpt.open_exported, SAME_ARITHMETIC, check=nanogpt.check_representable),
    "script": Target(script.write, script.NumpyScript, SAME_ARITHMETIC, check=script.check_representable),
    "html": Target(
        page.write,
        page_runtime.InChromium,
        page_runtime.TOLERANCES,
        check=page.check_representable,
        probe=page_runtime.make_page_probe,
        is_one_file=True,
    ),
}


def export_model(
    loaded: LoadedModel, target: str, folder: Path, *, number_type: str | None = None, overwrite: bool = False
) -> Certificate:
    """Write a model for another program, run it there, and compare.

    The folder appears only if no check has failed; its certificate.json lists the checks. With `html`, it is one file,
    which contains its certificate.

    Args:
        loaded: The model.
        target: A key of TARGETS.
        folder: The folder to write.
        number_type: The number type of matrices; None takes the target's default.
        overwrite: Replace an earlier export.

    Raises:
        ConfigError: The folder is not empty (with `overwrite`: holds other files than an export), or the target does
            not have this number type.
        CheckpointError: The target cannot represent the model, or the exported model computes something else.
    """
    chosen = TARGETS[target]
    number_type = number_type or next(iter(chosen.tolerances))
    if number_type not in chosen.tolerances:
        raise ConfigError(f"--to {target} writes {' or '.join(chosen.tolerances)} only; --type is {number_type}")
    if chosen.is_one_file:
        page_file.check_place(folder, overwrite=overwrite)
    else:
        _put_back(folder)
        _check_place(folder, loaded.folder, overwrite=overwrite)
    if loaded.config.kernel != SOFTMAX:
        raise CheckpointError(
            f"{loaded.folder} computes attention by {loaded.config.kernel}, and --to {target} can write softmax (SM) "
            "only; use the model with Quill"
        )
    if chosen.check is not None:
        chosen.check(loaded)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not chosen.is_one_file:
        _clear_after_kill(folder)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}{UNFINISHED}", dir=folder.parent))
    try:
        chosen.write(loaded, fresh, number_type)
        if not chosen.is_one_file:
            write_text(fresh / CARD, card_of_export(loaded, target))
        certificate = certify(loaded, target, fresh, number_type)
        if certificate.failed:
            failures = "; ".join(f"{check.name}: {check.detail}" + _measured(check) for check in certificate.failed)
            raise CheckpointError(
                f"the exported model does not behave as {loaded.folder} does in {certificate.runtime} ({failures}); "
                "the export was removed"
            )
        if chosen.is_one_file:
            page_file.take_place(fresh, folder, certificate)
        else:
            write_certificate(fresh, certificate)
            let_others_read(fresh)
            _take_place(fresh, folder)
    finally:
        remove_own(fresh)
    return certificate


def _check_place(folder: Path, model: Path, *, overwrite: bool) -> None:
    """Check that an export may be written to a folder.

    Raises:
        ConfigError: It is not a folder, holds other files than an earlier export, or holds the model.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(
            f"{folder} is a {'link' if folder.is_symlink() else 'file'}; give a folder that is not there yet"
        )
    for what, place in (("the current folder", Path.cwd()), ("the model", model.resolve())):
        if place.is_relative_to(folder.resolve()):
            raise ConfigError(f"{folder} is or contains {what}, and is not replaced; give another folder")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"{folder} is there already; choose another folder, or add --overwrite")
    if others := not_of_export(folder):
        raise ConfigError(
            f"{folder} holds {join_names(others)}, not written by an export or changed since, which is not "
            "overwritten; choose another folder"
        )


def _take_place(fresh: Path, folder: Path) -> None:
    """Give a complete export its name; only then remove an earlier one."""
    earlier = _earlier(folder)
    if folder.exists():
        folder.rename(earlier)
    try:
        fresh.rename(folder)
    except OSError:
        if earlier.exists():
            earlier.rename(folder)
        raise
    flush_to_disk(folder.parent)
    _remove_earlier(folder)


def _remove_earlier(folder: Path) -> None:
    earlier = _earlier(folder)
    if earlier.exists() and (kept := remove_listed(earlier, [*files_of(earlier), CERTIFICATE])):
        warn(f"{earlier} is the earlier {folder}; it still holds {join_names(kept)}, not written by the export")


def _earlier(folder: Path) -> Path:
    whole = folder.absolute()
    return whole.with_name(f".{whole.name}.replaced")


def _put_back(folder: Path) -> None:
    """Restore an earlier export if the process that was replacing it was killed between the two renames."""
    if _earlier(folder).is_dir() and not folder.exists():
        _earlier(folder).rename(folder)


def _clear_after_kill(folder: Path) -> None:
    """Remove the unfinished folders of killed exports."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}{UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            remove_own(left)
    _remove_earlier(folder)


def certify(loaded: LoadedModel, target: str, folder: Path, number_type: str) -> Certificate:
    """Run exported files in the program that they are for, and return the certificate."""
    chosen = TARGETS[target]
    probe, name = chosen.probe(loaded, number_type), chosen.needs
    try:
        with closing(chosen.open(folder)) as runtime:
            name = runtime.name
            checks = compare_answers(probe, runtime, tolerance=chosen.tolerances[number_type])
            checks += runtime.compare_more(loaded, number_type)
    except ProgramMissingError as error:
        name, checks = None, [CheckResult("all", "not run", str(error))]
    except Exception as error:  # another program may raise anything; then the export has failed
        if isinstance(error, ModuleNotFoundError) and error.name == chosen.needs:
            name, checks = None, [CheckResult("all", "not run", f"the package {error.name} is not installed")]
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
            checks = [CheckResult("opening and running it", "failed", reason[:200])]
    date, files = time.strftime("%Y-%m-%d"), hashes(folder)
    return Certificate(str(loaded.folder), target, number_type, name, __version__, date, checks, files)


def _measured(check: CheckResult) -> str:
    if check.largest_difference is None:
        return ""
    return f", largest difference {check.largest_difference:.2g}, at most {check.tolerance:.2g} is allowed"
