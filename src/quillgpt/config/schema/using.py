"""The settings of commands that use a model or prepare a text."""

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
    Threads,
)
from quillgpt.config.schema.speech import VoiceFields

Quantize = Literal["none", "int8"]


class Prompt(Settings):
    """Model and prompt."""

    out_dir: PathText = Field("out", description="Folder of the run to sample from; the same as MODEL.")
    init_from: PathText = Field(
        "resume", description="resume: sample from out_dir (as in nanoGPT). Other values are the same as MODEL."
    )
    data_dir: PathText = Field(
        "data", description="Folder of the prepared data sets; the meta.pkl of a nanoGPT model may be there."
    )
    start: str | None = Field(
        None,
        description="Prompt; FILE:path reads it from a file. Unset: end-of-text if the model was trained with it, else a newline.",
    )


class Sampling(Settings):
    """Sampling."""

    num_samples: Positive = Field(10, description="Samples to draw.")
    max_new_tokens: Positive = Field(500, description="Largest number of tokens to generate for each sample.")
    temperature: Amount = Field(
        0.8, description="Below 1: more predictable; above 1: more random; 0: always the likeliest token."
    )
    top_k: Count | None = Field(200, description="Draw from this many of the likeliest tokens; 0 or none: from all.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Draw from the smallest set of likeliest tokens with this total probability."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Draw from tokens with at least this probability, relative to the likeliest token."
    )
    repetition_penalty: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        1.0, description="Above 1, tokens that have already occurred become less likely."
    )
    presence_penalty: Annotated[float, Field(ge=-100, le=100)] = Field(
        0.0, description="Taken from the logit of each token that the sample already has."
    )
    frequency_penalty: Annotated[float, Field(ge=-100, le=100)] = Field(
        0.0, description="The same, times how often the sample has the token."
    )
    stop: str | None = Field(None, description="End a sample before this text.")
    window: Literal["half", "exact"] = Field(
        "half",
        description="When the context is full: half keeps its last half and continues (fast); exact slides by one token (as nanoGPT, slow).",
    )
    seed: Seed = Field(1337, description="Random seed; the random numbers of sample k depend only on seed and k.")


class WeightsFields(Settings):
    """The weights."""

    quantize: Quantize = Field(
        "none",
        description="int8: weights in 8 bits, for CPUs, and on some CPUs also the inputs of matrix products. Faster; cost two small models 0.0003 and 0.0004 nats per token. quill eval measures it for yours.",
    )


class SampleSettings(Prompt, Sampling, MachineFields, WeightsFields, VoiceFields):
    """The settings of `quill sample`."""


class OneSample(Sampling):
    """Sampling."""

    num_samples: Positive = Field(1, description="Samples to draw.")


class SpeakSettings(Prompt, OneSample, MachineFields, WeightsFields, VoiceFields):
    """The settings of `quill speak`."""


class ServeFields(Settings):
    """The server."""

    host: str = Field(
        "127.0.0.1",
        description="Name or address to listen at. Any but this machine's own (127.0.0.1) needs an api_key.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port to listen at; 0: any that is free.")
    api_key: str | None = Field(
        None,
        description="What clients must send as a bearer token. Better given as QUILL_API_KEY, which no list of processes shows.",
    )
    data_dir: PathText = Field(
        "data", description="Folder of the prepared data sets; the meta.pkl of a nanoGPT model may be there."
    )


class ServeSettings(ServeFields, MachineFields, WeightsFields):
    """The settings of `quill serve`."""


class EvaluationDataFields(Settings):
    """Evaluating a model."""

    dataset: str | None = Field(
        None,
        description="Names of prepared data sets, separated by commas. Unset: the one on which the model was trained.",
    )
    split: Literal["both", "val", "train"] = Field(
        "both",
        description="Part of the data set. val, train: the whole split. both: the whole val split, and eval_iters batches of train.",
    )
    eval_iters: Positive = Field(20, description="Batches of train if split = both.")
    data_dir: PathText = Field("data", description="Folder of the prepared data sets.")
    batch_size: BatchSize | None = Field(
        None, description="Sequences computed at once; changes speed and memory, not the result. Unset: chosen."
    )
    block_size: Positive | None = Field(
        None,
        description="Context length to evaluate with, in tokens. Unset: the model's, or the length of the split if that is shorter.",
    )
    stride: Positive | None = Field(
        None,
        description="Move the window of block_size tokens by this many, and count its last targets only: each is predicted from at least block_size - stride + 1 tokens, and takes block_size / stride times as long. Unset: non-overlapping blocks.",
    )


class TaskFields(Settings):
    """Tasks of lm-eval."""

    tasks: str | None = Field(
        None,
        description="Names of tasks, groups or tags, separated by commas, such as hellaswag,arc_easy; patterns such as mmlu_*, and task files (extra eval). Data sets are then read only if named.",
    )
    include_path: PathText | None = Field(
        None, description="Folder with task files of your own, as lm-eval has them (.yaml)."
    )
    num_fewshot: Count | None = Field(None, description="Examples in each prompt. Unset: as each task says.")
    limit: Annotated[float, Field(gt=0, le=10**12)] | None = Field(
        None, description="Documents of each task; below 1: their share. Unset: all."
    )


class EvalSettings(EvaluationDataFields, TaskFields, OtherKernelFields, MachineFields, WeightsFields):
    """The settings of `quill eval`."""


class ReadingFields(Settings):
    """The text to read."""

    dataset: str | None = Field(None, description="A prepared data set. Unset: the one on which the model was trained.")
    split: Literal["val", "train"] = Field("val", description="Part of the data set.")
    blocks: Positive = Field(
        16, description="Number of blocks of block_size tokens to read, spread evenly over the split."
    )
    data_dir: PathText = Field("data", description="Folder of the prepared data sets.")


class LabSettings(ReadingFields, ProcessorFields):
    """The settings of `quill lab` commands that read a text with a model."""


class SwapSettings(LabSettings, KernelOptionFields):
    """The settings of `quill lab swap`."""


class DatasetNameFields(Settings):
    """The data set to make."""

    dataset: str | None = Field(
        None, description="Name of the data set, a folder in data_dir. Unset: from the name of the source."
    )


class ReplacementFields(Settings):
    """What may be replaced."""

    overwrite: bool = Field(
        False,
        description="Replace the content of the data set's folder even if Quill did not make it, or cannot tell what it was made from; such files are kept under another name, such as train.bin.kept.",
    )


class ReportFields(Settings):
    """What is reported."""

    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="List groups of documents with at least this similarity, such as 0.8: the share of their runs of five words that both have, estimated. The documents stay. Needs the extra dedup. Unset: no list.",
    )


class EncodingFields(Settings):
    """The machine."""

    num_proc: Threads | None = Field(
        None,
        description="Cores that turn the text into tokens; the tokens do not depend on it. gpt2 and bpe:N use threads, other tokenizers processes. Unset: two threads, or a process for each core that may be used; one for a short text, for char and for byte.",
    )


class PrepareSettings(DatasetNameFields, PreparationFields, ReplacementFields, ReportFields, EncodingFields):
    """The settings of `quill prepare`."""
