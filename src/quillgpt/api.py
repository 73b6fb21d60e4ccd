"""The library: load a model, generate text, evaluate it.

Example:
    model = quillgpt.load("out-shakespeare-char")
    print(model.generate("ROMEO:", max_new_tokens=200)[0].text)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from quillgpt.checkpoint import LoadedModel
from quillgpt.config import resolve_flat
from quillgpt.config.dataset_names import is_dataset_name, split_mixture
from quillgpt.config.paths import expand
from quillgpt.config.runs import places_of
from quillgpt.config.schema import SPECIAL_ORIGINS, Quantize, Sampling
from quillgpt.console import progress, say, warn
from quillgpt.data.batches import Tokens
from quillgpt.data.dataset import Dataset, dataset_folder, find_dataset, open_dataset, prepare_hint
from quillgpt.data.document_ends import document_ends
from quillgpt.device import choose_device, choose_dtype, choose_threads, return_freed_memory, use_large_pages
from quillgpt.errors import CheckpointError, ConfigError, DataError, shorten
from quillgpt.evaluation import SPREAD_SEED, Score, Windows, score_windows
from quillgpt.generation import Sample, draw_samples, prompt_ids, with_known_start, without_unknown_end
from quillgpt.generation.sample import TextListener
from quillgpt.interop import open_model
from quillgpt.model import GPT, GPTConfig, check_quantize, inference_form
from quillgpt.text.sources.corpora import recipe_named
from quillgpt.text.tokenizers.tokenizer import Tokenizer
from quillgpt.trace import Tracer, open_tracer

EVALUATION_TOKENS = 4096
"""Tokens computed at once in an evaluation, by default."""


class Model:
    """A model on a device, with its tokenizer.

    Attributes:
        folder: The folder that it was loaded from.
        gpt: The torch module, float32, in evaluation mode; read when it is first used.
        tokenizer: Its tokenizer.
        device: The device that it computes on.
        dtype: The number format that it computes in.
        quantize: `int8` if it generates and is evaluated with weights of 8 bits, else `none`.
        about: What Quill recorded about its training; empty for folders of other programs.
    """

    def __init__(
        self, loaded: LoadedModel, device: torch.device, dtype: torch.dtype, *, quantize: Quantize = "none"
    ) -> None:
        self._loaded = loaded
        self.folder: Path = loaded.folder
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.device = device
        self.dtype = dtype
        self.quantize = quantize
        self.about: dict[str, Any] = loaded.about

    @cached_property
    def gpt(self) -> GPT:
        """The torch module, float32, in evaluation mode."""
        return self._loaded.model.to(self.device)

    @cached_property
    def writer(self) -> GPT:
        """The model with its weights in the number format of the computation, so that a token reads fewer bytes."""
        form = inference_form(self.dtype, quantize=self.quantize, device=self.device)
        return self.gpt if form is None else self._loaded.build(form).to(self.device)

    @property
    def scorer(self) -> tuple[GPT, torch.dtype]:
        """The module that evaluates texts, and the number format of its matrix products."""
        return (self.gpt, self.dtype) if self.quantize == "none" else (self.writer, torch.float32)

    @property
    def parameters(self) -> int:
        """The number of its parameters, tied ones counted once."""
        return self._loaded.skeleton().parameter_count()

    @property
    def config(self) -> GPTConfig:
        """The configuration of the model."""
        return self._loaded.config

    @property
    def recorded_datasets(self) -> dict[str, str | None]:
        """The names of the data sets that it was trained on, with their fingerprints; empty if none is recorded.

        Raises:
            CheckpointError: A recorded name is not the name of a folder in data_dir.
        """
        recorded, fingerprint = self.about.get("dataset"), self.about.get("data_fingerprint")
        if recorded is None:
            return {}
        fingerprints = fingerprint.split(",") if isinstance(fingerprint, str) else [None]
        with suppress(ConfigError):
            names = list(split_mixture(recorded)) if len(fingerprints) > 1 and isinstance(recorded, str) else [recorded]
            if len(names) == len(fingerprints) and all(isinstance(n, str) and is_dataset_name(n) for n in names):
                return dict(zip(names, fingerprints, strict=True))
        raise CheckpointError(
            f"{self.folder} names the data set {shorten(recorded)}, which is no folder in data_dir; do not trust "
            "it, and name a data set with --dataset NAME"
        )

    def prompt(self, start: str | None) -> tuple[str, list[int]]:
        """Return a prompt as text and token ids; None is the start of a text, as the model learned it."""
        if start and self._loaded.never_saw_end_of_text:
            start = without_unknown_end(self.tokenizer, start)
        elif start and self._loaded.starts_with_end_of_text:
            start = with_known_start(self.tokenizer, start)
        return prompt_ids(self.tokenizer, start, starts_with_end_of_text=self._loaded.starts_with_end_of_text)

    def generate(
        self, start: str | None = None, *, on_text: TextListener | None = None, **settings: Any
    ) -> list[Sample]:
        """Generate text.

        Args:
            start: The prompt; None is end-of-text if the model was trained with it, else a newline.
            on_text: Called with the text of the first sample, piece by piece.
            **settings: Settings of `quill sample` by their names, such as `num_samples` (here 1 by default),
                `max_new_tokens`, `temperature`, `seed`.

        Raises:
            TokenizerError: The tokenizer lacks a character of the start.
            ConfigError: A setting is unknown or impossible.
        """
        sampling = resolve_flat(Sampling, {"num_samples": 1, **settings}, environ={}, dotenv=None)
        return list(self.draw(self.prompt(start), sampling, on_text=on_text))

    def draw(
        self, prompt: tuple[str, list[int]], settings: Sampling, *, on_text: TextListener | None = None
    ) -> Iterator[Sample]:
        """Yield samples after a prompt (text and token ids), as they end, with the settings of `quill sample`."""
        unseen = len(prompt[1]) - self.config.block_size
        if unseen > 0:
            warn(
                f"the prompt has {len(prompt[1]):,} tokens, and the model sees {self.config.block_size:,} at once: its "
                f"first {unseen:,} are not seen"
            )
        return draw_samples(self.writer, self.tokenizer, prompt, settings, on_text=on_text)

    def open_dataset(self, name: str, *, data_dir: str = "data") -> Dataset:
        """Open a data set that was prepared with the model's tokenizer.

        Raises:
            DataError: It is missing; names the command that prepares it for this model.
            TokenizerError: It was prepared with another tokenizer.
        """
        folder = dataset_folder(name, Path(data_dir))
        try:
            if not folder.is_dir() and (recipe := recipe_named(name)):
                hint = prepare_hint(recipe, Path(data_dir))
                raise DataError(f"{folder} is not there; for this model, {hint} --tokenizer {self.folder}")
            dataset = open_dataset(name, Path(data_dir))
        except DataError:
            moved = self._moved_dataset(name, data_dir)
            if moved is None:
                raise
            dataset = moved
        self._loaded.check_tokenizer(dataset, Path(data_dir))
        return dataset

    def _moved_dataset(self, name: str, data_dir: str) -> Dataset | None:
        """Return the data set that the model was trained on from where it is now, by its fingerprint."""
        fingerprint = None
        with suppress(CheckpointError):  # what is recorded is no data set
            fingerprint = self.recorded_datasets.get(name)
        if fingerprint is None:
            return None
        dataset = find_dataset(name, fingerprint, self.tokenizer, places_of(data_dir, self.folder))
        if dataset is not None:
            say(f"the data set {name} is found by its fingerprint: it is {dataset.folder}")
        return dataset

    def tracer(self, datasets: Sequence[str] | None = None, *, data_dir: str = "data") -> Tracer:
        """Return what traces texts to the text that the model was trained on; what cannot be traced is said.

        Args:
            datasets: Names of prepared data sets to trace to instead.
            data_dir: The folder of data sets.

        Raises:
            ConfigError: No data set is named, and none is recorded with the model.
            DataError: A data set is missing, or is not the one that the model was trained on.
            UserError: The index has to be made, and the extra trace is not installed.
        """
        recorded = self.recorded_datasets if datasets is None else {}
        names = [name for name in datasets or () if name]
        if not recorded and not names:
            raise ConfigError(
                f"{self.folder} does not say on what it was trained; name the prepared data set: --dataset NAME"
            )
        opened = [self.open_dataset(name, data_dir=data_dir) for name in (*recorded, *names)]
        for dataset, fingerprint in zip(opened, recorded.values(), strict=False):
            if fingerprint is not None and dataset.fingerprint != fingerprint:
                raise DataError(
                    f"{dataset.folder} is not what {self.folder} was trained on: it was prepared again, from another "
                    "text or in another way; prepare it as it was, or trace to what is there now with "
                    f"--dataset {dataset.name}"
                )
        origin = self.about.get("init_from")
        is_finetuned = isinstance(origin, str) and origin not in SPECIAL_ORIGINS
        tracer = open_tracer(opened, finetuned_from=origin if is_finetuned else None)
        for note in tracer.notes:
            warn(note)
        return tracer

    def evaluate(
        self,
        dataset: Dataset | str,
        *,
        split: str = "val",
        data_dir: str = "data",
        batch_size: int | None = None,
        block_size: int | None = None,
        batches: int | None = None,
        stride: int | None = None,
        unit_size: int | None = None,
    ) -> Score:
        """Evaluate the model on a split, in non-overlapping blocks or in windows that overlap.

        Args:
            dataset: A prepared data set, or its name.
            split: `val` or `train`.
            data_dir: The folder of data sets.
            batch_size: Blocks computed at once; None takes as many as hold EVALUATION_TOKENS.
            block_size: Tokens of a block; None takes the context of the model, or the whole split if that is shorter.
            batches: Batches to take, spread over the split; None takes the whole split.
            stride: Tokens by which the window moves; None takes non-overlapping blocks.
            unit_size: Targets of a block, if standard errors are over blocks; None takes block_size.

        Raises:
            ConfigError: The blocks or the stride are too long.
            DataError: The data set is missing, shorter than a block, or has no such split.
            TokenizerError: It was prepared with another tokenizer.
        """
        if split not in ("val", "train"):
            raise DataError(f"split = {split} is unknown; expected val or train")
        if isinstance(dataset, str):
            dataset = self.open_dataset(dataset, data_dir=data_dir)
        else:
            self._loaded.check_tokenizer(dataset, Path(data_dir))
        tokens: Tokens = dataset.train if split == "train" else dataset.val
        windows = self.windows(tokens, block_size=block_size, stride=stride)
        if block_size is None and 1 < len(tokens) <= self.config.block_size:
            warn(
                f"{dataset.name} {split} has fewer tokens than the model sees at once ({self.config.block_size:,}); it "
                f"is read in one block of {len(tokens) - 1:,}"
            )
        batch_size = batch_size or max(1, EVALUATION_TOKENS // windows.block_size)
        if batches is not None:
            windows = windows.spread(batches * batch_size, SPREAD_SEED)
        gpt, dtype = self.scorer
        with progress(f"evaluating {dataset.name} {split}", windows.batch_count(batch_size)) as advance:
            return score_windows(
                gpt,
                self.tokenizer,
                tokens,
                windows,
                batch_size=batch_size,
                ends=document_ends(dataset, "train" if split == "train" else "val"),
                unit_size=unit_size,
                dtype=dtype,
                advance=advance,
            )

    def windows(self, tokens: Tokens, *, block_size: int | None = None, stride: int | None = None) -> Windows:
        """Return the windows of a split that an evaluation reads; arguments and errors are those of `evaluate`."""
        most = self.config.block_size
        if block_size is not None and block_size > most:
            raise ConfigError(f"block_size = {block_size}, and the model sees {most:,} tokens at once; give no more")
        if block_size is None and (stride is None or stride <= most):
            block_size = min(most, max(1, len(tokens) - 1))
            stride = None if stride is None else min(stride, block_size)
        windows = Windows(len(tokens), block_size or most, stride)
        windows.check()
        return windows


def load(
    path: str | Path = "out",
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    data_dir: str = "data",
    quantize: Quantize = "none",
    attn_type: str | None = None,
    **kernel_options: Any,
) -> Model:
    """Load a model.

    Args:
        path: A run (its best checkpoint), a checkpoint, a Hugging Face folder of a GPT-2 or Qwen3, or a ckpt.pt of
            nanoGPT.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        threads: CPU threads; None takes one per core.
        data_dir: The folder of data sets, where the meta.pkl of a nanoGPT model is looked for.
        quantize: none, or int8 for weights of 8 bits, on CPUs.
        attn_type: Another attention kernel; None takes that of the model.
        kernel_options: Options of that kernel, such as poly_form; the others are those of the model.

    Raises:
        CheckpointError: There is no model, or it is damaged, or of another kind.
        ConfigError: The attention kernel lacks an option.
        DeviceError: The device does not exist, or cannot compute with int8.
    """
    return_freed_memory()
    use_large_pages()
    choose_threads(threads)
    chosen = choose_device(device)
    check_quantize(quantize, chosen)
    # With weights of 8 bits everything else is in float32, and there is nothing to measure.
    number_format = choose_dtype("float32" if quantize == "int8" and dtype == "auto" else dtype, chosen)
    loaded = open_model(path, data_dir=expand(data_dir))
    if attn_type is not None or kernel_options:
        own = loaded.config.kernel
        loaded = loaded.with_kernel(own.swapped(attn_type or own.attn_type, **kernel_options))
    return Model(loaded, chosen, number_format, quantize=quantize)
