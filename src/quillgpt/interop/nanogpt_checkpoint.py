"""Loading nanoGPT's ckpt.pt, and checkpoints of programs that grew from it: weights, configuration and tokenizer."""

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
from quillgpt.checkpoint.stock_classes import QUILL_KEY, STOCK_CLASSES
from quillgpt.checkpoint.tensors import Tensors, check_stored
from quillgpt.config.schema import GeluName
from quillgpt.config.schema.attention import parse_attn_type
from quillgpt.console import say
from quillgpt.data.dataset import META_FILE
from quillgpt.errors import CheckpointError, TokenizerError, cut, shorten
from quillgpt.files import is_plain_path
from quillgpt.interop.adapters import ADAPTER, holds_adapters_alone, merge, name_of_base
from quillgpt.interop.layouts import recognise
from quillgpt.interop.pickles import read_pickle
from quillgpt.model import ARCHITECTURES, GPTConfig, empty_model
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.gpt2 import gpt2_tokenizer
from quillgpt.text.tokenizers.nanogpt_meta import read_nanogpt_meta
from quillgpt.text.tokenizers.tokenizer import Tokenizer

CHECKPOINT_FILE, MUNCHKIN_FILE = "ckpt.pt", "checkpoint.pt"
"""The names of the checkpoints of nanoGPT and munchkin, which have the same layout."""

SUFFIXES = (".pt", ".pth", ".ckpt")
"""The endings of nanoGPT's checkpoints, also renamed ones."""

TOKENS, POSITIONS = "transformer.wte.weight", "transformer.wpe.weight"

COMPILED, SPREAD = "_orig_mod.", "module."
"""The prefixes that torch.compile and DistributedDataParallel add to the names of tensors."""

MASK = re.compile(r"\.attn\.(masked_)?bias$")
"""Constant masks that are stored with the weights."""

WEIGHT_OF_NORM = re.compile(r"\.ln_\w+\.weight$")

MOST_SHARED = 2
"""The size of all tensors is at most this many times that of the file: the head may share the token embedding."""

MOST_PADDING = 256
"""A vocabulary is padded by fewer rows than this; more spare rows mean another tokenizer."""

FIRST_SURROGATE = 0xD800
"""The first code point that is not a character."""

LONGEST_NAME = 60

Positive = Annotated[int, Field(gt=0)]


def check_kernel(name: str) -> str:
    """Return the name of an attention kernel; a ValueError lists the known ones."""
    parse_attn_type(name)
    return name


class ModelArguments(BaseModel):
    """The model_args of nanoGPT's and homomorphic-attention's checkpoints; an unknown key is an error."""

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
    """Return the nanoGPT checkpoint at a path; None if there is none.

    A folder that also has a model of ours, or in Hugging Face's layout, counts as that.
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
    """Load a checkpoint of nanoGPT or a program like it, with the tokenizer of its data set.

    Args:
        file: The checkpoint.
        data_dir: Folder of data sets; that of the checkpoint may have a meta.pkl.
        dropout: Dropout for further training; None keeps the stored one.
        open_base: Opens the base model of adapters by its name.

    Raises:
        CheckpointError: It is damaged, contains code, or has no model of nanoGPT's.
        DataError: meta.pkl is damaged or contains code, or GPT-2's tokenizer cannot be fetched.
        TokenizerError: The tokenizer does not fit the model.
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
    # It is not known whether its documents end with end-of-text; nanoGPT itself begins a sample with a newline.
    about = {"dataset": dataset, "ends_documents": False, "iteration": layout.iteration}
    config_json = {QUILL_KEY: {name: value for name, value in about.items() if value is not None}}
    dropout = arguments.dropout if dropout is None else dropout
    return LoadedModel(file, config, dropout, weights, tokenizer, config_json, spec)


def read_arguments(given: object, file: Path) -> ModelArguments:
    """Return the model_args of a checkpoint.

    Raises:
        CheckpointError: There are none, or nanoGPT cannot have such a model.
    """
    if not isinstance(given, Mapping):
        raise CheckpointError(f"{file} is not a checkpoint of nanoGPT: it lacks the dictionary model_args")
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
    """Return a checkpoint's tensors by their names in nanoGPT's model, still mapped from the file.

    Raises:
        CheckpointError: There are none, one is not a tensor, or they are larger than the file.
    """
    if not isinstance(given, Mapping) or not given:
        raise CheckpointError(f"{file} is not a checkpoint of nanoGPT: it lacks the dictionary model")
    tensors: Tensors = {}
    for name, tensor in given.items():
        dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.is_floating_point()
        if not dense or not isinstance(name, str) or tensor.device.type != "cpu":
            raise CheckpointError(
                f"{file} is not a checkpoint of nanoGPT: {name!r:.80} in model is not a tensor of weights"
            )
        tensors[name.removeprefix(SPREAD).replace(COMPILED, "")] = tensor.detach()
    tensor_bytes, file_bytes = sum(tensor.nbytes for tensor in tensors.values()), file.stat().st_size
    if tensor_bytes > MOST_SHARED * file_bytes:
        raise CheckpointError(
            f"{file} is damaged: its tensors would have {tensor_bytes:,} bytes, but the file has {file_bytes:,}; copy "
            "it again"
        )
    return {name: tensor for name, tensor in tensors.items() if not MASK.search(name)}


