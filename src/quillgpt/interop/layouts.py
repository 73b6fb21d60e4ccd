"""The checkpoint layouts of programs that grew from nanoGPT, translated to nanoGPT's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from quillgpt.config.schema import GeluName
from quillgpt.console import say
from quillgpt.errors import CheckpointError
from quillgpt.interop.pickles import PLAIN, Fields

BUILD_NANOGPT_FIELDS = frozenset({"block_size", "vocab_size", "n_layer", "n_head", "n_embd"})
SIMPLEGPT_NAMES = {"n_vocab": "vocab_size", "n_ctx": "block_size"}


@dataclass(frozen=True)
class Layout:
    """A checkpoint in nanoGPT's terms.

    Attributes:
        arguments: The arguments of its model, not yet checked; None if there are none.
        weights: Its tensors, not yet checked; None if there are none.
        iteration: The number of iterations it was trained for, not yet checked.
        dataset: The name of its data set, not yet checked.
        base: The name of the base model, if it has adapters only; not yet checked.
        activation: The GELU of its program.
        tokenizer: `gpt2`, or `codes` for one token per code point; None for that of its data set.
    """

    arguments: object
    weights: object
    iteration: object = None
    dataset: object = None
    base: object = None
    activation: GeluName = "gelu"
    tokenizer: str | None = None


def recognise(content: Mapping[Any, Any], file: Path) -> Layout:
    """Return the layout of a checkpoint, by the program that wrote it.

    Raises:
        CheckpointError: Quill does not know the models of this program.
    """
    config = content.get("config")
    if "model_args" not in content and isinstance(config, Fields) and isinstance(content.get("model"), Mapping):
        return _with_dataclass(content, vars(config), file)
    if "state_dict" in content and "model" not in content:
        return _of_lightning(content, file)
    if content and all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{file} is a bare state_dict: the number of heads is missing, and shapes do not show it. In the program "
            f"that wrote it, save both: {PLAIN}"
        )
    settings = config if isinstance(config, Mapping) else {}
    return Layout(
        content.get("model_args"),
        content.get("model"),
        content.get("iter_num"),
        settings.get("dataset"),
        base=settings.get("init_from"),
    )


def _with_dataclass(content: Mapping[Any, Any], config: Mapping[str, Any], file: Path) -> Layout:
    """Return the layout of a checkpoint whose `config` is the model's dataclass, as build-nanogpt saves it."""
    arguments = {name: value for name, value in config.items() if name != "values"}
    iteration = content.get("step", content.get("iter_num"))
    if arguments.keys() != BUILD_NANOGPT_FIELDS:  # with biases and dropout it is nanoGPT's dataclass
        return Layout(arguments, content["model"], iteration)
    say(f"{file} has the layout of build-nanogpt: biases, GELU by tanh, and GPT-2's tokens")
    return Layout(arguments, content["model"], iteration, activation="gelu_new", tokenizer="gpt2")


def _of_lightning(content: Mapping[Any, Any], file: Path) -> Layout:
    """Return the layout of a checkpoint of simpleGPT's model that lightning saved.

    Raises:
        CheckpointError: It has another model.
    """
    settings = content.get("hyper_parameters")
    model = settings.get("model") if isinstance(settings, Mapping) else None
    weights = content["state_dict"]
    named = isinstance(weights, Mapping) and all(str(name).startswith("gpt.") for name in weights)
    if not isinstance(settings, Mapping) or not isinstance(model, Mapping) or "n_vocab" not in model or not named:
        raise CheckpointError(
            f"{file} has lightning's layout (state_dict), but only simpleGPT's model is known. In the program "
            f"that wrote it, save its weights as nanoGPT does: {PLAIN}"
        )
    say(f"{file} has lightning's layout, of simpleGPT's model")
    arguments = {SIMPLEGPT_NAMES.get(name, name): value for name, value in model.items()}
    optimization = settings.get("optimization")
    if isinstance(optimization, Mapping) and "dropout_p" in optimization:
        arguments["dropout"] = optimization["dropout_p"]
    return Layout(
        arguments,
        {f"transformer.{name.removeprefix('gpt.')}": tensor for name, tensor in weights.items()},
        content.get("global_step"),
        tokenizer="codes" if settings.get("tokenizer_name") == "char" else "gpt2",
    )
