"""The settings of the commands that use a model, or prepare a text for one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from quillgpt.config.schema.attention import KernelOptionFields, OtherKernelFields
from quillgpt.config.schema.base import (
    Amount,
    BatchSize,
    Count,
    MachineFields,
    PathText,
    Positive,
    PreparationFields,
    ProcessorFields,
    Seed,
    Settings,
)

Quantize = Literal["none", "int8"]


class Prompt(Settings):
    """Model and prompt."""

    out_dir: PathText = Field("out", description="Folder of the run to sample from; the same as naming it as MODEL.")
    init_from: PathText = Field(
        "resume", description="resume: sample from out_dir (nanoGPT's word). Otherwise the same as naming it as MODEL."
    )
    data_dir: PathText = Field("data", description="Where data sets live; a nanoGPT model's meta.pkl is sought there.")
    start: str | None = Field(
        None,
        description="Prompt; FILE:path reads it from a file. Unset: end-of-text where the model was trained with it, else a newline.",
    )


class Sampling(Settings):
    """Sampling."""

    num_samples: Positive = Field(10, description="Samples to draw.")
    max_new_tokens: Positive = Field(500, description="Tokens to generate for each sample, at most.")
    temperature: Amount = Field(
        0.8, description="Below 1 more predictable, above 1 more random; 0 takes the likeliest token."
    )
    top_k: Count | None = Field(200, description="Draw from this many likeliest tokens; 0 or none: from all.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Draw from the smallest set of likeliest tokens with this total probability."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Draw from tokens at least this likely, relative to the likeliest."
    )
    repetition_penalty: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        1.0, description="Above 1, tokens that already occur become less likely."
    )
    stop: str | None = Field(None, description="End a sample before this text.")
    window: Literal["half", "exact"] = Field(
        "half",
        description="When the context is full: half keeps its last half and goes on (fast); exact slides by one token (nanoGPT's, slow).",
    )
    seed: Seed = Field(1337, description="Seed; the random numbers of sample k depend on seed and k only.")


class WeightsFields(Settings):
    """The weights."""

    quantize: Quantize = Field(
        "none",
        description="int8: weights, and on CPUs that can also the inputs of their products, in 8 bits; for CPUs. Faster. On two small models it cost 0.0003 and 0.0004 nats per token; eval measures it on yours.",
    )


class SampleSettings(Prompt, Sampling, MachineFields, WeightsFields):
    """The settings of `quill sample`."""


class EvaluationDataFields(Settings):
    """Evaluating a model."""

    dataset: str | None = Field(
        None,
        description="Names of prepared data sets, separated by commas. Unset: the one that the model was trained on.",
    )
    split: Literal["both", "val", "train"] = Field(
        "both",
        description="Which part of the data set. val and train: the whole split. both: the whole of val, and eval_iters batches of train.",
    )
    eval_iters: Positive = Field(20, description="Batches that are taken from train where split = both.")
    data_dir: PathText = Field("data", description="Folder in which prepared data sets live.")
    batch_size: BatchSize | None = Field(
        None, description="Sequences computed at once; changes speed and memory, not the result. Unset: chosen."
    )
    block_size: Positive | None = Field(
        None,
        description="Tokens that are read at once, and seen together. Unset: as many as the model sees, or as the split has, if those are fewer.",
    )


class EvalSettings(EvaluationDataFields, OtherKernelFields, MachineFields, WeightsFields):
    """The settings of `quill eval`."""


class ReadingFields(Settings):
    """The text that is read."""

    dataset: str | None = Field(None, description="A prepared data set. Unset: the one that the model was trained on.")
    split: Literal["val", "train"] = Field("val", description="Which part of it.")
    blocks: Positive = Field(
        16, description="Blocks of the model's block_size that are read, spread evenly over the split."
    )
    data_dir: PathText = Field("data", description="Folder in which prepared data sets live.")


class LabSettings(ReadingFields, ProcessorFields):
    """The settings of `quill lab` where it reads with a model."""


class SwapSettings(LabSettings, KernelOptionFields):
    """The settings of `quill lab swap`."""


class DatasetNameFields(Settings):
    """The data set to make."""

    dataset: str | None = Field(
        None, description="Name of the data set, a folder in data_dir. Unset: the source's own."
    )


class ReplacementFields(Settings):
    """What may be replaced."""

    overwrite: bool = Field(
        False,
        description="Take the place of what is in the data set's folder also where Quill did not make it, or can no longer tell what it was made from; such files are kept under another name, such as train.bin.kept.",
    )


class PrepareSettings(DatasetNameFields, PreparationFields, ReplacementFields):
    """The settings of `quill prepare`."""
