"""Every preset parses, and has the values that it promises."""

import pytest

from quillgpt.config import TrainSettings, preset_description, preset_names, resolve
from quillgpt.errors import ConfigError


def preset(name: str) -> TrainSettings:
    return resolve(name, {}, environ={}, dotenv=None)


SHAKESPEARE_CHAR = {
    "dataset": "shakespeare_char",
    "out_dir": "out-shakespeare-char",
    "n_layer": 6,
    "n_head": 6,
    "n_embd": 384,
    "block_size": 256,
    "batch_size": 64,
    "gradient_accumulation_steps": 1,
    "dropout": 0.2,
    "bias": False,
    "max_iters": 5000,
    "lr_decay_iters": 5000,
    "learning_rate": 1e-3,
    "min_lr": 1e-4,
    "beta1": 0.9,
    "beta2": 0.99,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "warmup_iters": 100,
    "eval_interval": 250,
    "eval_iters": 200,
    "log_interval": 10,
    "always_save_checkpoint": False,
    "init_from": "scratch",
    "vocab_size": None,
    "arch": "gpt2",
    "optimizer": "adamw",
    "wandb_log": False,
    "wandb_project": "shakespeare-char",
    "wandb_run_name": "mini-gpt",
}
"""Written down from nanoGPT's config/train_shakespeare_char.py over the defaults of its train.py."""

SHAKESPEARE_CHAR_CPU = SHAKESPEARE_CHAR | {
    "out_dir": "out-shakespeare-char-cpu",
    "device": "cpu",
    "eval_iters": 20,
    "log_interval": 50,
    "block_size": 64,
    "batch_size": 12,
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "max_iters": 2000,
    "lr_decay_iters": 2000,
    "dropout": 0.0,
}
"""Written down from the command for a laptop in nanoGPT's README."""

TRAIN_GPT2 = {
    "dataset": "openwebtext",
    "out_dir": "out",
    "vocab_size": None,  # that of the data: of GPT-2's tokens, padded, 50304
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "block_size": 1024,
    "batch_size": 12,
    "gradient_accumulation_steps": 40,
    "max_iters": 600_000,
    "lr_decay_iters": 600_000,
    "warmup_iters": 2000,
    "learning_rate": 6e-4,
    "min_lr": 6e-5,
    "beta2": 0.95,
    "weight_decay": 0.1,
    "dropout": 0.0,
    "bias": False,
    "eval_interval": 1000,
    "eval_iters": 200,
    "log_interval": 10,
    "always_save_checkpoint": True,
    "wandb_log": False,
    "wandb_project": "owt",
    "wandb_run_name": "gpt2-124M",
}
"""Written down from nanoGPT's config/train_gpt2.py over the defaults of its train.py; but nobody needs an account."""

