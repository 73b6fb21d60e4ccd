"""nanoGPT's ckpt.pt: weights, shape and tokenizer, taken from a pickle without running what it may contain."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from quillgpt.checkpoint.huggingface import QUILL_KEY
from quillgpt.checkpoint.load import LoadedModel
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.checkpoint.tensors import Tensors, check_stored
from quillgpt.console import say
from quillgpt.data.dataset import META_FILE
from quillgpt.errors import CheckpointError, TokenizerError
from quillgpt.files import is_plain_path
from quillgpt.model import ModelShape, empty_model, usual_mlp_dim
from quillgpt.text.gpt2 import gpt2_tokenizer
from quillgpt.text.nanogpt_meta import read_nanogpt_meta
from quillgpt.text.tokenizer import Tokenizer

CHECKPOINT_FILE = "ckpt.pt"
SUFFIXES = (".pt", ".pth", ".ckpt")
"""How the names of nanoGPT's checkpoints end, should somebody have renamed one."""

COMPILED = "_orig_mod."
"""What torch.compile puts before the names of tensors."""

STORED_TRANSPOSED = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
"""Matrices that GPT-2's stock class holds as (in, out), and nanoGPT as (out, in)."""

MOST_PADDING = 256
"""Rows of the vocabulary come in multiples of at most this many; more spare rows belong to another tokenizer."""

Positive = Annotated[int, Field(gt=0)]


class ModelArguments(BaseModel):
    """What nanoGPT's checkpoints say of the model; a key that its model does not have is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    n_layer: Positive
    n_head: Positive
    n_embd: Positive
    block_size: Positive
    vocab_size: Positive
    bias: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


def find_nanogpt_file(path: Path) -> Path | None:
    """Return the checkpoint of nanoGPT that a person's path means; None where it means something else.

    A folder that holds a model of ours or of Hugging Face's layout too means that.
    """
    if path.is_file():
        return path if path.suffix.lower() in SUFFIXES else None
    file = path / CHECKPOINT_FILE
    other = (path / "config.json").is_file() or checkpoints_folder(path).is_dir()
    return file if file.is_file() and not other else None


def load_nanogpt(file: Path, *, data_dir: Path, dropout: float | None = None) -> LoadedModel:
    """Load the weights of a checkpoint that nanoGPT wrote, with the tokenizer of its data set.

    Args:
        file: The checkpoint.
        data_dir: Where the folder of its data set may be, with the table of characters meta.pkl.
        dropout: Dropout for further training; None keeps the stored one.

    Raises:
        CheckpointError: It is damaged, wants to run code, or holds no model of nanoGPT's.
        DataError: meta.pkl is damaged or wants to run code, or GPT-2's tokenizer cannot be fetched.
        TokenizerError: The tokenizer that was found is another model's.
    """
    content = read_pickle(file)
    arguments = read_arguments(content.get("model_args"), file)
    weights = read_weights(content.get("model"), file)
    check_sizes(arguments, weights, file)
    shape = shape_of(arguments, weights)
    check_stored(weights, weights, empty_model(shape), where=str(file))
    dataset = read_dataset_name(content.get("config"), file)
    tokenizer, spec = find_tokenizer(file, dataset, data_dir, rows=shape.vocab_size)
    # Whether its documents ended with end-of-text is not known; nanoGPT itself begins a sample with a newline.
    about = {"dataset": dataset, "ends_documents": False, "iteration": content.get("iter_num")}
    config = {QUILL_KEY: {name: value for name, value in about.items() if value is not None}}
    dropout = arguments.dropout if dropout is None else dropout
    return LoadedModel(file, shape, dropout, weights, tokenizer, config, spec)


def read_pickle(file: Path) -> dict[str, Any]:
    """Return the content of a checkpoint through torch's loader for weights, which runs no code.

    Raises:
        CheckpointError: It wants to run something, is damaged, or is no checkpoint.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch, on the age of a format
            # Mapped where the format allows it: the optimizer's state, two thirds of the file, is then never read.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a pickle that is damaged or meant to do harm may raise nearly anything
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise CheckpointError(
                f"{file} is not plain data: it wants to run {wanted[1]}. Nothing was run; a checkpoint of nanoGPT "
                "holds tensors and plain values only, so do not trust this one"
            ) from None
        raise CheckpointError(
            f"{file} is damaged, or no checkpoint of nanoGPT: torch cannot read it as weights "
            f"({type(error).__name__}); copy it again"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is no checkpoint of nanoGPT: it holds no dictionary with model and model_args")
    return content


def read_arguments(given: object, file: Path) -> ModelArguments:
    """Return what a checkpoint says of its model.

    Raises:
        CheckpointError: It says nothing, or something that nanoGPT's model cannot be.
    """
    if not isinstance(given, Mapping):
        raise CheckpointError(f"{file} is no checkpoint of nanoGPT: it lacks the dictionary model_args")
    try:
        arguments = ModelArguments.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{file}: model_args does not describe a model of nanoGPT: {name}: {first['msg'].lower()}"
        ) from None
    if arguments.n_embd % arguments.n_head:
        raise CheckpointError(
            f"{file}: model_args says n_embd = {arguments.n_embd}, which n_head = {arguments.n_head} does not divide"
        )
    return arguments


