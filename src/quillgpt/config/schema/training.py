"""The settings of `quill train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from quillgpt.config.schema.attention import AttentionFields, RangePenaltyFields
from quillgpt.config.schema.base import (
    Amount,
    Arch,
    BatchSize,
    Count,
    Duration,
    Fraction,
    GeluName,
    LayerCount,
    LoraTargets,
    MachineFields,
    Minutes,
    PathText,
    Positive,
    PreparationFields,
    Seed,
    Settings,
    Size,
)

SPECIAL_ORIGINS = ("scratch", "resume", "finetune")
"""Special values of `init_from`; every other value names a model."""

MOST_MODELS = 4
"""Models that a run trains, teachers and the one that they teach, where its length follows from its time."""

OptimizerName = Literal["adamw", "muon"]
"""The optimizers that `optim/optimizers.py` makes."""


class RunFields(Settings):
    """The run."""

    out_dir: PathText = Field("out", description="Folder of the run: settings, metrics, checkpoints.")
    minutes: Minutes | None = Field(
        None,
        description="Minutes that the command may take; max_iters and lr_decay_iters follow from them and from the speed as it turns out, and a warmup_iters above a fifth of that is lowered. Unset: max_iters decides.",
    )
    defaults: Literal["fixed", "scaled"] = Field(
        "fixed",
        description="Values of settings that nobody has set. fixed: the defaults listed here. scaled: size, batch, learning rates, dropout and length follow from the text, the minutes (3 unless set) and the machine, by the rules of docs/recipes.md.",
    )
    overwrite: bool = Field(False, description="Start over in an out_dir that already holds a checkpoint.")
    init_from: PathText = Field(
        "scratch",
        description="scratch; resume: continue the run in out_dir; finetune: start from the best weights in out_dir, into out_dir-finetuned; or a model to start from: a run, a checkpoint, a Hugging Face folder, nanoGPT's ckpt.pt, or a name of the Hugging Face hub (gpt2, gpt2-xl, OWNER/NAME).",
    )


class DatasetFields(Settings):
    """The data set."""

    dataset: str = Field(
        "openwebtext",
        description="Name of the data set, a folder in data_dir. Several are mixed, by weight (a=0.7,b=0.3) or by size (a,b).",
    )
    data: str | None = Field(
        None,
        description="A text to prepare and train on: anything that quill prepare takes; several are separated by commas.",
    )


class ReplayFields(Settings):
    """Replay of old text."""

    replay: Fraction = Field(
        0.0,
        description="Share of the sequences that come from replay_dataset, so that a finetuned model forgets less of it. Evaluations measure both.",
    )
    replay_dataset: str | None = Field(
        None, description="Name of the data set that the model should not forget, prepared with the same tokenizer."
    )


class ModelFields(Settings):
    """The model."""

    arch: Arch = Field(
        "gpt2",
        description="gpt2: LayerNorm, learned positions, GELU, tied embeddings. qwen3: RMSNorm, RoPE, SwiGLU, QK-norm, tied embeddings.",
    )
    n_layer: LayerCount = Field(12, description="Number of transformer blocks.")
    n_head: Size = Field(12, description="Number of attention heads; divides n_embd.")
    n_kv_head: Size | None = Field(
        None, description="Number of key and value heads (qwen3 only); divides n_head. Unset: n_head."
    )
    n_embd: Size = Field(768, description="Width of the model.")
    block_size: Size = Field(1024, description="Longest context, in tokens.")
    vocab_size: Size | None = Field(
        None,
        description="Rows of the token embedding. Unset: the tokenizer's size, above 1,000 rounded up to a multiple of 64.",
    )
    tied: bool = Field(
        True,
        description="The output head shares the weights of the token embedding. false: it has its own, which learn more from the same operations and make the model larger by vocab_size x n_embd.",
    )
    dropout: Fraction = Field(0.0, description="Probability of dropping an activation in training.")
    zero_init: bool = Field(
        False,
        description="Initialise the projections into the residual stream with zeros, so that each block starts as the identity; with tied = false, the output head too.",
    )
    induction_init: bool = Field(
        False,
        description="Initialise a head that copies from the context, which training finds late: with arch = qwen3, attn_type = SM, tied = false, two blocks and a vocabulary of 500 tokens at least; else without effect.",
    )
    bias: bool = Field(False, description="Biases in linear layers and norms (gpt2 only).")
    activation: GeluName = Field(
        "gelu", description="GELU by the error function (gelu, nanoGPT's) or by tanh (gelu_new, OpenAI's); gpt2 only."
    )


class OptimizationFields(Settings):
    """Optimization."""

    optimizer: OptimizerName = Field(
        "adamw", description="muon: Muon for the 2-D weights of the blocks, AdamW for the rest."
    )
    learning_rate: Amount = Field(6e-4, description="Peak learning rate (of AdamW).")
    muon_learning_rate: Amount = Field(0.02, description="Peak learning rate of Muon; it follows the same schedule.")
    muon_momentum: Fraction = Field(0.95, description="Momentum of Muon; lower is better for small batches.")
    muon_beta2: Fraction = Field(
        0.0,
        description="Share of the mean square of each row of Muon's update that a step keeps; each row is divided by the root of its own (NorMuon). 0: rows stay as they are.",
    )
    max_iters: Count = Field(600_000, description="Iterations (optimizer steps) to train for.")
    batch_size: BatchSize = Field(
        12, description="The global batch of an iteration has batch_size * gradient_accumulation_steps sequences."
    )
    gradient_accumulation_steps: BatchSize = Field(
        40, description="Factor of the global batch; see batch_size. How much is computed at once is micro_batch_size."
    )
    micro_batch_size: BatchSize | Literal["auto"] = Field(
        "auto",
        description="Sequences computed at once; changes speed and memory, not the result. auto: the fastest number that fits into the device's memory.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep only the input of each block for the backward pass, which computes the rest again: a fraction of the memory for a quarter more time.",
    )
    weight_decay: Amount = Field(1e-1, description="Decoupled weight decay of tensors with two or more dimensions.")
    cautious_weight_decay: bool = Field(
        False,
        description="Decay only weights that the update also moves toward zero (muon only).",
    )
    beta1: Fraction = Field(0.9, description="AdamW's decay rate of the mean of gradients.")
    beta2: Fraction = Field(0.95, description="AdamW's decay rate of the mean of squared gradients.")
    grad_clip: Amount = Field(1.0, description="Clip the gradient to this norm; 0: no clipping.")
    ema_decay: Fraction = Field(
        0.0,
        description="Average the weights over about 1 / (1 - ema_decay) iterations; the average is evaluated, kept as best, and sampled from. 0: no average.",
    )
    on_nonfinite: Literal["rollback", "stop"] = Field(
        "rollback",
        description="What to do if a loss or gradient is NaN or infinite. rollback: go back to the last checkpoint, skip that batch, and halve the learning rate for a while. stop: end the run.",
    )


class LoraFields(Settings):
    """Finetuning by low-rank adapters (LoRA)."""

    lora_rank: Annotated[int, Field(ge=0, le=10**6)] = Field(
        0,
        description="Train adapters of this rank beside the linear layers, whose weights are frozen; checkpoints have the merged weights, and the adapters alone in peft's format. 0: train all weights.",
    )
    lora_alpha: Annotated[float, Field(gt=0)] | None = Field(
        None, description="The adapters are scaled by lora_alpha / lora_rank. Unset: twice the rank."
    )
    lora_dropout: Fraction = Field(0.0, description="Probability of dropping an adapter's input in training.")
    lora_targets: LoraTargets = Field(
        "all", description="Linear layers of the blocks that get adapters: those of attention, of the MLP, or all."
    )


class DistillationFields(Settings):
    """Distillation: models that teach this one."""

    teachers: str | None = Field(
        None,
        description="Models with the same tokenizer that teach this one, separated by commas: runs, checkpoints or whatever init_from takes. A share of each target is the mean of their probabilities.",
    )
    teacher_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Share of the targets that is the teachers'; the rest is the token that comes next."
    )
    teacher_iters: Count = Field(
        0,
        description="Train teachers first, each from fresh weights for so many iterations, and then a model for as many, which they teach. max_iters counts all of these iterations and is a multiple of this number; the best model is kept. 0: none.",
    )


class ScheduleFields(Settings):
    """The learning-rate schedule."""

    decay_lr: bool = Field(True, description="Change the learning rate by lr_schedule; false keeps it constant.")
    lr_schedule: Literal["cosine", "wsd"] = Field(
        "cosine",
        description="cosine: warm-up, then half a cosine down to min_lr. wsd: warm-up, stable, linear decay to min_lr.",
    )
    warmup_iters: Count = Field(2000, description="Iterations over which the learning rate rises.")
    lr_decay_iters: Positive = Field(600_000, description="Iteration at which the learning rate reaches min_lr.")
    min_lr: Amount = Field(6e-5, description="Lowest learning rate of the schedule.")
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3, description="wsd: share of lr_decay_iters, at the end, in which the learning rate falls."
    )


class EvaluationFields(Settings):
    """Evaluation, logging and checkpoints."""

    eval_interval: Positive = Field(2000, description="Iterations between evaluations.")
    eval_iters: Positive | None = Field(
        200,
        description="Batches of each split that an evaluation takes, always the same ones. none: the whole val split and as many tokens of train.",
    )
    patience: Count | None = Field(
        None,
        description="Stop after this many evaluations in a row without a better loss on the whole val split; 0 never stops. Unset: 5 for finetuning, else 0.",
    )
    eval_only: bool = Field(False, description="Evaluate and stop; nothing is written.")
    log_interval: Positive = Field(1, description="Iterations between lines of the log.")
    always_save_checkpoint: bool = Field(
        True,
        description="Keep the keep_last newest checkpoints, besides best, last and the one before last.",
    )
    keep_last: Positive = Field(
        3, description="Checkpoints that always_save_checkpoint keeps; last and the one before are always kept."
    )
    checkpoint_interval: Positive | Duration | None = Field(
        "10m",
        description="Also save between evaluations, after this many iterations or this much time (90s, 10m, 2h; longer if saving would take more than 2 % of it).",
    )


class SampleFields(Settings):
    """Samples while it trains."""

    sample_interval: Count = Field(
        0,
        description="Iterations between samples of 200 tokens, always with the same prompt and seed; the last iteration has one too. 0: none.",
    )
    sample_prompt: str | None = Field(
        None,
        description="Prompt of these samples and of those that are traced; FILE:path reads it from a file. Unset: end-of-text if the model is trained with it, else a newline.",
    )
    trace_samples: bool = Field(
        False,
        description="At evaluations, find the share of 2,000 sampled characters that is copied from the training text, in at most 2 % of the time (extra trace).",
    )


class LoggingFields(Settings):
    """Logging besides metrics.jsonl."""

    report: bool = Field(
        True, description="Write report.html to out_dir at the end: curves, samples, settings, data and machine."
    )
    wandb_log: bool = Field(
        False, description="Also log to Weights & Biases (extra wandb). WANDB_MODE=offline needs no account."
    )
    wandb_project: str = Field("owt", description="Project of the wandb run.")
    wandb_run_name: str = Field("gpt2", description="Name of the wandb run.")
    tensorboard: bool = Field(
        False, description="Also write TensorBoard's event files, to out_dir/tensorboard (extra tensorboard)."
    )


class ExecutionFields(Settings):
    """Compilation, seed and determinism."""

    compile: bool | Literal["auto"] = Field(
        "auto",
        description="Compile the model with torch.compile; auto does if that gains more time than it takes. On a CPU, the first compilation runs in the background, and compiled code takes over during the run.",
    )
    cuda_graph: bool | Literal["auto"] = Field(
        "auto",
        description="On a CUDA device, record an iteration as a CUDA graph and replay it; several times as fast for small models on a big GPU. auto does for those, in one process. Not with float16.",
    )
    seed: Seed = Field(1337, description="Seed of initialization, data order, dropout and evaluation batches.")
    deterministic: bool = Field(
        False,
        description="Use only algorithms whose results are identical to the last bit; slower on GPUs. On CPUs they always are.",
    )


class ProcessesFields(Settings):
    """Several processes."""

    devices: Positive | Literal["auto"] | None = Field(
        None,
        description="Processes that quill train starts on this machine: one for each GPU, or on CPUs with a share of the threads each. auto: as many as are fastest. Unset: 1. Under torchrun it does not count.",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="How several processes share the model. ddp: each holds all of it. fsdp: each holds a share of weights, gradients and optimizer state, for less memory and more messages.",
    )
    backend: Literal["auto", "nccl", "gloo"] = Field(
        "auto", description="Library for messages between processes. auto: nccl on GPUs, gloo on CPUs."
    )
    rank_timeout: Duration = Field(
        "10m",
        description="How long a process waits for another one that hangs or cannot be reached (90s, 10m, 2h); then all end, and its rank is named. A killed one is noticed at once.",
    )


class TrainFields(
    RunFields,
    DatasetFields,
    PreparationFields,
    ReplayFields,
    ModelFields,
    AttentionFields,
    RangePenaltyFields,
    OptimizationFields,
    LoraFields,
    DistillationFields,
    ScheduleFields,
    EvaluationFields,
    SampleFields,
    LoggingFields,
    MachineFields,
    ExecutionFields,
    ProcessesFields,
):
    """The settings of `quill train`, every one checked by itself."""


class TrainSettings(TrainFields):
    """The settings of `quill train`, checked against each other."""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        # Sizes that rules choose later fit those that are set.
        is_open = self.defaults == "scaled" and not {"n_embd", "n_head"} <= self.model_fields_set
        if self.n_embd % self.n_head and not is_open:
            raise ValueError(f"n_embd = {self.n_embd} is not divisible by n_head = {self.n_head}; change one of them")
        if self.n_kv_head is not None:
            if self.arch == "gpt2" and self.n_kv_head != self.n_head:
                raise ValueError(
                    f"n_kv_head = {self.n_kv_head} differs from n_head = {self.n_head}, which arch = gpt2 cannot express; "
                    "leave n_kv_head out or use arch = qwen3"
                )
            if self.n_head % self.n_kv_head:
                raise ValueError(
                    f"n_head = {self.n_head} is not divisible by n_kv_head = {self.n_kv_head}; change one of them"
                )
        if self.arch == "qwen3":
            if is_open and self.n_embd % 2:
                raise ValueError(f"n_embd = {self.n_embd} is odd, which rotary positions cannot use; make it even")
            if (self.n_embd // self.n_head) % 2 and not is_open:
                raise ValueError(
                    f"n_embd = {self.n_embd} over n_head = {self.n_head} gives heads of odd width "
                    f"{self.n_embd // self.n_head}, which rotary positions cannot use; make it even"
                )
            if self.bias:
                raise ValueError("bias = true, but arch = qwen3 has no biases; use bias = false or arch = gpt2")
        return self

    @model_validator(mode="after")
    def _check_optimizer(self) -> Self:
        if self.cautious_weight_decay and self.optimizer != "muon":
            raise ValueError(
                f"cautious_weight_decay = true, but optimizer = {self.optimizer}; it needs optimizer = muon"
            )
        return self

    @model_validator(mode="after")
    def _check_gradient_checkpointing(self) -> Self:
        if self.gradient_checkpointing and self.cuda_graph is True:
            raise ValueError(
                "gradient_checkpointing = true and cuda_graph = true: one makes room for large models, the other makes "
                "small ones fast; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _check_replay(self) -> Self:
        if (self.replay > 0) != (self.replay_dataset is not None):
            raise ValueError(
                f"replay = {self.replay:g}, but replay_dataset = {self.replay_dataset or 'none'}; the two belong together"
            )
        return self

    @model_validator(mode="after")
    def _check_lora(self) -> Self:
        if not self.lora_rank:
            if self.lora_alpha is not None:
                raise ValueError(f"lora_alpha = {self.lora_alpha:g} belongs to adapters; give lora_rank too")
            return self
        if self.init_from == "scratch":
            raise ValueError(
                f"lora_rank = {self.lora_rank} trains adapters of a model that is there; name one with init_from"
            )
        if self.optimizer != "adamw":
            raise ValueError(f"lora_rank = {self.lora_rank} needs optimizer = adamw, not {self.optimizer}")
        if self.ema_decay:
            raise ValueError(f"lora_rank = {self.lora_rank} allows no ema_decay; leave one of them out")
        return self

    @model_validator(mode="after")
    def _check_teachers(self) -> Self:
        if self.teachers is not None and self.dtype == "float16":
            raise ValueError("dtype = float16 does not go with teachers; use float32 or bfloat16")
        return self

    @model_validator(mode="after")
    def _check_own_teachers(self) -> Self:
        length = self.teacher_iters
        if not length:
            return self
        against = {
            f"init_from = {self.init_from}": self.init_from not in ("scratch", "resume"),
            f"dtype = {self.dtype}": self.dtype == "float16",
            f"strategy = {self.strategy}": self.strategy == "fsdp",
            f"patience = {self.patience}": bool(self.patience),
        }
        for given, excludes in against.items():
            if excludes:
                raise ValueError(f"{given} does not go with teacher_iters = {length}; leave one of them out")
        if not self.has_open_length and self.max_iters % length:
            whole = self.max_iters // length * length
            raise ValueError(
                f"max_iters = {self.max_iters} is not a multiple of teacher_iters = {length}, so the last model would "
                f"stay unfinished; use max_iters = {' or '.join(str(n) for n in (whole, whole + length) if n)}"
            )
        return self

    @property
    def adapter_alpha(self) -> float:
        """The scale of the adapters times their rank."""
        return self.lora_alpha or 2.0 * self.lora_rank

    @property
    def has_open_length(self) -> bool:
        """Whether the clock or the rules decide how long the run is."""
        return self.minutes is not None or (self.defaults == "scaled" and "max_iters" not in self.model_fields_set)

    def began_at(self, iteration: int) -> int:
        """Return the iteration at which the model began that so many iterations have trained last."""
        return max(0, iteration - 1) // self.teacher_iters * self.teacher_iters if self.teacher_iters else 0

    def within_model(self, iteration: int) -> int:
        """Return how many of so many iterations belong to the present model; all, where there is only one."""
        return iteration % self.teacher_iters if self.teacher_iters else iteration

    @property
    def models(self) -> int:
        """How many models are trained, the last one and the teachers before it; at most, where the length is open."""
        if not self.teacher_iters:
            return 1
        models = max(1, -(-self.max_iters // self.teacher_iters))
        return min(models, MOST_MODELS) if self.has_open_length else models

    @property
    def model_iters(self) -> int:
        """Iterations of a model."""
        return self.teacher_iters or self.max_iters

    @property
    def sequences_per_iteration(self) -> int:
        """Sequences of the global batch."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def tokens_per_iteration(self) -> int:
        """Target tokens of the global batch."""
        return self.sequences_per_iteration * self.block_size


