"""Other programs' names for settings, and their files of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from quillgpt.config.schema import TrainFields
from quillgpt.errors import closest

OURS = {
    # simpleGPT's tables
    "accelerator": "device",
    "accumulate_grad_batches": "gradient_accumulation_steps",
    "betas": "beta1 and beta2",
    "decay_steps": "lr_decay_iters",
    "dropout_p": "dropout",
    "end_lr": "min_lr",
    "gradient_clip_val": "grad_clip",
    "include": "extends",
    "limit_val_batches": "eval_iters",
    "log_every_n_steps": "log_interval",
    "max_steps": "max_iters",
    "n_ctx": "block_size",
    "n_vocab": "vocab_size",
    "output_dir": "out_dir",
    "peak_lr": "learning_rate",
    "precision": "dtype",
    "project": "wandb_project",
    "seq_len": "block_size",
    "tokenizer_name": "tokenizer",
    "torch_compile": "compile",
    "train_batch_size": "batch_size",
    "train_fpath": "data",
    "val_check_interval": "eval_interval",
    "val_fpath": "val",
    "warmup_steps": "warmup_iters",
    # munchkin's .env files and flags
    "max_tokens": "max_new_tokens",
    "name": "out_dir",
    "val_size": "val_fraction",
    # common elsewhere
    "clip_grad": "grad_clip",
    "context_length": "block_size",
    "d_model": "n_embd",
    "ema": "ema_decay",
    "embed_dim": "n_embd",
    "grad_accum_steps": "gradient_accumulation_steps",
    "hidden_size": "n_embd",
    "lora_r": "lora_rank",
    "lr": "learning_rate",
    "max_grad_norm": "grad_clip",
    "max_lr": "learning_rate",
    "max_position_embeddings": "block_size",
    "max_seq_len": "block_size",
    "momentum": "muon_momentum",
    "num_attention_heads": "n_head",
    "num_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "num_key_value_heads": "n_kv_head",
    "num_layers": "n_layer",
    "random_seed": "seed",
    "run_name": "wandb_run_name",
    "tie_word_embeddings": "tied",
    "use_wandb": "wandb_log",
    "wd": "weight_decay",
}
"""Quill's names of settings by the names in other programs."""

FILES_OF_SETTINGS = (".json", ".yaml", ".yml", ".ini", ".cfg")
FILES_OF_MODELS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".gguf")
ENVIRONMENT_FILE = ".env"
MOST_BYTES_READ = 100_000


def meant_setting(name: str, known: Iterable[str]) -> str | None:
    """Return the setting that an unknown name probably means: another program's name for it, or a misspelling."""
    known = set(known)
    theirs = OURS.get(name.lower().replace("-", "_"))
    if theirs is not None and set(theirs.split(" and ")) <= known | {"extends"}:
        return theirs
    return closest(name, known)


def describe_tables(values: Mapping[str, object]) -> str:
    """Return the message for a TOML file with tables, with names that are renamed or unknown here."""
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    names = [name for name in values if name not in tables]
    names += [name for table in tables.values() for name in table]
    return (
        f"has tables ([{'], ['.join(tables)}]), but settings are not in tables: write `name = value` lines"
        + _renamed(names)
    )


def describe_file(path: Path) -> str | None:
    """Return the message for a file that was given as a preset, or None if it may be a text."""
    if path.name.endswith(ENVIRONMENT_FILE):
        with path.open("rb") as file:
            lines = file.read(MOST_BYTES_READ).decode("utf-8", "replace").splitlines()
        pairs = [line.strip().removeprefix("export ").partition("=") for line in lines]
        names = [name.strip().lower() for name, equals, _ in pairs if equals and not name.startswith("#")]
        return (
            f"{path} holds environment variables: write them as `name = value` lines into a .toml file, in small "
            f"letters, or with QUILL_ before each into .env{_renamed(names)}"
        )
    if path.suffix in FILES_OF_SETTINGS:
        return f"{path} is not a file of settings that Quill reads; write `name = value` lines into a .toml file"
    if path.suffix in FILES_OF_MODELS:
        return f"{path} stands where a preset is expected; to start from a model: quill train --init_from={path}"
    return None


def _renamed(names: Iterable[str]) -> str:
    """Return which names have another name here, and which are no settings."""
    said, none = [], []
    for name in dict.fromkeys(names):
        if name in TrainFields.model_fields:
            continue
        if (ours := OURS.get(name)) is not None:
            said.append(f"{name} is {ours}")
        else:
            none.append(name)
    renamed = f"; {', '.join(said)} here" if said else ""
    return renamed + (f"; unknown: {', '.join(none[:20])}" if none else "")
