"""Opening whatever the user gives as MODEL."""

from __future__ import annotations

from pathlib import Path

from quillgpt.checkpoint import LoadedModel, load_model
from quillgpt.config.paths import expand
from quillgpt.interop.hub import find_hub_model
from quillgpt.interop.nanogpt_checkpoint import find_nanogpt_file, load_nanogpt


def open_model(given: str | Path, *, data_dir: Path = Path("data"), dropout: float | None = None) -> LoadedModel:
    """Load a model of any kind that Quill reads.

    Args:
        given: A run (its best checkpoint), a checkpoint, a Hugging Face folder of our architectures, nanoGPT's ckpt.pt
            or its folder, or the name of a model on the Hugging Face hub.
        data_dir: Folder of data sets, for the meta.pkl of a nanoGPT model.
        dropout: Dropout for further training; None keeps the stored one.

    Raises:
        CheckpointError: There is no model, it cannot be fetched, is damaged, contains code, or is of another kind.
        UserError: Its tokenizer cannot be loaded.
    """
    fetched = find_hub_model(given)
    if fetched is not None:
        return load_model(fetched, dropout=dropout)
    path = expand(str(given))
    file = find_nanogpt_file(path)
    if file is None:
        return load_model(path, dropout=dropout)
    return load_nanogpt(file, data_dir=data_dir, dropout=dropout, open_base=open_model)