def stock_weights(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the weights in float32, in the layouts of the GPT-2 class of transformers.

    They are copied, because the file may be overwritten while the model is in use.
    """
    copied = {
        name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items() if not ADAPTER.fullmatch(name)
    }
    return {
        name: tensor.T if STOCK_CLASSES["gpt2"].stores_transposed(name) and tensor.ndim == 2 else tensor
        for name, tensor in copied.items()
    }


def weights_of_base(base: LoadedModel, arguments: ModelArguments) -> Tensors:
    """Return the weights of a base model, with positions cut to the context of its adapters."""
    weights = {name: tensor.float().clone() for name, tensor in base.weights.items() if not MASK.search(name)}
    positions = weights[POSITIONS]
    return weights | {POSITIONS: positions[: min(arguments.block_size, len(positions))]}


def arguments_of_base(base: LoadedModel, arguments: ModelArguments) -> ModelArguments:
    """Return the model_args of a checkpoint of adapters with the sizes of its base, which they may have wrong."""
    sizes = {name: getattr(base.config, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size", "bias")}
    block_size = min(arguments.block_size, base.config.block_size)
    return arguments.model_copy(update=sizes | {"block_size": block_size})


def missing_biases(weights: Mapping[str, Tensor]) -> Tensors:
    """Return zero biases for the linear maps that have no bias."""
    maps = [name for name in weights if STOCK_CLASSES["gpt2"].stores_transposed(name)]
    return {name.removesuffix("weight") + "bias": torch.zeros(weights[name].shape[-1]) for name in maps}


def check_sizes(arguments: ModelArguments, weights: Tensors, file: Path) -> None:
    """Check that the weights have the sizes in model_args, before a model of these sizes is made.

    Raises:
        CheckpointError: They have not.
    """
    rows = arguments.vocab_size or len(weights.get(TOKENS, ()))  # homomorphic-attention may leave it out
    expected = {TOKENS: (rows, arguments.n_embd), POSITIONS: (arguments.block_size, arguments.n_embd)}
    for name, size in expected.items():
        actual = tuple(weights[name].shape) if name in weights else "missing"
        if actual != size:
            raise CheckpointError(f"{file}: by model_args {name} has the shape {size}; in the weights it is {actual}")
    layers = {name.split(".")[2] for name in weights if name.startswith("transformer.h.")}
    if len(layers) != arguments.n_layer:
        raise CheckpointError(f"{file}: by model_args n_layer = {arguments.n_layer}; the weights have {len(layers)}")


def config_of(arguments: ModelArguments, weights: Tensors, activation: GeluName) -> GPTConfig:
    """Return the configuration of a nanoGPT model; the head is the token embedding unless the weights differ.

    If only norms have biases, as in homomorphic-attention, the model has biases everywhere; the others are zero.
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
    """Return the name of the data set that a checkpoint was trained on; None if it has none.

    Raises:
        CheckpointError: It is not the name of a folder in data_dir.
    """
    if name is None:
        return None
    if not isinstance(name, str) or not is_plain_path(name):
        raise CheckpointError(
            f"{file} names the data set {shorten(name)}, which is not a folder in data_dir; do not trust it"
        )
    return name


def find_tokenizer(
    file: Path, dataset: str | None, data_dir: Path, *, rows: int, known: str | None = None
) -> tuple[Tokenizer, str | None]:
    """Return the tokenizer of a nanoGPT checkpoint, and the value of `--tokenizer` that gives it.

    It is the meta.pkl next to the checkpoint or in its data set's folder; otherwise GPT-2's, as in nanoGPT.

    Args:
        file: The checkpoint.
        dataset: The name of its data set, if known.
        data_dir: Folder of data sets.
        rows: Size of the model's vocabulary.
        known: The tokenizer of the checkpoint's layout, if it has one.

    Raises:
        DataError: meta.pkl is damaged or contains code, or GPT-2's tokenizer cannot be fetched.
        TokenizerError: It does not fit the model's vocabulary.
    """
    if known == "codes":
        return CharTokenizer(map(chr, range(min(rows, FIRST_SURROGATE)))), None
    places = [file.parent, *([data_dir / dataset] if dataset else [])]
    meta = next((place / META_FILE for place in places if (place / META_FILE).is_file()), None)
    tokenizer: Tokenizer = gpt2_tokenizer() if meta is None else read_nanogpt_meta(meta)
    missing = f"there is no {META_FILE} in {' or '.join(str(place) for place in places)}"
    if not tokenizer.vocab_size <= rows < tokenizer.vocab_size + MOST_PADDING:
        place = f"{missing}, and GPT-2's tokenizer" if meta is None else f"{meta}"
        raise TokenizerError(
            f"the model in {file} has a vocabulary of {rows:,}, but {place} has {tokenizer.vocab_size:,} tokens; put "
            f"the {META_FILE} of its data set next to it, or give the folder of its data set with --data_dir"
        )
    if meta is None and known is None:
        say(f"{missing}, so GPT-2's tokenizer is used")
    return tokenizer, "gpt2" if meta is None else str(meta)
