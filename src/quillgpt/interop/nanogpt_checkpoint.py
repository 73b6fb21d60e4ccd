"""nanoGPT's ckpt.pt, and what programs that grew from it write: weights, shape and tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from quillgpt.attention import KernelSpec
from quillgpt.checkpoint.load import LoadedModel, load_model
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.checkpoint.stock_classes import QUILL_KEY
from quillgpt.checkpoint.tensors import Tensors, check_stored
from quillgpt.config.schema.attention import parse_attn_type
from quillgpt.console import say
from quillgpt.data.dataset import META_FILE
from quillgpt.errors import CheckpointError, TokenizerError, cut, shorten
from quillgpt.files import is_plain_path
from quillgpt.interop.adapters import ADAPTER, holds_adapters_alone, merge, name_of_base
from quillgpt.interop.layouts import recognise
from quillgpt.interop.pickles import read_pickle
from quillgpt.model import ARCHITECTURES, Activation, GPTConfig, empty_model
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.gpt2 import gpt2_tokenizer
from quillgpt.text.tokenizers.nanogpt_meta import read_nanogpt_meta
from quillgpt.text.tokenizers.tokenizer import Tokenizer

CHECKPOINT_FILE, MUNCHKIN_FILE = "ckpt.pt", "checkpoint.pt"
"""How nanoGPT and munchkin call their checkpoints, which have one layout."""

SUFFIXES = (".pt", ".pth", ".ckpt")
"""How the names of nanoGPT's checkpoints end, should somebody have renamed one."""

TOKENS, POSITIONS = "transformer.wte.weight", "transformer.wpe.weight"

COMPILED, SPREAD = "_orig_mod.", "module."
"""What torch.compile and training on several GPUs put before the names of tensors."""

MASK = re.compile(r"\.attn\.(masked_)?bias$")
"""Constant masks that are stored beside the weights."""

WEIGHT_OF_NORM = re.compile(r"\.ln_\w+\.weight$")

MOST_SHARED = 2
"""How many times over the bytes of a file are tensors: the head may be the token embedding."""

STORED_TRANSPOSED = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
"""Matrices that GPT-2's stock class holds as (in, out), and nanoGPT as (out, in)."""

MOST_PADDING = 256
"""Rows of the vocabulary come in multiples of at most this many; more spare rows belong to another tokenizer."""

FIRST_SURROGATE = 0xD800
"""From here on, code points are no characters."""

LONGEST_NAME = 60

Positive = Annotated[int, Field(gt=0)]


def check_kernel(name: str) -> str:
    """Return the name of an attention kernel; a ValueError lists those that there are."""
    parse_attn_type(name)
    return name


