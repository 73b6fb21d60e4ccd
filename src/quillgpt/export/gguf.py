"""GGUF: one file with weights, tokenizer and settings for llama.cpp, and a Modelfile for Ollama."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quillgpt.checkpoint import LoadedModel
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.checkpoint.tensors import stored_pieces
from quillgpt.config.schema import Sampling
from quillgpt.export.byte_level import byte_level
from quillgpt.export.probe import Runtime
from quillgpt.export.silence import with_silent_token
from quillgpt.extras import import_extra
from quillgpt.files import write_text
from quillgpt.model import GPTConfig
from quillgpt.text.tokenizers.tokenizer_files import END_OF_TEXT

MODEL_FILE = "model.gguf"
MODELFILE = "Modelfile"
POSITIONS = "position_embd.weight"


def check_representable(loaded: LoadedModel) -> None:
    """Check that GGUF can express the model's tokenizer.

    Raises:
        CheckpointError: It cannot.
    """
    byte_level(loaded.tokenizer)


def write(loaded: LoadedModel, folder: Path, number_type: str) -> None:
    """Write model.gguf and Modelfile.

    Matrices get the number type; norms, biases and positions stay in float32. Rows of embedding and head without a
    token are left out. A tokenizer without an end of text gets one that is never sampled, because llama.cpp would take
    another token for it.

    Args:
        loaded: The model.
        folder: The folder to write to.
        number_type: `f32`, `f16` or `q8_0`; rows that do not divide into q8_0's groups of 32 stay in f16.
    """
    gguf = import_extra("gguf", extra="export", purpose="Writing GGUF")
    folder.mkdir(parents=True, exist_ok=True)
    state, config = _with_end_of_text(loaded)
    writer = gguf.GGUFWriter(folder / MODEL_FILE, arch=config.arch)
    writer.add_name(model_name(loaded.folder.absolute()))
    _describe_model(writer, config)
    _describe_tokenizer(writer, loaded, gguf)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if number_type == "f32" else f"MOSTLY_{number_type.upper()}"])
    for name, tensor in _tensors(state, config, gguf):
        number = _number_type(name, tensor, number_type, gguf)
        writer.add_tensor(name, gguf.quantize(tensor.detach().numpy(), number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_text(folder / MODELFILE, modelfile(loaded))


def _with_end_of_text(loaded: LoadedModel) -> tuple[dict[str, Tensor], GPTConfig]:
    """Return the model's tensors and configuration without rows that have no token, and with an end of text."""
    tokens, state = loaded.tokenizer.vocab_size, loaded.model.state_dict()
    if loaded.tokenizer.end_of_text is None:
        return with_silent_token(state, loaded.config, tokens)
    rows = {name: state[name][:tokens] for name in ("token_embedding.weight", "head.weight")}
    return state | rows, replace(loaded.config, vocab_size=tokens)


def _describe_model(writer: Any, config: GPTConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv_head)
    if config.architecture.norm == "layer":
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.architecture.positions == "rotary":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_rope_freq_base(config.rope_theta)


def model_name(folder: Path) -> str:
    """Return a name for the model: that of its folder, or of its run if it is a checkpoint."""
    run = folder.parents[1]
    return run.name if folder.parent == checkpoints_folder(run) else folder.name


def _describe_tokenizer(writer: Any, loaded: LoadedModel, gguf: ModuleType) -> None:
    expressed = byte_level(loaded.tokenizer)
    end = len(expressed.tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*expressed.tokens, END_OF_TEXT])
    writer.add_token_types([gguf.TokenType.NORMAL] * end + [gguf.TokenType.CONTROL])
    writer.add_token_merges(expressed.merges)
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    if loaded.tokenizer.end_of_text is None:
        writer.add_array("tokenizer.ggml.suppress_tokens", [end])


def _tensors(state: dict[str, Tensor], config: GPTConfig, gguf: ModuleType) -> Iterator[tuple[str, Tensor]]:
    """Yield GGUF's names and the tensors, (out, in)."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.arch.upper()], config.n_layer)
    for part, tensor in stored_pieces(state.items(), config):
        yield names.get_name(part.name, try_suffixes=(".weight", ".bias")), tensor


def _number_type(name: str, tensor: Tensor, wanted: str, gguf: ModuleType) -> Any:
    if tensor.ndim == 1 or name == POSITIONS:
        wanted = "f32"
    elif wanted == "q8_0" and tensor.shape[1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q8_0][0]:
        wanted = "f16"
    return gguf.GGMLQuantizationType[wanted.upper()]


def modelfile(loaded: LoadedModel) -> str:
    """Return a Modelfile with which Ollama samples as `quill sample` does; its own defaults penalise repetition."""
    sampling = Sampling()
    parameters: dict[str, object] = {
        "num_ctx": loaded.config.block_size,
        "num_predict": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": 1.0,
        "min_p": 0.0,
        "repeat_penalty": sampling.repetition_penalty,
    }
    if loaded.tokenizer.end_of_text is not None:
        parameters["stop"] = f'"{END_OF_TEXT}"'
    lines = [f"FROM ./{MODEL_FILE}", 'TEMPLATE """{{ .Prompt }}"""']
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


@functools.cache  # llama.cpp calls the listener as long as the process lives
def _hush(llama_cpp: Any) -> Any:
    """Keep llama.cpp from logging to the terminal."""
    listener = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(listener, None)
    return listener


class LlamaCpp(Runtime):
    """The file in llama.cpp, with its defaults: its key-value cache has 16 bits."""

    def __init__(self, folder: Path) -> None:
        llama_cpp = importlib.import_module("llama_cpp")
        self.name = f"llama-cpp-python {llama_cpp.__version__}"
        _hush(llama_cpp)
        # n_ctx=0: the context that the file says. logits_all: keep the logits of every position.
        self._model = llama_cpp.Llama(str(folder / MODEL_FILE), n_ctx=0, logits_all=True, verbose=False)
        self.end_of_text = self._model.token_eos()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, in which special tokens are ordinary text."""
        return list(self._model.tokenize(text.encode("utf-8"), add_bos=False, special=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids."""
        content: bytes = self._model.detokenize(list(ids))
        return content.decode("utf-8", "replace")

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of every position, (T, V)."""
        self._model.reset()
        self._model.eval(list(ids))
        return torch.from_numpy(np.array(self._model.scores[: len(ids)]))

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return the greedy continuation, from llama.cpp's own loop with its own stop."""
        self._model.reset()
        tokens: list[int] = []
        for token in self._model.generate(list(ids), temp=0.0, repeat_penalty=1.0):
            if token == self.end_of_text or len(tokens) == count:
                break
            tokens.append(token)
        return tokens