CHOSEN = ("device", "dtype", "compile", "cuda_graph", "attn_path", "micro_batch_size", "threads", "patience")
"""Settings that a run chooses for itself if they are `auto` or unset; a resumed run keeps them."""


class ChosenSettings(TrainSettings):
    """Settings with a value for each of `choices`; whether to compile may still be open."""

    choices: ClassVar[tuple[str, ...]] = ("device", "dtype", "cuda_graph", "attn_path", "micro_batch_size", "threads")

    if TYPE_CHECKING:  # fields, defaults and their order stay those of the settings; only their types are narrower
        dtype: Literal["float32", "bfloat16", "float16"]
        attn_path: Literal["sdpa", "explicit", "fused", "recompute", "augmented", "triton"]
        cuda_graph: bool
        micro_batch_size: int
        threads: int

    @classmethod
    def of(cls, settings: TrainSettings) -> Self:
        """Return settings in which these choices have been made as settings of this type."""
        still_open = [name for name in cls.choices if getattr(settings, name) in ("auto", None)]
        assert not still_open, still_open
        return cls.model_construct(set(settings.model_fields_set), **dict(settings))  # type: ignore[return-value]


class ResolvedSettings(ChosenSettings):
    """The settings of a run that is set up: all of `CHOSEN` have values, or `compile` is `auto` for a while."""

    choices = tuple(name for name in CHOSEN if name != "compile")

    if TYPE_CHECKING:
        patience: int
