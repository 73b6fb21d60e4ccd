"""The target `html`: what a page says of its model, and which models it can have."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

from quillgpt.checkpoint import LoadedModel
from quillgpt.config.runs import places_of
from quillgpt.config.schema import Sampling
from quillgpt.data.dataset import Dataset, find_dataset
from quillgpt.errors import CheckpointError
from quillgpt.export.gguf import model_name
from quillgpt.export.html.assemble import assemble
from quillgpt.export.html.tokenizer import describe_tokenizer
from quillgpt.export.html.weights import largest_half, tensors_of

MOST_PARAMETERS: Final = 30_000_000
PAGE_FILE: Final = "page.html"


def check_representable(loaded: LoadedModel) -> None:
    """Check that a page can have the model.

    Raises:
        CheckpointError: It is too large, or its tokenizer is of another kind.
    """
    parameters = loaded.skeleton().parameter_count()
    if parameters > MOST_PARAMETERS:
        raise CheckpointError(
            f"{loaded.folder} has {parameters:,} parameters, and a page has at most {MOST_PARAMETERS:,}; write GGUF "
            "for llama.cpp, Ollama and LM Studio: --to=gguf"
        )
    describe_tokenizer(loaded.tokenizer)


def write(loaded: LoadedModel, folder: Path, number_type: str) -> None:
    """Write page.html, still without its certificate.

    Raises:
        CheckpointError: A weight is too large for the number type.
    """
    if number_type != "f32" and (found := largest_half(loaded)) is not None:
        raise CheckpointError(
            f"{loaded.folder} has the weight {found[1]:.3g} in {found[0]}, which half precision cannot hold; use "
            "--type=f32"
        )
    tensors = list(tensors_of(loaded, number_type))
    config, sampling = loaded.config, Sampling()
    parameters = loaded.skeleton().parameter_count()
    sizes = {name: value for name, value in asdict(config).items() if name not in ("kernel", "vocab_size")}
    about = {
        "config": asdict(config.architecture) | sizes,  # both have norm_eps, and the model's own counts
        "tensors": [tensor.about() for tensor in tensors],
        "tokenizer": describe_tokenizer(loaded.tokenizer),
        "end_of_text": _end_of_text(loaded),
        "model": {
            "Parameters": f"{parameters:,}",
            "Architecture": config.arch,
            "Layers, heads, width": f"{config.n_layer}, {config.n_head}, {config.n_embd}",
            "Context": f"{config.block_size:,} tokens",
            "Tokenizer": f"{loaded.tokenizer.name}, {loaded.tokenizer.vocab_size:,} tokens",
            "Weights": number_type,
        },
        **data_card(loaded),
    }
    page = assemble(
        title=model_name(loaded.folder.absolute()),
        subtitle=f"{parameters:,} parameters · runs in this page, offline",
        about=about,
        weights=[part for tensor in tensors for part in tensor.parts()],
        fields={"temperature": sampling.temperature, "top_k": sampling.top_k or 0},
    )
    (folder / PAGE_FILE).write_text(page, encoding="utf-8", newline="\n")


def _end_of_text(loaded: LoadedModel) -> str | None:
    if loaded.never_saw_end_of_text:
        return "never"
    return "starts" if loaded.starts_with_end_of_text else None


def data_card(loaded: LoadedModel) -> dict[str, Any]:
    """Return what is known of the text that a model was trained on: `data`, and the files in it, `sources`.

    Local files are named without their folders, which are nobody else's business.
    """
    about, sources = loaded.about, []
    said = {"dataset": "Data set", "iteration": "Iterations", "init_from": "Began from"}
    data = {title: _public(about[name]) for name, title in said.items() if name in about}
    for dataset in _datasets(loaded):
        manifest = dataset.manifest
        if manifest is None:
            continue
        train, val = manifest.train, manifest.val
        data[f"{manifest.name}: training text"] = f"{train.characters:,} characters, {train.documents:,} documents"
        data[f"{manifest.name}: held out"] = f"{val.characters:,} characters"
        sources += [record.model_dump() | {"location": _public(record.location)} for record in manifest.sources]
    if not data:
        data["Text"] = "not recorded"
    elif not sources:
        data["Sources"] = "the data set was not found when this page was made"
    return {"data": data, "sources": sources}


def _datasets(loaded: LoadedModel) -> list[Dataset]:
    name, fingerprint = loaded.about.get("dataset"), loaded.about.get("data_fingerprint")
    if not isinstance(name, str) or not isinstance(fingerprint, str):
        return []
    places = places_of("data", loaded.folder)
    found = [find_dataset(name, one, loaded.tokenizer, places) for one in fingerprint.split(",")]
    return [dataset for dataset in found if dataset is not None]


def _public(value: object) -> str:
    text = str(value)
    is_address = urlsplit(text).scheme in ("http", "https", "hf")
    return text if is_address else PurePosixPath(text.replace("\\", "/")).name