class ModelArguments(BaseModel):
    """What the checkpoints of nanoGPT and homomorphic-attention say of the model; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    n_layer: Positive
    n_head: Positive
    n_embd: Positive
    block_size: Positive
    vocab_size: Positive | None
    bias: bool = True
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    attn_type: Annotated[str, Field(max_length=LONGEST_NAME), AfterValidator(check_kernel)] = "SM"
    add_lora: bool = False


def find_nanogpt_file(path: Path) -> Path | None:
    """Return the checkpoint of nanoGPT that a person's path means; None where it means something else.

    A folder that holds a model of ours or of Hugging Face's layout too means that.
    """
    if path.is_file():
        return path if path.suffix.lower() in SUFFIXES else None
    if (path / "config.json").is_file() or checkpoints_folder(path).is_dir():
        return None
    files = (path / name for name in (CHECKPOINT_FILE, MUNCHKIN_FILE))
    return next((file for file in files if file.is_file()), None)


def load_nanogpt(
    file: Path, *, data_dir: Path, dropout: float | None = None, open_base: Callable[[Path], LoadedModel] = load_model
) -> LoadedModel:
    """Load the weights of a checkpoint that nanoGPT or a program like it wrote, with the tokenizer of its data set.

    Args:
        file: The checkpoint.
        data_dir: Where the folder of its data set may be, with the table of characters meta.pkl.
        dropout: Dropout for further training; None keeps the stored one.
        open_base: Opens the model by whose name the checkpoint calls what its adapters belong to.

    Raises:
        CheckpointError: It is damaged, wants to run code, or holds no model of nanoGPT's.
        DataError: meta.pkl is damaged or wants to run code, or GPT-2's tokenizer cannot be fetched.
        TokenizerError: The tokenizer that was found is another model's.
    """
    layout = recognise(read_pickle(file), file)
    arguments = read_arguments(layout.arguments, file)
    given = read_tensors(layout.weights, file)
    if holds_adapters_alone(given):
        base = open_base(Path(name_of_base(layout.base, file)))
        weights, arguments = weights_of_base(base, arguments), arguments_of_base(base, arguments)
    else:
        weights = stock_weights(given)
    merge({name: tensor.float() for name, tensor in given.items() if ADAPTER.fullmatch(name)}, weights, file)
    check_sizes(arguments, weights, file)
    config = config_of(arguments, weights, layout.activation)
    if config.bias and not arguments.bias:
        weights = missing_biases(weights) | weights
    check_stored(weights, weights, empty_model(config), where=str(file))
    dataset = read_dataset_name(layout.dataset, file)
    tokenizer, spec = find_tokenizer(file, dataset, data_dir, rows=config.vocab_size, known=layout.tokenizer)
    # Whether its documents ended with end-of-text is not known; nanoGPT itself begins a sample with a newline.
    about = {"dataset": dataset, "ends_documents": False, "iteration": layout.iteration}
    config_json = {QUILL_KEY: {name: value for name, value in about.items() if value is not None}}
    dropout = arguments.dropout if dropout is None else dropout
    return LoadedModel(file, config, dropout, weights, tokenizer, config_json, spec)


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
        name = cut(".".join(map(str, first["loc"])), LONGEST_NAME)
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] != "value_error":
            reason = reason[:1].lower() + reason[1:]
        raise CheckpointError(f"{file}: model_args does not describe a model of nanoGPT: {name}: {reason}") from None
    if arguments.n_embd % arguments.n_head:
        raise CheckpointError(
            f"{file}: model_args says n_embd = {arguments.n_embd}, which n_head = {arguments.n_head} does not divide"
        )
    return arguments


def read_tensors(given: object, file: Path) -> Tensors:
    """Return a checkpoint's tensors by their names in nanoGPT's model, still where they lie in the file.

    Raises:
        CheckpointError: There are none, something else is among them, or they say that they are larger than the file.
    """
    if not isinstance(given, Mapping) or not given:
        raise CheckpointError(f"{file} is no checkpoint of nanoGPT: it lacks the dictionary model")
    tensors: Tensors = {}
    for name, tensor in given.items():
        dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.is_floating_point()
        if not dense or not isinstance(name, str) or tensor.device.type != "cpu":
            raise CheckpointError(f"{file} is no checkpoint of nanoGPT: {name!r:.80} in model is no tensor of weights")
        tensors[name.removeprefix(SPREAD).replace(COMPILED, "")] = tensor.detach()
    large, there = sum(tensor.nbytes for tensor in tensors.values()), file.stat().st_size
    if large > MOST_SHARED * there:
        raise CheckpointError(
            f"{file} is damaged: its tensors would have {large:,} bytes, and the file has {there:,}; copy it again"
        )
    return {name: tensor for name, tensor in tensors.items() if not MASK.search(name)}


def stock_weights(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the weights in float32, in the layouts of GPT-2's stock class.

    They are copied: the file may be written again while the model is in use.
    """
    copied = {
        name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items() if not ADAPTER.fullmatch(name)
    }
    return {
        name: tensor.T if STORED_TRANSPOSED.search(name) and tensor.ndim == 2 else tensor
        for name, tensor in copied.items()
    }


def weights_of_base(base: LoadedModel, arguments: ModelArguments) -> Tensors:
    """Return a base's weights, cut to the context that its adapters were trained with."""
    weights = {name: tensor.float().clone() for name, tensor in base.weights.items() if not MASK.search(name)}
    positions = weights[POSITIONS]
    return weights | {POSITIONS: positions[: min(arguments.block_size, len(positions))]}


