"""`quill export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from quillgpt.cli.flags import MODEL, from_home, switch
from quillgpt.console import say, stdout, table

TO = Parameter(
    "--to",
    help="hf: a folder for transformers and whatever reads its format. gguf: a file for llama.cpp, with a Modelfile "
    "for Ollama. onnx: a graph for onnxruntime, from a whole text to its logits. onnx-with-past: a graph with keys and "
    "values, for transformers.js and optimum. nanogpt: a ckpt.pt for nanoGPT's sample.py and train.py (arch = gpt2 "
    "only). script: the weights beside 200 lines of Python that need only numpy. html: one "
    "page that runs the model offline in a browser (up to 30M parameters).",
)
TYPE = Parameter("--type", help="Number type of matrices in gguf and html: f16 (the default), f32, or q8_0 (8 bits).")
FOLDER = Parameter(
    name="DIR",
    converter=from_home,
    help="Folder to write, or file such as mybook.html for html; it must be empty or not exist yet.",
)
OVERWRITE = switch("--overwrite", "Replace an earlier export.")
DATA_DIR = Parameter(
    "--data_dir", converter=from_home, help="Folder of data sets, for the meta.pkl of a nanoGPT model."
)


def export(
    model: Annotated[str, MODEL],
    folder: Annotated[Path, FOLDER],
    /,
    *,
    to: Annotated[Literal["hf", "gguf", "onnx", "onnx-with-past", "nanogpt", "script", "html"], TO],
    number_type: Annotated[Literal["f16", "f32", "q8_0"] | None, TYPE] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    data_dir: Annotated[str, DATA_DIR] = "data",
) -> None:
    """Write a model for another program, run it there, and compare; certificate.json lists the checks."""
    from quillgpt.export import export_model
    from quillgpt.interop import open_model

    loaded = open_model(model, data_dir=Path(data_dir))
    certificate = export_model(loaded, to, folder, number_type=number_type, overwrite=overwrite)
    rows = {check.name: f"{check.result}: {check.detail}" for check in certificate.checks}
    for check in certificate.checks:
        if check.largest_difference is not None:
            rows[check.name] += (
                f"; the largest is {check.largest_difference:.1e}, at most {check.tolerance:.0e} is allowed"
            )
    table(f"{folder} in {certificate.runtime or 'no other program'}", rows, console=stdout)
    place = f'"About this model" in {folder}' if to == "html" else folder / "certificate.json"
    say(f"the checks are listed in {place}")