def read_weights(given: object, file: Path) -> Tensors:
    """Return a checkpoint's tensors in float32, under the names and in the layouts of GPT-2's stock class.

    They are copied: the file may be written again while the model is in use.

    Raises:
        CheckpointError: There are none, or something else is among them.
    """
    if not isinstance(given, Mapping) or not given:
        raise CheckpointError(f"{file} is no checkpoint of nanoGPT: it lacks the dictionary model")
    weights: Tensors = {}
    for name, tensor in given.items():
        dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.is_floating_point()
        if not dense or not isinstance(name, str) or tensor.device.type != "cpu":
            raise CheckpointError(f"{file} is no checkpoint of nanoGPT: {name!r} in model is no tensor of weights")
        stored = name.removeprefix(COMPILED)
        tensor = tensor.to(torch.float32, copy=True)
        weights[stored] = tensor.T if STORED_TRANSPOSED.search(stored) and tensor.ndim == 2 else tensor
    return weights


def check_sizes(arguments: ModelArguments, weights: Tensors, file: Path) -> None:
    """Check that the weights are as large as model_args says, before a model of that size is made.

    Raises:
        CheckpointError: They are not.
    """
    expected = {
        "transformer.wte.weight": (arguments.vocab_size, arguments.n_embd),
        "transformer.wpe.weight": (arguments.block_size, arguments.n_embd),
    }
    for name, size in expected.items():
        found = tuple(weights[name].shape) if name in weights else "missing"
        if found != size:
            raise CheckpointError(f"{file}: by model_args {name} has the shape {size}; in the weights it is {found}")
    layers = {name.split(".")[2] for name in weights if name.startswith("transformer.h.")}
    if len(layers) != arguments.n_layer:
        raise CheckpointError(f"{file}: by model_args n_layer = {arguments.n_layer}; the weights have {len(layers)}")


def shape_of(arguments: ModelArguments, weights: Tensors) -> ModelShape:
    """Return the shape of a model of nanoGPT; the head is the token embedding unless the weights say otherwise."""
    head = weights.get("lm_head.weight")
    return ModelShape(
        arch="gpt2",
        vocab_size=arguments.vocab_size,
        block_size=arguments.block_size,
        n_layer=arguments.n_layer,
        n_head=arguments.n_head,
        n_kv_head=arguments.n_head,
        n_embd=arguments.n_embd,
        head_dim=arguments.n_embd // arguments.n_head,
        mlp_dim=usual_mlp_dim("gpt2", arguments.n_embd),
        bias=arguments.bias,
        activation="gelu",
        tied=head is None or torch.equal(head, weights["transformer.wte.weight"]),
    )


def read_dataset_name(config: object, file: Path) -> str | None:
    """Return the name of the data set that a checkpoint was trained on; None where it does not say.

    Raises:
        CheckpointError: What it says is no name of a folder in data_dir.
    """
    name = config.get("dataset") if isinstance(config, Mapping) else None
    if name is None:
        return None
    if not isinstance(name, str) or not is_plain_path(name):
        raise CheckpointError(f"{file} names the data set {name!r}, which is no folder in data_dir; do not trust it")
    return name


def find_tokenizer(file: Path, dataset: str | None, data_dir: Path, *, rows: int) -> tuple[Tokenizer, str]:
    """Return the tokenizer of a checkpoint of nanoGPT, and what `--tokenizer` would mean it.

    That is the meta.pkl beside the checkpoint, or in its data set's folder; else, as nanoGPT has it, GPT-2's.

    Args:
        file: The checkpoint.
        dataset: The name of its data set, where it is known.
        data_dir: Where data sets live.
        rows: Of the model's vocabulary.

    Raises:
        DataError: meta.pkl is damaged or wants to run code, or GPT-2's tokenizer cannot be fetched.
        TokenizerError: It does not fit the model's vocabulary.
    """
    places = [file.parent, *([data_dir / dataset] if dataset else [])]
    meta = next((place / META_FILE for place in places if (place / META_FILE).is_file()), None)
    tokenizer: Tokenizer = gpt2_tokenizer() if meta is None else read_nanogpt_meta(meta)
    missing = f"there is no {META_FILE} in {' or '.join(str(place) for place in places)}"
    if not tokenizer.vocab_size <= rows < tokenizer.vocab_size + MOST_PADDING:
        found = f"{missing}, and GPT-2's tokenizer" if meta is None else f"{meta}"
        raise TokenizerError(
            f"the model in {file} has a vocabulary of {rows:,}, but {found} has {tokenizer.vocab_size:,} tokens; put "
            f"the {META_FILE} of its data set beside it, or say with --data_dir where its data set is"
        )
    if meta is None:
        say(f"{missing}, so the tokenizer is taken to be GPT-2's")
    return tokenizer, "gpt2" if meta is None else str(meta)