BOOK = {"dataset": "mybook", "tokenizer": "gpt2", "n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256}

PROMISED = {
    "demo": {"dataset": "python_docs", "arch": "qwen3", "optimizer": "muon", "out_dir": "out-demo"},
    "shakespeare_char": SHAKESPEARE_CHAR,
    "shakespeare_char_cpu": SHAKESPEARE_CHAR_CPU,
    "shakespeare_char_best": {"dataset": "shakespeare_char", "arch": "qwen3", "cautious_weight_decay": True},
    "shakespeare_char_fast": {"dataset": "shakespeare_char", "arch": "qwen3", "optimizer": "muon", "block_size": 256},
    "train_11": {"n_layer": 1, "n_head": 1, "n_embd": 768, "block_size": 1024, "attn_type": "GK", "max_iters": 10_000},
    "train_gpt2_gk": {"attn_type": "GK", "n_layer": 12, "dataset": "openwebtext"},
    "train_gpt2_gkpoly8": {"attn_type": "GKpoly-8", "n_layer": 12, "dataset": "openwebtext"},
    "pa": {"init_from": "gpt2", "attn_type": "PA_gelu", "max_iters": 3000},
    "own_text": {"defaults": "scaled", "arch": "qwen3", "optimizer": "muon", "dataset": "own_text"},
    "shakespeare": {"dataset": "shakespeare", "n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024},
    "train_mybook": BOOK | {"init_from": "scratch", "out_dir": "out-mybook"},
    "finetune_mybook": BOOK
    | {"init_from": "gpt2", "learning_rate": 3e-5, "decay_lr": False, "always_save_checkpoint": False},
    "finetune": {"init_from": "gpt2", "learning_rate": 3e-5, "patience": 5, "always_save_checkpoint": False},
    "train_speech": {"defaults": "scaled", "arch": "qwen3", "dataset": "speech", "minutes": 10},
    "finetune_speech": {
        "dataset": "speech",
        "init_from": "gpt2",
        "block_size": 256,
        "learning_rate": 3e-5,
        "eval_interval": 10,
        "patience": 5,
    },
    "finetune_shakespeare": {
        "dataset": "shakespeare",
        "init_from": "gpt2-xl",
        "out_dir": "out-shakespeare",
        "batch_size": 1,
        "gradient_accumulation_steps": 32,
        "max_iters": 20,
        "learning_rate": 3e-5,
        "decay_lr": False,
        "eval_interval": 5,
        "eval_iters": 40,
        "always_save_checkpoint": False,
        "wandb_project": "shakespeare",
    },
    **{
        f"eval_{name.replace('-', '_')}": {
            "init_from": name,
            "dataset": "openwebtext",
            "eval_only": True,
            "batch_size": 8,
            "eval_iters": 500,
            "wandb_log": False,
            "block_size": 1024,
        }
        for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    },
    "train_gpt2": TRAIN_GPT2,
    "openwebtext": TRAIN_GPT2,
    "gpt2_medium": TRAIN_GPT2
    | {"n_layer": 24, "n_head": 16, "n_embd": 1024, "out_dir": "out-gpt2-medium", "wandb_run_name": "gpt2-350M"},
    "gpt2_large": TRAIN_GPT2
    | {"n_layer": 36, "n_head": 20, "n_embd": 1280, "out_dir": "out-gpt2-large", "wandb_run_name": "gpt2-774M"},
    "gpt2_xl": TRAIN_GPT2
    | {"n_layer": 48, "n_head": 25, "n_embd": 1600, "out_dir": "out-gpt2-xl", "wandb_run_name": "gpt2-1558M"},
}


def test_every_preset_has_promised_values() -> None:
    assert set(preset_names()) == set(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_preset_holds_its_values(name: str) -> None:
    settings = preset(name).model_dump()
    assert {key: settings[key] for key in PROMISED[name]} == PROMISED[name]


@pytest.mark.parametrize("name", PROMISED)
def test_description_is_one_sentence_for_a_list(name: str) -> None:
    description = preset_description(name)
    assert 10 < len(description) < 110
    assert "=" not in description


def test_schema_defaults_are_nanogpts() -> None:
    own = {"vocab_size": None, "eval_interval": 2000, "log_interval": 1, "wandb_run_name": "gpt2"}
    settings = TrainSettings().model_dump()
    assert {key: settings[key] for key in TRAIN_GPT2} == TRAIN_GPT2 | own
    assert (settings["device"], settings["dtype"], settings["compile"]) == ("auto", "auto", "auto")


def test_openwebtext_is_train_gpt2() -> None:
    assert preset("openwebtext") == preset("train_gpt2")


def test_hyphens_are_underscores() -> None:
    assert preset("shakespeare-char-cpu") == preset("shakespeare_char_cpu")
    assert preset_description("own-text") == preset_description("own_text")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("shakspeare_char", "shakspeare_char is not a preset, nor a .toml or .py file; did you mean shakespeare_char?"),
        ("zzz", "zzz is not a preset, nor a .toml or .py file; quill configs lists the presets"),
    ],
)
def test_unknown_preset_is_named(given: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preset(given)
    assert str(caught.value) == message