def arguments_of_base(base: LoadedModel, arguments: ModelArguments) -> ModelArguments:
    """Return what a checkpoint of adapters says of its model, with the sizes of its base, which it may have wrong."""
    sizes = {name: getattr(base.config, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size", "bias")}
    block_size = min(arguments.block_size, base.config.block_size)
    return arguments.model_copy(update=sizes | {"block_size": block_size})


def missing_biases(weights: Mapping[str, Tensor]) -> Tensors:
    """Return biases of zero for those linear maps that have none."""
    maps = [name for name in weights if STORED_TRANSPOSED.search(name)]
    return {name.removesuffix("weight") + "bias": torch.zeros(weights[name].shape[-1]) for name in maps}


def check_sizes(arguments: ModelArguments, weights: Tensors, file: Path) -> None:
    """Check that the weights are as large as model_args says, before a model of that size is made.

    Raises:
        CheckpointError: They are not.
    """
    rows = arguments.vocab_size or len(weights.get(TOKENS, ()))  # homomorphic-attention may leave it open
    expected = {TOKENS: (rows, arguments.n_embd), POSITIONS: (arguments.block_size, arguments.n_embd)}
    for name, size in expected.items():
        found = tuple(weights[name].shape) if name in weights else "missing"
        if found != size:
            raise CheckpointError(f"{file}: by model_args {name} has the shape {size}; in the weights it is {found}")
    layers = {name.split(".")[2] for name in weights if name.startswith("transformer.h.")}
    if len(layers) != arguments.n_layer:
        raise CheckpointError(f"{file}: by model_args n_layer = {arguments.n_layer}; the weights have {len(layers)}")


def config_of(arguments: ModelArguments, weights: Tensors, activation: Activation) -> GPTConfig:
    """Return the shape of a model of nanoGPT; the head is the token embedding unless the weights say otherwise.

    Where norms alone have biases, as in homomorphic-attention, the model has them everywhere, and those are zero.
    """
    head = weights.get("lm_head.weight")
    norms = [weights.get(name.removesuffix("weight") + "bias") for name in weights if WEIGHT_OF_NORM.search(name)]
    biased = all(bias is not None for bias in norms) and any(bias.any() for bias in norms if bias is not None)
    return GPTConfig(
        arch="gpt2",
        vocab_size=len(weights[TOKENS]),
        block_size=arguments.block_size,
        n_layer=arguments.n_layer,
        n_head=arguments.n_head,
        n_kv_head=arguments.n_head,
        n_embd=arguments.n_embd,
        head_dim=arguments.n_embd // arguments.n_head,
        mlp_dim=ARCHITECTURES["gpt2"].mlp_dim(arguments.n_embd),
        bias=arguments.bias or biased,
        activation=activation,
        tied=head is None or torch.equal(head, weights[TOKENS]),
        kernel=KernelSpec(arguments.attn_type),
    )


def read_dataset_name(name: object, file: Path) -> str | None:
    """Return the name of the data set that a checkpoint was trained on; None where it does not say.

    Raises:
        CheckpointError: What it says is no name of a folder in data_dir.
    """
    if name is None:
        return None
    if not isinstance(name, str) or not is_plain_path(name):
        raise CheckpointError(
            f"{file} names the data set {shorten(name)}, which is no folder in data_dir; do not trust it"
        )
    return name


def find_tokenizer(
    file: Path, dataset: str | None, data_dir: Path, *, rows: int, known: str | None = None
) -> tuple[Tokenizer, str | None]:
    """Return the tokenizer of a checkpoint of nanoGPT, and what `--tokenizer` would mean it.

    That is the meta.pkl beside the checkpoint, or in its data set's folder; else, as nanoGPT has it, GPT-2's.

    Args:
        file: The checkpoint.
        dataset: The name of its data set, where it is known.
        data_dir: Where data sets live.
        rows: Of the model's vocabulary.
        known: What its program's layout says the tokenizer is.

    Raises:
        DataError: meta.pkl is damaged or wants to run code, or GPT-2's tokenizer cannot be fetched.
        TokenizerError: It does not fit the model's vocabulary.
    """
    if known == "codes":
        return CharTokenizer(map(chr, range(min(rows, FIRST_SURROGATE)))), None
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
    if meta is None and known is None:
        say(f"{missing}, so the tokenizer is taken to be GPT-2's")
    return tokenizer, "gpt2" if meta is None else str(meta)
