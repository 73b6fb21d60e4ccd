"""One way to whatever a person means by MODEL."""

from __future__ import annotations

from pathlib import Path

from quillgpt.checkpoint import LoadedModel, load_model
from quillgpt.config.paths import expand
from quillgpt.interop.hub import find_hub_model
from quillgpt.interop.nanogpt_checkpoint import find_nanogpt_file, load_nanogpt


def open_model(given: str | Path, *, data_dir: Path = Path("data"), dropout: float | None = None) -> LoadedModel:
    """Load a model of any kind that Quill reads.

    Args:
        given: A run (its best checkpoint), a checkpoint, a Hugging Face folder of our architectures, nanoGPT's ckpt.pt,
            or the folder that holds it; or the name of a model of the Hugging Face hub.
        data_dir: Where data sets live; a nanoGPT model's table of characters is sought there.
        dropout: Dropout for further training; None keeps the stored one.

    Raises:
        CheckpointError: No model is there, it cannot be fetched, is damaged, wants to run code, or is of another kind.
        UserError: Its tokenizer cannot be had.
    """
    fetched = find_hub_model(given)
    if fetched is not None:
        return load_model(fetched, dropout=dropout)
    path = expand(str(given))
    file = find_nanogpt_file(path)
    if file is None:
        return load_model(path, dropout=dropout)
    return load_nanogpt(file, data_dir=data_dir, dropout=dropout, open_base=open_model)
